"""A step of gradient descent on a weight matrix, momentum and all, while its update is summed.

    update           U = scale · Σ post ⊗ pre
    gradient         g = U + λW
    momentum         M ← μM + g
    weights          W ← W − ηM,  or with Nesterov's W ← W − η(g + μM)

torch takes an operation for each line, and each goes through all of M or W, which are larger than
the caches that a processor has for itself. Here a tile of U is summed in registers (``tiles``) and
its part of M and W changed then and there, so memory is gone through once. M and W are shared out
by rows among torch's own threads (``threads``), the same rows to the same thread in every step.

Tiles are gone through in strips of some columns, whose part of pre stays in a processor's own
cache. post and pre are read where they are: to copy what a tile reads side by side costs more than
it saves.
"""

# pyright: basic, reportCallIssue=false

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numba import cfunc, types
from numba.np.numpy_support import carray, from_dtype

from forwardly.fast.compiling import compile_cached, compile_inner
from forwardly.fast.cpu_step.addresses import (
    Matrix,
    array_at,
    call,
    layout_of,
    matrix,
    part,
    record,
)
from forwardly.fast.cpu_step.tiles import (
    Coefficients,
    Shape,
    descending_tile,
    has_32_registers,
    shape_of_tile,
)
from forwardly.fast.sgd import Descent, Outer, Weight, suits_kernels
from forwardly.fast.threads import Pool

_ROWS, _VECTORS, _LANES = shape_of_tile()
_COLUMNS = _VECTORS * _LANES
_STRIP = 16 * _COLUMNS

COEFFICIENTS = np.dtype([(name, np.float32) for name in Coefficients._fields])
_ARRAYS = "weight", "momentum", "post", "pre"
_OTHERS = "units", "inputs", "n", "thread_number", "threads_at_work"
_TASK = layout_of((*_ARRAYS, *_OTHERS), coefficients=COEFFICIENTS)


def descend(trained: Weight, update: Outer, openmp: Pool) -> bool:
    """Take the step of the module docstring, in place, if these tensors allow it.

    Args:
        trained: W, (units, inputs), of float32 on the processor, contiguous; M likewise; μ, λ, η,
            and whether with Nesterov.
        update: U.
        openmp: torch's threads.

    Returns:
        Whether it was taken; if not, nothing has changed.
    """
    weight, momentum, settings = trained
    post, pre = update.post.contiguous(), update.pre.contiguous()
    tensors = weight, momentum, post, pre
    if not all(suits_kernels(tensor) and tensor.dim() == 2 for tensor in tensors):
        return False
    task = record(
        _TASK,
        **{name: tensor.data_ptr() for name, tensor in zip(_ARRAYS, tensors, strict=True)},
        units=weight.shape[0],
        inputs=weight.shape[1],
        n=len(post),
        coefficients=coefficients(update.scale, settings),
        **openmp._asdict(),
    )
    openmp.parallel(_compiled(), task.ctypes.data, torch.get_num_threads(), 0)
    torch.autograd.graph.increment_version((weight, momentum))
    return True


@cache
def suits_processor() -> bool:
    """Whether it is quicker than a product and a sum of torch's: not with 16 registers, as AVX2."""
    return has_32_registers()


def prepare() -> None:
    """Have it compiled, if it is not yet."""
    _compiled()


def coefficients(scale: float, settings: Descent) -> Coefficients:
    """Of torch's SGD; the scale is the update's."""
    keep, decay, rate, nesterov, *_ = settings
    # W − η(g + μM) is W − (ημ)M − ηg.
    return Coefficients(
        scale, keep, decay, rate * keep if nesterov else rate, rate if nesterov else 0.0
    )


@cache
def _compiled() -> int:
    """The address of the compiled function for one thread's rows; compiled once a machine."""
    signature = types.void(types.CPointer(from_dtype(_TASK)))
    function = compile_cached(cfunc, _descend_own_rows, signature, fastmath={"contract", "nsz"})
    return function.address


class Step(NamedTuple):
    """A step on a weight and its momentum, (units, inputs); post (units, n) and pre (n, inputs)."""

    weight: Matrix
    momentum: Matrix
    post: Matrix
    pre: Matrix
    inputs: int
    n: int
    coefficients: Coefficients


def _row_of_tiles(rows):
    """A function that goes along ``rows`` rows, from a column to another, by ever thinner tiles."""
    shapes = Shape(rows, _VECTORS, _LANES), Shape(rows, 1, _LANES), Shape(rows, 1, 1)
    wide, thin, single = map(descending_tile, shapes)

    @compile_inner
    def along(step, row, column, stop):
        a = part(step.post, row, 0)
        while column < stop:
            b = part(step.pre, 0, column)
            m, w = part(step.momentum, row, column), part(step.weight, row, column)
            if column + _COLUMNS <= stop:
                wide(a, b, step.n, m, w, step.coefficients)
                column += _COLUMNS
            elif column + _LANES <= stop:
                thin(a, b, step.n, m, w, step.coefficients)
                column += _LANES
            else:
                single(a, b, step.n, m, w, step.coefficients)
                column += 1

    return along


_ALONG_ROWS, _ALONG_ROW = _row_of_tiles(_ROWS), _row_of_tiles(1)


@compile_inner
def own_rows(units, thread, threads):
    """The rows of a thread: the first, the end of those in whole tiles, and the end."""
    # Whole tiles each; what is left over goes to the last.
    tiles = units // _ROWS
    end = tiles * (thread + 1) // threads * _ROWS
    return tiles * thread // threads * _ROWS, end, units if thread == threads - 1 else end


@compile_inner
def descend_rows(step, first, end, last):
    """The step for rows from ``first`` on; those from ``end`` on are fewer than a tile has."""
    for start in range(0, step.inputs, _STRIP):
        stop = min(step.inputs, start + _STRIP)
        for row in range(first, end, _ROWS):
            _ALONG_ROWS(step, row, start, stop)
        for row in range(end, last):
            _ALONG_ROW(step, row, start, stop)


@compile_inner
def coefficients_in(task):
    """The tuple, of a part of a record."""
    return Coefficients(task.scale, task.keep, task.decay, task.rate, task.ahead)


def _descend_own_rows(given):
    task = carray(given, 1)[0]
    units, inputs, n = task.units, task.inputs, task.n
    step = Step(
        weight=matrix(array_at(task.weight, (units, inputs))),
        momentum=matrix(array_at(task.momentum, (units, inputs))),
        post=matrix(array_at(task.post, (n, units)).T),
        pre=matrix(array_at(task.pre, (n, inputs))),
        inputs=inputs,
        n=n,
        coefficients=coefficients_in(task.coefficients),
    )
    thread, threads = call(task.thread_number), call(task.threads_at_work)
    first, end, last = own_rows(units, thread, threads)
    descend_rows(step, first, end, last)
