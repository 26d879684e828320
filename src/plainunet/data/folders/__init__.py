"""A data folder as people arrange it -> which mask belongs to which picture.

In: folders, names, lists. Out: pictures with their masks. No mask is decoded here.
"""
