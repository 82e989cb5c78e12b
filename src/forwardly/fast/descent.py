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
from numba import cfunc, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray, from_dtype
from torch import Tensor

from forwardly.fast.compiling import kept
from forwardly.fast.threads import Pool
from forwardly.fast.tiles import descending_tile, shape_of_tile
from forwardly.fast.updates import Descent, Outer

_SHAPE = shape_of_tile(32)
_TILE = descending_tile(32, _SHAPE)
_THIN = descending_tile(32, _SHAPE._replace(vectors=1))
_ROWS, _COLUMNS, _LANES = _SHAPE.rows, _SHAPE.columns, _SHAPE.lanes
_STRIP = 8 * _COLUMNS

_ADDRESSES = ("momentum", "weight", "post", "pre", "thread_number", "threads_at_work")
_SIZES = ("units", "inputs", "n")
_NUMBERS = ("scale", "keep", "decay", "rate", "ahead")
_TASK = np.dtype(
    [(name, np.intp) for name in (*_ADDRESSES, *_SIZES)] + [(name, "f4") for name in _NUMBERS],
    align=True,
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
    if not all(map(_plain, (weight, momentum, post, pre))):
        return False
    (n, units), inputs = post.shape, pre.shape[1]
    keep, decay, rate, nesterov = settings
    addresses = (*(t.data_ptr() for t in (momentum, weight, post, pre)), *openmp[1:])
    # W − η(g + μM) is W − (ημ)M − ηg.
    numbers = (
        update.scale,
        keep,
        decay,
        rate * keep if nesterov else rate,
        rate if nesterov else 0.0,
    )
    task = np.zeros((), _TASK)
    task[()] = (*addresses, units, inputs, n, *numbers)
    openmp.parallel(_compiled(), task.ctypes.data, torch.get_num_threads(), 0)
    torch.autograd.graph.increment_version((weight, momentum))
    return True


def _plain(tensor: Tensor) -> bool:
    of_floats = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return of_floats and tensor.dim() == 2 and tensor.is_contiguous()


@intrinsic
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def _numbers_at(_, address):
    """A pointer to float32."""

    def generate(context, builder, signature, given):
        return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.intp), generate


@intrinsic
@no_type_check
def _call(_, address):
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
    return kept(cfunc, _descend_rows, signature, fastmath={"contract", "nsz"}).address


@no_type_check
def _descend_rows(given):
    task = carray(given, 1)[0]
    units, inputs, n = task.units, task.inputs, task.n
    thread, threads = _call(task.thread_number), _call(task.threads_at_work)
    # Whole tiles each; what is left over goes to the last.
    tiles = units // _ROWS
    first = tiles * thread // threads * _ROWS
    end = tiles * (thread + 1) // threads * _ROWS
    last = units if thread == threads - 1 else end

    W = carray(_numbers_at(task.weight), (units, inputs))
    M = carray(_numbers_at(task.momentum), (units, inputs))
    post = carray(_numbers_at(task.post), (n, units))
    pre = carray(_numbers_at(task.pre), (n, inputs))
    whole = inputs - inputs % _LANES
    for start in range(0, whole, _STRIP):
        stop = min(whole, start + _STRIP)
        wide = stop - (stop - start) % _COLUMNS
        for row in range(first, end, _ROWS):
            for column in range(start, wide, _COLUMNS):
                place = 4 * (row * inputs + column)
                _TILE(
                    task.post + 4 * row, 4, 4 * units, task.pre + 4 * column, 4 * inputs, n,
                    task.momentum + place, task.weight + place, 4 * inputs,
                    task.scale, task.keep, task.decay, task.rate, task.ahead,
                )  # fmt: skip
            for column in range(wide, stop, _LANES):
                place = 4 * (row * inputs + column)
                _THIN(
                    task.post + 4 * row, 4, 4 * units, task.pre + 4 * column, 4 * inputs, n,
                    task.momentum + place, task.weight + place, 4 * inputs,
                    task.scale, task.keep, task.decay, task.rate, task.ahead,
                )  # fmt: skip
    # Rows and columns that fill no tile.
    for row in range(first, last):
        for i in range(whole if row < end else 0, inputs):
            total = np.float32(0)
            for s in range(n):
                total += post[s, row] * pre[s, i]
            g = total * task.scale + task.decay * W[row, i]
            M[row, i] = task.keep * M[row, i] + g
            W[row, i] -= task.rate * M[row, i] + task.ahead * g
