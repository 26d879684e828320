"""A folder -> what is wrong with it, and the commands that fix it. Reads only."""
