"""One run over several processes: a pipeline, and who does what in it when.

May import ``training`` and what is below it.
"""
