"""The doctor.

In: a data folder. Out: what is wrong with it, and how to mend it. Nothing in the folder is
changed here.
"""
