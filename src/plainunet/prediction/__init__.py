"""Inference: checkpoint and images of any size -> masks, in every output format."""
