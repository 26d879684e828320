"""A folder -> what is wrong with it, and what fixes it."""
