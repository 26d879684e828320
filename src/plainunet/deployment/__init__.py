"""In: a checkpoint. Out: the same model in other worlds.

Nothing here trains, and every form must give what the Predictor gives.
"""
