"""How a step's time grows with width, depth and batch, beside how its arithmetic grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from forwardly.benchmarks import steps
from forwardly.benchmarks.timing import paired

AXES: dict[str, tuple[int, ...]] = {
    "width": (256, 512, 1024, 2048, 4096, 8192),
    "depth": (1, 2, 4, 8, 16, 32),
    "batch": (1, 4, 16, 64, 256, 1024, 4096),
}


def _in_place(to: tuple[int, ...], left: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(to) * left[-1]


def _linear(a: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(a) * weight[0]


_UNCOUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _in_place,
    torch.ops.aten.baddbmm_: _in_place,
}
"""Operations that torch's counter does not know, with their FLOPs by shapes."""
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not in every build of torch
    _UNCOUNTED[torch.ops.mkldnn._linear_pointwise] = _linear


def points(quick: bool, on_point: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """784-1024-10 in batches of 64, with one of the three changed (depth: layers of 512).

    Each says what varied, and for each subject seconds and MACs a sample.
    """
    for axis, values in AXES.items():
        for value in values[:3] if quick else values:
            hidden = {"width": (value,), "depth": (512,) * value}.get(axis, (1024,))
            sizes, batch = (784, *hidden, 10), value if axis == "batch" else 64
            made = steps.dense(sizes, batch)
            subjects = {"pepita": made["pepita"], "backprop": made["backprop, fused"]}
            seconds = paired(subjects, rounds=5, burst=0.03)
            yield {
                "axis": axis,
                "value": value,
                "seconds": {name: float(np.median(s)) / batch for name, s in seconds.items()},
                "macs": {name: products(step) / batch for name, step in subjects.items()},
            }
            on_point()


def slope(axis: Sequence[int], values: Sequence[float]) -> float:
    """Of the line through the logarithms of the larger half of the points."""
    half = len(axis) // 2
    return float(np.polyfit(np.log(axis[half:]), np.log(values[half:]), 1)[0])


def slopes(points: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Exponents of a sample's time and products, by axis and subject, of points as plain data."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for axis in dict.fromkeys(point["axis"] for point in points):
        own = [point for point in points if point["axis"] == axis]
        values = [point["value"] for point in own]
        found[axis] = {}
        for name in own[0]["seconds"]:
            seconds, macs = ([p[kind][name] for p in own] for kind in ("seconds", "macs"))
            found[axis][name] = slope(values, seconds), slope(values, macs)
    return found


def products(step: Callable[[], object]) -> float:
    """MACs of all products of a step, those in place and by oneDNN included."""
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        step()
    return counter.get_total_flops() / 2
