"""Terminal output: progress and tables of results."""
