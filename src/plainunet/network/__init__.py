"""The U-Net, its losses, the file that holds it, and the device that it runs on."""
