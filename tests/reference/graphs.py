"""Networks that are no chains, one sample and one number at a time, in NumPy.

A pass gives, for each use of a weight, what goes into it and the activity of its units; and the
output. The letters are those of the papers; nothing of the library is imported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Use(NamedTuple):
    """Of a weight, by its name, in a pass of one sample."""

    name: str
    pre: Array
    h: Array


class Pass(NamedTuple):
    uses: list[Use]
    y: Array


def matrix_vector(W: Array, a: Array) -> Array:
    return np.array([sum(W[i, j] * a[j] for j in range(len(a))) for i in range(len(W))])


def outer(post: Array, pre: Array) -> Array:
    return np.array([[p * q for q in pre] for p in post])


def residual(P: dict[str, Array], x: Array) -> Pass:
    """h = tanh(W₁x + b₁); h ← h + relu(W₂h); h ← h + relu(W₃h + b₃); y = W₄h + b₄."""
    h1 = np.tanh(matrix_vector(P["first.weight"], x) + P["first.bias"])
    h2 = np.maximum(matrix_vector(P["second.weight"], h1), 0)
    a2 = h1 + h2
    h3 = np.maximum(matrix_vector(P["third.weight"], a2) + P["third.bias"], 0)
    a3 = a2 + h3
    y = matrix_vector(P["head.weight"], a3) + P["head.bias"]
    uses = [Use("first", x, h1), Use("second", h1, h2), Use("third", a2, h3), Use("head", a3, y)]
    return Pass(uses, y)


def recurrent(P: dict[str, Array], x: Array) -> Pass:
    """h₀ = tanh(W x₀ + b); h_t = tanh(W x_t + b + U h_{t−1}); y = V h + c. Shared W and U."""
    h = np.tanh(matrix_vector(P["W.weight"], x[0]) + P["W.bias"])
    uses = [Use("W", x[0], h)]
    for x_t in x[1:]:
        before = h
        z = matrix_vector(P["W.weight"], x_t) + P["W.bias"] + matrix_vector(P["U.weight"], before)
        h = np.tanh(z)
        uses += [Use("W", x_t, h), Use("U", before, h)]
    y = matrix_vector(P["head.weight"], h) + P["head.bias"]
    return Pass([*uses, Use("head", h, y)], y)


def attention(P: dict[str, Array], x: Array) -> Pass:
    """One head: u = E x_i; q, k, v = Q u, K u, V u; x_i ← u + O Σ_j softmax(q_i·k_j/√d) v_j."""
    u = [matrix_vector(P["embed.weight"], x_i) + P["embed.bias"] for x_i in x]
    q, k, v = ([matrix_vector(P[f"{n}.weight"], u_i) for u_i in u] for n in "qkv")
    uses = [Use("embed", x_i, u_i) for x_i, u_i in zip(x, u, strict=True)]
    for name, made in zip("qkv", (q, k, v), strict=True):
        uses += [Use(name, u_i, made_i) for u_i, made_i in zip(u, made, strict=True)]
    after: list[Array] = []
    for q_i, u_i in zip(q, u, strict=True):
        s = np.array([sum(q_i * k_j) / np.sqrt(len(q_i)) for k_j in k])
        s = np.exp(s - s.max())
        mixed = np.array(sum(s_j / s.sum() * v_j for s_j, v_j in zip(s, v, strict=True)))
        o = matrix_vector(P["out.weight"], mixed) + P["out.bias"]
        uses.append(Use("out", mixed, o))
        after.append(u_i + o)
    a = sum(after, np.zeros_like(after[0])) / len(after)
    y = matrix_vector(P["head.weight"], a) + P["head.bias"]
    return Pass([*uses, Use("head", a, y)], y)


def softmax_error(y: Array, t: int) -> Array:
    p = np.exp(y - y.max())
    p /= p.sum()
    p[t] -= 1
    return p


def pepita(run: object, P: dict[str, Array], F: Array, x: Array, t: list[int]) -> dict[str, Array]:
    """ΔW = mean over samples of Σ over its uses of (h − hᵉʳʳ)(aᵉʳʳ)ᵀ; the head's post is e."""
    updates = {name: np.zeros_like(value) for name, value in P.items()}
    for x_i, t_i in zip(x, t, strict=True):
        clean = run(P, x_i)
        e = softmax_error(clean.y, t_i)
        moved = run(P, x_i + matrix_vector(F, e).reshape(x_i.shape))
        for first, second in zip(clean.uses, moved.uses, strict=True):
            post = e if first.name == "head" else first.h - second.h
            updates[f"{first.name}.weight"] += outer(post, second.pre) / len(x)
            if f"{first.name}.bias" in updates:
                updates[f"{first.name}.bias"] += post / len(x)
    return updates
