"""In: a checkpoint or a live network, and pictures. Out: masks of the pictures' own size.

The only road from picture to mask; no truth is read here, and nothing is scored.
"""
