"""Layers for one sample at a time, in loops."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sizes = int | tuple[int, ...]

FUNCTIONS = {
    "identity": lambda z: z,
    "relu": lambda z: z if z > 0 else 0.0,
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.log(1 + np.exp(z)),
}

DERIVATIVES = {
    "identity": lambda _: 1.0,
    "relu": lambda z: 1.0 if z > 0 else 0.0,
    "leaky_relu": lambda z: 1.0 if z > 0 else 0.01,
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "sigmoid": lambda z: FUNCTIONS["sigmoid"](z) * (1 - FUNCTIONS["sigmoid"](z)),
    "softplus": lambda z: FUNCTIONS["sigmoid"](z),
}


def each(sizes: Sizes, dimensions: int) -> tuple[int, ...]:
    """A size a spatial dimension."""
    return (sizes,) * dimensions if isinstance(sizes, int) else tuple(sizes)


@dataclass(frozen=True)
class Linear:
    """z = W a + b, with W (out, in)."""

    W: Array
    b: Array | None = None

    def forward(self, a: Array, _: int) -> Array:
        out, inputs = self.W.shape
        z = np.zeros(out)
        for o in range(out):
            for i in range(inputs):
                z[o] += self.W[o, i] * a[i]
            if self.b is not None:
                z[o] += self.b[o]
        return z

    def update(self, post: Array, pre: Array) -> tuple[Array, Array]:
        """post preᵀ for W, and post for b."""
        dW = np.zeros_like(self.W)
        for o in range(dW.shape[0]):
            for i in range(dW.shape[1]):
                dW[o, i] = post[o] * pre[i]
        return dW, post


@dataclass(frozen=True)
class Conv:
    """Convolution in one or two dimensions, with W (out, in / groups, *kernel)."""

    W: Array
    b: Array | None = None
    stride: Sizes = 1
    padding: Sizes = 0
    dilation: Sizes = 1
    groups: int = 1

    def padded(self, a: Array) -> Array:
        pad = each(self.padding, self.W.ndim - 2)
        return np.pad(a, [(0, 0), *((p, p) for p in pad)])

    def reads(self, a: Array) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """All (output position, weight index, padded input index) that meet; a is padded."""
        out, inputs, *kernel = self.W.shape
        stride, dilation = (each(s, len(kernel)) for s in (self.stride, self.dilation))
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        ends = [
            (size - span) // s + 1 for size, span, s in zip(a.shape[1:], spans, stride, strict=True)
        ]
        met = []
        for o in range(out):
            first = o // (out // self.groups) * inputs
            for i in range(inputs):
                for at in product(*map(range, ends)):
                    for u in product(*map(range, kernel)):
                        place = (
                            p * s + v * d
                            for p, s, v, d in zip(at, stride, u, dilation, strict=True)
                        )
                        met.append(((o, *at), (o, i, *u), (first + i, *place)))
        return met

    def forward(self, a: Array, _: int) -> Array:
        a = self.padded(a)
        met = self.reads(a)
        z = np.zeros(np.max([output for output, _, _ in met], axis=0) + 1)
        for output, weight, read in met:
            z[output] += self.W[weight] * a[read]
        if self.b is not None:
            for o, b in enumerate(self.b):
                z[o] += b
        return z

    def update(self, post: Array, pre: Array) -> tuple[Array, Array]:
        """Their correlation for W, and post summed over positions for b."""
        pre = self.padded(pre)
        dW = np.zeros_like(self.W)
        for output, weight, read in self.reads(pre):
            dW[weight] += post[output] * pre[read]
        return dW, post.reshape(len(post), -1).sum(1)


@dataclass(frozen=True)
class Elementwise:
    """σ of every number; see FUNCTIONS."""

    name: str

    def forward(self, a: Array, _: int) -> Array:
        return np.array([FUNCTIONS[self.name](z) for z in a.ravel()]).reshape(a.shape)


@dataclass(frozen=True)
class Dropout:
    """A given mask, (n, *activity), which holds 0 and 1 / (1 − p)."""

    mask: Array

    def forward(self, a: Array, i: int) -> Array:
        return a * self.mask[i]


@dataclass(frozen=True)
class LayerNorm:
    """Each sample to mean zero and variance one."""

    eps: float = 1e-5

    def forward(self, a: Array, _: int) -> Array:
        mean = a.sum() / a.size
        variance = ((a - mean) ** 2).sum() / a.size
        return (a - mean) / np.sqrt(variance + self.eps)


@dataclass(frozen=True)
class Affine:
    """scale · a + shift a channel: a batch normalisation with its running statistics."""

    scale: Array
    shift: Array

    def forward(self, a: Array, _: int) -> Array:
        return np.stack([self.scale[c] * a[c] + self.shift[c] for c in range(len(a))])


@dataclass(frozen=True)
class Pool:
    """Windows over (channels, *positions)."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes = 0

    fill = 0.0

    def of_window(self, window: Array) -> float:
        raise NotImplementedError

    def derivative(self, window: Array) -> Array:
        """Of ``of_window`` by each element."""
        raise NotImplementedError

    def padded(self, a: Array) -> Array:
        pad = each(self.padding, a.ndim - 1)
        return np.pad(a, [(0, 0), *((p, p) for p in pad)], constant_values=self.fill)

    def windows(self, a: Array) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each position of the output with its window; a is padded."""
        kernel, stride = (each(s, a.ndim - 1) for s in (self.kernel, self.stride))
        ends = [(n - k) // s + 1 for n, k, s in zip(a.shape[1:], kernel, stride, strict=True)]
        return [
            (
                at,
                tuple(slice(p * s, p * s + k) for p, s, k in zip(at, stride, kernel, strict=True)),
            )
            for at in product(*map(range, ends))
        ]

    def forward(self, a: Array, _: int) -> Array:
        a = self.padded(a)
        windows = self.windows(a)
        out = np.zeros((len(a), *np.max([at for at, _ in windows], axis=0) + 1))
        for c in range(len(a)):
            for at, window in windows:
                out[(c, *at)] = self.of_window(a[(c, *window)])
        return out

    def back(self, a: Array, signal: Array) -> Array:
        """The signal at the input, from one at the output."""
        padded = self.padded(a)
        total = np.zeros_like(padded)
        for c in range(len(padded)):
            for at, window in self.windows(padded):
                total[(c, *window)] += signal[(c, *at)] * self.derivative(padded[(c, *window)])
        pad = each(self.padding, a.ndim - 1)
        inside = (slice(p, p + n) for p, n in zip(pad, a.shape[1:], strict=True))
        return total[(slice(None), *inside)]


@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest of each window."""

    fill = -np.inf

    def of_window(self, window: Array) -> float:
        return float(window.max())

    def derivative(self, window: Array) -> Array:
        largest = np.zeros(window.size)
        largest[window.argmax()] = 1.0
        return largest.reshape(window.shape)


@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of each window, padded zeros counted."""

    def of_window(self, window: Array) -> float:
        return float(window.sum() / window.size)

    def derivative(self, window: Array) -> Array:
        return np.full(window.shape, 1 / window.size)


@dataclass(frozen=True)
class Flatten:
    """All numbers of the sample in a row."""

    def forward(self, a: Array, _: int) -> Array:
        return a.ravel()


Layer = Linear | Conv | Elementwise | Dropout | LayerNorm | Affine | MaxPool | AvgPool | Flatten
ELEMENTWISE = (Elementwise, Dropout, LayerNorm, Affine)
