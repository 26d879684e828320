"""Masks -> files in the forms that people and other programs take.

In: the masks of pictures. Out: files, whole or not at all. Nothing may be predicted here.
"""
