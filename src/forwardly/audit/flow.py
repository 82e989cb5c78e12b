"""What flows where: which operations carry signals through which weights, and in which direction.

Each value of the graph is followed by what its dimensions mean. A weight W_l has an output index
(its first dimension) and an input index (its second); views, casts, slices, elementwise functions
and products of weights keep them, dimension by dimension. Where such a value meets a signal (what
depends on x or the target) in a product that sums over

    the input index     the synapse carries the signal forward:  W_l a
    the output index    it carries the signal backward:          W_lᵀ δ

What is not known to keep indices apart is taken to mix them, and not to be the weight itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, NamedTuple, cast

import torch
from torch.fx import Node

from forwardly.audit.trace import Traced

aten = torch.ops.aten

Direction = Literal["forward", "backward"]


class Index(NamedTuple):
    """The output ("out") or input ("in") index of a layer's weight."""

    side: str
    layer: int


Indices = frozenset[Index]
_NONE: Indices = frozenset()


@dataclass(frozen=True)
class Made:
    """A value that is made of weights.

    Attributes:
        dims: for each of its dimensions the indices of weights that it runs over.
        exact: whether it is the weight itself (scaled, moved, added to), not a function such as
            its sign.
        signal: whether a signal has been multiplied or added in.
        chain: layers whose weights were multiplied together to make it.
    """

    dims: tuple[Indices, ...]
    exact: bool
    signal: bool
    chain: frozenset[int] = frozenset()

    @property
    def layers(self) -> frozenset[int]:
        """Of which layers."""
        return frozenset(index.layer for dim in self.dims for index in dim)


class Product(NamedTuple):
    """A signal carried through a layer's weight, by one operation."""

    node: Node
    layer: int
    direction: Direction
    exact: bool


@dataclass
class Flow:
    """The followed graph.

    Attributes:
        traced: the graph.
        made: values that are made of weights.
        products: signals through weights, in the graph's order.
        signals: values that depend on x or the target.
        broadcast: values that are the error or the target itself: views of them, casts, and
            elementwise functions of them and of constants.
        feedback: products of a signal with other state: (node, names of the state).
    """

    traced: Traced
    made: dict[Node, Made] = field(default_factory=dict[Node, Made])
    products: list[Product] = field(default_factory=list[Product])
    signals: set[Node] = field(default_factory=set[Node])
    broadcast: set[Node] = field(default_factory=set[Node])
    feedback: dict[Node, frozenset[str]] = field(default_factory=dict[Node, frozenset[str]])


_SAME = {  # the same elements in the same places
    *(aten.clone, aten._to_copy, aten.alias, aten.detach, aten.lift_fresh_copy, aten.contiguous),
    *(aten.lift_fresh, aten.positive),
}
_LINEAR = {aten.mul, aten.div, aten.neg, aten.add, aten.sub, aten.rsub}
_REDUCTIONS = {aten.sum, aten.mean, aten.amax, aten.amin, aten.linalg_vector_norm, aten.var}
_MATRIX_PRODUCTS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2)}
_VECTOR_PRODUCTS = {aten.mv: (0, 1), aten.dot: (0, 1), aten.addmv: (1, 2), aten.vdot: (0, 1)}
_VIEWS = {aten.view, aten._unsafe_view, aten.reshape, aten.view_copy}
_NOT_FLOATING = (torch.int64, torch.int32, torch.bool)


def follow(traced: Traced) -> Flow:
    """Follow all values from the inputs to the results."""
    flow = Flow(traced)
    errors = _same_value(traced, traced.error)
    floating = _feedback_state(traced)
    weights = {traced.state[names[0]]: l for l, names in traced.layers.items()}
    for node in traced.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            _enter(flow, node, weights)
            continue
        if node.op != "call_function":
            continue
        inputs = node.all_input_nodes
        if any(one in flow.signals for one in inputs):
            flow.signals.add(node)
        _broadcast(flow, node, errors)
        if any(one in flow.made for one in inputs):
            _follow(flow, node)
        _note_feedback(flow, node, floating)
    return flow


def _enter(flow: Flow, node: Node, weights: Mapping[Node, int]) -> None:
    traced = flow.traced
    if node in (traced.x, traced.target):
        flow.signals.add(node)
        if node is traced.target:
            flow.broadcast.add(node)
        return
    copied = traced.same_values.get(node)
    if node in weights or copied is not None:
        layer, transposed = (weights[node], False) if node in weights else cast(Any, copied)
        sides = ("in", "out") if transposed else ("out", "in")
        dims = [frozenset({Index(side, layer)}) for side in sides]
        dims += [_NONE] * (_rank(node) - 2)
        flow.made[node] = Made(tuple(dims), True, False)


