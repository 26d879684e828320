"""A folder -> samples -> batches.

Which mask belongs to which image, what its values mean, what is trained on and what is held out.
"""
