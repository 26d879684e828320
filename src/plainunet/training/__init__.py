"""In: samples and a network. Out: a run's folder, with the checkpoint in it.

The loop reports events and `progress.py` shows them; nothing else here prints.
"""
