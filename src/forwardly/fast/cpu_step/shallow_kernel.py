"""PEPITA's whole step for one hidden layer of rectifiers, compiled, each thread with its own units.

Between the two products with the first weight a step has a dozen small operations, and calling them
takes a fifth of its time. Here they are one function. A thread has some of the hidden units, and
with them rows of W₁ and columns of W₂, from the clean pass to the update; threads wait for each
other twice, for the output and for the perturbed input:

    each its units     z = W₁ [x | F]       h = σ(z of x)       its part of the output W₂ h
    all                e                    its inputs of x + F e
    each its units     h_err = σ(z of x + (z of F) e)
                       W₂ changes by e h_errᵀ, W₁ by (h − h_err)(x + F e)ᵀ

Sums of products are tiles in registers (``tiles``); the step on W₁ is that of ``descent``. Matrices
of units lie with a row for each unit and a column for each sample, and after these for each column
of F.

Shapes
    x (n, d), F (d, k), W₁ (units, d), W₂ (k, units); biases, if there are any, (units,) and (k,).
"""

# pyright: basic

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, cast, no_type_check

import numpy as np
import torch
from numba import cfunc, njit, types
from numba.np.numpy_support import carray, from_dtype
from torch import Tensor

from forwardly.fast.compiling import compile_cached
from forwardly.fast.cpu_step.descent import INTEGERS, NUMBERS, call, descend_rows, factors, own_rows
from forwardly.fast.cpu_step.threads import Pool
from forwardly.fast.cpu_step.tiles import Shape, adding_tile, floats_at, has_avx512, integers_at
from forwardly.fast.sgd import Weight

_ROWS, _VECTORS, _LANES = 5, 5, 16  # registers of AVX-512
COLUMNS = _VECTORS * _LANES
"""Samples, and columns of F, that one tile takes."""

_STRIP = 512  # inputs whose part of x stays in a processor's own cache
_PART, _AT_ONCE = 64, 8  # inputs and samples of x that are turned round at a time

_ARRAYS = (
    *("x", "F", "target", "mask", "bias", "readout_bias"),
    *("readout", "readout_momentum", "output", "error"),
    *("packed", "Ft", "z", "h_err", "sums", "errors"),
)
_OWN = (*_ARRAYS, "k", "columns", "second", "barrier")
_READOUT = ("readout_keep", "readout_decay", "readout_rate", "readout_ahead", "sign")
_TASK = np.dtype(
    [(name, np.intp) for name in (*INTEGERS, *_OWN)]
    + [(name, "f4") for name in (*NUMBERS, *_READOUT)],
    align=True,
)


class Workspace:
    """Memory that a step needs, kept for the next one.

    Args:
        n: samples.
        units: hidden units.
        d: inputs.
        k: outputs.
        threads: of torch.
    """

    def __init__(self, n: int, units: int, d: int, k: int, threads: int) -> None:
        self.sizes = n, units, d, k, threads
        self.columns = _blocks(n, k) * COLUMNS
        wide = (units, self.columns)
        zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")
        self.arrays = {
            "packed": zeros(threads, _STRIP, COLUMNS),
            "Ft": zeros(k, d),
            "z": zeros(wide),
            "h": zeros(wide),
            "h_err": zeros(wide),
            "x_err": zeros(n, d),
            "sums": zeros(2, threads, k, self.columns),  # of each thread, in both passes
            "errors": zeros(threads, k, self.columns),
        }

    def bias_updates(self) -> tuple[Tensor, Tensor]:
        """Of the last step: the mean over samples of what taught the units, and the outputs."""
        n = self.sizes[0]
        posts = self.arrays["h"], self.arrays["errors"][0]
        hidden, readout = (post[:, :n].sum(1) / n for post in posts)
        return hidden, readout


@cache
def suits_processor() -> bool:
    """Whether it has the registers that the tiles are made for."""
    return has_avx512()


def fills_tiles(n: int, d: int, k: int, threads: int) -> bool:
    """Whether few columns of the tiles would be empty, and each thread has inputs for one."""
    return n + k >= 0.8 * COLUMNS * _blocks(n, k) and d >= threads * COLUMNS


