"""What is known of a judged model -> one HTML page that a person opens.

In: the dictionary of an evaluation, and some of its pictures with their masks. Out: a file that
needs no network. Nothing may be counted or predicted here.
"""
