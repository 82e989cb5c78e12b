"""Training: the pure step, the loop over epochs, SGD for local rules, checkpoints, measures.

May import ``fast`` and what is below it.
"""

from forwardly.rule import evaluating
from forwardly.training import loggers
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.loop import evaluate, fit
from forwardly.training.run import Fit, Measure, Row
from forwardly.training.seeds import fit_seeds

__all__ = [
    "Fit",
    "LocalSGD",
    "Measure",
    "Row",
    "evaluate",
    "evaluating",
    "fit",
    "fit_seeds",
    "loggers",
]
