"""Read single image, mask and annotation files as arrays."""