def _broadcast(flow: Flow, node: Node, errors: set[Node]) -> None:
    """Whether the value is the global signal still: the error, the target, or such as e/n."""
    signals = [one for one in node.all_input_nodes if one in flow.signals]
    local = _packet(node) in _SAME | _VIEWS or _is_view(node) or _pointwise(node)
    unmixed = all(one in flow.broadcast for one in signals) and not any(
        one in flow.made for one in node.all_input_nodes
    )
    if node in errors or (signals and local and unmixed):
        flow.broadcast.add(node)


def _follow(flow: Flow, node: Node) -> None:
    packet = _packet(node)
    if packet in _SAME:
        _keep(flow, node, _made(flow, node.args[0]))
    elif packet is aten.copy:
        _keep(flow, node, _made(flow, node.args[1]))
    elif packet in _MATRIX_PRODUCTS:
        first, second = (cast(Node, node.args[i]) for i in _MATRIX_PRODUCTS[packet])
        rank = _rank(node)
        _product(flow, node, (first, rank - 1), (second, rank - 2))
        _addend(flow, node)
    elif packet in _VECTOR_PRODUCTS:
        first, second = (cast(Node, node.args[i]) for i in _VECTOR_PRODUCTS[packet])
        _product(flow, node, (first, _rank(first) - 1), (second, 0))
        _addend(flow, node)
    elif packet is aten.convolution:
        _convolution(flow, node)
    elif packet is aten.convolution_backward:
        flow.made[node] = _mixed(flow, node)  # told apart where a result is taken, below
    elif node.target.__name__ == "getitem":  # type: ignore[union-attr]
        _item(flow, node)
    elif packet in _REDUCTIONS:
        _reduction(flow, node)
    elif packet in _VIEWS or _is_view(node):
        _view(flow, node)
    elif _pointwise(node):
        _elementwise(flow, node)
    else:
        flow.made[node] = _mixed(flow, node)


def _keep(flow: Flow, node: Node, made: Made | None) -> None:
    if made is not None and any(made.dims):
        flow.made[node] = made


def _product(
    flow: Flow,
    node: Node,
    first: tuple[Node, int],
    second: tuple[Node, int],
) -> None:
    """A product that sums over one dimension of each factor; the others stay, in order."""
    signal = any(factor in flow.signals for factor, _ in (first, second))
    kept: list[Made] = []
    for (factor, dim), (other, _) in ((first, second), (second, first)):
        made = flow.made.get(factor)
        if made is None:
            continue
        summed = made.dims[dim]
        if signal and (other in flow.signals or made.signal):
            _carry(flow, node, made, summed)
            if summed:
                continue
        kept.append(made)
    dims = _product_dims(flow, node, first, second, kept)
    chain = frozenset[int]().union(*(made.chain for made in kept))
    if len(kept) == 2:
        chain = chain.union(*(made.layers for made in kept))
    exact = all(made.exact for made in kept)
    _keep(flow, node, Made(dims, exact, signal, chain) if kept else None)


def _addend(flow: Flow, node: Node) -> None:
    """What addmm and its like add to a product, as by an addition of its own."""
    multiplied = factors(node)
    added = [one for one in node.all_input_nodes if one in flow.made and one not in multiplied]
    if added:
        product = [flow.made[node]] if node in flow.made else []
        _keep(flow, node, _sum(flow, node, [*product, *(flow.made[one] for one in added)]))


def _sum(flow: Flow, node: Node, made: Sequence[Made]) -> Made:
    """Of terms that are broadcast: dimensions are counted from the last."""
    dims: list[Indices] = [_NONE] * _rank(node)
    for one in made:
        for dim, indices in enumerate(reversed(one.dims)):
            dims[-1 - dim] |= indices
    chain = frozenset[int]().union(*(one.chain for one in made))
    return Made(tuple(dims), all(one.exact for one in made), node in flow.signals, chain)


def _product_dims(
    flow: Flow, node: Node, first: tuple[Node, int], second: tuple[Node, int], kept: list[Made]
) -> tuple[Indices, ...]:
    """The indices of a matrix product's dimensions: batch, rows of the first, columns."""
    rank = _rank(node)
    dims: list[Indices] = [_NONE] * rank
    for which, (factor, summed) in enumerate((first, second)):
        made = flow.made.get(factor)
        if made is None or made not in kept:
            continue
        left = [indices for dim, indices in enumerate(made.dims) if dim != summed]
        if not left or not rank:
            continue
        *batch, last = left
        place = rank - 1 if (which == 1 or rank == 1) else rank - 2
        dims[place] |= last
        for dim, indices in enumerate(batch):
            dims[dim] |= indices
    return tuple(dims)


