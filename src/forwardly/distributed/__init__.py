"""One run over several processes: a pipeline of stages, and who does what in it when.

May import ``training`` and what is below it.
"""

from forwardly.distributed.pipeline import Pipeline

__all__ = ["Pipeline"]
