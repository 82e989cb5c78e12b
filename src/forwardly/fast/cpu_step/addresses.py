"""Arrays, matrices and functions at addresses, for compiled functions.

A function that C calls takes one pointer. Here it is one to a record, whose fields are those of a
tuple with names; the functions behind it take arrays, and tuples of numbers.
"""

# pyright: basic, reportCallIssue=false
# ruff: noqa: ARG001, since numba reads an intrinsic's parameters off the function

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints, no_type_check

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from forwardly.fast.compiling import compile_inner


def record_of(fields: Any) -> np.dtype[Any]:
    """The layout in memory of a tuple whose fields are int, float (of 32 bits), or such tuples."""
    known = {int: np.intp, float: np.float32}
    hints = get_type_hints(fields).items()
    return np.dtype(
        [(name, known.get(kind) or record_of(kind)) for name, kind in hints], align=True
    )


class Matrix(NamedTuple):
    """Where a matrix lies: its address, and bytes from a row to the next, and from a column."""

    address: int
    row: int
    column: int


@compile_inner
def matrix(array):
    """Where a two-dimensional array lies."""
    row, column = array.strides
    return Matrix(array.ctypes.data, row, column)


@compile_inner
def part(whole, row, column):
    """The matrix from a row and a column on."""
    address = whole.address + row * whole.row + column * whole.column
    return Matrix(address, whole.row, whole.column)


@compile_inner
def floats(address, shape):
    """The array of float32 there."""
    return carray(_floats_at(address), shape)


@compile_inner
def integers(address, shape):
    """The array of int64 there."""
    return carray(_integers_at(address), shape)


@intrinsic
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def _floats_at(_, address):
    return _pointer(types.float32)


@intrinsic
@no_type_check
def _integers_at(_, address):
    return _pointer(types.int64)


def _pointer(kind: Any) -> Any:
    def generate(context, builder, _, given):
        return builder.inttoptr(given[0], context.get_value_type(types.CPointer(kind)))

    return types.CPointer(kind)(types.intp), generate


@intrinsic
@no_type_check
def call(_, address):
    """What the C function of no arguments there returns, an int."""
    from llvmlite import ir

    def generate(context, builder, signature, given):
        kind = ir.FunctionType(ir.IntType(32), ())
        return builder.call(builder.inttoptr(given[0], kind.as_pointer()), ())

    return types.int32(types.intp), generate
