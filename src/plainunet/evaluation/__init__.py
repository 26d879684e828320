"""Predicted and ground truth masks -> scores with confidence intervals, and a report."""
