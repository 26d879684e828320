"""What the drawn data set of the demo is made of.

In: random numbers. Out: parts of pictures with their masks. No file is read or written here.
"""
