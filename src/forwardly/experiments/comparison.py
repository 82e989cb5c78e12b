"""All rules on scikit-learn's digits: 1,797 images of 8 × 8 pixels, offline, in about a minute.

Not of a paper: a first look at every rule under one network, one loss, one optimizer and the same
seeds, with the control and the reference among them. 1,297 images to train, 200 to choose learning
rates, 300 to test; the split, the network and the order of batches follow the seed, so rules pair.

Learning rates are the best of {1, 3} · 10⁻ⁿ on the validation images for the 64-128-10 network, for
each rule by itself, of two seeds and 15 epochs; momentum 0.9, batches of 32, 30 epochs for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from forwardly.errors import check_rules
from forwardly.experiments.recipe import Recipe, prepare
from forwardly.experiments.settings import LAYERS, MOST_SEEDS, MOST_UNITS, RATE, at_least, check
from forwardly.experiments.statistics import Difference, difference, mean_text
from forwardly.rules import RULES
from forwardly.training import evaluate

LEARNING_RATES = {
    "adaptive-feedback-alignment": 0.3,
    "backprop": 0.1,
    "direct-feedback-alignment": 0.1,
    "drtp": 0.003,
    "feedback-alignment": 0.1,
    "forward-forward": 0.03,
    "hebbian-pepita": 0.3,
    "mem-pepita": 0.3,
    "pepita": 0.3,
    "readout-only": 0.3,
    "sign-pepita": 0.01,
    "sign-symmetry-batch": 0.1,
    "sign-symmetry-fixed": 0.3,
    "sign-symmetry-uniform": 0.3,
    "time-local-pepita": 0.003,
}


@dataclass(frozen=True)
class Digits:
    """The settings.

    Attributes:
        rules: which are compared.
        hidden: Sizes of the hidden layers, separated by spaces.
        activation: Of the hidden layers.
        seeds: How many seeds.
        seed: The first of them.
        epochs: Passes over the training images.
        batch: samples a step.
        momentum: of stochastic gradient descent.
        validation_samples: images that are put aside.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = tuple(LEARNING_RATES)
    hidden: Annotated[tuple[int, ...], LAYERS, MOST_UNITS] = (128,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    seeds: Annotated[int, at_least(1), MOST_SEEDS] = 5
    seed: Annotated[int, at_least(0)] = 0
    epochs: Annotated[int, at_least(1)] = 30
    batch: Annotated[int, at_least(1)] = 32
    momentum: Annotated[float, RATE] = 0.9
    validation_samples: Annotated[int, at_least(1)] = 200

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_rules(self.rules, RULES)
        check(self)


def recipe(name: str, settings: Digits, learning_rate: float | None = None) -> Recipe:
    """How one rule is trained."""
    return Recipe(
        name,
        "digits",
        hidden=settings.hidden,
        activation=settings.activation,
        learning_rate=LEARNING_RATES[name] if learning_rate is None else learning_rate,
        momentum=settings.momentum,
        batch=settings.batch,
        epochs=settings.epochs,
        validation=settings.validation_samples,
    )


def train(
    name: str, settings: Digits, seed: int, learning_rate: float | None = None
) -> tuple[float, float]:
    """Train one rule from one seed; its validation and test accuracy, 0 to 1 (NaN: diverged)."""
    prepared = prepare(recipe(name, settings, learning_rate), seed)
    trained = prepared.fit()
    if trained.diverged is not None:
        return math.nan, math.nan
    tested = evaluate(prepared.rule, prepared.dataset.test)
    return trained.rows[-1]["validation_accuracy"], tested["accuracy"]


def run(settings: Digits) -> Iterator[tuple[str, int, float]]:
    """(rule, seed, test accuracy) of every rule and seed, as they are done."""
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.rules:
            yield name, seed, train(name, settings, seed)[1]


class Row(NamedTuple):
    """One rule's line of the table: test accuracies, 0 to 1, and the test against the control."""

    rule: str
    accuracies: list[float]
    over_control: Difference | None

    @classmethod
    def of(cls, rule: str, accuracies: list[float], control: list[float]) -> Row:
        """The line of a rule; accuracies and control are paired by seed."""
        paired = min(len(accuracies), len(control))
        return cls(rule, accuracies, difference(accuracies[:paired], control[:paired]))

    def accuracy_text(self) -> str:
        """Mean ± sd in percent."""
        return mean_text([100 * accuracy for accuracy in self.accuracies])

    def difference_text(self) -> tuple[str, str]:
        """The difference with its interval in percent, and p."""
        if self.over_control is None:
            return "–", "–"
        mean, low, high, p = self.over_control
        return Difference(100 * mean, 100 * low, 100 * high, p).text(), f"{p:.2g}"

    def as_data(self) -> dict[str, object]:
        """Plain data, for a record."""
        change = None if self.over_control is None else self.over_control._asdict()
        return {"accuracies": self.accuracies, "over_readout_only": change}
