"""The commands, one a file; ``forwardly.cli`` puts them together.

May import ``benchmarks`` and what is below it.
"""
