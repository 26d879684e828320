"""A folder -> samples -> batches."""
