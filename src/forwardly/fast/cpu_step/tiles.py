"""A tile of a product, C = A B, held in the processor's registers.

numba's loops come to half of what a processor can multiply, as they keep sums in memory. A tile
keeps them in vector registers, ``rows`` times ``vectors`` of them, over the whole sum:

    for k:  for r in rows:  for v in vectors:  sum[r, v] += A[r, k] · B[k, v]

A's elements are read one by one and spread over a vector's lanes; B's lie side by side. Tiles are
written in LLVM's language, as numba has no word for a vector, and called from compiled functions
with addresses and strides in bytes, as integers.
"""

# pyright: basic
# ruff: noqa: ARG001, since numba reads an intrinsic's parameters off the function

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, no_type_check

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

_I64, _I32, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)


class Shape(NamedTuple):
    """How many registers a tile takes, and for which numbers."""

    rows: int
    vectors: int
    lanes: int


def has_avx512() -> bool:
    """Whether the processor has 32 registers of 512 bits."""
    return "avx512f" in _features()


def shape_of_tile(bits: int) -> Shape:
    """A tile for numbers of so many bits that leaves registers of this processor for A and B."""
    features = _features()
    if "avx512f" in features:  # 32 registers
        return Shape(8, 3, 512 // bits)
    if "avx2" in features:  # 16
        return Shape(4, 3, 256 // bits)
    return Shape(8 if "neon" in features else 4, 3, 128 // bits)


def _features() -> set[str]:
    """Of the processor that numba compiles for: this one, if its variables do not name another.

    Tiles must not be of other registers than numba thinks: it keeps what it has compiled by these.
    """
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        given = settings.CPU_FEATURES.split(",")
        return {feature[1:] for feature in given if feature.startswith("+")}
    try:
        host = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this one
        return set()
    return {
        feature
        for feature, there in host.items()
        if there and (settings.ENABLE_AVX or not feature.startswith("avx"))
    }


class _Lines:
    """LLVM's instructions on vectors of a shape."""

    def __init__(self, builder: Any, bits: int, lanes: int) -> None:
        self.builder = builder
        self.bytes = bits // 8
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, lanes)
        self.lanes = lanes
        name = f"llvm.fmuladd.v{lanes}f{bits}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def address(self, base: ir.Value, row: ir.Value, r: int, v: int) -> Any:
        """Of a tile's vector v in its row r."""
        start = self.builder.add(base, self.builder.mul(row, _I64(r)))
        return self.builder.add(start, _I64(v * self.lanes * self.bytes))

    def load(self, address: ir.Value) -> Any:
        value = self.builder.load(self.builder.inttoptr(address, self.vector.as_pointer()))
        value.align = self.bytes
        return value

    def store(self, value: ir.Value, address: ir.Value) -> None:
        to = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, to).align = self.bytes

    def spread(self, number: ir.Value) -> Any:
        """A number in every lane."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, nothing, zeros)

    def spread_from(self, address: ir.Value) -> Any:
        """The number in memory, in every lane."""
        value = self.builder.load(self.builder.inttoptr(address, self.scalar.as_pointer()))
        value.align = self.bytes
        return self.spread(value)

    def multiply_add(self, one: ir.Value, other: ir.Value, to: ir.Value) -> Any:
        return self.builder.call(self._multiply_add, [one, other, to])

    def expect(self, address: ir.Value) -> None:
        """Have the cache fetch what will be written."""
        pointer = _I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        where = self.builder.inttoptr(address, pointer)
        self.builder.call(fetch, [where, _I32(1), _I32(3), _I32(1)])


def _sums(lines: _Lines, shape: Shape, a, a_row, a_k, b, b_k, count) -> list[list[Any]]:
    """The loop of the module docstring, over ``count`` ≥ 1 values of k: the sums, row by row."""
    builder = lines.builder
    before = builder.block
    loop, after = builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = [builder.phi(_I64) for _ in range(3)]  # k, and where its column of A and row of B are
    sums = [[builder.phi(lines.vector) for _ in range(shape.vectors)] for _ in range(shape.rows)]
    zero = ir.Constant(lines.vector, [0.0] * shape.lanes)
    rows_of_b = [lines.load(lines.address(at[2], _I64(0), 0, v)) for v in range(shape.vectors)]
    new: list[list[Any]] = []
    for r, row in enumerate(sums):
        one = lines.spread_from(builder.add(at[1], builder.mul(a_row, _I64(r))))
        pairs = zip(rows_of_b, row, strict=True)
        new.append([lines.multiply_add(one, other, to) for other, to in pairs])
    following = [builder.add(x, step) for x, step in zip(at, (_I64(1), a_k, b_k), strict=True)]
    for phi, first, then in zip(at, (_I64(0), a, b), following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    for row, changed in zip(sums, new, strict=True):
        for phi, then in zip(row, changed, strict=True):
            phi.add_incoming(zero, before)
            phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following[0], count), loop, after)
    builder.position_at_end(after)
    return new


@intrinsic
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def floats_at(_, address):
    """A pointer to numbers of float32, for ``numba.carray``."""
    return _pointer(types.float32)


@intrinsic
@no_type_check
def integers_at(_, address):
    """A pointer to numbers of int64."""
    return _pointer(types.int64)


def _pointer(kind: Any) -> Any:
    def generate(context, builder, _, given):
        return builder.inttoptr(given[0], context.get_value_type(types.CPointer(kind)))

    return types.CPointer(kind)(types.intp), generate


@cache
@no_type_check
def adding_tile(bits: int, shape: Shape) -> Callable[..., None]:
    """``tile(a, a_row, a_k, b, b_k, count, c, c_row, to, to_row, scale)``: to ← C + scale · A B.

    Rows of C and of what is written lie ``c_row`` and ``to_row`` bytes apart.
    """
    number = types.float32 if bits == 32 else types.float64

    @intrinsic
    def tile(_, a, a_row, a_k, b, b_k, count, c, c_row, to, to_row, scale):
        def generate(context, builder, _, given):
            operands, (c, c_row, to, to_row), scale = given[:6], given[6:10], given[10]
            lines = _Lines(builder, bits, shape.lanes)
            sums = _sums(lines, shape, *operands)
            scale = lines.spread(scale)
            for r in range(shape.rows):
                for v in range(shape.vectors):
                    before = lines.load(lines.address(c, c_row, r, v))
                    after = lines.multiply_add(sums[r][v], scale, before)
                    lines.store(after, lines.address(to, to_row, r, v))
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 10, number), generate

    return tile


@cache
@no_type_check
def descending_tile(bits: int, shape: Shape) -> Callable[..., None]:
    """``tile(a, a_row, a_k, b, b_k, count, m, w, row, scale, keep, decay, rate, ahead)``.

    A step of gradient descent with the gradient g, for a tile of the momentum M and of the weights
    W, whose rows lie ``row`` bytes apart; see ``forwardly.fast.cpu_step.descent``.
    """
    number = types.float32 if bits == 32 else types.float64

    @intrinsic
    def tile(_, a, a_row, a_k, b, b_k, count, m, w, row, scale, keep, decay, rate, ahead):
        def generate(context, builder, _, given):
            operands, (m, w, row), numbers = given[:6], given[6:9], given[9:]
            lines = _Lines(builder, bits, shape.lanes)
            for base in (m, w):
                for r in range(shape.rows):
                    for v in range(shape.vectors):
                        lines.expect(lines.address(base, row, r, v))
            sums = _sums(lines, shape, *operands)
            scale, keep, decay, rate, ahead = map(lines.spread, numbers)
            less_rate, less_ahead = builder.fneg(rate), builder.fneg(ahead)
            for r in range(shape.rows):
                for v in range(shape.vectors):
                    at_m, at_w = (lines.address(base, row, r, v) for base in (m, w))
                    W = lines.load(at_w)
                    g = lines.multiply_add(sums[r][v], scale, builder.fmul(W, decay))
                    M = lines.multiply_add(lines.load(at_m), keep, g)
                    lines.store(M, at_m)
                    W = lines.multiply_add(M, less_rate, W)
                    lines.store(lines.multiply_add(g, less_ahead, W), at_w)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 9, *(number,) * 5), generate

    return tile
