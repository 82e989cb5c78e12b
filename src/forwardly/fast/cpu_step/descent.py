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

# pyright: basic
# ruff: noqa: ARG001, since numba reads an intrinsic's parameters off the function

from __future__ import annotations

from functools import cache
from typing import no_type_check

import numpy as np
import torch
from numba import cfunc, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray, from_dtype
from torch import Tensor

from forwardly.fast.compiling import compile_cached
from forwardly.fast.cpu_step.threads import Pool
from forwardly.fast.cpu_step.tiles import Shape, descending_tile, shape_of_tile
from forwardly.fast.sgd import Descent, Outer, plain

_ROWS, _VECTORS, _LANES = shape_of_tile(32)
_COLUMNS = _VECTORS * _LANES
_STRIP = 16 * _COLUMNS

INTEGERS = (
    *("momentum", "weight", "post", "pre"),  # addresses
    *("units", "inputs", "n"),
    *("post_unit", "post_sample"),  # bytes from a unit, or a sample, of post to the next
    *("thread_number", "threads_at_work"),  # addresses of functions
)
NUMBERS = ("scale", "keep", "decay", "rate", "ahead")
"""What ``descend_rows`` looks for in its task."""

_TASK = np.dtype(
    [(name, np.intp) for name in INTEGERS] + [(name, "f4") for name in NUMBERS], align=True
)


def descend(
    weight: Tensor, momentum: Tensor, update: Outer, settings: Descent, openmp: Pool
) -> bool:
    """Take the step of the module docstring, in place, if these tensors allow it.

    Args:
        weight: W, (units, inputs), of float32 on the processor, contiguous.
        momentum: M, likewise.
        update: U.
        settings: μ, λ, η, and whether with Nesterov.
        openmp: torch's threads.

    Returns:
        Whether it was taken; if not, nothing has changed.
    """
    post, pre = update.post.contiguous(), update.pre.contiguous()
    tensors = weight, momentum, post, pre
    if not all(plain(one) and one.dim() == 2 for one in tensors):
        return False
    (n, units), inputs = post.shape, pre.shape[1]
    addresses = (t.data_ptr() for t in (momentum, weight, post, pre))
    threads = openmp.thread_number, openmp.threads_at_work
    task = np.zeros((), _TASK)
    task[()] = (
        *(*addresses, units, inputs, n, 4, 4 * units, *threads),
        *(update.scale, *factors(settings)),
    )
    openmp.parallel(_compiled(), task.ctypes.data, torch.get_num_threads(), 0)
    torch.autograd.graph.increment_version((weight, momentum))
    return True


def prepare() -> None:
    """Have it compiled, if it is not yet."""
    _compiled()


def factors(settings: Descent) -> tuple[float, float, float, float]:
    """Keep, decay, rate, ahead: g = U + decay W; M ← keep M + g; W ← W − rate M − ahead g."""
    keep, decay, rate, nesterov = settings
    # W − η(g + μM) is W − (ημ)M − ηg.
    return keep, decay, rate * keep if nesterov else rate, rate if nesterov else 0.0


@intrinsic
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def call(_, address):
    """What the C function of no arguments there says, an int."""
    from llvmlite import ir

    def generate(context, builder, signature, given):
        kind = ir.FunctionType(ir.IntType(32), ())
        return builder.call(builder.inttoptr(given[0], kind.as_pointer()), ())

    return types.int32(types.intp), generate


@cache
def _compiled() -> int:
    """The address of the compiled function for one thread's rows; compiled once a machine."""
    signature = types.void(types.CPointer(from_dtype(_TASK)))
    return compile_cached(cfunc, _descend_own_rows, signature, fastmath={"contract", "nsz"}).address


@no_type_check
def _row_of_tiles(rows):
    """A function that goes along ``rows`` rows, from a column to another, by ever thinner tiles."""
    shapes = Shape(rows, _VECTORS, _LANES), Shape(rows, 1, _LANES), Shape(rows, 1, 1)
    wide, thin, single = (descending_tile(32, shape) for shape in shapes)

    @njit(nogil=True)
    def along(task, row, column, stop):
        a_row, a_k, length = task.post_unit, task.post_sample, 4 * task.inputs
        a = task.post + row * a_row
        b, m = task.pre + 4 * column, 4 * (row * task.inputs + column)
        w, m = task.weight + m, task.momentum + m
        while column + _COLUMNS <= stop:
            wide(
                a, a_row, a_k, b, length, task.n, m, w, length,
                task.scale, task.keep, task.decay, task.rate, task.ahead,
            )  # fmt: skip
            column += _COLUMNS
            b, m, w = b + 4 * _COLUMNS, m + 4 * _COLUMNS, w + 4 * _COLUMNS
        while column + _LANES <= stop:
            thin(
                a, a_row, a_k, b, length, task.n, m, w, length,
                task.scale, task.keep, task.decay, task.rate, task.ahead,
            )  # fmt: skip
            column += _LANES
            b, m, w = b + 4 * _LANES, m + 4 * _LANES, w + 4 * _LANES
        while column < stop:
            single(
                a, a_row, a_k, b, length, task.n, m, w, length,
                task.scale, task.keep, task.decay, task.rate, task.ahead,
            )  # fmt: skip
            column += 1
            b, m, w = b + 4, m + 4, w + 4

    return along


_ALONG_ROWS, _ALONG_ROW = _row_of_tiles(_ROWS), _row_of_tiles(1)


@njit(nogil=True)
@no_type_check
def own_rows(units, thread, threads):
    """The rows of a thread: the first, the end of those in whole tiles, and the end."""
    # Whole tiles each; what is left over goes to the last.
    tiles = units // _ROWS
    end = tiles * (thread + 1) // threads * _ROWS
    return tiles * thread // threads * _ROWS, end, units if thread == threads - 1 else end


@njit(nogil=True)
@no_type_check
def descend_rows(task, first, end, last):
    """The step for rows from ``first`` on; those from ``end`` on are fewer than a tile has."""
    for start in range(0, task.inputs, _STRIP):
        stop = min(task.inputs, start + _STRIP)
        for row in range(first, end, _ROWS):
            _ALONG_ROWS(task, row, start, stop)
        for row in range(end, last):
            _ALONG_ROW(task, row, start, stop)


@no_type_check
def _descend_own_rows(given):
    task = carray(given, 1)[0]
    thread, threads = call(task.thread_number), call(task.threads_at_work)
    first, end, last = own_rows(task.units, thread, threads)
    descend_rows(task, first, end, last)
