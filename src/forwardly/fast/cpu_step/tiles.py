"""A tile of a product, C = A B, held in the processor's registers.

numba's loops come to half of what a processor can multiply, as they keep sums in memory. A tile
keeps them in vector registers, ``rows`` times ``vectors`` of them, over the whole sum:

    for k:  for r in rows:  for v in vectors:  sum[r, v] += A[r, k] · B[k, v]

A's elements are read one by one and spread over a vector's lanes; B's lie side by side, as those of
what is written do. Tiles are written in LLVM's language, as numba has no word for a vector, and
called from compiled functions, with where each ``addresses.Matrix`` begins.
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
_BYTES = 4  # of a float32


class Shape(NamedTuple):
    """How many vector registers a tile takes, and how many float32 each holds."""

    rows: int
    vectors: int
    lanes: int


def has_avx512() -> bool:
    """Whether the processor has 32 registers of 512 bits."""
    return "avx512f" in _features()


def has_32_registers() -> bool:
    """Whether it has so many, of whichever length."""
    return bool({"avx512f", "neon"} & _features())


def has_avx2() -> bool:
    """Whether it has 16 registers of 256 bits, and multiplies and adds at once."""
    return {"avx2", "fma"} <= _features()


def shape_of_tile() -> Shape:
    """A tile that leaves some of 32 registers for A and B."""
    return Shape(8, 3, 16 if has_avx512() else 4)


def _features() -> set[str]:
    """Of the processor that numba compiles for: this one, if its variables do not name another.

    Tiles may use no registers but those that numba assumes, whose cache tells processors apart so.
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
    """LLVM's instructions on vectors of so many float32."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder = builder
        self.vector = ir.VectorType(ir.FloatType(), lanes)
        self.lanes = lanes
        name = f"llvm.fmuladd.v{lanes}f32"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def address(self, matrix: list[ir.Value], r: int, v: int) -> Any:
        """Of a tile's vector v in its row r."""
        address, row, _ = matrix
        start = self.builder.add(address, self.builder.mul(row, _I64(r)))
        return self.builder.add(start, _I64(v * self.lanes * _BYTES))

    def load(self, address: ir.Value) -> Any:
        value = self.builder.load(self.builder.inttoptr(address, self.vector.as_pointer()))
        value.align = _BYTES
        return value

    def store(self, value: ir.Value, address: ir.Value) -> None:
        to = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, to).align = _BYTES

    def spread(self, number: ir.Value) -> Any:
        """A number in every lane."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, nothing, zeros)

    def spread_from(self, address: ir.Value) -> Any:
        """The number in memory, in every lane."""
        value = self.builder.load(self.builder.inttoptr(address, ir.FloatType().as_pointer()))
        value.align = _BYTES
        return self.spread(value)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> Any:
        return self.builder.call(self._multiply_add, [a, b, c])

    def expect(self, address: ir.Value) -> None:
        """Have the cache fetch what will be written."""
        pointer = _I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        where = self.builder.inttoptr(address, pointer)
        self.builder.call(fetch, [where, _I32(1), _I32(3), _I32(1)])


def _sums(lines: _Lines, shape: Shape, a, b, count) -> list[list[Any]]:
    """The loop of the module docstring, over ``count`` ≥ 1 values of k: the sums, row by row."""
    builder = lines.builder
    (a_address, a_row, a_k), (b_address, b_k, _) = a, b
    before = builder.block
    loop, after = builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = [builder.phi(_I64) for _ in range(3)]  # k, and where its column of A and row of B are
    sums = [[builder.phi(lines.vector) for _ in range(shape.vectors)] for _ in range(shape.rows)]
    zero = ir.Constant(lines.vector, [0.0] * shape.lanes)
    row_of_b = [lines.load(lines.address([at[2], *b[1:]], 0, v)) for v in range(shape.vectors)]
    new: list[list[Any]] = []
    for r, row in enumerate(sums):
        a_rk = lines.spread_from(builder.add(at[1], builder.mul(a_row, _I64(r))))
        pairs = zip(row_of_b, row, strict=True)
        new.append([lines.multiply_add(a_rk, b_kv, to) for b_kv, to in pairs])
    following = [builder.add(x, step) for x, step in zip(at, (_I64(1), a_k, b_k), strict=True)]
    for phi, first, then in zip(at, (_I64(0), a_address, b_address), following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    for row, changed in zip(sums, new, strict=True):
        for phi, then in zip(row, changed, strict=True):
            phi.add_incoming(zero, before)
            phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following[0], count), loop, after)
    builder.position_at_end(after)
    return new


@cache
@no_type_check  # checks of annotations wrap functions, and numba needs them as they are
def adding_tile(shape: Shape) -> Callable[..., None]:
    """``tile(a, b, count, c, to, scale)``: to ← C + scale · A B."""

    @intrinsic
    def tile(_, a, b, count, c, to, scale):
        def generate(context, builder, _, given):
            a, b, c, to = (cgutils.unpack_tuple(builder, given[i]) for i in (0, 1, 3, 4))
            lines = _Lines(builder, shape.lanes)
            sums = _sums(lines, shape, a, b, given[2])
            scale = lines.spread(given[5])
            for r in range(shape.rows):
                for v in range(shape.vectors):
                    before = lines.load(lines.address(c, r, v))
                    after = lines.multiply_add(sums[r][v], scale, before)
                    lines.store(after, lines.address(to, r, v))
            return context.get_dummy_value()

        return types.void(a, b, types.intp, c, to, types.float32), generate

    return tile


class Coefficients(NamedTuple):
    """g = scale · U + decay W;  M ← keep M + g;  W ← W − rate M − ahead g."""

    scale: float
    keep: float
    decay: float
    rate: float
    ahead: float


@cache
@no_type_check
def descending_tile(shape: Shape) -> Callable[..., None]:
    """``tile(a, b, count, m, w, coefficients)``: the step of ``Coefficients``, where U is A B."""

    @intrinsic
    def tile(_, a, b, count, m, w, coefficients):
        def generate(context, builder, _, given):
            a, b, m, w = (cgutils.unpack_tuple(builder, given[i]) for i in (0, 1, 3, 4))
            lines = _Lines(builder, shape.lanes)
            for matrix in (m, w):
                for r in range(shape.rows):
                    for v in range(shape.vectors):
                        lines.expect(lines.address(matrix, r, v))
            sums = _sums(lines, shape, a, b, given[2])
            numbers = cgutils.unpack_tuple(builder, given[5])
            scale, keep, decay, rate, ahead = map(lines.spread, numbers)
            less_rate, less_ahead = builder.fneg(rate), builder.fneg(ahead)
            for r in range(shape.rows):
                for v in range(shape.vectors):
                    at_m, at_w = lines.address(m, r, v), lines.address(w, r, v)
                    W = lines.load(at_w)
                    g = lines.multiply_add(sums[r][v], scale, builder.fmul(W, decay))
                    M = lines.multiply_add(lines.load(at_m), keep, g)
                    lines.store(M, at_m)
                    W = lines.multiply_add(M, less_rate, W)
                    lines.store(lines.multiply_add(g, less_ahead, W), at_w)
            return context.get_dummy_value()

        return types.void(a, b, types.intp, m, w, coefficients), generate

    return tile
