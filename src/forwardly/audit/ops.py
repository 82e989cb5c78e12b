"""What each torch operation does to what is known of values: a table of pure transfer functions.

Each value is followed by what its dimensions mean. A weight W_l has an output index (its first
dimension) and an input index (its second), and what is made of weights runs over some of these in
each of its dimensions. Where it meets a signal (what depends on x or the target) in an operation
that sums over

    the input index     the synapse carries the signal forward:  W_l a
    the output index    it carries the signal backward:          W_lᵀ δ

What is neither in the table nor elementwise by torch's own tag mixes all indices: ``mixed``.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any, Literal, NamedTuple, cast

import torch

aten = torch.ops.aten


class Index(NamedTuple):
    """The input or output index of a layer's weight."""

    layer: int
    side: Literal["in", "out"]


Indices = frozenset[Index]
_NONE: Indices = frozenset()
_NO_LAYERS: frozenset[int] = frozenset()


class Crossing(NamedTuple):
    """A signal's way through a layer's weight or, not ``exact``, through a function of it."""

    layer: int
    direction: Literal["forward", "backward"]
    exact: bool


@dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
        shape: its own.
        dims: for each of its dimensions the indices that it runs over; empty if no weight is in it.
        exact: whether it is the weight itself (scaled, moved, added to), not a function such as
            its sign.
        chain: layers whose weights were multiplied together to make it.
        signal: whether it depends on x or the target.
        broadcast: whether it is the error or the target itself: a view, a cast, or an elementwise
            function of it and of constants.
        crossings: what its operation carried through weights.
        items: the results of an operation that has several.
    """

    shape: tuple[int, ...]
    dims: tuple[Indices, ...] = ()
    exact: bool = False
    chain: frozenset[int] = frozenset()
    signal: bool = False
    broadcast: bool = False
    crossings: tuple[Crossing, ...] = ()
    items: tuple[Value, ...] = ()

    @property
    def layers(self) -> frozenset[int]:
        """Of which layers' weights it is made."""
        return frozenset(index.layer for index in _union(self.dims))


class Call(NamedTuple):
    """An operation: its arguments, with values for tensors; these values; the result's shape."""

    packet: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Value]
    shape: tuple[int, ...]


def weight(shape: tuple[int, ...], layer: int, transposed: bool) -> Value:
    """A layer's weight or its transpose."""
    dims = [frozenset({Index(layer, "out")}), frozenset({Index(layer, "in")})]
    if transposed:
        dims.reverse()
    return Value(shape, (*dims, *[_NONE] * (len(shape) - 2)), exact=True)


def packet_of(target: Any) -> Any:
    """An operation without its overload."""
    return getattr(target, "overloadpacket", target)


def transfer(target: Any) -> Callable[[Call], Value]:
    """The transfer function of an operation."""
    by_tag = elementwise if torch.Tag.pointwise in getattr(target, "tags", ()) else mixed
    return TRANSFERS.get(packet_of(target), by_tag)


def mixed(call: Call, sources: Sequence[Value] | None = None) -> Value:
    """Any index of the sources may be in any dimension, and none is the weight any more."""
    sources = call.inputs if sources is None else sources
    everywhere = _union(indices for source in sources for indices in source.dims)
    return _result(call, [everywhere] * max(len(call.shape), 1), sources, exact=False)


def elementwise(call: Call) -> Value:
    """Indices stay in their dimensions, and what is linear in a single weight keeps it."""
    exact = call.packet in _LINEAR
    if call.packet in (aten.mul, aten.div):
        # Times a number, or a signal that the product will be summed with; not times other state.
        weights = [value for value in call.inputs if value.dims]
        exact = len(weights) == 1 and all(
            value.dims or value.signal or prod(value.shape) == 1 for value in call.inputs
        )
    return replace(_sum(call, call.inputs, exact=exact), broadcast=_is_broadcast(call))


def view(moved: Callable[[Call, list[Indices]], list[Indices]], call: Call) -> Value:
    """The same elements elsewhere: ``moved`` makes the result's dimensions of the source's."""
    source: Value = call.args[0]
    dims = moved(call, list(source.dims)) if source.dims else []
    if source.dims and len(dims) != len(call.shape):
        return mixed(call)
    return replace(_result(call, dims, [source]), broadcast=_is_broadcast(call))


def copy(call: Call) -> Value:
    """The second argument, in the place of the first."""
    source: Value = call.args[1]
    return _result(call, source.dims, [source])


