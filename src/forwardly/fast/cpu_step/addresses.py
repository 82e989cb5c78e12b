"""Arrays, matrices and functions at addresses, for compiled functions.

A function that C calls takes one pointer. Here it is one to a record; the functions behind it take
arrays and tuples.
"""

# pyright: basic, reportCallIssue=false
# ruff: noqa: ARG001, since numba reads an intrinsic's parameters off the function

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from forwardly.fast.compiling import compile_inner


def layout_of(integers: Iterable[str], **others: Any) -> np.dtype[Any]:
    """The layout of a record of integers, which may be addresses, and of other types."""
    return np.dtype([*((name, np.intp) for name in integers), *others.items()], align=True)


def record(layout: np.dtype[Any], **fields: Any) -> np.ndarray:
    """A record of the fields of its layout, all of which must be given."""
    return np.array(tuple(fields[name] for name in layout.names or ()), layout)


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
def array_at(address, shape, dtype=np.float32):
    """The array of this shape that lies there."""
    return carray(_pointer(address), shape, dtype)


@intrinsic
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def _pointer(_, address):
    def generate(context, builder, _, given):
        return builder.inttoptr(given[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), generate


@intrinsic
@no_type_check
def call(_, address):
    """What the C function of no arguments there returns, an int."""

    def generate(context, builder, signature, given):
        kind = ir.FunctionType(ir.IntType(32), ())
        return builder.call(builder.inttoptr(given[0], kind.as_pointer()), ())

    return types.int32(types.intp), generate
