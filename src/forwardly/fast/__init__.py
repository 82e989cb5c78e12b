"""Fast paths: the same step as the readable rules', up to rounding.

May import ``rules`` and what is below it.
"""