def product(call: Call) -> Value:
    """The matrix product of the last two arguments, and what stands before them added to it."""
    rows, columns = call.args[-2:]
    summed = max(len(columns.shape) - 2, 0)
    dims = [_NONE] * len(call.shape)
    if not (rows.signal or columns.signal):
        # Times a constant, such as unit vectors, the weight runs over its index in another basis.
        if columns.dims and not rows.dims and len(rows.shape) > 1:
            dims[len(rows.shape) - 2] |= columns.dims[summed]
        if rows.dims and not columns.dims and len(columns.shape) > 1:
            dims[-1] |= rows.dims[-1]
    crossings, rows, columns = _contract((rows, len(rows.shape) - 1), (columns, summed))
    for dim, indices in enumerate(rows.dims[:-1]):
        dims[dim] |= indices
    for dim, indices in enumerate(columns.dims):
        if dim != summed:
            dims[dim if dim < summed else -1] |= indices
    result = _result(call, dims, [rows, columns])
    if rows.dims and columns.dims:
        result = replace(result, chain=result.chain | rows.layers | columns.layers)
    if len(call.args) > 2:
        result = _sum(call, [result, call.args[0]])
    return replace(result, crossings=crossings)


def convolution(call: Call) -> Value:
    """Sums over the kernel's second dimension, a transposed one over its first."""
    summed = 0 if call.args[6] else 1
    crossings, image, kernel = _contract((call.args[0], 1), (call.args[1], summed))
    left = *image.dims[:1], *image.dims[2:], *kernel.dims[:summed], *kernel.dims[summed + 1 :]
    return replace(mixed(call, None if any(left) else ()), crossings=crossings)


def convolution_backward(call: Call) -> Value:
    """Gradients: of the image, a sum over the kernel's first dimension; of kernel and bias.

    Of a transposed convolution over its second.
    """
    gradient, image, kernel = call.args[:3]
    summed = 1 if call.args[7] else 0
    if kernel.dims and not gradient.signal and not image.signal:
        # No signal but unit vectors, or weights that were multiplied before: a chain of weights.
        indices = gradient.dims[0] if gradient.dims else kernel.dims[summed]
        dims = [indices, kernel.dims[1 - summed], *[_NONE] * (len(image.shape) - 2)]
        chain = gradient.layers | kernel.layers if gradient.dims else _NO_LAYERS
        made = _result(call._replace(shape=image.shape), dims, [gradient, kernel])
        items = replace(made, chain=made.chain | chain), mixed(call), mixed(call)
        return replace(mixed(call), items=items)
    crossings = _crossings(kernel, kernel.dims[summed]) if kernel.dims else ()
    of_image = mixed(call._replace(shape=image.shape), [gradient])
    of_kernel = mixed(call._replace(shape=kernel.shape), [gradient, image])
    of_bias = mixed(call._replace(shape=kernel.shape[:1]), [gradient, image])
    items = replace(of_image, crossings=crossings), of_kernel, of_bias
    return replace(mixed(call), items=items)


def item(call: Call) -> Value:
    """One of an operation's results."""
    source, which = call.args
    return source.items[which] if source.items else mixed(call)


def reduction(call: Call, place: int = 1) -> Value:
    """A sum, mean or the like over the dimensions that are the argument at ``place``, or all."""
    source: Value = call.args[0]
    given = call.args[place] if len(call.args) > place else call.kwargs.get("dim")
    chosen = [given] if isinstance(given, int) else cast(Sequence[int], given or ())
    rank = len(source.dims)
    reduced = {dim % rank for dim in chosen if rank} or set(range(rank))
    left = _union(dims for dim, dims in enumerate(source.dims) if dim not in reduced)
    # A signal summed over one index of a layer while the other stays has gone through its weight.
    through = frozenset(
        index
        for index in _union(source.dims[dim] for dim in reduced)
        if any(other.layer == index.layer and other.side != index.side for other in left)
    )
    if source.signal and through:
        return replace(mixed(call, ()), crossings=_crossings(source, through))
    dims = [_NONE if dim in reduced else indices for dim, indices in enumerate(source.dims)]
    if len(call.shape) != rank:
        dims = [indices for dim, indices in enumerate(dims) if dim not in reduced]
    return _result(call, dims, [source], exact=False)


def _result(
    call: Call, dims: Sequence[Indices], sources: Sequence[Value], *, exact: bool = True
) -> Value:
    """A value that is as exact as its sources, of no weight if no dimension has an index."""
    signal = any(value.signal for value in call.inputs)
    if not any(dims):
        return Value(call.shape, signal=signal)
    sources = [source for source in sources if source.dims]
    exact = exact and all(source.exact for source in sources)
    chain = frozenset[int]().union(*(source.chain for source in sources))
    return Value(call.shape, tuple(dims), exact, chain, signal)