def step(
    x: Tensor,
    F: Tensor,
    target: Tensor,
    mask: Tensor | None,
    hidden: Weight,
    readout: Weight,
    *,
    biases: tuple[Tensor | None, Tensor | None],
    sign: int,
    second: bool,
    workspace: Workspace,
    openmp: Pool,
) -> tuple[Tensor, Tensor]:
    """Take the step of the module docstring, in place, with the error of cross-entropy.

    Args:
        x: (n, d), as F and the weights of float32 on the processor, contiguous.
        F: (d, k).
        target: the class of each sample, (n,), of int64, each below k.
        mask: what dropout multiplies activities by, (n, units), if there is dropout.
        hidden: W₁.
        readout: W₂.
        biases: of both layers, which are read only.
        sign: of F.
        second: whether the readout learns from the modulated pass's error.
        workspace: of these sizes.
        openmp: torch's threads.

    Returns:
        Output and error of the clean pass, (n, k) each. What both layers' biases would learn stands
        in the workspace until the next step.
    """
    n, units, d, k, threads = workspace.sizes
    output, error = x.new_empty(n, k), x.new_empty(n, k)
    by_unit = None if mask is None else mask.T.contiguous()
    arrays: Mapping[str, Tensor | None] = {
        "x": x,
        "F": F,
        "target": target,
        "mask": by_unit,
        "bias": biases[0],
        "readout_bias": biases[1],
        "output": output,
        "error": error,
        "readout": readout.weight,
        "readout_momentum": readout.momentum,
        **workspace.arrays,
    }
    addresses = [0 if one is None else one.data_ptr() for one in map(arrays.get, _ARRAYS)]
    h, x_err = workspace.arrays["h"], workspace.arrays["x_err"]
    task = np.zeros((), _TASK)
    task[()] = (
        *(t.data_ptr() for t in (hidden.momentum, hidden.weight, h, x_err)),
        *(units, d, n, 4 * workspace.columns, 4, openmp.thread_number, openmp.threads_at_work),
        *(*addresses, k, workspace.columns, second, openmp.barrier),
        *(1 / n, *factors(hidden.settings), *factors(readout.settings), sign),
    )
    openmp.parallel(_compiled(), task.ctypes.data, threads, 0)
    changed = hidden.weight, hidden.momentum, readout.weight, readout.momentum
    torch.autograd.graph.increment_version(changed)
    return output, error


def prepare() -> None:
    """Have it compiled, if it is not yet."""
    _compiled()


