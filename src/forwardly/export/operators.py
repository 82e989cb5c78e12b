"""Each of torch's core operations as ONNX operators of opset 18.

A function takes the writer and the node of the graph, and gives the name of its value (of several
values, their names). Numbers are of the type of the node's own value, to which torch promotes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from forwardly.errors import UsageError

aten: Any = torch.ops.aten
_prims: Any = torch.ops.prims
_sizes: Any = operator
_torch: Any = torch
Names = str | list[str]
_INT64 = torch.int64


@runtime_checkable
class Writer(Protocol):
    """What writes a graph; see ``forwardly.export.model``."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator, and give its value's name."""
        ...

    def constant(self, value: Any, dtype: torch.dtype) -> str:
        """The name of a constant tensor."""
        ...

    def get(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        """The name of the value of a node, or of a number, in a type."""
        ...

    def part(self, node: Node, index: int) -> str:
        """The name of one of a node's several values."""
        ...


def val(node: Any) -> Any:
    """What a node's value is like: a tensor without values, or a symbolic number."""
    return node.meta["val"] if isinstance(node, Node) else node


def _dtype(argument: Any) -> torch.dtype:
    value = val(argument)
    if isinstance(value, Tensor):
        return value.dtype
    if isinstance(value, (bool, torch.SymBool)):
        return torch.bool
    return _INT64 if isinstance(value, (int, torch.SymInt)) else torch.float32


def _shape(w: Writer, sizes: Sequence[Any]) -> str:
    """Sizes as a tensor; in those of a reshape one symbol may stand as −1."""
    if all(isinstance(size, int) for size in sizes):
        return w.constant(list(sizes), _INT64)
    one = w.constant([1], _INT64)
    parts = [
        w.constant([size], _INT64)
        if isinstance(size, int)
        else w.op("Reshape", w.get(size, _INT64), one)
        for size in sizes
    ]
    return w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def _sizes_of(w: Writer, node: Any) -> str:
    """The shape of a value as a tensor."""
    shape = val(node).shape
    if all(isinstance(size, int) for size in shape):
        return w.constant(list(shape), _INT64)
    return w.op("Shape", w.get(node))


def _reshape(w: Writer, node: Node) -> str:
    x = node.args[0]
    sizes = [size if isinstance(size, int) else None for size in val(node).shape]
    if sizes.count(None) == 1 and 0 not in sizes:
        return w.op("Reshape", w.get(x), w.constant([s or -1 for s in sizes], _INT64))
    if None not in sizes:
        return w.op("Reshape", w.get(x), w.constant(sizes, _INT64))
    wanted: Any = node.args[1]
    return w.op("Reshape", w.get(x), _shape(w, wanted))


def _promoted(arguments: Sequence[Any]) -> torch.dtype:
    """The type in which arguments are compared."""
    kinds = [_dtype(a) for a in arguments]
    tensors = [_dtype(a) for a in arguments if isinstance(val(a), Tensor)]
    if any(kind.is_floating_point for kind in tensors):
        return next(kind for kind in tensors if kind.is_floating_point)
    found = kinds[0]
    for kind in kinds[1:]:
        found = torch.promote_types(found, kind)
    return found


def _elementwise(kind: str) -> Callable[[Writer, Node], str]:
    """Of one tensor, or of two with a factor ``alpha`` of the second."""

    def write(w: Writer, node: Node) -> str:
        dtype = _dtype(node)
        names = [w.get(a, dtype) for a in node.args]
        alpha: Any = node.kwargs.get("alpha", 1)
        if alpha != 1:
            names[1] = w.op("Mul", names[1], w.constant(alpha, dtype))
        return w.op(kind, *names)

    return write


def _comparison(kind: str, negated: bool = False) -> Callable[[Writer, Node], str]:
    def write(w: Writer, node: Node) -> str:
        dtype = _promoted(node.args)
        found = w.op(kind, *(w.get(a, dtype) for a in node.args))
        return w.op("Not", found) if negated else found

    return write


def _bits(kind: str) -> Callable[[Writer, Node], str]:
    """Of truth values, or of the bits of integers."""

    def write(w: Writer, node: Node) -> str:
        dtype = _dtype(node)
        names = [w.get(a, dtype) for a in node.args]
        return w.op(kind if dtype == torch.bool else f"Bitwise{kind}", *names)

    return write


def _shift_right(w: Writer, node: Node) -> str:
    """Of integers, keeping the sign, which ONNX's own does not know: ⌊x / 2ᵏ⌋, exactly."""
    by: Any = node.args[1]
    x, power = w.get(node.args[0], _INT64), w.constant(2**by, _INT64)
    return w.op("Div", w.op("Sub", x, w.op("Mod", x, power)), power)


def _shift_left(w: Writer, node: Node) -> str:
    by: Any = node.args[1]
    return w.op("Mul", w.get(node.args[0], _INT64), w.constant(2**by, _INT64))


def _chain(*kinds: str) -> Callable[[Writer, Node], str]:
    def write(w: Writer, node: Node) -> str:
        name = w.get(node.args[0], _dtype(node))
        for kind in kinds:
            name = w.op(kind, name)
        return name

    return write


def _same(w: Writer, node: Node) -> str:
    return w.get(node.args[0])


def _cast(w: Writer, node: Node) -> str:
    return w.get(node.args[0], _dtype(node))


def _log1p(w: Writer, node: Node) -> str:
    dtype = _dtype(node)
    return w.op("Log", w.op("Add", w.get(node.args[0], dtype), w.constant(1, dtype)))


def _expm1(w: Writer, node: Node) -> str:
    dtype = _dtype(node)
    return w.op("Sub", w.op("Exp", w.get(node.args[0], dtype)), w.constant(1, dtype))


def _power(w: Writer, node: Node) -> str:
    x, exponent = node.args
    name = w.get(x, _dtype(node))
    if exponent == 2:
        return w.op("Mul", name, name)
    if exponent == 3:
        return w.op("Mul", w.op("Mul", name, name), name)
    return w.op("Pow", name, w.get(exponent, _dtype(node)))


def _clamp(w: Writer, node: Node) -> str:
    x, *ends = node.args
    low, high = ([*ends, None, None])[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    name, dtype = w.get(x), _dtype(node)
    if low is not None:
        name = w.op("Max", name, w.get(low, dtype))
    return name if high is None else w.op("Min", name, w.get(high, dtype))


def _clamp_max(w: Writer, node: Node) -> str:
    x, high = node.args
    return w.op("Min", w.get(x), w.get(high, _dtype(node)))


def _where(w: Writer, node: Node) -> str:
    condition, *others = node.args
    dtype = _dtype(node)
    return w.op("Where", w.get(condition, torch.bool), *(w.get(a, dtype) for a in others))


def _matmul(w: Writer, node: Node) -> str:
    return w.op("MatMul", *map(w.get, node.args))


def _mm(w: Writer, node: Node) -> str:
    a, b = map(_unturned, node.args)
    if a is node.args[0] and b is node.args[1]:
        return _matmul(w, node)
    return _gemm(w, node)


def _addmm(w: Writer, node: Node) -> str:
    scales: dict[str, Any] = {n: float(node.kwargs.get(n, 1)) for n in ("alpha", "beta")}  # pyright: ignore
    return _gemm(w, node, w.get(node.args[0]), **scales)


def _gemm(w: Writer, node: Node, *to: str, alpha: float = 1.0, beta: float = 1.0) -> str:
    """The product of a node's last two arguments, transposed ones as they lie, added to another."""
    given = node.args[-2:]
    plain = [_unturned(a) for a in given]
    turned = [int(a is not b) for a, b in zip(plain, given, strict=True)]
    scales: dict[str, Any] = {"alpha": alpha, "beta": beta}
    return w.op("Gemm", *map(w.get, plain), *to, transA=turned[0], transB=turned[1], **scales)


def _unturned(argument: Any) -> Any:
    """What a matrix is the transpose of; itself if it is not one."""
    is_turned = isinstance(argument, Node) and (
        argument.target is aten.t.default
        or (argument.target is aten.permute.default and list(argument.args[1]) == [1, 0])  # pyright: ignore
        or (argument.target is aten.transpose.int and val(argument).dim() == 2)
    )
    return argument.args[0] if is_turned else argument


def _mul(w: Writer, node: Node) -> str:
    plain = _without_ones(node)
    return _product(w, node) if plain is node else w.get(plain)


def _add(w: Writer, node: Node) -> str:
    """A sum; of a matrix, or some times it, and a product of matrices by one operator."""
    arguments = [_without_ones(a) for a in node.args]
    for to, product in (arguments, arguments[::-1]):
        if node.kwargs or not _is_product(product) or not _is_like(to, product):
            continue
        factor: Any = 1
        if to.target in _MULTIPLIED and not isinstance(to.args[1], Node):
            to, factor = to.args
        return _gemm(w, product, w.get(to), beta=float(factor))
    return _sum(w, node)


_MULTIPLIED = (aten.mul.Tensor, aten.mul.Scalar)


def _without_ones(argument: Any) -> Any:
    """What is multiplied by one."""
    while isinstance(argument, Node) and argument.target in _MULTIPLIED:
        a, b = argument.args
        if isinstance(b, Node) or b != 1 or _dtype(a) != _dtype(argument):
            break
        argument = a
    return argument


def _is_product(argument: Any) -> bool:
    """Whether it is a product of matrices that nothing else needs."""
    return (
        isinstance(argument, Node)
        and argument.target is aten.mm.default
        and len(argument.users) == 1
    )


def _is_like(argument: Any, product: Node) -> bool:
    """Whether it is a matrix of the product's shape, which does not hang on the batch, and type."""
    if not isinstance(argument, Node) or not isinstance(val(argument), Tensor):
        return False
    sizes = [*val(argument).shape, *val(product).shape]
    return (
        all(isinstance(size, int) for size in sizes)
        and sizes[: len(sizes) // 2] == sizes[len(sizes) // 2 :]
        and _dtype(argument) == _dtype(product)
    )


def _permute(w: Writer, node: Node) -> str:
    dims: Any = node.args[1]
    rank = len(dims)
    return w.op("Transpose", w.get(node.args[0]), perm=[d % rank for d in dims])


def _transpose(w: Writer, node: Node) -> str:
    rank = val(node).dim()
    order = list(range(rank))
    first, second = (int(d) % rank for d in node.args[1:])  # pyright: ignore
    order[first], order[second] = second, first
    return w.op("Transpose", w.get(node.args[0]), perm=order)


def _turned(w: Writer, node: Node) -> str:
    rank = val(node).dim()
    return w.op("Transpose", w.get(node.args[0]), perm=[*range(rank)][::-1])


def _expand(w: Writer, node: Node) -> str:
    x, sizes, *_ = node.args
    own: Any = sizes
    shape = val(node).shape
    given = [
        1 if isinstance(size, int) and size == -1 else size for size in own
    ]  # −1 keeps a size, as 1 does in ONNX
    if [*val(x).shape] == [*shape]:
        return w.get(x)
    return w.op("Expand", w.get(x), _shape(w, given))


def _broadcast(w: Writer, node: Node) -> str:
    x, sizes, dims = node.args
    shape: Any = sizes
    places: Any = dims
    missing = [i for i in range(len(shape)) if i not in places]
    name = w.get(x)
    if missing:
        name = w.op("Unsqueeze", name, w.constant(missing, _INT64))
    return w.op("Expand", name, _shape(w, shape))


def _slice(w: Writer, node: Node) -> str:
    x, dim, start, end, step = (*node.args, *(None, 0, 0, None, 1)[len(node.args) :])
    ends = 2**62 if end is None else end
    axis: Any = dim
    if start in (0, None) and isinstance(ends, int) and ends >= 2**31 and step == 1:
        return w.get(x)
    bounds = [_shape(w, [one]) for one in (0 if start is None else start, ends)]
    axes = [w.constant([axis % val(x).dim()], _INT64), w.constant([step], _INT64)]
    return w.op("Slice", w.get(x), *bounds, *axes)


def _select(w: Writer, node: Node) -> str:
    x, dim, index = node.args
    axis: Any = dim
    return w.op("Gather", w.get(x), w.get(index, _INT64), axis=axis % val(x).dim())


def _index_select(w: Writer, node: Node) -> str:
    x, dim, index = node.args
    axis: Any = dim
    return w.op("Gather", w.get(x), w.get(index), axis=axis % val(x).dim())


def _cat(w: Writer, node: Node) -> str:
    parts: Any = node.args[0]
    axis: Any = (*node.args, 0)[1]
    dtype = _dtype(node)
    return w.op("Concat", *(w.get(part, dtype) for part in parts), axis=axis % val(node).dim())


def _split(w: Writer, node: Node) -> list[str]:
    x, sizes, *rest = node.args
    lengths: Any = sizes
    axis: Any = (rest or [0])[0]
    axes = w.constant([axis % val(x).dim()], _INT64)
    ends = _running(w, lengths)
    return [
        w.op("Slice", w.get(x), start, end, axes, w.constant([1], _INT64))
        for start, end in pairwise(ends)
    ]


def _running(w: Writer, lengths: Sequence[Any]) -> list[str]:
    """0 and the sums of the first one, two, … lengths, as tensors of one element."""
    if all(isinstance(length, int) for length in lengths):
        return [w.constant([sum(lengths[:i])], _INT64) for i in range(len(lengths) + 1)]
    ends = [w.constant([0], _INT64)]
    for length in lengths:
        ends.append(w.op("Add", ends[-1], _shape(w, [length])))
    return ends


def _unsqueeze(w: Writer, node: Node) -> str:
    dim: Any = node.args[1]
    return w.op("Unsqueeze", w.get(node.args[0]), w.constant([dim % val(node).dim()], _INT64))


def _squeeze(w: Writer, node: Node) -> str:
    x, dims = node.args
    given: Any = dims
    rank = val(x).dim()
    chosen = [d % rank for d in ([given] if isinstance(given, int) else given)]
    ones = [d for d in chosen if val(x).shape[d] == 1]
    return w.op("Squeeze", w.get(x), w.constant(ones, _INT64)) if ones else w.get(x)


def _reduction(kind: str) -> Callable[[Writer, Node], str]:
    def write(w: Writer, node: Node) -> str:
        x, *rest = node.args
        given: Any = (rest or [None])[0]
        keep = bool((*rest, False, False)[1])
        rank = val(x).dim()
        chosen = range(rank) if given in (None, []) else given
        axes = [d % rank for d in ([chosen] if isinstance(chosen, int) else chosen)]
        name = w.get(x, _dtype(node))
        if not axes:
            return name
        if kind == "ReduceMax":  # whose axes are an attribute until opset 18
            return w.op(kind, name, w.constant(axes, _INT64), keepdims=int(keep))
        return w.op(kind, name, w.constant(axes, _INT64), keepdims=int(keep))

    return write


def _variance(w: Writer, node: Node) -> str:
    x, *rest = node.args
    given: Any = (rest or [None])[0]
    correction: Any = node.kwargs.get("correction", 1)
    keep = bool(node.kwargs.get("keepdim", False))
    rank, dtype = val(x).dim(), _dtype(node)
    axes = [d % rank for d in (range(rank) if given in (None, []) else given)]
    at, name = w.constant(axes, _INT64), w.get(x)
    centred = w.op("Sub", name, w.op("ReduceMean", name, at, keepdims=1))
    squares = w.op("Mul", centred, centred)
    if not correction:
        return w.op("ReduceMean", squares, at, keepdims=int(keep))
    sizes = w.op("Gather", w.op("Shape", name), at, axis=0)
    count = w.op("Cast", w.op("ReduceProd", sizes, keepdims=0), to=dtype)
    fewer = w.op("Sub", count, w.constant(correction, dtype))
    return w.op("Div", w.op("ReduceSum", squares, at, keepdims=int(keep)), fewer)


def _max(w: Writer, node: Node) -> list[str]:
    x, dim, *rest = node.args
    given: Any = dim
    keep = int(bool((rest or [False])[0]))
    axis, name = given % val(x).dim(), w.get(x)
    largest = w.op("ReduceMax", name, w.constant([axis], _INT64), keepdims=keep)
    return [largest, w.op("ArgMax", name, axis=axis, keepdims=keep)]


def _argmax(w: Writer, node: Node) -> str:
    x, dim, *rest = node.args
    given: Any = dim
    keep = int(bool((rest or [False])[0]))
    return w.op("ArgMax", w.get(x), axis=given % val(x).dim(), keepdims=keep)


def _along(kind: str) -> Callable[[Writer, Node], str]:
    def write(w: Writer, node: Node) -> str:
        dim: Any = node.args[1]
        return w.op(kind, w.get(node.args[0], _dtype(node)), axis=dim % val(node).dim())

    return write


def _gather(w: Writer, node: Node) -> str:
    x, dim, index = node.args[:3]
    axis: Any = dim
    return w.op("GatherElements", w.get(x), w.get(index), axis=axis % val(x).dim())


def _scatter_add(w: Writer, node: Node) -> str:
    x, dim, index, source = node.args
    axis: Any = dim
    names = w.get(x), w.get(index), w.get(source)
    return w.op("ScatterElements", *names, axis=axis % val(x).dim(), reduction="add")


def _full(w: Writer, node: Node) -> str:
    sizes, value = node.args[:2]
    shape: Any = sizes
    scalar = w.get(value, _dtype(node))
    return w.op("Expand", scalar, _shape(w, shape)) if len(shape) else scalar


def _full_like(w: Writer, node: Node) -> str:
    x: Any = node.args[0]
    value = node.args[1] if len(node.args) > 1 else 0  # of what is empty any will do
    scalar = w.get(value, _dtype(node))
    return w.op("Expand", scalar, _sizes_of(w, x)) if val(node).dim() else scalar


def _scalar(w: Writer, node: Node) -> str:
    return w.get(node.args[0], _dtype(node))


def _arange(w: Writer, node: Node) -> str:
    dtype = _dtype(node)
    start, end = (0, *node.args)[-2:] if len(node.args) < 3 else node.args[:2]
    step: Any = node.args[2] if len(node.args) > 2 else 1
    if all(isinstance(a, (int, float)) for a in (start, end)):
        own: Any = (start, end)
        return w.constant(np.arange(own[0], own[1], step), dtype)
    return w.op("Range", w.get(start, dtype), w.get(end, dtype), w.constant(step, dtype))


def _eye(w: Writer, node: Node) -> str:
    sizes: Any = node.args
    return w.constant(np.eye(*sizes), _dtype(node))


def _convolution(w: Writer, node: Node) -> str:
    arguments: Any = node.args
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = arguments
    own: dict[str, Any] = {
        "strides": stride,
        "dilations": dilation,
        "pads": [*padding, *padding],
        "group": groups,
    }
    names = [w.get(x), w.get(weight), *([] if bias is None else [w.get(bias)])]
    if transposed:
        return w.op("ConvTranspose", *names, output_padding=output_padding, **own)
    return w.op("Conv", *names, **own)


def _max_pool(w: Writer, node: Node) -> list[str]:
    """The largest of each window, and where it is, if anybody asks."""
    x, kernel, *rest = node.args
    given: Any = kernel
    rank = len(given)
    defaults = (given, [0] * rank, [1] * rank, False)
    options: Any = (*rest, *defaults[len(rest) :])
    stride, padding, dilation = (
        list(o) * (rank // len(o)) if len(o) else given for o in options[:3]
    )
    ceil = bool(options[3])
    sizes, out = val(x).shape[-rank:], val(node)[0].shape[-rank:]
    # Windows that begin within the padding at the end count if torch says so: pads make them fit.
    ends = [
        max((o - 1) * s + (k - 1) * d + 1 - size - p, p if not ceil else 0)
        for o, s, k, d, size, p in zip(out, stride, given, dilation, sizes, padding, strict=True)
    ]
    if not any(user.args[1] == 1 for user in node.users if user.target is operator.getitem):
        options = {"strides": stride, "dilations": dilation, "pads": [*padding, *ends]}
        return [w.op("MaxPool", w.get(x), kernel_shape=given, **options)]
    return _largest(w, node, given, stride, padding, dilation, ends)


def _largest(
    w: Writer,
    node: Node,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ends: Sequence[int],
) -> list[str]:
    """By comparing the elements of windows, each shifted copy of x with the others."""
    x: Any = node.args[0]
    dtype, rank = val(x).dtype, len(kernel)
    extra, out = val(x).dim() - rank, [int(o) for o in val(node)[0].shape[-rank:]]
    sides = w.constant([*[0] * extra, *padding, *[0] * extra, *ends], _INT64)
    padded = w.op("Pad", w.get(x), sides, w.constant(-np.inf, dtype), mode="constant")
    axes = w.constant([*range(extra, extra + rank)], _INT64)
    steps, new = w.constant(list(stride), _INT64), w.constant([extra], _INT64)
    shifted, places = list[str](), list[np.ndarray[Any, Any]]()
    sizes = [int(size) for size in val(x).shape[-rank:]]
    for offset in np.ndindex(*kernel):
        starts = [o * d for o, d in zip(offset, dilation, strict=True)]
        stops = [a + (n - 1) * s + 1 for a, n, s in zip(starts, out, stride, strict=True)]
        bounds = w.constant(starts, _INT64), w.constant(stops, _INT64)
        part = w.op("Slice", padded, *bounds, axes, steps)
        shifted.append(w.op("Unsqueeze", part, new))
        at = [
            np.arange(n) * s + a - p
            for a, n, s, p in zip(starts, out, stride, padding, strict=True)
        ]
        grid = np.meshgrid(*at, indexing="ij")
        place = np.zeros(out, dtype=np.int64)
        for size, along in zip(sizes, grid, strict=True):
            place = place * size + along
        places.append(place)
    stacked = w.op("Concat", *shifted, axis=extra)
    largest = w.op("ReduceMax", stacked, w.constant([extra], _INT64), keepdims=0)
    which = w.op("ArgMax", stacked, axis=extra, keepdims=0)
    base = w.constant(places[0], _INT64)
    steps_to = w.constant([int((p - places[0]).flat[0]) for p in places], _INT64)
    return [largest, w.op("Add", base, w.op("Gather", steps_to, which, axis=0))]


def _size(w: Writer, node: Node) -> str:
    x, dim = node.args
    axis: Any = dim
    return w.op("Gather", w.op("Shape", w.get(x)), w.constant(axis % val(x).dim(), _INT64), axis=0)


def _count(w: Writer, node: Node) -> str:
    return w.op("Size", w.get(node.args[0]))


def _arithmetic(kind: str) -> Callable[[Writer, Node], str]:
    """Of sizes."""

    def write(w: Writer, node: Node) -> str:
        dtype = _dtype(node)
        return w.op(kind, *(w.get(a, dtype) for a in node.args))

    return write


def _item(w: Writer, node: Node) -> str:
    whole, index = node.args
    at: Any = index
    return w.part(whole, at)  # pyright: ignore[reportArgumentType]


def unknown(node: Node) -> UsageError:
    """That an operation has no ONNX form here."""
    return UsageError(
        f"the step needs torch's operation {node.target}, of which no ONNX form is known: leave "
        "out the module that brings it, or ask for it in an issue"
    )


_sum, _product = _elementwise("Add"), _elementwise("Mul")

OPERATORS: dict[Any, Callable[[Writer, Node], Names]] = {
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _elementwise("Sub"),
    aten.sub.Scalar: _elementwise("Sub"),
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _elementwise("Div"),
    aten.div.Scalar: _elementwise("Div"),
    aten.remainder.Scalar: _elementwise("Mod"),
    aten.remainder.Tensor: _elementwise("Mod"),
    aten.maximum.default: _elementwise("Max"),
    aten.minimum.default: _elementwise("Min"),
    aten.pow.Tensor_Scalar: _power,
    aten.eq.Tensor: _comparison("Equal"),
    aten.eq.Scalar: _comparison("Equal"),
    aten.ne.Tensor: _comparison("Equal", negated=True),
    aten.ne.Scalar: _comparison("Equal", negated=True),
    aten.gt.Tensor: _comparison("Greater"),
    aten.gt.Scalar: _comparison("Greater"),
    aten.ge.Tensor: _comparison("GreaterOrEqual"),
    aten.ge.Scalar: _comparison("GreaterOrEqual"),
    aten.lt.Tensor: _comparison("Less"),
    aten.lt.Scalar: _comparison("Less"),
    aten.le.Tensor: _comparison("LessOrEqual"),
    aten.le.Scalar: _comparison("LessOrEqual"),
    aten.bitwise_and.Tensor: _bits("And"),
    aten.bitwise_and.Scalar: _bits("And"),
    aten.bitwise_xor.Tensor: _bits("Xor"),
    aten.bitwise_right_shift.Tensor_Scalar: _shift_right,
    aten.__rshift__.Scalar: _shift_right,
    aten.bitwise_left_shift.Tensor_Scalar: _shift_left,
    aten.__lshift__.Scalar: _shift_left,
    aten.__and__.Scalar: _bits("And"),
    aten.__xor__.Tensor: _bits("Xor"),
    aten.logical_and.default: _elementwise("And"),
    aten.bitwise_or.Tensor: _elementwise("Or"),
    aten.logical_or.default: _elementwise("Or"),
    aten.bitwise_not.default: _elementwise("Not"),
    aten.logical_not.default: _elementwise("Not"),
    aten.abs.default: _chain("Abs"),
    aten.neg.default: _chain("Neg"),
    aten.sign.default: _chain("Sign"),
    aten.exp.default: _chain("Exp"),
    aten.expm1.default: _expm1,
    aten.log.default: _chain("Log"),
    aten.log1p.default: _log1p,
    aten.sqrt.default: _chain("Sqrt"),
    aten.rsqrt.default: _chain("Sqrt", "Reciprocal"),
    aten.reciprocal.default: _chain("Reciprocal"),
    aten.relu.default: _chain("Relu"),
    aten.tanh.default: _chain("Tanh"),
    aten.sigmoid.default: _chain("Sigmoid"),
    aten.erf.default: _chain("Erf"),
    aten.cos.default: _chain("Cos"),
    aten.sin.default: _chain("Sin"),
    aten.floor.default: _chain("Floor"),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp_max,
    aten.where.self: _where,
    aten._to_copy.default: _cast,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.mm.default: _mm,
    aten.bmm.default: _matmul,
    aten.addmm.default: _addmm,
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _turned,
    aten.expand.default: _expand,
    _prims.broadcast_in_dim.default: _broadcast,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index_select.default: _index_select,
    aten.cat.default: _cat,
    aten.split_with_sizes.default: _split,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.sum.default: _reduction("ReduceSum"),
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.mean.default: _reduction("ReduceMean"),
    aten.mean.dim: _reduction("ReduceMean"),
    aten.amax.default: _reduction("ReduceMax"),
    aten.var.correction: _variance,
    aten.max.dim: _max,
    aten.argmax.default: _argmax,
    aten._softmax.default: _along("Softmax"),
    aten._log_softmax.default: _along("LogSoftmax"),
    aten.gather.default: _gather,
    aten.scatter_add.default: _scatter_add,
    aten.full.default: _full,
    aten.full_like.default: _full_like,
    aten.empty_like.default: _full_like,
    aten.fill.Scalar: _full_like,
    aten.scalar_tensor.default: _scalar,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.eye.default: _eye,
    aten.convolution.default: _convolution,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.sym_size.int: _size,
    aten.sym_numel.default: _count,
    _torch.sym_float: _scalar,
    operator.add: _arithmetic("Add"),
    operator.sub: _arithmetic("Sub"),
    operator.mul: _arithmetic("Mul"),
    _sizes.truediv: _arithmetic("Div"),
    _sizes.floordiv: _arithmetic("Div"),
    operator.getitem: _item,
}
"""By operation."""
