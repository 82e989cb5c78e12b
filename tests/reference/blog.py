"""The loop of the blog post "A Biologically-Plausible Learning Rule", transcribed to NumPy.

Samples are rows, as in the post: x (n, 16), w1 (16, 8), w2 (8, 1), F (1, 16), y (n, 1).

    h = relu(x w1)      y = h w2            e = y − t
    x̃ = x + e F         h̃ = relu(x̃ w1)
    w1 ← w1 − η x̃ᵀ(h − h̃)                  w2 ← w2 − η h̃ᵀ e

The clean presynaptic term, which the post does not have, is x and h in the last line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def relu(a: Array) -> Array:
    return np.maximum(a, 0)


def teacher_student(
    x_train: Array,
    y_train: Array,
    x_val: Array,
    y_val: Array,
    w1: Array,
    w2: Array,
    F: Array,
    *,
    learning_rate: float = 5e-4,
    epochs: int,
    rule: str = "pepita",
) -> tuple[list[float], list[float], Array, Array]:
    """Mean absolute error on both sets after every update, and the last weights."""
    w1, w2 = w1.copy(), w2.copy()
    train: list[float] = []
    validation: list[float] = []
    for _ in range(epochs):
        h = relu(x_train @ w1)
        e = h @ w2 - y_train
        if rule == "pepita":
            x_err = x_train + e @ F
            h_err = relu(x_err @ w1)
            dw1 = x_err.T @ (h - h_err)
            dw2 = h_err.T @ e
        elif rule == "pepita:presynaptic=clean":
            dw1 = x_train.T @ (h - relu((x_train + e @ F) @ w1))
            dw2 = h.T @ e
        elif rule == "backprop":
            dw1 = x_train.T @ ((e @ w2.T) * (h > 0))
            dw2 = h.T @ e
        elif rule == "readout-only":
            dw1 = np.zeros_like(w1)
            dw2 = h.T @ e
        else:
            raise ValueError(rule)
        w1 -= learning_rate * dw1
        w2 -= learning_rate * dw2
        train.append(float(np.mean(np.abs(relu(x_train @ w1) @ w2 - y_train))))
        validation.append(float(np.mean(np.abs(relu(x_val @ w1) @ w2 - y_val))))
    return train, validation, w1, w2
