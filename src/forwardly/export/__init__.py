"""Export: a rule's training step, to be taken where torch is not.

May import ``training`` and what is below it.
"""
