"""The rules that PEPITA is compared with, one sample at a time, from their papers.

sign PEPITA      a₀ᵉʳʳ = x ± F sign(e), else as PEPITA            (Dellaferrera & Kreiman, code)
Hebbian PEPITA   ΔW_l = h_l a_{l−1}ᵀ − h_lᵉʳʳ (a_{l−1}ᵉʳʳ)ᵀ          (Srinivasan et al. 2023)
                 ΔW_L = y a_{L−1}ᵀ − t (a_{L−1}ᵉʳʳ)ᵀ
time-local       its halves, the second with W − η ΔW¹            (Srinivasan et al. 2023)
FA, uSF …        δ_l = (B_{l+1} δ_{l+1}) ⊙ σ′(z_l)                 (Lillicrap 2016, Liao 2016)
Kolen–Pollack    as FA, and ΔB_l = a_{l−1} δ_lᵀ                    (Kolen & Pollack 1994)
DFA              δ_l = (B_l e) ⊙ σ′(z_l)                          (Nøkland 2016)
direct K.–P.     as DFA, and ΔB_l = h_l eᵀ                        (Webster et al. 2021)
DRTP             δ_l = −(B_l t) ⊙ σ′(z_l)                         (Frenkel 2021)
EBD              R ← λR + (1 − λ)/B · Σ h εᵀ,  ϑ = (R ε) ⊙ f′(u)      (Erdogan et al. 2025)
local errors     δ_l = (M_lᵀ e_l) ⊙ σ′(z_l), e_l of M_l a_l       (Mostafa et al. 2018)
Mono-Forward     the same, and ΔM_l = e_l a_lᵀ                    (Gong et al. 2025)
Forward-Forward  ∂/∂W_l of log(1 + exp(−g⁺)) + log(1 + exp(g⁻)), g = ‖h_l‖² − θn_l (Hinton 2022)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reference.layers import DERIVATIVES, Affine, Array, Dropout, Elementwise, Layer, Linear, Pool
from reference.pepita import (
    ErrorFunction,
    Reference,
    Stage,
    Update,
    forward,
    mean_of,
    stages,
    through,
)


def slope(stage: Stage, z: Array, i: int) -> Array:
    """σ′(z) of activations, and the masks of dropout."""
    result, a = np.ones_like(z), z
    for layer in stage.elementwise:
        if isinstance(layer, Elementwise):
            result = result * np.vectorize(DERIVATIVES[layer.name])(a)
        elif isinstance(layer, Dropout):
            result = result * layer.mask[i]
        elif isinstance(layer, Affine):
            result = np.stack([layer.scale[c] * result[c] for c in range(len(result))])
        else:
            raise NotImplementedError(layer)
        a = layer.forward(a, i)
    return result


def one_hot(t: Any, k: int) -> Array:
    """A class as numbers; numbers as they are."""
    if np.ndim(t) == 0:
        return np.array([1.0 if c == t else 0.0 for c in range(k)])
    return np.asarray(t, dtype=np.float64)


def sign_pepita(
    layers: Sequence[Layer], x: Array, t: Any, F: Array, *, error: ErrorFunction, sign: int = 1
) -> Reference:
    preparation, found = stages(layers)
    per_sample, outputs, errors = [], [], []
    for i in range(len(x)):
        a_0 = through(preparation, x[i], i)
        a, h = forward(found, a_0, i)
        e = error(a[-1], t[i])
        a_err, h_err = forward(found, a_0 + sign * (F @ np.sign(e)).reshape(a_0.shape), i)
        posts = [h[l] - h_err[l] for l in range(len(found) - 1)] + [e.reshape(h[-1].shape)]
        per_sample.append([found[l].synapse.update(posts[l], a_err[l]) for l in range(len(found))])
        outputs.append(a[-1])
        errors.append(e)
    return Reference(mean_of(found, per_sample), np.array(outputs), np.array(errors))


def _halves(
    layers: Sequence[Layer],
    changed: Sequence[Layer],
    x: Array,
    t: Any,
    F: Array,
    error: ErrorFunction,
    predict: Callable[[Array], Array],
    sign: int,
) -> tuple[list[Update], list[Update]]:
    """The Hebbian form's two halves; the second pass goes through ``changed``."""
    preparation, found = stages(layers)
    _, found_changed = stages(changed)
    first: list[list[Update]] = []
    second: list[list[Update]] = []
    for i in range(len(x)):
        a_0 = through(preparation, x[i], i)
        a, h = forward(found, a_0, i)
        e = error(a[-1], t[i])
        a_err, h_err = forward(found_changed, a_0 + sign * (F @ e).reshape(a_0.shape), i)
        h[-1] = predict(a[-1]).reshape(h[-1].shape)
        h_err[-1] = one_hot(t[i], len(e)).reshape(h[-1].shape)
        first.append([found[l].synapse.update(h[l], a[l]) for l in range(len(found))])
        second.append([found[l].synapse.update(h_err[l], a_err[l]) for l in range(len(found))])
    return mean_of(found, first), mean_of(found, second)


