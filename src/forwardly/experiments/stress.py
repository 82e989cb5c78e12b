"""Conditions to learn under, as people write them: noise:0.3, samples:500+shift:2; None is clean.

samples:N    only N samples to train on, each class with its share of them
noise:P      wrong targets to train on: a share P of the classes is replaced by others; to numbers
             Gaussian noise of P standard deviations is added
shift:P      other test samples: images are moved by P pixels, other samples by P standard
             deviations of each number

What each does is ``data.stress``'s. They are applied in this order, and before samples are centred
or standardised, whose statistics are of the samples that are learned from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from forwardly.data import Dataset, stress
from forwardly.errors import UsageError

_MOST = 1_000_000_000


class _Kind(NamedTuple):
    """What a word does, and whether to the test part."""

    apply: Callable[[Dataset, float, int], Dataset]
    of_test: bool = False


def _with_samples(dataset: Dataset, amount: float, seed: int) -> Dataset:
    if not amount.is_integer():
        raise UsageError(f"samples must be a whole number; given {amount:g}")
    return stress.with_samples(dataset, int(amount), seed)


_KINDS: Mapping[str, _Kind] = {
    "samples": _Kind(_with_samples),
    "noise": _Kind(stress.with_noise),
    "shift": _Kind(stress.with_shift, of_test=True),
}


def name_of(condition: str | None) -> str:
    """What to show."""
    return "clean" if condition is None else condition


def canonical(condition: str) -> str:
    """The one way to write a condition.

    Raises:
        UsageError: if it is none.
    """
    return _text(_amounts(condition))


def of_training(condition: str | None) -> str | None:
    """What of a condition is of the samples that are learned from; None is nothing."""
    found = _amounts(condition)
    return _text({name: value for name, value in found.items() if not _KINDS[name].of_test}) or None


def samples_of(condition: str | None, count: int) -> int:
    """How many of so many samples are left to train on."""
    return min(count, int(_amounts(condition).get("samples", count)))


def applied(condition: str | None, dataset: Dataset, seed: int) -> Dataset:
    """A data set under a condition.

    Raises:
        UsageError: if it is none, or none for such data.
    """
    for name, amount in _amounts(condition).items():
        dataset = _KINDS[name].apply(dataset, amount, seed)
    return dataset


def _amounts(condition: str | None) -> dict[str, float]:
    """By word, in the order in which they are applied."""
    given: dict[str, float] = {}
    for part in () if condition is None else str(condition).split("+"):  # a record may lie
        name, _, text = part.partition(":")
        amount = _positive(text)
        if name not in _KINDS or amount is None:
            raise UsageError(
                "a condition of stress is noise:0.3, samples:500 or shift:2, or several of them as "
                f"noise:0.3+samples:500; given {condition!r}"
            )
        if name in given:
            raise UsageError(f"{name} stands twice in the condition {condition!r}")
        given[name] = amount
    return {name: given[name] for name in _KINDS if name in given}


def _text(found: Mapping[str, float]) -> str:
    return "+".join(f"{name}:{amount:.15g}" for name, amount in found.items())


def _positive(text: str) -> float | None:
    """A number as people write it; float also takes spaces, underscores and infinity."""
    if not re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?", text):
        return None
    return amount if 0 < (amount := float(text)) <= _MOST else None
