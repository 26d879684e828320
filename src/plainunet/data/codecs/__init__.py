"""Picture files -> samples as stored, in whatever way they are packed.

In: a path. Out: arrays, and whether the file is whole. What they mean is for `images` and
`encodings` to tell. Nothing is guessed from a suffix here.
"""