def _minus(first: list[Update], second: list[Update]) -> list[Update]:
    return [
        (dW - dV, None if db is None or dc is None else db - dc)
        for (dW, db), (dV, dc) in zip(first, second, strict=True)
    ]


def hebbian_pepita(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    F: Array,
    *,
    error: ErrorFunction,
    predict: Callable[[Array], Array],
    sign: int = 1,
) -> list[Update]:
    return _minus(*_halves(layers, layers, x, t, F, error, predict, sign))


def time_local_pepita(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    F: Array,
    *,
    error: ErrorFunction,
    predict: Callable[[Array], Array],
    learning_rate: float,
    sign: int = 1,
) -> list[Update]:
    first, _ = _halves(layers, layers, x, t, F, error, predict, sign)
    halves, changed = iter(first), []
    for layer in layers:
        if hasattr(layer, "W"):
            dW, db = next(halves)
            b = None if layer.b is None or db is None else layer.b - learning_rate * db
            layer = replace(layer, W=layer.W - learning_rate * dW, b=b)
        changed.append(layer)
    return _minus(*_halves(layers, changed, x, t, F, error, predict, sign))


def adaptive_feedback(
    layers: Sequence[Layer], x: Array, t: Any, F: Array, *, error: ErrorFunction, sign: int = 1
) -> list[Update]:
    """ΔW_l = −ḣ_l a_{l−1}ᵀ with ḣ_l = σ′(z_l) ⊙ W_l ḣ_{l−1}, ḣ_0 = ±F e; dense layers."""
    preparation, found = stages(layers)
    per_sample: list[list[Update]] = []
    for i in range(len(x)):
        a, h = forward(found, through(preparation, x[i], i), i)
        e = error(a[-1], t[i])
        change = sign * F @ e
        updates: list[Update] = []
        for l, stage in enumerate(found[:-1]):
            assert isinstance(stage.synapse, Linear)
            z = stage.synapse.forward(a[l], i)
            change = slope(stage, z, i) * (stage.synapse.W @ change)
            updates.append(stage.synapse.update(-change, a[l]))
        updates.append(found[-1].synapse.update(e.reshape(h[-1].shape), a[-2]))
        per_sample.append(updates)
    return mean_of(found, per_sample)


def feedback_alignment(
    layers: Sequence[Layer], x: Array, t: Any, B: Sequence[Array], *, error: ErrorFunction
) -> list[Update]:
    """B[l] stands for W_{l+1} on the way back (as the transpose of W does), l = 1 … L−1; dense."""
    preparation, found = stages(layers)
    per_sample: list[list[Update]] = []
    for i in range(len(x)):
        a, _ = forward(found, through(preparation, x[i], i), i)
        signal = error(a[-1], t[i])
        updates: list[Update] = []
        for l in reversed(range(len(found))):
            z = found[l].synapse.forward(a[l], i)
            delta = signal * slope(found[l], z, i)
            updates.insert(0, found[l].synapse.update(delta, a[l]))
            if l > 0:
                signal = B[l - 1].T @ delta
        per_sample.append(updates)
    return mean_of(found, per_sample)


def kolen_pollack(
    layers: Sequence[Layer], x: Array, t: Any, B: Sequence[Array], *, error: ErrorFunction
) -> tuple[list[Update], list[Array]]:
    """B[l] has the shape of the transpose of W_{l+2}, from 0; dense. Also the updates of B."""
    preparation, found = stages(layers)
    per_sample: list[list[Update]] = []
    learned = [np.zeros_like(one) for one in B]
    for i in range(len(x)):
        a, _ = forward(found, through(preparation, x[i], i), i)
        signal = error(a[-1], t[i])
        updates: list[Update] = []
        for l in reversed(range(len(found))):
            delta = signal * slope(found[l], found[l].synapse.forward(a[l], i), i)
            updates.insert(0, found[l].synapse.update(delta, a[l]))
            if l > 0:
                learned[l - 1] += np.outer(a[l], delta) / len(x)
                signal = B[l - 1] @ delta
        per_sample.append(updates)
    return mean_of(found, per_sample), learned


