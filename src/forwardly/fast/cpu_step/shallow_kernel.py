"""PEPITA's whole step for one hidden layer of rectifiers, compiled, each thread with its own units.

Between the two products with the first weight a step has a dozen small operations, and calling them
takes a fifth of its time. Here they are one function. A thread has some of the hidden units, and
with them rows of W₁ and columns of W₂, from the clean pass to the update; threads wait for each
other twice, for the output and for the perturbed input:

    each its units     z = W₁ [x | F]       h = σ(z of x)       its part of the output W₂ h
    all                e                    its inputs of x + F e
    each its units     h_err = σ(z of x + (z of F) e)
                       W₂ changes by e h_errᵀ, W₁ by (h − h_err)(x + F e)ᵀ

With the clean presynaptic term these are e hᵀ and (h − h_err) xᵀ, and nobody needs x + F e.

Sums of products are tiles in registers (``tiles``); the step on W₁ is that of ``descent``, or left
to torch where that is quicker. Matrices
of units lie with a row for each unit and a column for each sample, and after these for each column
of F.

Shapes
    x (n, d), F (d, k), W₁ (units, d), W₂ (k, units); biases, if there are any, (units,) and (k,).
"""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import torch
from numba import cfunc, types
from numba.np.numpy_support import carray, from_dtype
from torch import Tensor

from forwardly.fast.compiling import compile_cached, compile_inner
from forwardly.fast.cpu_step import descent
from forwardly.fast.cpu_step.addresses import array_at, call, layout_of, matrix, part, record
from forwardly.fast.cpu_step.tiles import Shape, adding_tile, has_avx2, has_avx512
from forwardly.fast.sgd import Weight
from forwardly.fast.threads import Pool

_SHAPE = Shape(5, 5, 16) if has_avx512() else Shape(6, 2, 8)  # 32 registers, or 16 of AVX2
_ROWS, _WIDTH = _SHAPE.rows, _SHAPE.vectors * _SHAPE.lanes
COLUMNS = 80
"""Samples, and columns of F, that are gone through at a time: one tile's width, or five's."""

_STRIP = 512  # inputs whose part of x stays in a processor's own cache
_PART, _AT_ONCE = 64, 8  # inputs and samples of x that are transposed at a time

_LAYER = layout_of(("weight", "momentum", "bias"), coefficients=descent.COEFFICIENTS)
_INTEGERS = (
    *("x", "F", "target", "mask", "output", "error"),  # addresses; 0 if there is no mask
    *("packed", "Ft", "z", "h", "h_err", "x_err", "sums", "errors"),  # of the workspace
    *("n", "units", "d", "k", "columns", "second", "clean", "descends"),
    *("thread_number", "threads_at_work", "barrier"),  # functions
)
_TASK = layout_of(_INTEGERS, sign=np.float32, hidden=_LAYER, readout=_LAYER)


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

    def hidden_update(self, x: Tensor, *, clean: bool) -> tuple[Tensor, Tensor]:
        """Of the last step, with these x: post (n, units) and pre (n, d) of W₁."""
        return self.arrays["h"][:, : len(x)].T, x if clean else self.arrays["x_err"]

    def bias_updates(self) -> tuple[Tensor, Tensor]:
        """Of the last step: the mean over samples of what taught the units, and the outputs."""
        n = self.sizes[0]
        posts = self.arrays["h"], self.arrays["errors"][0]
        hidden, readout = (post[:, :n].sum(1) / n for post in posts)
        return hidden, readout


