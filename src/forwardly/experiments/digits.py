"""All rules on scikit-learn's digits: 1,797 images of 8 × 8 pixels, offline, in about a minute.

Not of a paper: a first look at every rule under one network, one loss, one optimizer and the same
seeds, with the control and the reference among them. 1,297 images to train, 200 to choose learning
rates, 300 to test; the split, the network and the order of batches follow the seed, so rules pair.

Learning rates are the best of {1, 3} · 10⁻ⁿ on the validation images for the 64-128-10 network, for
each rule by itself, of two seeds and 15 epochs; momentum 0.9, batches of 32, 30 epochs for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from forwardly.errors import UsageError, check_rules
from forwardly.metrics import Accuracy
from forwardly.rule import Rule
from forwardly.rules import RULES

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


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Digits:
    """The settings.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = tuple(LEARNING_RATES)
    hidden: tuple[int, ...] = (128,)
    activation: str = "relu"
    seeds: int = 5
    seed: int = 0
    epochs: int = 30
    batch: int = 32
    momentum: float = 0.9
    validation_samples: int = 200
    test_samples: int = 300

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_rules(self.rules, RULES)
        for name in ("seeds", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; given {getattr(self, name)}")
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"activation must be one of {', '.join(ACTIVATIONS)}; given {self.activation!r}"
            )
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0; given {self.seed}")
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(
                f"hidden must be one or more layer sizes of at least 1; given {list(self.hidden)}"
            )


class Split(NamedTuple):
    """Images (n, 64) in [0, 1] and classes (n,)."""

    x: Tensor
    target: Tensor


@cache
def _digits() -> Split:
    from sklearn.datasets import load_digits  # pyright: ignore

    images, classes = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    return Split(torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(classes))


def splits(settings: Digits, seed: int) -> tuple[Split, Split, Split]:
    """Training, validation and test images of one seed."""
    x, target = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first = len(x) - settings.validation_samples - settings.test_samples
    second = len(x) - settings.test_samples
    parts = order[:first], order[first:second], order[second:]
    train, validation, test = (Split(x[part], target[part]) for part in parts)
    return train, validation, test


def train(
    name: str, settings: Digits, seed: int, learning_rate: float | None = None
) -> tuple[float, float]:
    """Train one rule from one seed; its validation and test accuracy, 0 to 1."""
    training, *others = splits(settings, seed)
    generator = torch.Generator().manual_seed(seed)
    model = _network(settings, generator)
    rate = LEARNING_RATES[name] if learning_rate is None else learning_rate
    rule = _rule(name, model, rate, generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum)
    for _ in range(settings.epochs):
        order = torch.randperm(len(training.x), generator=generator)
        for start in range(0, len(order), settings.batch):
            batch = order[start : start + settings.batch]
            optimizer.zero_grad()
            rule.accumulate(training.x[batch], training.target[batch])
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            if not all(bool(p.isfinite().all()) for p in model.parameters()):
                return float("nan"), float("nan")
    return cast(tuple[float, float], tuple(_accuracy(rule, part) for part in others))


def run(settings: Digits) -> Iterator[tuple[str, int, float]]:
    """(rule, seed, test accuracy) of every rule and seed, as they are done."""
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.rules:
            yield name, seed, train(name, settings, seed)[1]


class Difference(NamedTuple):
    """Of paired accuracies: the mean, its 95 % confidence interval, and the paired t-test's p."""

    mean: float
    low: float
    high: float
    p: float


def difference(ours: list[float], control: list[float]) -> Difference | None:
    """``ours`` − ``control``, seed by seed; None of fewer than two, or where all are the same."""
    change = np.array(ours) - np.array(control)
    if len(change) < 2 or not np.isfinite(change).all() or not change.std() > 0:
        return None
    tested = stats.ttest_rel(ours, control)  # pyright: ignore
    interval = tested.confidence_interval()  # pyright: ignore
    return Difference(
        *(float(value) for value in (change.mean(), interval.low, interval.high, tested.pvalue))  # pyright: ignore
    )


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
        if not self.accuracies:
            return "–"
        percent = 100 * np.array(self.accuracies)
        spread = f" ± {percent.std(ddof=1):.2f}" if len(percent) > 1 else ""
        return f"{percent.mean():.2f}{spread}"

    def difference_text(self) -> tuple[str, str]:
        """The difference with its interval in percent, and p."""
        if self.over_control is None:
            return "–", "–"
        mean, low, high, p = self.over_control
        return f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]", f"{p:.2g}"

    def as_data(self) -> dict[str, object]:
        """Plain data, for a record."""
        change = None if self.over_control is None else self.over_control._asdict()
        return {"accuracies": self.accuracies, "over_readout_only": change}


def _network(settings: Digits, generator: torch.Generator) -> nn.Sequential:
    sizes = (64, *settings.hidden, 10)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after, bias=False)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        layers += [linear, ACTIVATIONS[settings.activation]()]
    return nn.Sequential(*layers[:-1])


def _rule(name: str, model: nn.Module, rate: float, generator: torch.Generator) -> Rule:
    make = cast(Callable[..., Rule], RULES[name])
    options = {"learning_rate": rate} if name == "time-local-pepita" else {}
    return make(model, nn.CrossEntropyLoss(), generator=generator, **options)


def _accuracy(rule: Rule, part: Split) -> float:
    accuracy = Accuracy()
    accuracy.update(rule.eval().predict(part.x), part.target)
    rule.train()
    return accuracy.compute()
