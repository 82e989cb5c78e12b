"""Derivatives and poolings in terms of operations that inference runtimes have.

average pooling      R x Cᵀ, R and C the matrices of its rows and columns; back: Rᵀ δ C
max pooling, back    δ to the largest element of each window, by its index
convolution, back    W: the correlation of a and δ, a convolution with δ as its kernel and the
                     batch as its channels; a: the transposed convolution of δ
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions  # pyright: ignore[reportUnknownVariableType]
from torch.nn import functional
from torch.utils._python_dispatch import (
    _disable_current_modes,  # pyright: ignore[reportPrivateUsage]
)

from forwardly.errors import UsageError

aten: Any = torch.ops.aten
_ONE = torch.ones(1, 1)

_TORCHS_OWN = (
    *("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_functional", "native_layer_norm", "native_layer_norm_backward"),
    *("elu", "elu_backward", "gelu", "gelu_backward", "silu", "silu_backward", "mish"),
    *("mish_backward", "hardswish", "hardswish_backward", "hardsigmoid", "hardsigmoid_backward"),
    *("hardtanh", "hardtanh_backward", "leaky_relu", "leaky_relu_backward", "softplus"),
    *("softplus_backward", "softshrink", "softshrink_backward", "hardshrink"),
    *("hardshrink_backward", "threshold", "threshold_backward", "log_sigmoid_forward"),
    *("log_sigmoid_backward", "_prelu_kernel", "_prelu_kernel_backward", "tanh_backward"),
    *("sigmoid_backward", "nll_loss_forward", "nll_loss_backward", "mse_loss"),
    *("binary_cross_entropy_with_logits", "masked_fill", "addcmul", "rsub", "stack", "unbind"),
    *("_softmax_backward_data", "_log_softmax_backward_data", "std", "new_zeros"),
    *("new_full", "new_ones", "zeros_like", "ones_like", "select_backward", "slice_backward"),
    *("celu", "selu", "special_log1p", "zeros", "ones", "t", "split"),
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """By the operation that each replaces."""
    known = [getattr(aten, name) for name in _TORCHS_OWN if hasattr(aten, name)]
    return {**get_decompositions(known), **_OWN}


def _concrete(make: Callable[[], Tensor]) -> Tensor:
    """A constant of the graph, computed now."""
    with _disable_current_modes():
        return make()


def _matrices(sizes: Sequence[int], pool: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """What a map along each dimension makes of units, (positions out, in)."""

    def matrix(dimension: int, size: int) -> Tensor:
        return _concrete(lambda: pool(torch.eye(size).unsqueeze(1), dimension).squeeze(1).T)

    return [matrix(dimension, size).contiguous() for dimension, size in enumerate(sizes)]


def _between(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """R x Cᵀ of each channel."""
    if columns.numel() > 1:
        x = (x.reshape(-1, x.shape[-1]) @ columns.T).reshape(*x.shape[:-1], len(columns))
    if rows.numel() > 1:
        x = _between(_ONE, x.transpose(-1, -2), rows).transpose(-1, -2)
    return x


def _pair(given: Sequence[int], otherwise: Sequence[int] = ()) -> tuple[int, int]:
    first, *others = given or otherwise
    return first, (others or [first])[0]


def _pooling(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> tuple[Tensor, Tensor]:
    kernels, strides, paddings = _pair(kernel), _pair(stride, kernel), _pair(padding)

    def pool(units: Tensor, i: int) -> Tensor:
        return functional.avg_pool1d(
            units, kernels[i], strides[i], paddings[i], ceil, count_padding
        )

    rows, columns = _matrices([int(size) for size in x.shape[-2:]], pool)
    if divisor is not None:
        raise UsageError(
            "average pooling with divisor_override cannot be exported: leave it out, and scale "
            "what follows"
        )
    return rows, columns


def _average_pool(x: Tensor, *options: Any) -> Tensor:
    rows, columns = _pooling(x, *options)
    return _between(rows, x, columns)


def _average_pool_backward(signal: Tensor, x: Tensor, *options: Any) -> Tensor:
    rows, columns = _pooling(x, *options)
    return _between(rows.T, signal, columns.T)


def _adaptive(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    def pool(units: Tensor, i: int) -> Tensor:
        return functional.adaptive_avg_pool1d(units, sizes[i])

    rows, columns = _matrices([int(size) for size in x.shape[-2:]], pool)
    return rows, columns


def _adaptive_average(x: Tensor, sizes: Sequence[int]) -> Tensor:
    rows, columns = _adaptive(x, sizes)
    return _between(rows, x, columns)


def _adaptive_average_backward(signal: Tensor, x: Tensor) -> Tensor:
    rows, columns = _adaptive(x, [int(size) for size in signal.shape[-2:]])
    return _between(rows.T, signal, columns.T)


def _adaptive_max(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    positions = [int(size) for size in x.shape[-2:]]
    if any(size % out for size, out in zip(positions, sizes, strict=True)):
        raise UsageError(
            f"adaptive max pooling of {tuple(positions)} to {tuple(sizes)} has windows of several "
            "sizes and cannot be exported: choose sizes that divide, or nn.MaxPool2d"
        )
    kernel = [size // out for size, out in zip(positions, sizes, strict=True)]
    return aten.max_pool2d_with_indices(x, kernel, kernel)


def _max_pool_backward(signal: Tensor, x: Tensor, *options: Any) -> Tensor:
    return _to_largest(signal, x, options[-1])


def _adaptive_max_backward(signal: Tensor, x: Tensor, where: Tensor) -> Tensor:
    return _to_largest(signal, x, where)


def _to_largest(signal: Tensor, x: Tensor, where: Tensor) -> Tensor:
    nothing = torch.zeros_like(x).flatten(-2)
    return nothing.scatter_add(-1, where.flatten(-2), signal.flatten(-2)).reshape(x.shape)


def _convolution_backward(
    signal: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    del bias_sizes, output_padding
    for_x = for_weight = for_bias = None
    if wanted[2]:
        for_bias = signal.sum([0, *range(2, signal.dim())])
    if transposed:  # the adjoint of the convolution from the signal's places to those of x
        like = (stride, padding, dilation)
        if wanted[0]:
            none = [0] * len(stride)
            for_x = aten.convolution(signal, weight, None, *like, False, none, groups)
        if wanted[1]:
            for_weight = _correlation(signal, x, weight, *like, groups)
        return for_x, for_weight, for_bias
    spread = [(size - 1) * d + 1 for size, d in zip(weight.shape[2:], dilation, strict=True)]
    if wanted[0]:
        left = [
            int(size) + 2 * p - (int(out) - 1) * s - extent
            for size, p, out, s, extent in zip(
                x.shape[2:], padding, signal.shape[2:], stride, spread, strict=True
            )
        ]
        parts = zip(signal.chunk(groups, 1), weight.chunk(groups), strict=True)
        own = [
            aten.convolution(delta, W, None, stride, padding, dilation, True, left, 1)
            for delta, W in parts
        ]  # of each group by itself: not every runtime's transposed convolution has groups
        for_x = own[0] if groups == 1 else torch.cat(own, 1)
    if wanted[1]:
        for_weight = _correlation(x, signal, weight, stride, padding, dilation, groups)
    return for_x, for_weight, for_bias


def _correlation(
    a: Tensor,
    delta: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Of each group: δ (units, samples · positions) times patches of a, one a place in W."""
    n, channels, *_ = a.shape
    units, out = delta.shape[1], [int(size) for size in delta.shape[2:]]
    sides = [side for end in reversed(padding) for side in (end, end)]
    padded = _pad(a, sides) if any(sides) else a
    patches: list[Tensor] = []
    for place in itertools.product(*(range(int(size)) for size in weight.shape[2:])):
        patch = padded
        for i, (at, size) in enumerate(zip(place, out, strict=True)):
            start = at * dilation[i]
            stop = start + (size - 1) * stride[i] + 1
            patch = aten.slice.Tensor(patch, i + 2, start, stop, stride[i])
        patches.append(patch.flatten(2))
    positions, places = math.prod(out), len(patches)
    each = torch.stack(patches, 2).reshape(n, groups, channels // groups * places, positions)
    pre = each.permute(1, 0, 3, 2).reshape(groups, n * positions, -1)
    post = delta.reshape(n, groups, units // groups, positions).permute(1, 2, 0, 3)
    return torch.bmm(post.reshape(groups, -1, n * positions), pre).reshape(weight.shape)


def _pad(x: Tensor, sides: Sequence[int], value: float = 0) -> Tensor:
    """Torch's own comes to hold for one number of samples."""
    for i, ends in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        dimension, size = x.dim() - 1 - i, x.shape[-1 - i]
        cut = [max(-end, 0) for end in ends]
        if any(cut):
            x = x.narrow(dimension, cut[0], size - sum(cut))
        parts: list[Tensor] = [
            torch.full(
                (*x.shape[:dimension], max(end, 0), *x.shape[dimension + 1 :]),
                value,
                dtype=x.dtype,
            )
            for end in ends
        ]
        if any(end > 0 for end in ends):
            x = torch.cat(
                [part for part in (parts[0], x, parts[1]) if part.shape[dimension]], dimension
            )
    return x


def _mirrored(mode: str, back: bool) -> Callable[..., Tensor]:
    """Padding with what is there already, whose matrix copies positions; or its transpose."""

    def write(x: Tensor, *given: Any) -> Tensor:
        of, sides = (given[0], given[1]) if back else (x, given[0])

        def pad(units: Tensor, i: int) -> Tensor:
            own = sides[len(sides) - 2 - 2 * i : len(sides) - 2 * i]  # the last dimension is first
            return functional.pad(units, tuple(own), mode=mode)

        sizes = [int(size) for size in of.shape[-(len(sides) // 2) :]]
        *rows, columns = _matrices(sizes, pad)
        matrices = [*(rows or [_ONE]), columns]
        first, second = (m.T for m in matrices) if back else matrices
        return _between(first, x, second)

    return write


def _shrink_backward(signal: Tensor, x: Tensor, bound: float) -> Tensor:
    return torch.where(x.abs() <= bound, torch.zeros_like(signal), signal)


def _var_mean(x: Tensor, dims: list[int], **options: Any) -> tuple[Tensor, Tensor]:
    mean = x.mean(dims, keepdim=options.get("keepdim", False))
    return aten.var.correction(x, dims, **options), mean


_OWN: dict[Any, Callable[..., Any]] = {
    aten.reflection_pad1d.default: _mirrored("reflect", back=False),
    aten.reflection_pad2d.default: _mirrored("reflect", back=False),
    aten.reflection_pad1d_backward.default: _mirrored("reflect", back=True),
    aten.reflection_pad2d_backward.default: _mirrored("reflect", back=True),
    aten.replication_pad1d.default: _mirrored("replicate", back=False),
    aten.replication_pad2d.default: _mirrored("replicate", back=False),
    aten.replication_pad1d_backward.default: _mirrored("replicate", back=True),
    aten.replication_pad2d_backward.default: _mirrored("replicate", back=True),
    aten.constant_pad_nd.default: _pad,
    aten.hardshrink_backward.default: _shrink_backward,
    aten.softshrink_backward.default: _shrink_backward,
    aten.var_mean.correction: _var_mean,
    aten.avg_pool2d.default: _average_pool,
    aten.avg_pool2d_backward.default: _average_pool_backward,
    aten._adaptive_avg_pool2d.default: _adaptive_average,
    aten._adaptive_avg_pool2d_backward.default: _adaptive_average_backward,
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.convolution_backward.default: _convolution_backward,
}