@cache
def suits_processor() -> bool:
    """Whether it has the registers that the tiles are made for."""
    return has_avx512() or has_avx2()


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
    clean: bool,
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
        clean: whether the presynaptic terms are the clean pass's.
        workspace: of these sizes.
        openmp: torch's threads.

    Returns:
        Output and error of the clean pass, (n, k) each. What both layers' biases would learn stands
        in the workspace until the next step; so does W₁'s update, which is still to be applied
        where ``descent`` does not suit the processor.
    """
    n, units, d, k, threads = workspace.sizes
    output, error = x.new_empty(n, k), x.new_empty(n, k)
    by_unit = None if mask is None else mask.T.contiguous()
    given = {"x": x, "F": F, "target": target, "mask": by_unit, "output": output, "error": error}
    task = record(
        _TASK,
        **{name: _address(tensor) for name, tensor in {**given, **workspace.arrays}.items()},
        n=n,
        units=units,
        d=d,
        k=k,
        columns=workspace.columns,
        hidden=_layer(hidden, biases[0], n),
        readout=_layer(readout, biases[1], n),
        sign=sign,
        second=second,
        clean=clean,
        descends=descent.suits_processor(),
        **openmp._asdict(),
    )
    openmp.parallel(_compiled(), task.ctypes.data, threads, 0)
    changed = hidden.weight, hidden.momentum, readout.weight, readout.momentum
    torch.autograd.graph.increment_version(changed)
    return output, error


def _layer(layer: Weight, bias: Tensor | None, n: int) -> tuple[object, ...]:
    tensors = layer.weight, layer.momentum, bias
    return *map(_address, tensors), descent.coefficients(1 / n, layer.settings)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def prepare() -> None:
    """Have it compiled, if it is not yet."""
    _compiled()


def _blocks(n: int, k: int) -> int:
    return -(-(n + k) // COLUMNS)


@cache
def _compiled() -> int:
    signature = types.void(types.CPointer(from_dtype(_TASK)))
    # Sums may be taken in any order, so that they are taken in vectors.
    fastmath = {"contract", "nsz", "reassoc"}
    return compile_cached(cfunc, _step, signature, fastmath=fastmath).address


_TILE = adding_tile(_SHAPE)
_ROW = adding_tile(_SHAPE._replace(rows=1))


@compile_inner
def _add_product(a, b, size, c, to, scale):
    """to ← C + scale · A B, where size is A's rows, B's columns, and those of the one or the other.

    If the last tile of a row is not whole, it begins with columns that are done already; then C
    must not lie where it is written.
    """
    rows, columns, count = size
    row = 0
    while row < rows:
        whole = row + _ROWS <= rows
        for start in range(0, columns, _WIDTH):
            column = min(start, columns - _WIDTH)
            a_part, b_part = part(a, row, 0), part(b, 0, column)
            c_part, to_part = part(c, row, column), part(to, row, column)
            if whole:
                _TILE(a_part, b_part, count, c_part, to_part, scale)
            else:
                _ROW(a_part, b_part, count, c_part, to_part, scale)
        row += _ROWS if whole else 1


@compile_inner
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


@compile_inner
def _through_hidden(W, bias, x, F, packed, z, first, last):
    """Rows of z: W₁ [xᵀ | F], with the bias for x."""
    d = W.shape[1]
    for i in range(first, last):
        z[i] = 0
        if len(bias):
            z[i, : len(x)] = bias[i]
    for column in range(0, z.shape[1], COLUMNS):
        to = part(matrix(z), first, column)
        for start in range(0, d, _STRIP):
            stop = min(start + _STRIP, d)
            _pack(x, F, column, start, stop, packed)
            size, weights = (last - first, COLUMNS, stop - start), part(matrix(W), first, start)
            _add_product(weights, matrix(packed), size, to, to, np.float32(1))


@compile_inner
def _rectify(z, mask, first, last, n, h):
    for i in range(first, last):
        for j in range(n):
            # A NaN stays one, so that training that diverges is seen to.
            h[i, j] = np.float32(0) if z[i, j] <= 0 else z[i, j]
        if len(mask):
            for j in range(n):
                h[i, j] *= mask[i, j]


@compile_inner
def _through_readout(W, h, sums, first, last):
    """A thread's part of the output, (k, columns)."""
    sums[:] = 0
    if first < last:
        size, to = (len(W), h.shape[1], last - first), matrix(sums)
        weights, activities = part(matrix(W), 0, first), part(matrix(h), first, 0)
        _add_product(weights, activities, size, to, to, np.float32(1))


@compile_inner
def _add_up(sums, bias, n, y):
    """The output, (k, columns), of the threads' parts."""
    for c in range(len(y)):
        for j in range(n):
            y[c, j] = sums[0, c, j]
        for t in range(1, len(sums)):
            for j in range(n):
                y[c, j] += sums[t, c, j]
        if len(bias):
            for j in range(n):
                y[c, j] += bias[c]


@compile_inner
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


@compile_inner
def _write(y, to):
    for j in range(len(to)):
        for c in range(len(y)):
            to[j, c] = y[c, j]


