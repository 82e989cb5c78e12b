"""Node and weight perturbation, one sample at a time, the noise being given.

node      δ_l = (Ẽ − E)/σ · ξ_l         ΔW_l = δ_l a_{l−1}ᵀ       (Werfel, Xie & Seung 2003)
weight    Δθ = (Ẽ − E)/σ · ψ                                       (Cauwenberghs 1992)

Ẽ − E is ½ (e + ẽ) · (ỹ − y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reference.layers import Array, Conv, Layer, Linear
from reference.pepita import ErrorFunction, Update, forward, mean_of, stages, through


def difference(y: Array, noisy: Array, t: Any, error: ErrorFunction) -> float:
    """Ẽ − E."""
    total = 0.0
    ends = zip(y.ravel(), noisy.ravel(), error(y, t).ravel(), error(noisy, t).ravel(), strict=True)
    for before, after, e, e_noisy in ends:
        total += (e + e_noisy) * (after - before) / 2
    return total


def node_perturbation(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    draws: Sequence[Sequence[Array]],
    *,
    sigma: float,
    error: ErrorFunction,
) -> list[Update]:
    """draws[s][l] is ξ of layer l + 1, (n, *z)."""
    preparation, found = stages(layers)
    means: list[list[Update]] = []
    for i in range(len(x)):
        a_0 = through(preparation, x[i], i)
        a, _ = forward(found, a_0, i)
        for xi in draws:
            noisy = a_0
            for l, stage in enumerate(found):
                z = stage.synapse.forward(noisy, i) + sigma * xi[l][i]
                noisy = through(stage.rest, through(stage.elementwise, z, i), i)
            rise = difference(a[-1], noisy, t[i], error)
            means.append(
                [
                    stage.synapse.update(rise / sigma * xi[l][i], a[l])
                    for l, stage in enumerate(found)
                ]
            )
    return mean_of(found, means)


def weight_perturbation(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    draws: Sequence[Sequence[tuple[Array, Array | None]]],
    *,
    sigma: float,
    error: ErrorFunction,
    two_sided: bool,
) -> list[Update]:
    """draws[s][l] is ψ of W and b of layer l + 1."""

    def outputs(psi: Sequence[tuple[Array, Array | None]], sigma: float) -> list[Array]:
        noise, moved = iter(psi), []
        for layer in layers:
            if isinstance(layer, Linear | Conv):
                of_W, of_b = next(noise)
                b = None if layer.b is None or of_b is None else layer.b + sigma * of_b
                layer = replace(layer, W=layer.W + sigma * of_W, b=b)
            moved.append(layer)
        preparation, found = stages(moved)
        return [forward(found, through(preparation, x[i], i), i)[0][-1] for i in range(len(x))]

    _, found = stages(layers)
    means: list[list[Update]] = []
    for psi in draws:
        up, down = outputs(psi, sigma), outputs(psi, -sigma if two_sided else 0)
        width = 2 * sigma if two_sided else sigma
        rise = np.mean([difference(down[i], up[i], t[i], error) for i in range(len(x))])
        means.append(
            [
                (rise / width * of_W, None if of_b is None else rise / width * of_b)
                for of_W, of_b in psi
            ]
        )
    return mean_of(found, means)
