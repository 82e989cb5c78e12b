"""Rules side by side: one network, data set, optimizer and order of batches, seed by seed.

By default scikit-learn's digits: 1,797 images of 8 × 8 pixels, offline, in about a minute. Not of a
paper: a first look at every rule, with the control and the reference among them. 1,297 images to
train, 200 to choose learning rates, 300 to test; the split, the network and the order of batches
follow the seed, so rules pair.

Each rule has the learning rate that suits it, the best of {1, 3} · 10ⁿ on the validation part.
``LEARNING_RATES`` are those of our own for the default settings (of two seeds and 15 epochs), and
are taken for these alone. With any other network, data set, batch or condition they are searched
for: with the first seed, in half the epochs.

Under stress (``Comparison.stress``) the rules are compared in each condition by itself, beside the
clean one. Conditions that differ in the test samples alone are of the same trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch

from forwardly.errors import UsageError, in_a_line
from forwardly.experiments import stress as conditions
from forwardly.experiments.comparison_table import ACCURACY, LOSS, Metric, Row, finite_or_none
from forwardly.experiments.recipe import MODEL, Prepared, Recipe, load_data, prepare
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
from forwardly.rules.options import read_options
from forwardly.rules.plugins import rules_with_options
from forwardly.training import evaluate

LEARNING_RATES = {
    "adaptive-feedback-alignment": 0.3,
    "backprop": 0.1,
    "direct-feedback-alignment": 0.1,
    "direct-kolen-pollack": 0.1,
    "drtp": 0.003,
    "error-broadcast": 0.1,
    "feedback-alignment": 0.1,
    "forward-forward": 0.3,
    "foton": 0.03,
    "hebbian-pepita": 0.3,
    "kolen-pollack": 0.1,
    "local-errors": 0.03,
    "mem-pepita": 0.3,
    "mono-forward": 0.1,
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
_LARGER = (3.0, 10.0, 30.0, 100.0)
_SMALLER = (0.0003, 0.0001, 0.00003, 0.00001)
"""What is tried as well while the largest, or the smallest, so far is the best."""

_VALIDATION = 200
KNOWN_FOR = Recipe(
    "readout-only",
    "digits",
    hidden=(128,),
    activation="relu",
    learning_rate=0.0,
    momentum=0.9,
    batch=32,
    epochs=30,
    validation=_VALIDATION,
)
"""What ``LEARNING_RATES`` are for, whatever the rule."""

Options = Mapping[str, float | int | str]
"""Of a rule, as a recipe has them."""

OPTIONS: Mapping[str, Sequence[Options]] = {
    "forward-forward": ({"negatives": "likely"}, {}),
}
"""What is tried of a rule's options beside its defaults; first what is best for ``KNOWN_FOR``."""

Source = Literal["given", "known", "searched"]
"""Where a learning rate is from: the user, ``LEARNING_RATES``, or a search."""


class Choice(NamedTuple):
    """What a rule is trained with."""

    learning_rate: float
    source: Source
    options: Options


