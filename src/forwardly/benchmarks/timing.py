"""Paired timing: alternatives run in turn, in short bursts, so that a drifting machine hits all.

A burst is many calls, as training is: one call after another's would find its weights out of the
cache. What is compared is the ratio of two bursts of the same round; single times say nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Subject = Callable[[], object]

Clock = Callable[[], Callable[[], float]]
"""Begins to count; what it gives says how many seconds have passed."""


def processors_clock() -> Callable[[], float]:
    """Of work that is done when a call returns."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def cuda_clock() -> Callable[[], float]:
    """Of work that a call has launched on a GPU, by events in its stream."""
    began = torch.cuda.Event(enable_timing=True)
    began.record()

    def seconds() -> float:
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3

    return seconds


@dataclass(frozen=True)
class Ratio:
    """Of two subjects' times: quartiles over rounds, the median's 95 % confidence interval."""

    median: float
    low: float
    high: float
    first_quartile: float
    third_quartile: float

    @property
    def is_narrow(self) -> bool:
        """Whether the median is known to a tenth, and no more rounds are needed."""
        return self.high - self.low <= 0.1 * self.median


def paired(
    subjects: Mapping[str, Subject],
    *,
    rounds: int,
    burst: float = 0.1,
    on_round: Callable[[], None] = lambda: None,
    clock: Clock = processors_clock,
) -> dict[str, NDArray[np.float64]]:
    """Seconds a call of each subject in each round, (rounds,); the warm-up is left out.

    Args:
        subjects: what to time, by name.
        rounds: how often each is timed; in every other round in the reverse order.
        burst: seconds that one subject runs in a round, at least one call.
        on_round: called after each round.
        clock: what times a burst.
    """
    calls = {name: max(1, round(burst / _warm_up(run, clock))) for name, run in subjects.items()}
    seconds = {name: np.empty(rounds) for name in subjects}
    for i in range(rounds):
        for name in list(subjects)[:: 1 if i % 2 == 0 else -1]:
            seconds[name][i] = _seconds_a_call(subjects[name], calls[name], clock)
        on_round()
    return seconds


def ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> Ratio:
    """``over`` / ``under``, round by round."""
    from scipy import stats  # pyright: ignore  # slow to import, and only needed here

    ratios = over / under
    interval = stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)  # pyright: ignore
    low, middle, high = (float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
    least, greatest = float(interval.low), float(interval.high)  # pyright: ignore
    if not np.isfinite([least, greatest]).all():  # few rounds have no such interval
        least, greatest = float(ratios.min()), float(ratios.max())
    return Ratio(middle, least, greatest, low, high)


def fastest(seconds: Mapping[str, NDArray[np.float64]], group: str) -> str:
    """The subject with the least median of those whose name is ``group``, or begins so."""
    names = [name for name in seconds if name == group or name.startswith(f"{group}, ")]
    return min(names, key=lambda name: float(np.median(seconds[name])))


def verdict(found: Ratio, must: float, hope: float | None, *, lower: bool) -> str:
    """ "hope", "must", "missed", or "undecided" where it is too near to the goal for its spread.

    A goal is reached where the interval and the middle half of the rounds are beyond it. An
    interval alone would say too much of a machine that is in one of two moods for seconds, as
    neighbouring rounds are then no independent ones.
    """
    least = min(found.low, found.first_quartile)
    greatest = max(found.high, found.third_quartile)
    worst, best = (greatest, least) if lower else (least, greatest)

    def reaches(value: float, goal: float) -> bool:
        return value <= goal if lower else value >= goal

    if hope is not None and reaches(worst, hope):
        return "hope"
    if reaches(worst, must):
        return "must"
    return "undecided" if reaches(best, must) else "missed"


def _warm_up(run: Subject, clock: Clock) -> float:
    """Seconds a call, after some that are not counted: those in which a graph is captured, too."""
    _seconds_a_call(run, 5, clock)
    return _seconds_a_call(run, 1, clock, at_least=0.03)


def _seconds_a_call(run: Subject, calls: int, clock: Clock, at_least: float = 0.0) -> float:
    """The mean of so many calls, and of more until they have taken ``at_least`` seconds."""
    seconds, of_host, done = clock(), processors_clock(), 0
    while done < calls or of_host() < at_least:
        run()
        done += 1
    return seconds() / done
