"""Rules side by side: one network, data set, optimizer and order of batches, seed by seed.

By default scikit-learn's digits: 1,797 images of 8 × 8 pixels, offline, in about a minute. Not of a
paper: a first look at every rule, with the control and the reference among them. 1,297 images to
train, 200 to choose learning rates, 300 to test; the split, the network and the order of batches
follow the seed, so rules pair.

Each rule has the learning rate that suits it, the best of {1, 3} · 10⁻ⁿ on the validation part.
``LEARNING_RATES`` are those of our own on the digits for the 64-128-10 network, of two seeds and 15
epochs; momentum 0.9, batches of 32, 30 epochs for all. For other rules, data sets and models they
are searched for: with the first seed, in half the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from forwardly.errors import UsageError, in_a_line
from forwardly.experiments.comparison_table import ACCURACY, LOSS, Metric, Row, finite_or_none
from forwardly.experiments.recipe import Prepared, Recipe, prepare
from forwardly.experiments.settings import (
    LAYERS,
    MOST_EPOCHS,
    MOST_PIXELS,
    MOST_SEEDS,
    MOST_UNITS,
    RATE,
    SHARE,
    at_least,
    check,
    require,
)
from forwardly.rules.plugins import rules_named
from forwardly.training import evaluate

LEARNING_RATES = {
    "adaptive-feedback-alignment": 0.3,
    "backprop": 0.1,
    "direct-feedback-alignment": 0.1,
    "drtp": 0.003,
    "feedback-alignment": 0.1,
    "forward-forward": 0.03,
    "foton": 0.03,
    "hebbian-pepita": 0.3,
    "mem-pepita": 0.3,
    "node-perturbation": 0.003,
    "pepita": 0.3,
    "readout-only": 0.3,
    "sign-pepita": 0.01,
    "sign-symmetry-batch": 0.1,
    "sign-symmetry-fixed": 0.3,
    "sign-symmetry-uniform": 0.3,
    "time-local-pepita": 0.003,
    "weight-perturbation": 0.001,
}

_SEARCHED = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_SMALLER = (0.0003, 0.0001, 0.00003, 0.00001)
"""What is tried as well while the smallest so far is the best."""

Source = Literal["given", "digits", "searched"]
"""Where a learning rate is from: the user, ``LEARNING_RATES``, or a search."""


@dataclass(frozen=True)
class Comparison:
    """The settings.

    Attributes:
        rules: which are compared.
        data: The data set, as ``forwardly train`` takes it.
        model: mlp, or conv for one convolution of 5 × 5, pooling and a readout.
        hidden: sizes of the hidden layers ("mlp"), or the channels of the convolution ("conv").
        activation: Of the hidden layers.
        learning_rate: Of all rules that --rates does not name (default: for each the best of 1,
            0.3, 0.1, 0.03, … on the validation part; for the digits they are known).
        rates: Learning rates of single rules, as NAME=0.1, separated by spaces.
        seeds: How many seeds.
        seed: The first of them.
        epochs: Passes over the training samples.
        batch: Samples a step.
        momentum: Of stochastic gradient descent.
        validation: Training samples put aside (default: what suits the data set).
        target: Of your own file, the column or array to learn, as ``forwardly train`` has it.
        task: Of your own file, whether its targets are classes or numbers.
        preprocessing: "centre" or "standardise", by statistics of the training part.
        flip: Mirror every other image to train on, left to right, anew in each epoch.
        shift: Move images to train on by up to so many pixels, anew in each epoch.
        crop: Enlarge a window of images to train on whose sides are at least this share of the
            image's, anew in each epoch.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = tuple(LEARNING_RATES)
    data: str = "digits"
    model: Literal["mlp", "conv"] = "mlp"
    hidden: Annotated[tuple[int, ...], LAYERS, MOST_UNITS] = (128,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    learning_rate: Annotated[float | None, RATE] = None
    rates: tuple[str, ...] = ()
    seeds: Annotated[int, at_least(1), MOST_SEEDS] = 5
    seed: Annotated[int, at_least(0)] = 0
    epochs: Annotated[int, at_least(1), MOST_EPOCHS] = 30
    batch: Annotated[int, at_least(1)] = 32
    momentum: Annotated[float, RATE] = 0.9
    validation: Annotated[int | None, at_least(1)] = None
    target: str | None = None
    task: Literal["classification", "regression"] | None = None
    preprocessing: Literal["centre", "standardise"] | None = None
    flip: bool = False
    shift: Annotated[int, at_least(0), MOST_PIXELS] = 0
    crop: Annotated[float, SHARE] = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        rules_named(self.rules)
        if len(set(self.rules)) < len(self.rules):
            raise UsageError(f"a rule is named twice: {', '.join(self.rules)}")
        check(self)
        if unknown := self.given_rates.keys() - {*self.rules}:
            raise UsageError(f"rates has {min(unknown)!r}, which is none of the rules compared")

    @property
    def given_rates(self) -> dict[str, float]:
        """``rates`` by rule."""
        rates: dict[str, float] = {}
        for given in self.rates:
            name, _, text = given.rpartition("=")
            if name in rates:
                raise UsageError(f"the learning rate of {name} is given twice")
            try:
                rates[name] = float(text)
            except ValueError:
                name = ""
            if not name:
                raise UsageError(f"a rule's learning rate is given as NAME=0.1; given {given!r}")
            require(RATE, **{f"the learning rate of {name}": rates[name]})
        return rates

    def rate(self, rule: str) -> tuple[float, Source] | None:
        """A rule's learning rate as far as it is known, and where from."""
        if rule in (given := self.given_rates):
            return given[rule], "given"
        if self.learning_rate is not None:
            return self.learning_rate, "given"
        if (self.data, self.model) == ("digits", "mlp") and rule in LEARNING_RATES:
            return LEARNING_RATES[rule], "digits"
        return None


def recipe(rule: str, settings: Comparison, learning_rate: float) -> Recipe:
    """How one rule is trained: the settings of the same names."""
    shared = {field.name for field in fields(Recipe)} & {field.name for field in fields(settings)}
    given: dict[str, Any] = {name: getattr(settings, name) for name in shared - {"learning_rate"}}
    return Recipe(rule, learning_rate=learning_rate, **given)


def trial(settings: Comparison, root: Path | None = None) -> Prepared:
    """What the control would be trained with: for what does not go together, whatever the rule.

    Raises what ``prepare`` does.
    """
    return prepare(recipe("readout-only", settings, 0.0), settings.seed, root, progress=True)


def train(
    rule: str,
    settings: Comparison,
    seed: int,
    learning_rate: float,
    root: Path | None = None,
) -> tuple[float, float]:
    """Train one rule from one seed; validation and test accuracy, 0 to 1 (NaN: diverged).

    Of a data set without classes, the losses.
    """
    prepared = prepare(recipe(rule, settings, learning_rate), seed, root)
    trained = prepared.fit()
    if trained.diverged is not None:
        return math.nan, math.nan
    tested = evaluate(prepared.rule, prepared.dataset.test)
    measured = metric_of(prepared).name
    return trained.rows[-1][f"validation_{measured}"], tested[measured]


def metric_of(prepared: Prepared) -> Metric:
    """Accuracy where there are classes."""
    return ACCURACY if prepared.dataset.classes else LOSS


@dataclass
class Result:
    """What has been found of one rule.

    Attributes:
        rule: its name.
        learning_rate: None while it is not known.
        source: where it is from.
        searched: validation accuracy (or loss) of each learning rate that was tried.
        validation: of each seed that was trained; NaN of one that diverged.
        test: likewise.
        failure: what the rule raised, in a line, if it did; there its trainings ended.
        failed_seed: with which seed.
    """

    rule: str
    learning_rate: float | None = None
    source: Source = "searched"
    searched: dict[float, float] = field(default_factory=dict[float, float])
    validation: dict[int, float] = field(default_factory=dict[int, float])
    test: dict[int, float] = field(default_factory=dict[int, float])
    failure: str | None = None
    failed_seed: int | None = None

    @property
    def diverged(self) -> list[int]:
        """The seeds that did."""
        return [seed for seed, value in self.test.items() if not math.isfinite(value)]

    @property
    def lost(self) -> str:
        """Where it diverged, in words; empty if it did not."""
        if self.diverged:
            seeds = ", ".join(map(str, self.diverged))
            return f"with learning rate {self.learning_rate:g}, seeds {seeds}"
        tried = len(self.searched) >= len(_SEARCHED)
        if tried and not any(map(math.isfinite, self.searched.values())):
            return f"with all learning rates from {max(self.searched):g} to {min(self.searched):g}"
        return ""

    def table(self) -> Iterator[tuple[str, int, str | float, str | float, str | float, str]]:
        """(rule, seed, learning rate, validation, test, how it ended) a seed."""
        rate = "" if self.learning_rate is None else self.learning_rate
        for seed, value in self.test.items():
            if seed in self.diverged:
                yield self.rule, seed, rate, "", "", "diverged"
            else:
                yield self.rule, seed, rate, self.validation[seed], value, "finished"
        if self.failed_seed is not None:
            yield self.rule, self.failed_seed, rate, "", "", "failed"


class Run:
    """A comparison under way.

    Args:
        settings: the comparison's.
        metric: what is compared.
        root: of the data sets.

    Attributes:
        results: what has been found, by rule.
    """

    def __init__(self, settings: Comparison, metric: Metric, root: Path | None = None) -> None:
        self.settings, self.metric, self._root = settings, metric, root
        self.results = {name: Result(name) for name in settings.rules}
        for name, result in self.results.items():
            if (known := settings.rate(name)) is not None:
                result.learning_rate, result.source = known

    @property
    def left(self) -> int:
        """How many trainings are to come, as far as one can say."""
        count = 0
        for result in self.results.values():
            if result.failure is not None or (result.learning_rate is None and result.lost):
                continue
            count += self.settings.seeds - len(result.test)
            if result.learning_rate is None:
                count += max(len(_SEARCHED) - len(result.searched), 1)
        return count

    def advance(self) -> Iterator[str]:
        """Train to the end, yielding the name of a rule after each training.

        A rule that raises an exception ends there, and the others go on.
        """
        for name, result in self.results.items():
            if result.learning_rate is None:
                yield from self._search(name)
        for seed in range(self.settings.seed, self.settings.seed + self.settings.seeds):
            for name, result in self.results.items():
                if result.learning_rate is None or result.failure is not None:
                    continue
                found = self._train(name, self.settings, seed, result.learning_rate)
                if found is not None:
                    result.validation[seed], result.test[seed] = found
                yield name

    def _search(self, name: str) -> Iterator[str]:
        """Find a rule's learning rate; none is found if all diverge."""
        result, settings = self.results[name], search_settings(self.settings)
        best: float | None = None
        for rate in _SEARCHED + _SMALLER:
            if rate in _SMALLER and best != list(result.searched)[-1]:
                break
            found = self._train(name, settings, settings.seed, rate)
            if found is None:
                yield name
                return
            value = result.searched[rate] = found[0]
            if self.metric.better(value, math.nan if best is None else result.searched[best]):
                best = rate
            yield name
        result.learning_rate = best

    def _train(
        self, name: str, settings: Comparison, seed: int, rate: float
    ) -> tuple[float, float] | None:
        """``train``; None, and an entry in the results, if the rule fails."""
        try:
            return train(name, settings, seed, rate, self._root)
        except Exception as failure:  # whatever somebody else's rule may raise
            self.results[name].failure = in_a_line(failure)
            self.results[name].failed_seed = seed
            return None

    def rows(self) -> list[Row]:
        """The table, as far as it has come."""
        control = self.results.get("readout-only", Result("readout-only")).test
        return [
            Row.of(name, result.test, control, self.metric) for name, result in self.results.items()
        ]

    def as_data(self) -> dict[str, Any]:
        """The learning rates and what was found, for a record."""
        results = self.results
        rules: dict[str, Any] = {}
        for row in self.rows():
            rules[row.rule] = row.as_data()
            result = results[row.rule]
            if result.diverged:
                rules[row.rule]["diverged"] = result.diverged
            if result.failure is not None:
                rules[row.rule]["failed"] = {"seed": result.failed_seed, "with": result.failure}
        return {
            "learning_rates": {name: result.learning_rate for name, result in results.items()},
            "learning_rates_from": {name: result.source for name, result in results.items()},
            "searches": {
                name: {
                    f"{rate:g}": finite_or_none(value) for rate, value in result.searched.items()
                }
                for name, result in results.items()
                if result.searched
            },
            "rules": rules,
        }


def search_settings(settings: Comparison) -> Comparison:
    """What a learning rate is searched for with: half the epochs."""
    return replace(settings, epochs=math.ceil(settings.epochs / 2))
