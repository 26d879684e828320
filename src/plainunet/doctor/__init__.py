"""A folder -> what is wrong with it."""
