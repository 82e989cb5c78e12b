"""Products, activations and errors of one layer, (units, samples) each, compiled.

Large products are BLAS's, by ``np.dot``; those with few rows are loops over samples, which are
quicker. Functions have no annotations: numba finds the types.
"""

# pyright: basic

import numpy as np

from forwardly.fast.compiling import compile_inner
from forwardly.fast.cpu_epochs.layout import RELU, SIGMOID, SQUARED, TANH

FEW = 4  # rows, below which loops over samples beat BLAS
REORDERED = {"reassoc", "contract", "nsz"}  # sums may be; NaN and infinity stay what they are


def compiled(function):
    """Compile what only compiled functions call."""
    return compile_inner(function, fastmath=REORDERED)


def compiled_into_its_caller(function):
    """Likewise, what is called in one place: it is optimised once, not again in each caller's."""
    return compile_inner(function, fastmath=REORDERED, inline="always")


@compiled
def copy(to, source):
    """As ``to[:] = source``, which looks for overlaps first, and takes seconds more to compile."""
    for o in range(len(to)):
        row, values = to[o], source[o]
        for s in range(len(row)):
            row[s] = values[s]


@compiled
def dot(a, b):
    """Σ a b."""
    summed = a.dtype.type(0)
    for s in range(len(a)):
        summed += a[s] * b[s]
    return summed


@compiled
def total(a):
    """Σ a."""
    summed = a.dtype.type(0)
    for s in range(len(a)):
        summed += a[s]
    return summed


@compiled
def weigh(z, W, b, a):
    """z = W a + b: z (units, n), W (units, inputs), b (units,) or none (0,), a (inputs, n)."""
    units, inputs = W.shape
    n = a.shape[1]
    if n > 1 and units < FEW:
        weigh_few(z, W, b, a, z.dtype.type(-np.inf))
        return
    if n == 1:
        np.dot(W, a.reshape(inputs), z.reshape(units))
    else:
        np.dot(W, a, z)
    for o in range(len(b)):
        row, bias = z[o], b[o]
        for s in range(n):
            row[s] += bias


@compiled
def weigh_few(z, W, b, a, least):
    """z = W max(a, least) + b of few units; rectifies what it reads without a pass of its own."""
    units, inputs = W.shape
    for o in range(units):
        to, row, bias = z[o], W[o], b[o] if len(b) else z.dtype.type(0)
        for s in range(len(to)):
            to[s] = bias
        whole = inputs - inputs % 4
        for i in range(0, whole, 4):
            w0, w1, w2, w3 = row[i], row[i + 1], row[i + 2], row[i + 3]
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            for s in range(len(to)):
                h0 = least if a0[s] < least else a0[s]
                h1 = least if a1[s] < least else a1[s]
                h2 = least if a2[s] < least else a2[s]
                h3 = least if a3[s] < least else a3[s]
                to[s] += w0 * h0 + w1 * h1 + w2 * h2 + w3 * h3
        for i in range(whole, inputs):
            w0, a0 = row[i], a[i]
            for s in range(len(to)):
                to[s] += w0 * (least if a0[s] < least else a0[s])


@compiled
def correlate(product, delta, pre):
    """Σ over samples of δ ⊗ pre: product (units, inputs), delta (units, n), pre (inputs, n)."""
    units, inputs = product.shape
    if units >= FEW and inputs >= FEW:
        np.dot(delta, pre.T, product)
        return
    for o in range(units):
        for i in range(inputs):
            product[o, i] = dot(delta[o], pre[i])


@compiled
def learn(W, b, delta, pre, rate, product):
    """W ← W − rate · Σ over samples of δ ⊗ pre, and b likewise; ``product`` is room for the sum."""
    units, inputs = W.shape
    if pre.shape[1] == 1:
        column = pre.reshape(inputs)
        for o in range(units):
            row, step = W[o], rate * delta[o, 0]
            if step != 0:  # often: most differences of rectified activities are none
                for i in range(inputs):
                    row[i] -= step * column[i]
    else:
        update = product[: units * inputs].reshape(units, inputs)
        correlate(update, delta, pre)
        for o in range(units):
            row, of_unit = W[o], update[o]
            for i in range(inputs):
                row[i] -= rate * of_unit[i]
    for o in range(len(b)):
        b[o] -= rate * total(delta[o])


@compiled
def add_feedback(to, R, e, sign):
    """to ← to ± R e: to (units, n), R (units, k), e (k, n)."""
    units, k = R.shape
    for o in range(units):
        row = to[o]
        for c in range(k):
            f, e_c = sign * R[o, c], e[c]
            for s in range(len(row)):
                row[s] += f * e_c[s]


@compiled
def activate(h, activation):
    """h = σ(h), in place."""
    units, n = h.shape
    for o in range(units):
        row = h[o]
        if activation == RELU:
            for s in range(n):
                row[s] = 0 if row[s] < 0 else row[s]
        elif activation == TANH:
            for s in range(n):
                row[s] = np.tanh(row[s])
        elif activation == SIGMOID:
            for s in range(n):
                row[s] = 1 / (1 + np.exp(-row[s]))


@compiled
def times_derivative(delta, h, activation):
    """δ ⊙ σ′, which these activations' own values h give, in place."""
    units, n = h.shape
    for o in range(units):
        row, to = h[o], delta[o]
        if activation == RELU:
            for s in range(n):
                to[s] = 0 if row[s] <= 0 else to[s]
        elif activation == TANH:
            for s in range(n):
                to[s] *= 1 - row[s] * row[s]
        elif activation == SIGMOID:
            for s in range(n):
                to[s] *= row[s] * (1 - row[s])


@compiled
def error(e, output, target, loss):
    """e = output − target, or softmax(output) − target; (k, n) each."""
    k, n = output.shape
    if loss == SQUARED:
        for c in range(k):
            to, y, t = e[c], output[c], target[c]
            for s in range(n):
                to[s] = y[s] - t[s]
        return
    for s in range(n):
        largest = output[0, s]
        for c in range(1, k):
            largest = max(largest, output[c, s])
        summed = e.dtype.type(0)
        for c in range(k):
            e[c, s] = np.exp(output[c, s] - largest)
            summed += e[c, s]
        for c in range(k):
            e[c, s] = e[c, s] / summed - target[c, s]


@compiled
def absolute_error(output, target):
    """Σ |output − target|."""
    summed = 0.0
    for c in range(len(output)):
        y, t, row = output[c], target[c], output.dtype.type(0)
        for s in range(len(y)):
            row += abs(y[s] - t[s])
        summed += row
    return summed
