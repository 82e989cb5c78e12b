"""What is said of a handful of seeds: mean and spread, paired differences, distance to a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LONG = 1e6
"""A number, of training that is about to diverge, from which its digits are not written out."""


class Difference(NamedTuple):
    """Of paired values: the mean, its 95 % confidence interval, and the paired t-test's p."""

    mean: float
    low: float
    high: float
    p: float

    def text(self, digits: int = 2) -> str:
        """The mean with its interval."""
        mean, low, high = (round(value, digits) + 0.0 for value in self[:3])  # no −0.00
        return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def difference(ours: Sequence[float], control: Sequence[float]) -> Difference | None:
    """``ours`` − ``control``, seed by seed; None of fewer than two, or where all are the same."""
    change = np.array(ours) - np.array(control)
    if len(change) < 2 or not np.isfinite(change).all() or not change.std() > 0:
        return None
    from scipy import stats  # pyright: ignore  # slow to import, and only needed here

    tested = stats.ttest_rel(ours, control)  # pyright: ignore
    interval = tested.confidence_interval()  # pyright: ignore
    return Difference(
        *(float(value) for value in (change.mean(), interval.low, interval.high, tested.pvalue))  # pyright: ignore
    )


def mean_and_sd(values: Sequence[float] | Array) -> tuple[float, float | None]:
    """Mean and sample standard deviation; no deviation of fewer than two."""
    with np.errstate(over="ignore", invalid="ignore"):  # of a seed about to diverge
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return float(np.mean(values)), spread


def mean_and_sd_over_seeds(curves: Array) -> tuple[Array, Array]:
    """The same of curves (seeds, epochs), epoch by epoch over what is finite; no spread is 0."""
    finite = np.isfinite(curves)
    count = finite.sum(0)
    known = np.where(finite, curves, 0)
    mean = np.where(count > 0, known.sum(0) / np.maximum(count, 1), np.nan)
    squares = np.where(finite, known - mean, 0) ** 2
    return mean, np.sqrt(squares.sum(0) / np.maximum(count - 1, 1))


def sd_text(found: tuple[float, float | None] | None, digits: int = 2) -> str:
    """Mean ± sd, as ``mean_and_sd`` finds them; a dash of none."""
    if found is None:
        return "–"
    return " ± ".join(
        f"{value:.{digits}f}" if abs(value) < _LONG else f"{value:.2g}"
        for value in found
        if value is not None
    )


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± sd of values; a dash of none."""
    return sd_text(mean_and_sd(values) if values else None, digits)


class Distance(NamedTuple):
    """How far a mean over seeds is from a published one.

    Attributes:
        difference: ours − published.
        standard_errors: the difference in standard errors of a difference; None where neither we
            nor the paper has a standard deviation.
        within: whether it is within two of the published standard deviations; None where there is
            none.
    """

    difference: float
    standard_errors: float | None
    within: bool | None


def distance(values: Sequence[float], mean: float, sd: float | None, seeds: int | None) -> Distance:
    """The distance of our values from a published mean and standard deviation over seeds.

    The standard error is √(s²/n + sd²/N). Of a single seed s is not known, and sd stands in; where
    the paper does not say N, its mean is taken as exact.
    """
    ours, spread = mean_and_sd(values)
    change = ours - mean
    own = spread if spread is not None else sd
    errors = None
    if own is not None:
        theirs = 0.0 if sd is None or seeds is None else sd**2 / seeds
        error = math.sqrt(own**2 / len(values) + theirs)
        errors = change / error if error > 0 else None
    return Distance(change, errors, None if sd is None else abs(change) <= 2 * sd)