@dataclass(frozen=True)
class Comparison:
    """The settings.

    Attributes:
        rules: which are compared; options follow a colon: pepita:presynaptic=clean,projection=0.4.
        data: The data set, as ``forwardly train`` takes it.
        model: mlp; conv for one convolution of 5 × 5, pooling and a readout; resmlp, resnet8,
            resnet20, vit or vit8; or a function of your own, as my.py:build: see ``forwardly
            train``.
        hidden: sizes of the hidden layers ("mlp", "resmlp"), or the channels of the convolution
            ("conv").
        activation: Of the hidden layers.
        learning_rate: Of all rules that --rates does not name (default: for each the best of 1,
            0.3, 0.1, 0.03, … on the validation part; for the settings by default they are known).
        rates: of single rules, as NAME=0.1.
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
        stress: Conditions to learn under, separated by spaces, each compared by itself beside the
            clean one: noise:0.3 for a share of wrong classes among the training samples (where
            numbers are learned, for noise of so many standard deviations), samples:500 for only so
            many training samples, shift:2 for test images moved by so many pixels (other test
            samples by so many standard deviations of each number). One condition of several is
            written noise:0.3+samples:500.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = tuple(LEARNING_RATES)
    data: str = "digits"
    model: Annotated[str, MODEL] = "mlp"
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
    stress: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        rules_with_options(self.rules)
        check(self)
        object.__setattr__(self, "stress", tuple(map(conditions.canonical, self.stress)))
        for condition in self.stress:
            if self.stress.count(condition) > 1:
                raise UsageError(f"the condition {condition} is given twice")
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

    @property
    def conditions(self) -> tuple[str | None, ...]:
        """All that rules are compared in, the clean one (None) first."""
        return None, *self.stress

    def chosen(self, rule: str, condition: str | None = None) -> Choice | None:
        """What a rule is trained with in a condition, as far as that is known."""
        if rule in (given := self.given_rates):
            return Choice(given[rule], "given", {})
        if self.learning_rate is not None:
            return Choice(self.learning_rate, "given", {})
        made = recipe(KNOWN_FOR.rule, self, KNOWN_FOR.learning_rate, condition=condition)
        made = replace(
            made,
            validation=made.validation or _VALIDATION,
            stress=conditions.of_training(condition),
        )
        if made == KNOWN_FOR and rule in LEARNING_RATES:
            return Choice(LEARNING_RATES[rule], "known", _options_of(rule)[0])
        return None


def _options_of(rule: str) -> Sequence[Options]:
    """What is tried beside what is given with its name."""
    return OPTIONS.get(rule, ({},))


def _parts_of(rule: str) -> tuple[str, Options]:
    """The name of a rule and the options that are given with it."""
    name, colon, options = rule.partition(":")
    return name, read_options(options.split(",")) if colon else {}


def recipe(
    rule: str,
    settings: Comparison,
    learning_rate: float,
    options: Options | None = None,
    condition: str | None = None,
) -> Recipe:
    """How one rule is trained: the settings of the same names."""
    name, own = _parts_of(rule)
    shared = {field.name for field in fields(Recipe)} & {field.name for field in fields(settings)}
    given: dict[str, Any] = {
        name: getattr(settings, name) for name in shared - {"learning_rate", "stress"}
    }
    options = {**(options or {}), **own}
    return Recipe(name, learning_rate=learning_rate, options=options, stress=condition, **given)


def trial(settings: Comparison, root: Path | None = None) -> Prepared:
    """What the control would be trained with: for what does not go together, whatever the rule.

    Raises what ``prepare`` does, of every condition.
    """
    made = [
        prepare(
            recipe("readout-only", settings, 0.0, condition=condition),
            settings.seed,
            root,
            progress=True,
        )
        for condition in settings.conditions
    ]
    return made[0]


def train(
    rule: str,
    settings: Comparison,
    seed: int,
    learning_rate: float,
    root: Path | None = None,
    options: Options | None = None,
    under: Sequence[str | None] = (None,),
    device: torch.device | str = "cpu",
) -> tuple[float, ...]:
    """Train one rule from one seed; its accuracy, 0 to 1, on the validation and the test part.

    Of a data set without classes, the losses. NaN if it diverges.

    Args:
        rule: its name, perhaps with options.
        settings: the comparison's.
        seed: of everything random.
        learning_rate: of the optimizer.
        root: of the data sets.
        options: of the rule.
        under: conditions that differ in the test part alone; for each there is a test accuracy.
        device: where.
    """
    first, *others = under
    made = recipe(rule, settings, learning_rate, options, first)
    prepared = prepare(made, seed, root).to(device)
    trained = prepared.fit()
    if trained.diverged is not None:
        return (math.nan,) * (1 + len(under))
    tests = [prepared.dataset.test]
    tests += [load_data(replace(made, stress=other), seed, root).test for other in others]
    measured = metric_of(prepared).name
    found = [evaluate(prepared.rule, test.to(device))[measured] for test in tests]
    return trained.rows[-1][f"validation_{measured}"], *found


def metric_of(prepared: Prepared) -> Metric:
    """Accuracy where there are classes."""
    return ACCURACY if prepared.dataset.classes else LOSS


class Trial(NamedTuple):
    """A learning rate, perhaps with options, that was tried; its validation accuracy or loss."""

    learning_rate: float
    options: Options
    value: float

    @property
    def name(self) -> str:
        """What was tried."""
        return " ".join([f"{self.learning_rate:g}", *options_in_words(self.options)])


def options_in_words(options: Options) -> list[str]:
    """Options as ``forwardly train --rule-options`` takes them."""
    return [f"{name}={value}" for name, value in options.items()]


@dataclass
class Result:
    """What has been found of one rule in one condition.

    Attributes:
        rule: its name.
        choice: what it is trained with; None while that is not known.
        searched: what was tried for it.
        validation: of each seed that was trained; NaN of one that diverged.
        test: likewise.
        failure: what the rule raised, in a line, if it did; there its trainings ended.
        failed_seed: with which seed.
    """

    rule: str
    choice: Choice | None = None
    searched: list[Trial] = field(default_factory=list[Trial])
    validation: dict[int, float] = field(default_factory=dict[int, float])
    test: dict[int, float] = field(default_factory=dict[int, float])
    failure: str | None = None
    failed_seed: int | None = None

    @property
    def learning_rate(self) -> float | None:
        """None while it is not known."""
        return None if self.choice is None else self.choice.learning_rate

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
        tried = len(self.searched) >= len(_SEARCHED) * len(_options_of(self.rule))
        if tried and not any(math.isfinite(one.value) for one in self.searched):
            rates = [one.learning_rate for one in self.searched]
            return f"with all learning rates from {max(rates):g} to {min(rates):g}"
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
        device: where it is trained.

    Attributes:
        results: what has been found, by condition and rule.
    """

    def __init__(
        self,
        settings: Comparison,
        metric: Metric,
        root: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.metric, self._root, self._device = settings, metric, root, device
        self.results = {
            condition: {
                name: Result(name, settings.chosen(name, condition)) for name in settings.rules
            }
            for condition in settings.conditions
        }
        self._groups: dict[str | None, list[str | None]] = {}
        for condition in settings.conditions:
            self._groups.setdefault(conditions.of_training(condition), []).append(condition)

    @property
    def left(self) -> int:
        """How many trainings are to come, as far as one can say."""
        count = 0
        for first, *_ in self._groups.values():
            for name, result in self.results[first].items():
                if result.failure is not None or (result.choice is None and result.lost):
                    continue
                count += self.settings.seeds - len(result.test)
                if result.choice is None:
                    tries = len(_SEARCHED) * len(_options_of(name))
                    count += max(tries - len(result.searched), 1)
        return count

    def advance(self) -> Iterator[str]:
        """Train to the end, yielding after each training what it was.

        A rule that raises an exception ends there, and the others go on.
        """
        for training, under in self._groups.items():
            said = "" if len(self.results) == 1 else f", {conditions.name_of(training)}"
            for name in self.settings.rules:
                if self.results[under[0]][name].choice is None:
                    yield from (name + said for _ in self._search(name, training, under))
            for seed in range(self.settings.seed, self.settings.seed + self.settings.seeds):
                for name in self.settings.rules:
                    if self._train_one(name, under, seed):
                        yield name + said

    def _train_one(self, name: str, under: Sequence[str | None], seed: int) -> bool:
        """Train and test a rule, if it can be."""
        results = [self.results[condition][name] for condition in under]
        choice = results[0].choice
        if choice is None or results[0].failure is not None:
            return False
        found = self._train(
            results, self.settings, seed, choice.learning_rate, choice.options, under
        )
        if found is not None:
            validation, *tests = found
            for result, test in zip(results, tests, strict=True):
                result.validation[seed], result.test[seed] = validation, test
        return True

    def _search(
        self, name: str, training: str | None, under: Sequence[str | None]
    ) -> Iterator[None]:
        """Find a rule's learning rate and options; none are found if all diverge."""
        results = [self.results[condition][name] for condition in under]
        settings, best = search_settings(self.settings), None
        for options in _options_of(name):
            tried: list[Trial] = []
            for rate in self._rates(tried):
                found = self._train(results, settings, settings.seed, rate, options, [training])
                if found is None:
                    yield
                    return
                tried.append(Trial(rate, options, found[0]))
                for result in results:
                    result.searched.append(tried[-1])
                yield
            best = self._best([*([] if best is None else [best]), *tried])
        if best is not None:
            for result in results:
                result.choice = Choice(best.learning_rate, "searched", best.options)

    def _rates(self, tried: Sequence[Trial]) -> Iterator[float]:
        """What to try, in view of what was."""
        yield from _SEARCHED
        for more, extreme in ((_LARGER, max), (_SMALLER, min)):
            for rate in more:
                best = self._best(tried)
                ends = extreme(one.learning_rate for one in tried)
                if best is None or best.learning_rate != ends:
                    break
                yield rate

    def _best(self, tried: Sequence[Trial]) -> Trial | None:
        """The first of the best; None if all diverged."""
        best: Trial | None = None
        for one in tried:
            if self.metric.better(one.value, math.nan if best is None else best.value):
                best = one
        return best

    def _train(
        self,
        results: Sequence[Result],
        settings: Comparison,
        seed: int,
        rate: float,
        options: Options,
        under: Sequence[str | None],
    ) -> tuple[float, ...] | None:
        """``train``; None, and an entry in the results, if the rule fails."""
        try:
            return train(
                results[0].rule, settings, seed, rate, self._root, options, under, self._device
            )
        except Exception as failure:  # whatever somebody else's rule may raise
            for result in results:
                result.failure, result.failed_seed = in_a_line(failure), seed
            return None

    def rows(self, condition: str | None = None) -> list[Row]:
        """The table of a condition, as far as it has come."""
        results, clean = self.results[condition], self.results[None]
        control = results.get("readout-only", Result("readout-only")).test
        return [
            Row.of(
                name,
                result.test,
                control,
                self.metric,
                None if condition is None else clean[name].test,
            )
            for name, result in results.items()
        ]

    def as_data(self) -> dict[str, Any]:
        """The learning rates and what was found, for a record; under stress by condition."""
        found = self._as_data(None)
        if self.settings.stress:
            found["stress"] = {name: self._as_data(name) for name in self.settings.stress}
        return found

    def _as_data(self, condition: str | None) -> dict[str, Any]:
        results = self.results[condition]
        rules: dict[str, Any] = {}
        for row in self.rows(condition):
            rules[row.rule] = row.as_data()
            result = results[row.rule]
            if result.diverged:
                rules[row.rule]["diverged"] = result.diverged
            if result.failure is not None:
                rules[row.rule]["failed"] = {"seed": result.failed_seed, "with": result.failure}
        chosen = {name: result.choice for name, result in results.items()}
        return {
            "learning_rates": {name: result.learning_rate for name, result in results.items()},
            "learning_rates_from": {
                name: "searched" if choice is None else choice.source
                for name, choice in chosen.items()
            },
            "options": {
                name: dict(choice.options)
                for name, choice in chosen.items()
                if choice is not None and choice.options
            },
            "searches": {
                name: {one.name: finite_or_none(one.value) for one in result.searched}
                for name, result in results.items()
                if result.searched
            },
            "rules": rules,
        }


def search_settings(settings: Comparison) -> Comparison:
    """What a learning rate is searched for with: half the epochs."""
    return replace(settings, epochs=math.ceil(settings.epochs / 2))