def _sum(call: Call, terms: Sequence[Value], *, exact: bool = True) -> Value:
    """Of terms that are broadcast: dimensions are counted from the last."""
    dims = [_NONE] * len(call.shape)
    for term in terms:
        for dim, indices in enumerate(reversed(term.dims), start=1):
            dims[-dim] |= indices
    return _result(call, dims, terms, exact=exact)


def _is_broadcast(call: Call) -> bool:
    """Whether the global signal, and no other, comes out of an operation that does not mix."""
    signals = [value for value in call.inputs if value.signal]
    no_weight = not any(value.dims for value in call.inputs)
    return bool(signals) and no_weight and all(value.broadcast for value in signals)


def _contract(
    *factors: tuple[Value, int],
) -> tuple[tuple[Crossing, ...], Value, Value]:
    """Sum over a dimension of each factor; one that a signal crosses is made of weights no more."""
    crossings: tuple[Crossing, ...] = ()
    left: list[Value] = []
    for value, dim in factors:
        summed = value.dims[dim] if value.dims else _NONE
        if summed and any(factor.signal for factor, _ in factors):
            crossings += _crossings(value, summed)
            value = Value(value.shape)
        left.append(value)
    return crossings, left[0], left[1]


def _crossings(value: Value, summed: Indices) -> tuple[Crossing, ...]:
    """Through the weights whose indices are summed over, and through all of a chain with them."""
    return tuple(
        Crossing(layer, "forward" if index.side == "in" else "backward", value.exact)
        for index in sorted(summed)
        for layer in (index.layer, *sorted(value.chain - {index.layer}))
    )


def _reshaped(call: Call, dims: list[Indices]) -> list[Indices]:
    """Dimensions mix between places that have as many elements before them in both shapes."""
    before, after = call.args[0].shape, call.shape
    cuts = sorted({*accumulate(before, operator.mul)} & {*accumulate(after, operator.mul)})

    def runs(shape: tuple[int, ...]) -> list[int]:
        starts = accumulate(shape[:-1], operator.mul, initial=1) if shape else ()
        return [bisect_right(cuts, start) for start in starts]

    old = runs(before)
    return [
        _NONE if size == 1 else _union(dims[i] for i, other in enumerate(old) if other == run)
        for run, size in zip(runs(after), call.shape, strict=True)
    ]


def _swapped(call: Call, dims: list[Indices]) -> list[Indices]:
    a, b = call.args[1:3]
    dims[a], dims[b] = dims[b], dims[a]
    return dims


def _union(sets: Iterable[Indices]) -> Indices:
    return _NONE.union(*sets)


SUMS = {aten.add, aten.sub, aten.rsub}
_LINEAR = {aten.mul, aten.div, aten.neg} | SUMS
_MOVES: tuple[tuple[Callable[[Call, list[Indices]], list[Indices]], tuple[Any, ...]], ...] = (
    (
        lambda _, dims: dims,
        (
            *(aten.clone, aten._to_copy, aten.alias, aten.detach, aten.lift_fresh_copy),
            *(aten.contiguous, aten.lift_fresh, aten.positive),
            *(aten.slice, aten.flip, aten.roll, aten.narrow),
        ),
    ),
    (lambda _, dims: dims[::-1], (aten.t, aten.numpy_T)),
    (_swapped, (aten.transpose,)),
    (lambda call, dims: [dims[i] for i in call.args[1]], (aten.permute,)),
    (lambda call, dims: [_NONE] * (len(call.shape) - len(dims)) + dims, (aten.expand,)),
    (lambda call, dims: dims[: call.args[1]] + dims[call.args[1] :][1:], (aten.select,)),
    (_reshaped, (aten.view, aten._unsafe_view, aten.reshape, aten.view_copy)),
    (_reshaped, (aten.unsqueeze, aten.squeeze)),
)
VIEWS: dict[Any, Callable[[Call], Value]] = {
    packet: partial(view, moved) for moved, packets in _MOVES for packet in packets
}
"""Operations that only move elements."""

MATRIX_PRODUCTS = dict.fromkeys(
    (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot, aten.vdot), product
)
"""Operations that multiply their last two arguments."""

PRODUCTS: dict[Any, Callable[[Call], Value]] = {
    **MATRIX_PRODUCTS,
    aten.convolution: convolution,
    aten.convolution_backward: convolution_backward,
}
"""Operations that multiply and sum."""

TRANSFERS: dict[Any, Callable[[Call], Value]] = {
    **VIEWS,
    **PRODUCTS,
    **dict.fromkeys((aten.sum, aten.mean, aten.amax, aten.amin, aten.var), reduction),
    aten.linalg_vector_norm: partial(reduction, place=2),
    aten.copy: copy,
    operator.getitem: item,
}
"""For each operation that is not elementwise, what it does."""
