"""How a step's time grows with width, depth and batch, beside how its arithmetic grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from forwardly.benchmarks import steps
from forwardly.benchmarks.timing import paired
from forwardly.rules.pepita import PEPITA

AXES: dict[str, tuple[int, ...]] = {
    "width": (256, 512, 1024, 2048, 4096, 8192),
    "depth": (1, 2, 4, 8, 16, 32),
    "batch": (1, 4, 16, 64, 256, 1024, 4096),
}
_QUICK = 3  # of the smallest


class Point(NamedTuple):
    """One network: what varied, and for each subject seconds and MACs a sample."""

    axis: str
    value: int
    seconds: dict[str, float]
    macs: dict[str, float]


def points(quick: bool, on_point: Callable[[], None]) -> Iterator[Point]:
    """784-1024-10 in batches of 64, with one of the three changed (depth: layers of 512)."""
    for axis, values in AXES.items():
        for value in values[:_QUICK] if quick else values:
            sizes, batch = (784, 1024, 10), 64
            if axis == "width":
                sizes = (784, value, 10)
            elif axis == "depth":
                sizes = (784, *(512,) * value, 10)
            else:
                batch = value
            yield _measured(axis, value, sizes, batch)
            on_point()


def slope(axis: Sequence[int], values: Sequence[float]) -> float:
    """Of the line through the logarithms of the larger half of the points."""
    half = len(axis) // 2
    return float(np.polyfit(np.log(axis[half:]), np.log(values[half:]), 1)[0])


def _measured(axis: str, value: int, sizes: tuple[int, ...], batch: int) -> Point:
    data = steps.batch_of((sizes[0],), sizes[-1], batch)
    rule = PEPITA(steps.network(sizes), nn.CrossEntropyLoss())
    subjects = {
        "pepita": steps.local_step(rule, data),
        "backprop": steps.backprop_step(steps.network(sizes), data, fused=True),
    }
    seconds = paired(subjects, rounds=5, burst=0.03)
    macs: dict[str, float] = {}
    for name, step in subjects.items():
        with FlopCounterMode(display=False) as counter:
            step()
        macs[name] = counter.get_total_flops() / 2 / batch
    each = {name: float(np.median(times)) / batch for name, times in seconds.items()}
    return Point(axis, value, each, macs)
