"""Datasets: find pairs of images and masks, decode masks, split, augment, and load batches."""
