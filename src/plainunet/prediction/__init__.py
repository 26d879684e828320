"""Checkpoint and image -> mask, at any size, and every form in which masks are written."""
