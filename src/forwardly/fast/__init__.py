"""Fast paths: the same step as the readable rules', up to rounding.

May import ``rules`` and what these may; never ``training``.
"""
