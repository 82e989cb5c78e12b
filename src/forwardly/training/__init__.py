"""Training: the pure step, the loop over epochs, SGD for local rules, checkpoints, measures.

May import ``fast`` and what is below it.
"""

from forwardly.rule import evaluating
from forwardly.training import loggers
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.loop import Fit, Measure, Row, evaluate, fit

__all__ = ["Fit", "LocalSGD", "Measure", "Row", "evaluate", "evaluating", "fit", "loggers"]
