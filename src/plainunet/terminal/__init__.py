"""Everything that is shown on a terminal: progress, and tables of results."""