def learned_directly(
    layers: Sequence[Layer], x: Array, t: Any, *, error: ErrorFunction
) -> list[Array]:
    """The updates of direct Kolen–Pollack's B; those of W are DFA's."""
    preparation, found = stages(layers)
    learned: list[Array] = [np.zeros(())] * (len(found) - 1)
    for i in range(len(x)):
        a, h = forward(found, through(preparation, x[i], i), i)
        e = error(a[-1], t[i])
        for l in range(len(found) - 1):
            learned[l] = learned[l] + np.outer(h[l].ravel(), e) / len(x)
    return learned


def broadcast(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    B: Sequence[Array],
    *,
    error: ErrorFunction,
    target: bool,
) -> list[Update]:
    """DFA, or with ``target`` DRTP; B[l] is (numbers of z, k)."""
    preparation, found = stages(layers)
    per_sample: list[list[Update]] = []
    for i in range(len(x)):
        a, h = forward(found, through(preparation, x[i], i), i)
        e = error(a[-1], t[i])
        taught = -one_hot(t[i], len(e)) if target else e
        updates: list[Update] = []
        for l, stage in enumerate(found[:-1]):
            z = stage.synapse.forward(a[l], i)
            delta = (B[l] @ taught).reshape(z.shape) * slope(stage, z, i)
            updates.append(stage.synapse.update(delta, a[l]))
        updates.append(found[-1].synapse.update(e.reshape(h[-1].shape), a[-2]))
        per_sample.append(updates)
    return mean_of(found, per_sample)


def error_broadcast(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    R: Sequence[Array],
    *,
    error: ErrorFunction,
    forgetting: float,
) -> tuple[list[Update], list[Array]]:
    """The updates, and R after this batch of B samples; R[k] is (numbers of h, outputs)."""
    preparation, found = stages(layers)
    B = len(x)
    passes = [forward(found, through(preparation, x[n], n), n) for n in range(B)]
    errors = [error(a[-1], t[n]) for n, (a, _) in enumerate(passes)]
    moved: list[Array] = []
    for k in range(len(found) - 1):
        R_k = forgetting * R[k]
        for (_, h), epsilon in zip(passes, errors, strict=True):
            R_k = R_k + (1 - forgetting) / B * np.outer(h[k].ravel(), epsilon)
        moved.append(R_k)
    per_sample: list[list[Update]] = []
    for n, ((a, _), epsilon) in enumerate(zip(passes, errors, strict=True)):
        updates: list[Update] = []
        for k, stage in enumerate(found):
            u = stage.synapse.forward(a[k], n)
            q = moved[k] @ epsilon if k < len(moved) else epsilon
            updates.append(stage.synapse.update(q.reshape(u.shape) * slope(stage, u, n), a[k]))
        per_sample.append(updates)
    return mean_of(found, per_sample), moved


def local_errors(
    layers: Sequence[Layer], x: Array, t: Any, M: Sequence[Array], *, error: ErrorFunction
) -> tuple[list[Update], list[Array]]:
    """Updates of the synapses, and of the heads; M[l] is (k, numbers of a_l)."""
    preparation, found = stages(layers)
    per_sample: list[list[Update]] = []
    of_heads = [np.zeros_like(head) for head in M]
    for i in range(len(x)):
        a, h = forward(found, through(preparation, x[i], i), i)
        updates: list[Update] = []
        for l, stage in enumerate(found[:-1]):
            n_l = a[l + 1].size
            y_l = np.zeros(len(M[l]))
            for c in range(len(y_l)):
                for j in range(n_l):
                    y_l[c] += M[l][c, j] * a[l + 1].ravel()[j]
            e_l = error(y_l, t[i])
            signal = np.zeros(n_l)
            for c in range(len(y_l)):
                for j in range(n_l):
                    signal[j] += M[l][c, j] * e_l[c]
                    of_heads[l][c, j] += e_l[c] * a[l + 1].ravel()[j] / len(x)
            delta = _before(stage.rest, h[l], signal.reshape(a[l + 1].shape), i)
            z = stage.synapse.forward(a[l], i)
            updates.append(stage.synapse.update(delta * slope(stage, z, i), a[l]))
        updates.append(found[-1].synapse.update(error(a[-1], t[i]).reshape(h[-1].shape), a[-2]))
        per_sample.append(updates)
    return mean_of(found, per_sample), of_heads


