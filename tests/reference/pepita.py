"""PEPITA one sample at a time (Dellaferrera & Kreiman, ICML 2022, arXiv 2201.11665, Algorithm 1).

    clean pass       a₀ = x               h_l     for l = 1 … L      e = error of the output
    modulated pass   a₀ᵉʳʳ = x ± F e      h_lᵉʳʳ  for l = 1 … L
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) (a_{l−1}ᵉʳʳ)ᵀ
    output           ΔW_L = e (a_{L−1}ᵉʳʳ)ᵀ

and its relatives in the same form: readout only, the first-order limit as F → 0, and backprop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from reference.layers import (
    DERIVATIVES,
    ELEMENTWISE,
    Array,
    Conv,
    Dropout,
    Elementwise,
    Layer,
    Linear,
)

ErrorFunction = Callable[[Array, Any], Array]
Update = tuple[Array, Array | None]


class Reference(NamedTuple):
    """What a rule must return: (ΔW, Δb) a synapse, outputs and errors (n, k)."""

    updates: list[Update]
    output: Array
    error: Array


class Stage(NamedTuple):
    """A synapse, the elementwise layers right behind it, and the rest up to the next synapse."""

    synapse: Linear | Conv
    elementwise: list[Layer]
    rest: list[Layer]


def softmax_error(y: Array, t: int) -> Array:
    """softmax(y) − onehot(t)."""
    p = np.exp(y) / np.exp(y).sum()
    p[t] -= 1
    return p


def squared_error(y: Array, t: Array) -> Array:
    """y − t, of ½‖y − t‖²."""
    return y - t


def sigmoid_error(y: Array, t: Array) -> Array:
    """sigmoid(y) − t."""
    return 1 / (1 + np.exp(-y)) - t


def stages(layers: Sequence[Layer]) -> tuple[list[Layer], list[Stage]]:
    """What prepares the input, and the stages."""
    preparation: list[Layer] = []
    found: list[Stage] = []
    for layer in layers:
        if isinstance(layer, Linear | Conv):
            found.append(Stage(layer, [], []))
        elif not found:
            preparation.append(layer)
        elif isinstance(layer, ELEMENTWISE) and not found[-1].rest:
            found[-1].elementwise.append(layer)
        else:
            found[-1].rest.append(layer)
    return preparation, found


def through(layers: Sequence[Layer], a: Array, i: int) -> Array:
    for layer in layers:
        a = layer.forward(a, i)
    return a


def forward(found: list[Stage], a_0: Array, i: int) -> tuple[list[Array], list[Array]]:
    """a_l for l = 0 … L, and h_l for l = 1 … L."""
    a, h = [a_0], []
    for stage in found:
        z = stage.synapse.forward(a[-1], i)
        h.append(through(stage.elementwise, z, i))
        a.append(through(stage.rest, h[-1], i))
    return a, h


def mean_of(found: list[Stage], per_sample: list[list[Update]]) -> list[Update]:
    updates: list[Update] = []
    for l, stage in enumerate(found):
        dW = sum(sample[l][0] for sample in per_sample) / len(per_sample)
        db = None
        if stage.synapse.b is not None:
            db = sum(sample[l][1] for sample in per_sample) / len(per_sample)
        updates.append((dW, db))
    return updates


def pepita(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    F: Array,
    *,
    error: ErrorFunction,
    output_error: str = "first",
    presynaptic: str = "modulated",
    sign: int = 1,
) -> Reference:
    """The updates, averaged over samples."""
    preparation, found = stages(layers)
    per_sample, outputs, errors = [], [], []
    for i in range(len(x)):
        a_0 = through(preparation, x[i], i)
        a, h = forward(found, a_0, i)
        e = error(a[-1], t[i])
        Fe = np.zeros(F.shape[0])
        for d in range(F.shape[0]):
            for k in range(F.shape[1]):
                Fe[d] += F[d, k] * e[k]
        a_err, h_err = forward(found, a_0 + sign * Fe.reshape(a_0.shape), i)
        e_last = e if output_error == "first" else error(a_err[-1], t[i])
        pre = a_err if presynaptic == "modulated" else a
        updates = []
        for l in range(len(found)):
            last = l == len(found) - 1
            post = e_last.reshape(h[l].shape) if last else h[l] - h_err[l]
            updates.append(found[l].synapse.update(post, pre[l]))
        per_sample.append(updates)
        outputs.append(a[-1])
        errors.append(e)
    return Reference(mean_of(found, per_sample), np.array(outputs), np.array(errors))


def readout_only(layers: Sequence[Layer], x: Array, t: Any, *, error: ErrorFunction) -> Reference:
    """ΔW_L = e a_{L−1}ᵀ; no other."""
    preparation, found = stages(layers)
    per_sample, outputs, errors = [], [], []
    for i in range(len(x)):
        a, h = forward(found, through(preparation, x[i], i), i)
        e = error(a[-1], t[i])
        per_sample.append([found[-1].synapse.update(e.reshape(h[-1].shape), a[-2])])
        outputs.append(a[-1])
        errors.append(e)
    return Reference(mean_of(found[-1:], per_sample), np.array(outputs), np.array(errors))


def adaptive_feedback(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    F: Array,
    *,
    error: ErrorFunction,
    sign: int = 1,
) -> Array:
    """ΔW₁ = ∓[(W₁ F e) ⊙ σ′(z₁)] xᵀ, what PEPITA's tends to as F → 0; one dense hidden layer."""
    _, found = stages(layers)
    (first, activation), _ = (found[0].synapse, found[0].elementwise[0]), found[1]
    assert isinstance(first, Linear)
    assert isinstance(activation, Elementwise)
    total = np.zeros_like(first.W)
    for i in range(len(x)):
        a, _ = forward(found, x[i], i)
        e = error(a[-1], t[i])
        slope = np.array([DERIVATIVES[activation.name](z) for z in first.forward(x[i], i)])
        total -= sign * first.update((first.W @ (F @ e)) * slope, x[i])[0]
    return total / len(x)


def backprop(layers: Sequence[Layer], x: Array, t: Any, *, error: ErrorFunction) -> Reference:
    """The chain rule by hand, for dense layers, activations and dropout."""
    synapses = [i for i, layer in enumerate(layers) if isinstance(layer, Linear)]
    per_sample, outputs, errors = [], [], []
    for i in range(len(x)):
        a = [x[i]]
        for layer in layers:
            a.append(layer.forward(a[-1], i))
        e = error(a[-1], t[i])
        delta, updates = e, []
        for layer, before in reversed(list(zip(layers, a[:-1], strict=True))):
            if isinstance(layer, Linear):
                updates.insert(0, layer.update(delta, before))
                delta = layer.W.T @ delta
            elif isinstance(layer, Elementwise):
                delta = delta * np.array([DERIVATIVES[layer.name](z) for z in before])
            elif isinstance(layer, Dropout):
                delta = delta * layer.mask[i]
            else:
                raise NotImplementedError(layer)
        per_sample.append(updates)
        outputs.append(a[-1])
        errors.append(e)
    found = [Stage(layers[s], [], []) for s in synapses]  # type: ignore[arg-type]
    return Reference(mean_of(found, per_sample), np.array(outputs), np.array(errors))
