"""Samples and network -> a run folder with a checkpoint."""
