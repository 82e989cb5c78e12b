"""The benchmark: what a training step costs beside the best alternative, as paired ratios.

May import ``experiments`` and what is below it.
"""
