"""What takes a training step: the readable rule, or an engine that takes the same step quicker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from forwardly.fast.sgd import Trained
from forwardly.rule import Credit, Rule


class Engine(ABC):
    """One way to take a step; ``find`` asks ``why_not``, and the first with no objection steps.

    Args:
        rule: what trains.
    """

    name: ClassVar[str]
    checks_values: ClassVar[bool] = False
    """Whether a step looks itself whether values can be learned from; else they were looked at."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def why_not(self, x: Tensor, target: Tensor, trained: Trained) -> str:  # noqa: ARG002
        """Why it cannot take this step, or would gain nothing; empty if it can."""
        return ""

    def without(self) -> dict[str, str]:
        """What it has to do without, and why."""
        return {}

    @abstractmethod
    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        """Train on a batch of checked form; the credit has the updates that are yet to be applied.

        What is raised is raised before anything has changed.
        """

    def prepare(self, trained: Trained) -> None:  # noqa: B027, most have nothing to prepare
        """Have compiled what steps need."""


class Readable(Engine):
    """The rule as it is written."""

    name = "readable"

    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        """The pure step, and then its results put in place."""
        credit, buffers = self.rule.run_checked(x, target)
        self.rule.move_buffers(buffers)
        for name, update in credit.updates.items():
            trained.replace(self.rule.parameter(name), update)
        return credit._replace(updates={})


class Batch(NamedTuple):
    """The whole data of all seeds: x (seeds, n, d) and target (seeds, n, k)."""

    x: Tensor
    target: Tensor


class Errors(NamedTuple):
    """Mean absolute errors after ``epoch``: on the training and validation set, (seeds,) each."""

    epoch: int
    train: NDArray[np.float64]
    validation: NDArray[np.float64]