@compile_inner
def _perturb(x, F, errors, sign, first, last, Ft, x_err):
    """x ± F e, for inputs from ``first`` to ``last``."""
    k = len(errors)
    for i in range(first, last):
        for c in range(k):
            Ft[c, i] = F[i, c]
    size, of_inputs = (len(x), last - first, k), part(matrix(Ft), 0, first)
    c, to = part(matrix(x), 0, first), part(matrix(x_err), 0, first)
    _add_product(matrix(errors.T), of_inputs, size, c, to, sign)


@compile_inner
def _modulate(z, errors, sign, n, first, last, z_err):
    """z ± (z of F) e."""
    size = last - first, z.shape[1], len(errors)
    c, to = part(matrix(z), first, 0), part(matrix(z_err), first, 0)
    _add_product(part(matrix(z), first, n), matrix(errors), size, c, to, sign)


@compile_inner
def _descend_readout(W, M, errors, h, n, coefficients, first, last):
    scale, keep, decay, rate, ahead = coefficients
    for c in range(len(W)):
        for i in range(first, last):
            total = np.float32(0)
            for j in range(n):
                total += errors[c, j] * h[i, j]
            g = scale * total + decay * W[c, i]
            M[c, i] = keep * M[c, i] + g
            W[c, i] -= rate * M[c, i] + ahead * g


def _step(given):
    task = carray(given, 1)[0]
    thread, threads = call(task.thread_number), call(task.threads_at_work)
    n, d, k, units, sign = task.n, task.d, task.k, task.units, task.sign
    hidden, readout, wide = task.hidden, task.readout, (units, task.columns)
    x, F, target = (
        array_at(task.x, (n, d)),
        array_at(task.F, (d, k)),
        array_at(task.target, n, np.int64),
    )
    mask = array_at(task.mask, (units if task.mask else 0, n))
    W_1, W_2 = array_at(hidden.weight, (units, d)), array_at(readout.weight, (k, units))
    M_1, M_2 = array_at(hidden.momentum, (units, d)), array_at(readout.momentum, (k, units))
    b_1 = array_at(hidden.bias, units if hidden.bias else 0)
    b_2 = array_at(readout.bias, k if readout.bias else 0)
    z, h, h_err = array_at(task.z, wide), array_at(task.h, wide), array_at(task.h_err, wide)
    x_err, Ft = array_at(task.x_err, (n, d)), array_at(task.Ft, (k, d))
    packed = array_at(task.packed, (threads, _STRIP, COLUMNS))[thread]
    sums = array_at(task.sums, (2, threads, k, task.columns))
    errors = array_at(task.errors, (threads, k, task.columns))[thread]
    first, end, last = descent.own_rows(units, thread, threads)

    # The clean pass.
    _through_hidden(W_1, b_1, x, F, packed, z, first, last)
    _rectify(z, mask, first, last, n, h)
    _through_readout(W_2, h, sums[0, thread], first, last)
    call(task.barrier)
    _add_up(sums[0], b_2, n, errors)
    if thread == 0:
        _write(errors, array_at(task.output, (n, k)))
    _softmax_errors(errors, target)
    if thread == 0:
        _write(errors, array_at(task.error, (n, k)))

    # The modulated pass.
    if not task.clean:
        own_inputs = d * thread // threads, d * (thread + 1) // threads
        _perturb(x, F, errors, sign, own_inputs[0], own_inputs[1], Ft, x_err)
    _modulate(z, errors, sign, n, first, last, h_err)
    _rectify(h_err, mask, first, last, n, h_err)
    if task.second:
        _through_readout(W_2, h_err, sums[1, thread], first, last)
    if task.second or not task.clean:
        call(task.barrier)  # now all have their inputs of x_err
    if task.second:
        _add_up(sums[1], b_2, n, errors)
        _softmax_errors(errors, target)

    numbers = descent.coefficients_in(readout.coefficients)
    pre_2, pre_1 = (h, x) if task.clean else (h_err, x_err)
    _descend_readout(W_2, M_2, errors, pre_2, n, numbers, first, last)
    for i in range(first, last):
        for j in range(n):
            h[i, j] -= h_err[i, j]
    if not task.descends:
        return
    step = descent.Step(
        weight=matrix(W_1),
        momentum=matrix(M_1),
        post=matrix(h),
        pre=matrix(pre_1),
        inputs=d,
        n=n,
        coefficients=descent.coefficients_in(hidden.coefficients),
    )
    descent.descend_rows(step, first, end, last)