def _carry(flow: Flow, node: Node, made: Made, summed: Iterable[Index]) -> None:
    """Note that a signal goes through the weights whose indices are summed over."""
    sides: dict[int, set[str]] = {}
    for index in summed:
        sides.setdefault(index.layer, set()).add(index.side)
    for layer, found in sides.items():
        for side in sorted(found):
            direction: Direction = "forward" if side == "in" else "backward"
            for one in (layer, *sorted(made.chain - {layer})):  # in one go through all of a chain
                flow.products.append(Product(node, one, direction, made.exact))


def _convolution(flow: Flow, node: Node) -> None:
    image, kernel = cast(Node, node.args[0]), cast(Node, node.args[1])
    transposed = bool(node.args[6])
    # A convolution sums over the kernel's second dimension, a transposed one over its first.
    _product(flow, node, (image, 1), (kernel, 0 if transposed else 1))
    made = flow.made.pop(node, None)
    if made is not None:
        flow.made[node] = _mixed(flow, node)


def _item(flow: Flow, node: Node) -> None:
    source, which = cast(Node, node.args[0]), node.args[1]
    if _packet(source) is not aten.convolution_backward:
        flow.made[node] = _mixed(flow, source)
        return
    gradient, image, kernel = (cast(Node, source.args[i]) for i in range(3))
    if which == 0:  # of the image: the kernel's first dimension is summed over
        made = flow.made.get(kernel)
        if made is not None:
            _carry(flow, node, made, made.dims[0])
        factors = (gradient,)
    else:  # of the kernel: image and gradient, correlated
        factors = (gradient, image)
    if any(factor in flow.made for factor in factors):
        flow.made[node] = _mixed(flow, node, factors)


def _reduction(flow: Flow, node: Node) -> None:
    made = _made(flow, node.args[0])
    if made is None:
        return
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if _packet(node) is aten.linalg_vector_norm:
        given = node.args[2] if len(node.args) > 2 else None
    chosen = [given] if isinstance(given, int) else cast(Sequence[int], given or [])
    rank = len(made.dims)
    reduced = {dim % rank for dim in chosen} or set(range(rank))
    summed = frozenset(index for dim in reduced for index in made.dims[dim])
    left = frozenset(i for d in range(rank) if d not in reduced for i in made.dims[d])
    if made.signal:
        # Summed over one index of a layer while its other stays: the signal has gone through.
        through = {i for i in summed if any(o.layer == i.layer and o.side != i.side for o in left)}
        _carry(flow, node, made, through)
        if through:
            return
    kept = len(node.args) > 2 and node.args[2] is True
    dims = [
        made.dims[d] if d not in reduced else _NONE for d in range(rank) if kept or d not in reduced
    ]
    if len(dims) == _rank(node):
        _keep(flow, node, Made(tuple(dims), False, made.signal, made.chain))
    elif any(made.dims):
        flow.made[node] = _mixed(flow, node)


def _elementwise(flow: Flow, node: Node) -> None:
    made = [flow.made[one] for one in node.all_input_nodes if one in flow.made]
    linear = _packet(node) in _LINEAR
    if _packet(node) in (aten.mul, aten.div):
        others = [one for one in node.all_input_nodes if one not in flow.made]
        # Times a number, or a signal that the product will be summed with; not times other state.
        linear = all(_numel(one) == 1 or one in flow.signals for one in others)
        linear &= len(made) == 1
    total = _sum(flow, node, made)
    _keep(flow, node, replace(total, exact=total.exact and linear))


def _view(flow: Flow, node: Node) -> None:
    source = cast(Node, node.args[0])
    made = flow.made.get(source)
    packet = _packet(node)
    if made is None:
        flow.made[node] = _mixed(flow, node)
        return
    dims = list(made.dims)
    rank = len(dims)
    if packet in (aten.t, aten.numpy_T):
        moved: list[Indices] | None = dims[::-1]
    elif packet is aten.transpose:
        a, b = (int(cast(int, i)) % rank for i in node.args[1:3])
        dims[a], dims[b] = dims[b], dims[a]
        moved = dims
    elif packet is aten.permute:
        moved = [dims[i % rank] for i in cast(Sequence[int], node.args[1])]
    elif packet in (aten.slice, aten.flip, aten.roll, aten.narrow):
        moved = dims
    elif packet in (aten.unsqueeze, aten.squeeze, aten.select, aten.expand, *_VIEWS):
        moved = _reshaped(dims, _shape(source), _shape(node), packet, node)
    else:
        moved = None
    if moved is None or len(moved) != _rank(node):
        flow.made[node] = _mixed(flow, node)
    else:
        _keep(flow, node, Made(tuple(moved), made.exact, made.signal, made.chain))


