"""In: pictures [N, C, H, W] float32. Out: logits [N, K, H, W], a loss, a checkpoint.

Nothing here knows a data set or opens a picture.
"""
