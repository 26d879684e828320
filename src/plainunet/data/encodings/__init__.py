"""Masks in every form in which they are kept -> numbers for each pixel, and their meaning.

In: mask files, annotation files, censuses. Out: stored values or colours, and which is which
class. What belongs to which picture is not asked here.
"""
