"""FOTON one sample at a time (Caillon et al. 2025, arXiv 2512.20668, and the authors' code).

    F = (W_L … W_1)ᵀ               clean pass from x, modulated pass from x − F e
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) h_{l−1}ᵀ          output   ΔW_L = e h_{L−1}ᵀ
    all layers       and ½ (W Wᵀ − 1) W, over η and where it is above one over ‖W Wᵀ‖_∞

F by what the network without its nonlinear layers makes of each unit vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reference.layers import ELEMENTWISE, Array, Conv, Layer, MaxPool, Pool
from reference.pepita import ErrorFunction, Stage, Update, forward, mean_of, stages, through


@dataclass(frozen=True)
class Mean(Pool):
    """The mean of what is real in each window."""

    fill = np.nan

    def of_window(self, window: Array) -> float:
        return float(np.nanmean(window))


def transposed(found: list[Stage], shape: tuple[int, ...]) -> Array:
    """F, (d, k)."""
    linear: list[Layer] = []
    for stage in found:
        linear.append(replace(stage.synapse, b=None))
        for layer in stage.rest:
            if isinstance(layer, ELEMENTWISE):
                continue
            mean = (
                Mean(layer.kernel, layer.stride, layer.padding)
                if isinstance(layer, MaxPool)
                else layer
            )
            linear.append(mean)
    rows = []
    for unit in np.eye(int(np.prod(shape))):
        rows.append(through(linear, unit.reshape(shape), 0).ravel())
    return np.array(rows)


def bjorck(synapse: Any) -> Array:
    """½ (W Wᵀ − 1) W, shortened; each group of a convolution by itself."""
    groups = synapse.groups if isinstance(synapse, Conv) else 1
    parts = []
    for W in np.split(synapse.W, groups):
        flat = W.reshape(len(W), -1)
        gram = np.zeros((len(W), len(W)))
        for i in range(len(W)):
            for j in range(len(W)):
                gram[i, j] = (flat[i] * flat[j]).sum()
        longest = max([1.0, *(np.abs(row).sum() for row in gram)])
        parts.append(((gram - np.eye(len(W))) @ flat / 2 / longest).reshape(W.shape))
    return np.concatenate(parts)


def foton(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    *,
    error: ErrorFunction,
    learning_rate: float | None,
) -> list[Update]:
    """The updates; without a learning rate, without what makes weights orthogonal."""
    preparation, found = stages(layers)
    F = transposed(found, through(preparation, x[0], 0).shape)
    per_sample: list[list[Update]] = []
    for i in range(len(x)):
        a_0 = through(preparation, x[i], i)
        a, h = forward(found, a_0, i)
        e = error(a[-1], t[i])
        _, h_err = forward(found, a_0 - (F @ e).reshape(a_0.shape), i)
        posts = [h[l] - h_err[l] for l in range(len(found) - 1)] + [e.reshape(h[-1].shape)]
        per_sample.append([found[l].synapse.update(posts[l], a[l]) for l in range(len(found))])
    updates = mean_of(found, per_sample)
    if learning_rate is None:
        return updates
    return [
        (dW + bjorck(stage.synapse) / learning_rate, db)
        for stage, (dW, db) in zip(found, updates, strict=True)
    ]
