"""What is said of a handful of seeds: mean and spread, paired differences, distance to a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; no deviation of fewer than two."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± sd; a dash of none."""
    if not values:
        return "–"
    mean, sd = mean_and_sd(values)
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


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
