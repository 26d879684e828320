"""In: predicted masks and true ones. Out: numbers, each with the protocol behind it.

Counts are integers per image; no network is run here but through a Predictor.
"""