def _blocks(n: int, k: int) -> int:
    return -(-(n + k) // COLUMNS)


@cache
def _compiled() -> int:
    signature = types.void(types.CPointer(from_dtype(_TASK)))
    # Sums may be taken in any order, so that they are taken in vectors.
    return cast(
        Any, compile_cached(cfunc, _step, signature, fastmath={"contract", "nsz", "reassoc"})
    ).address


_TILE = adding_tile(32, Shape(_ROWS, _VECTORS, _LANES))
_ROW = adding_tile(32, Shape(1, _VECTORS, _LANES))


@njit(nogil=True)
@no_type_check
def _add_product(a, a_row, a_k, rows, b, b_k, count, c, to, row, columns, scale):
    """To ← C + scale · A B; C and what is written have rows ``row`` bytes apart.

    If the last tile of a row is not whole, it begins with columns that are done already; then C
    must not lie where it is written.
    """
    done = 0
    while done < rows:
        at_once = _ROWS if done + _ROWS <= rows else 1
        column = 0
        while column < columns:
            at = 4 * min(column, columns - COLUMNS)
            if at_once > 1:
                _TILE(a, a_row, a_k, b + at, b_k, count, c + at, row, to + at, row, scale)
            else:
                _ROW(a, a_row, a_k, b + at, b_k, count, c + at, row, to + at, row, scale)
            column += COLUMNS
        done, a, c, to = done + at_once, a + at_once * a_row, c + at_once * row, to + at_once * row


@njit(nogil=True)
@no_type_check
def _pack(x, F, first_column, start, stop, packed):
    """Some columns of [xᵀ | F], for inputs from ``start`` to ``stop``, a row each."""
    n, k = len(x), F.shape[1]
    for begin in range(0, stop - start, _PART):
        rows = packed[begin : min(begin + _PART, stop - start)]
        left, right = start + begin, start + begin + len(rows)
        j = 0
        while j < COLUMNS:
            column = first_column + j
            if j + _AT_ONCE <= COLUMNS and column + _AT_ONCE <= n:
                samples = x[column : column + _AT_ONCE, left:right]
                for i in range(len(rows)):
                    for r in range(_AT_ONCE):
                        rows[i, j + r] = samples[r, i]
                j += _AT_ONCE
                continue
            if column < n:
                numbers = x[column, left:right]
                for i in range(len(rows)):
                    rows[i, j] = numbers[i]
            elif column < n + k:
                numbers = F[left:right, column - n]
                for i in range(len(rows)):
                    rows[i, j] = numbers[i]
            else:
                rows[:, j] = np.float32(0)
            j += 1


@njit(nogil=True)
@no_type_check
def _through_hidden(W, bias, biased, x, F, packed, z, first, last):
    """Rows of z: W₁ [xᵀ | F], with the bias for x."""
    d, row, one = W.shape[1], 4 * z.shape[1], np.float32(1)
    for i in range(first, last):
        z[i] = 0
        if biased:
            z[i, : len(x)] = bias[i]
    for block in range(0, z.shape[1], COLUMNS):
        to = z.ctypes.data + first * row + 4 * block
        for start in range(0, d, _STRIP):
            stop = min(start + _STRIP, d)
            _pack(x, F, block, start, stop, packed)
            a, b = W.ctypes.data + 4 * (first * d + start), packed.ctypes.data
            count, rows = stop - start, last - first
            _add_product(a, 4 * d, 4, rows, b, 4 * COLUMNS, count, to, to, row, COLUMNS, one)


@njit(nogil=True)
@no_type_check
def _rectify(z, mask, masked, first, last, n, h):
    for i in range(first, last):
        for j in range(n):
            # A NaN stays one, so that training that diverges is seen to.
            h[i, j] = np.float32(0) if z[i, j] <= 0 else z[i, j]
        if masked:
            for j in range(n):
                h[i, j] *= mask[i, j]


@njit(nogil=True)
@no_type_check
def _through_readout(W, h, sums, first, last):
    """A thread's part of the output, (k, columns)."""
    k, units = W.shape
    row = 4 * h.shape[1]
    sums[:] = 0
    if first < last:
        a, b, to = W.ctypes.data + 4 * first, h.ctypes.data + first * row, sums.ctypes.data
        rows, one = last - first, np.float32(1)
        _add_product(a, 4 * units, 4, k, b, row, rows, to, to, row, h.shape[1], one)


@njit(nogil=True)
@no_type_check
def _add_up(sums, bias, biased, n, y):
    """The output, (k, columns), of the threads' parts."""
    for c in range(len(y)):
        for j in range(n):
            y[c, j] = sums[0, c, j]
        for t in range(1, len(sums)):
            for j in range(n):
                y[c, j] += sums[t, c, j]
        if biased:
            for j in range(n):
                y[c, j] += bias[c]


@njit(nogil=True)
@no_type_check
def _softmax_errors(y, target):
    """Softmax less target, written over the output."""
    for j in range(len(target)):
        greatest, total = y[0, j], np.float32(0)
        for c in range(1, len(y)):
            greatest = max(greatest, y[c, j])
        for c in range(len(y)):
            y[c, j] = math.exp(y[c, j] - greatest)
            total += y[c, j]
        for c in range(len(y)):
            y[c, j] /= total
        y[target[j], j] -= np.float32(1)


@njit(nogil=True)
@no_type_check
def _write(y, to):
    for j in range(len(to)):
        for c in range(len(y)):
            to[j, c] = y[c, j]


@njit(nogil=True)
@no_type_check
def _perturb(x, F, errors, sign, first, last, Ft, x_err):
    """x ± F e, for inputs from ``first`` to ``last``."""
    n, d = x.shape
    k, columns = errors.shape
    for i in range(first, last):
        for c in range(k):
            Ft[c, i] = F[i, c]
    a, b, c, to = errors.ctypes.data, Ft.ctypes.data, x.ctypes.data, x_err.ctypes.data
    b, c, to = b + 4 * first, c + 4 * first, to + 4 * first
    _add_product(a, 4, 4 * columns, n, b, 4 * d, k, c, to, 4 * d, last - first, sign)


@njit(nogil=True)
@no_type_check
def _modulate(z, errors, sign, n, first, last, z_err):
    """z ± (z of F) e."""
    row, k = 4 * z.shape[1], len(errors)
    c, to = z.ctypes.data + first * row, z_err.ctypes.data + first * row
    b = errors.ctypes.data
    _add_product(c + 4 * n, row, 4, last - first, b, row, k, c, to, row, z.shape[1], sign)


@njit(nogil=True)
@no_type_check
def _descend_readout(task, W, M, errors, h_err, first, last):
    for c in range(len(W)):
        for i in range(first, last):
            total = np.float32(0)
            for j in range(task.n):
                total += errors[c, j] * h_err[i, j]
            g = task.scale * total + task.readout_decay * W[c, i]
            M[c, i] = task.readout_keep * M[c, i] + g
            W[c, i] -= task.readout_rate * M[c, i] + task.readout_ahead * g


@no_type_check
def _step(given):
    task = carray(given, 1)[0]
    thread, threads = call(task.thread_number), call(task.threads_at_work)
    n, d, k, units = task.n, task.inputs, task.k, task.units
    wide = units, task.columns
    x, F = carray(floats_at(task.x), (n, d)), carray(floats_at(task.F), (d, k))
    target = carray(integers_at(task.target), n)
    W_1 = carray(floats_at(task.weight), (units, d))
    W_2 = carray(floats_at(task.readout), (k, units))
    M_2 = carray(floats_at(task.readout_momentum), (k, units))
    b_1, biased_1 = carray(floats_at(task.bias), units), task.bias != 0
    b_2, biased_2 = carray(floats_at(task.readout_bias), k), task.readout_bias != 0
    mask, masked = carray(floats_at(task.mask), (units, n)), task.mask != 0
    z, h = carray(floats_at(task.z), wide), carray(floats_at(task.post), wide)
    h_err = carray(floats_at(task.h_err), wide)
    x_err, Ft = carray(floats_at(task.pre), (n, d)), carray(floats_at(task.Ft), (k, d))
    packed = carray(floats_at(task.packed), (threads, _STRIP, COLUMNS))[thread]
    sums = carray(floats_at(task.sums), (2, threads, k, task.columns))
    errors = carray(floats_at(task.errors), (threads, k, task.columns))[thread]
    first, end, last = own_rows(units, thread, threads)

    # The clean pass.
    _through_hidden(W_1, b_1, biased_1, x, F, packed, z, first, last)
    _rectify(z, mask, masked, first, last, n, h)
    _through_readout(W_2, h, sums[0, thread], first, last)
    call(task.barrier)
    _add_up(sums[0], b_2, biased_2, n, errors)
    if thread == 0:
        _write(errors, carray(floats_at(task.output), (n, k)))
    _softmax_errors(errors, target)
    if thread == 0:
        _write(errors, carray(floats_at(task.error), (n, k)))

    # The modulated pass.
    _perturb(x, F, errors, task.sign, d * thread // threads, d * (thread + 1) // threads, Ft, x_err)
    _modulate(z, errors, task.sign, n, first, last, h_err)
    _rectify(h_err, mask, masked, first, last, n, h_err)
    if task.second:
        _through_readout(W_2, h_err, sums[1, thread], first, last)
    call(task.barrier)  # now all have their inputs of x_err
    if task.second:
        _add_up(sums[1], b_2, biased_2, n, errors)
        _softmax_errors(errors, target)

    _descend_readout(task, W_2, M_2, errors, h_err, first, last)
    for i in range(first, last):
        for j in range(n):
            h[i, j] -= h_err[i, j]
    descend_rows(task, first, end, last)