def _reshaped(
    dims: list[Indices], before: Sequence[int], after: Sequence[int], packet: Any, node: Node
) -> list[Indices] | None:
    if packet is aten.expand:
        return [_NONE] * (len(after) - len(dims)) + dims
    if packet is aten.select:
        gone = int(cast(int, node.args[1])) % len(dims)
        return dims[:gone] + dims[gone + 1 :]
    # Both shapes fall apart into runs of equal size, whose indices belong to all of its dimensions.
    moved: list[Indices] = []
    i = j = 0
    while i < len(before) or j < len(after):
        a, b = i, j
        while True:
            sizes = prod(before[i:a]), prod(after[j:b])
            if sizes[0] == sizes[1] and (a > i or i == len(before)) and (b > j or j == len(after)):
                break
            if sizes[0] <= sizes[1] and a < len(before):
                a += 1
            elif b < len(after):
                b += 1
            else:
                return None
        run: Indices = frozenset(index for dim in dims[i:a] for index in dim)
        moved += [run if after[d] != 1 else _NONE for d in range(j, b)]
        i, j = a, b
    return moved


def _mixed(flow: Flow, node: Node, factors: Sequence[Node] | None = None) -> Made:
    """Of an operation that is not known: any index may be anywhere, and it is not the weight."""
    inputs = node.all_input_nodes if factors is None else factors
    every = frozenset(
        i for one in inputs if one in flow.made for d in flow.made[one].dims for i in d
    )
    rank = max(_rank(node), 1)
    chain = frozenset[int]().union(*(flow.made[one].chain for one in inputs if one in flow.made))
    return Made((every,) * rank, False, node in flow.signals, chain)


def factors(node: Node) -> list[Node]:
    """What a product multiplies, without what it adds; of anything else, all that enters."""
    places = {**_MATRIX_PRODUCTS, **_VECTOR_PRODUCTS}.get(_packet(node))
    if places is None:
        return list(node.all_input_nodes)
    return [cast(Node, node.args[i]) for i in places]


def _note_feedback(flow: Flow, node: Node, floating: Mapping[Node, frozenset[str]]) -> None:
    """Products of a signal with state that is not the model's."""
    own = frozenset(name for one in node.all_input_nodes for name in floating.get(one, ()))
    if own and node in flow.signals:
        flow.feedback[node] = own


def _feedback_state(traced: Traced) -> dict[Node, frozenset[str]]:
    """Values made of nothing but floating-point state outside the model, and of which."""
    made: dict[Node, frozenset[str]] = {}
    for name, node in traced.state.items():
        if not name.startswith("model.") and _dtype(node) not in _NOT_FLOATING:
            made[node] = frozenset({name})
    for node in traced.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(one in made for one in inputs):
            made[node] = frozenset(name for one in inputs for name in made[one])
    return made


def _same_value(traced: Traced, wanted: Node) -> set[Node]:
    """Nodes that compute the same as ``wanted``, or what it is only another view of."""
    numbers: dict[Any, int] = {}
    of: dict[Node, int] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return ("node", of[value])
        if isinstance(value, list | tuple):
            return tuple(plain(one) for one in cast(Sequence[Any], value))
        return repr(value)

    for node in traced.graph.nodes:
        if node.op != "call_function":
            of[node] = numbers.setdefault(("input", node.name), len(numbers))
            continue
        if (_packet(node) in _SAME | _VIEWS or _is_view(node)) and _numel(node) == _numel(
            cast(Node, node.args[0])
        ):
            of[node] = of[cast(Node, node.args[0])]  # the same numbers, seen otherwise
            continue
        key = (str(node.target), plain(node.args), plain(tuple(sorted(node.kwargs.items()))))
        of[node] = numbers.setdefault(key, len(numbers))
    return {node for node, number in of.items() if number == of[wanted] and node.op != "output"}


def _made(flow: Flow, value: Any) -> Made | None:
    return flow.made.get(value) if isinstance(value, Node) else None


def _packet(node: Node) -> Any:
    return getattr(node.target, "overloadpacket", node.target)


def _pointwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _is_view(node: Node) -> bool:
    """Whether the operation only moves elements."""
    return _packet(node) in {
        *(aten.t, aten.transpose, aten.permute, aten.unsqueeze, aten.squeeze, aten.expand),
        *(aten.select, aten.slice, aten.flip, aten.roll, aten.narrow, aten.numpy_T, aten.detach),
    }


def _value(node: Node) -> Any:
    return node.meta.get("val", node.meta.get("tensor_meta"))


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(getattr(_value(node), "shape", ()))


def _rank(node: Node) -> int:
    return len(_shape(node))


def _numel(node: Node) -> int:
    return prod(_shape(node))


def _dtype(node: Node) -> torch.dtype | None:
    return getattr(_value(node), "dtype", None)