def _before(rest: Sequence[Layer], a: Array, signal: Array, i: int) -> Array:
    """The signal before pooling and reshaping."""
    inputs = []
    for layer in rest:
        inputs.append(a)
        a = layer.forward(a, i)
    for layer, a in reversed(list(zip(rest, inputs, strict=True))):
        signal = layer.back(a, signal) if isinstance(layer, Pool) else signal.reshape(a.shape)
    return signal


def shown(x: Array, p: Array, scale: float) -> Array:
    """x with its first numbers replaced by the label p, scaled by the length of the others."""
    flat = x.ravel().copy()
    k = len(p)
    length = np.sqrt(sum(value**2 for value in flat[k:]))
    for j in range(k):
        flat[j] = scale * length * p[j]
    return flat.reshape(x.shape)


def goodness_pass(
    layers: Sequence[Layer], x: Array, i: int
) -> tuple[list[Array], list[Array], list[Array], Array]:
    """Inputs, z and h of each layer, and the output.

    Synapses see root mean square one, the last one length one.
    """
    preparation, found = stages(layers)
    a = through(preparation, x, i)
    pre, zs, hs = [], [], []
    for stage in found:
        length = 1 if stage is found[-1] else np.sqrt(a.size)
        pre.append(a * length / (np.sqrt((a**2).sum()) + 1e-8 * np.sqrt(a.size)))
        zs.append(stage.synapse.forward(pre[-1], i))
        hs.append(through(stage.elementwise, zs[-1], i))
        a = through(stage.rest, hs[-1], i)
    return pre, zs, hs, a


def likely_label(y: Array, t: int, u: Array) -> int:
    """A label other than t, by the exponential race: j wins with probability ∝ exp(y_j)."""
    best, when = -1, np.inf
    for j in range(len(y)):
        arrives = -np.log(1 - u[j]) / np.exp(y[j])
        if j != t and arrives < when:
            best, when = j, arrives
    return best


def forward_forward(
    layers: Sequence[Layer],
    x: Array,
    t: Any,
    k: int,
    *,
    uniform: Array,
    away: Any,
    threshold: float,
    scale: float,
) -> tuple[list[Update], float, Any]:
    """Updates, the sum of the layers' mean losses, and the wrong labels.

    Wrong labels are t + away, or where that is None drawn by the numbers ``uniform``.
    """
    _, found = stages(layers)
    one_hot = np.eye(k)
    per_sample: list[list[Update]] = []
    total, wrong = 0.0, []
    for i in range(len(x)):
        pre, _, hs, y = goodness_pass(layers, shown(x[i], np.full(k, 1 / k), scale), i)
        e = np.exp(y) / np.exp(y).sum()
        total -= np.log(e[t[i]]) / len(x)
        e[t[i]] -= 1
        readout = found[-1].synapse.update(e.reshape(hs[-1].shape), pre[-1])
        wrong.append(likely_label(y, t[i], uniform[i]) if away is None else (t[i] + away[i]) % k)
        good = goodness_pass(layers, shown(x[i], one_hot[t[i]], scale), i)
        bad = goodness_pass(layers, shown(x[i], one_hot[wrong[i]], scale), i)
        updates: list[Update] = []
        for l, stage in enumerate(found[:-1]):
            dW: Array = np.zeros_like(stage.synapse.W)
            db: Array | None = None
            for (pre, zs, hs, _), sign in ((good, -1), (bad, 1)):
                g = sum(value**2 - threshold for value in hs[l].ravel())
                total += np.log(1 + np.exp(sign * g)) / hs[l].size / len(x)
                dL_dg = sign / (1 + np.exp(-sign * g)) / hs[l].size
                delta = dL_dg * 2 * hs[l] * slope(stage, zs[l], i)
                more, more_b = stage.synapse.update(delta, pre[l])
                dW = dW + more
                db = more_b if db is None else db + more_b
            updates.append((dW, db))
        per_sample.append([*updates, readout])
    return mean_of(found, per_sample), total, np.array(wrong)
