"""In: pictures and masks on disk. Out: samples, as arrays, and the split.

Nothing here knows a network, nor imports torch's layers; nothing is silently skipped.
"""
