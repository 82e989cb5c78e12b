"""Means, paired differences and distances, against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from forwardly.experiments.statistics import (
    Difference,
    difference,
    distance,
    mean_and_sd,
    mean_text,
)


def test_paired_difference() -> None:
    ours, control = [3.0, 5.0, 4.5, 6.0], [2.5, 4.0, 4.25, 4.0]
    change = np.array(ours) - np.array(control)
    mean, error = change.mean(), change.std(ddof=1) / math.sqrt(4)
    t = mean / error
    reach = stats.t.ppf(0.975, 3) * error
    expected = (mean, mean - reach, mean + reach, 2 * stats.t.sf(abs(t), 3))
    assert difference(ours, control) == pytest.approx(expected)


def test_no_difference_of_too_little() -> None:
    assert difference([1.0], [0.0]) is None
    assert difference([1.0, 2.0], [0.0, 1.0]) is None  # the same change twice: no spread
    assert difference([1.0, math.nan], [0.0, 1.0]) is None


def test_texts() -> None:
    assert mean_text([]) == "–"
    assert mean_text([12.345]) == "12.35"
    assert mean_text([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert mean_text([1e270, 1e270]) == "1e+270 ± 0.00"  # about to diverge
    assert Difference(-0.001, -1.0, 1.0, 1.0).text() == "+0.00 [-1.00, +1.00]"
    assert Difference(1.234, -0.5, 2.0, 0.01).text() == "+1.23 [-0.50, +2.00]"


def test_mean_and_sd_of_a_sample() -> None:
    assert mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_and_sd([1.0]) == (1.0, None)


def test_distance_from_a_published_mean() -> None:
    found = distance([50.0, 52.0, 54.0], 51.0, 0.5, 10)
    assert found.difference == pytest.approx(1.0)
    assert found.standard_errors == pytest.approx(1 / math.sqrt(4 / 3 + 0.25 / 10))
    assert found.within is True
    assert distance([52.1], 51.0, 0.5, 10).within is False


def test_distance_where_something_is_not_known() -> None:
    single = distance([52.0], 51.0, 0.5, 10)  # their sd stands in for ours
    assert single.standard_errors == pytest.approx(1 / math.sqrt(0.25 + 0.25 / 10))
    exact = distance([50.0, 52.0], 50.0, 0.5, None)
    assert exact.standard_errors == pytest.approx(1 / math.sqrt(2 / 2))
    assert distance([52.0], 51.0, None, None) == (1.0, None, None)
    assert distance([51.0, 51.0], 51.0, None, None).standard_errors is None
