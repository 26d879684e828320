"""Masks and truth -> scores with confidence intervals, and a report."""
