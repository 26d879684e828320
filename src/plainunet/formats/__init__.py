"""Image, mask and annotation files -> arrays."""
