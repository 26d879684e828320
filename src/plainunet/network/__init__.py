"""The U-Net, its losses, checkpoints and devices."""
