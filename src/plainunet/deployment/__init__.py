"""Checkpoint -> files that other programs run."""
