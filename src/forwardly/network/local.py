"""The derivatives of single modules, which is all that a local rule needs of calculus.

    derivative of a normalisation's scale, tangents (forward mode) and vector–Jacobian products

Torch's own modules have closed forms (those of activations stand in ``activations``): a handful of
tensor operations that batch, export and compile wherever the module itself does. Modules that a
user has altered are differentiated automatically; see ``alterations``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.nn import functional

from forwardly.checks import check_not_exported
from forwardly.network.kinds import INSTANCE_NORMS
from forwardly.network.normalisation import Normalise


def vector_jacobian(function: Callable[[Tensor], Tensor], at: Tensor, signal: Tensor) -> Tensor:
    """signalᵀ J, of at's shape, J the Jacobian of ``function`` at ``at``; automatic.

    Raises:
        NotImplementedError: in ``torch.export``, which cannot trace a backward pass.
    """
    check_not_exported()
    _, pull_back = cast(
        tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], vjp(function, at.detach())
    )
    return pull_back(signal)[0]


def jacobian_vector(function: Callable[[Tensor], Tensor], at: Tensor, change: Tensor) -> Tensor:
    """J · change, J the Jacobian of ``function`` at ``at``; automatic, in forward mode."""
    return cast(Tensor, jvp(function, (at.detach(),), (change,))[1])


def scale_of_norm(module: nn.Module, a: Tensor, *, plain: bool = False) -> Tensor:
    """The factor of each (centred) unit in a normalisation, to broadcast against ``a``.

    Args:
        module: one of ``kinds.SCALING_NORMS``; an instance norm without running statistics.
        a: its input.
        plain: without the norm's own scale.
    """
    if isinstance(module, Normalise):
        return module.scale(a)
    if isinstance(module, nn.LayerNorm):
        dims = [-1 - i for i in range(len(module.normalized_shape))]
        scale = (a.var(dims, correction=0, keepdim=True) + module.eps).rsqrt()
        return scale if plain or module.weight is None else scale * module.weight  # pyright: ignore[reportUnnecessaryComparison]
    if isinstance(module, nn.RMSNorm):
        dims = [-1 - i for i in range(len(module.normalized_shape))]
        eps = torch.finfo(a.dtype).eps if module.eps is None else module.eps
        scale = (a.square().mean(dims, keepdim=True) + eps).rsqrt()
        return scale if plain or not module.elementwise_affine else scale * module.weight
    if isinstance(module, nn.GroupNorm):
        groups = a.reshape(a.shape[0], module.num_groups, -1)
        scale = (groups.var(2, correction=0) + module.eps).rsqrt()
        scale = scale.repeat_interleave(a.shape[1] // module.num_groups, dim=1)
        if module.affine and not plain:
            scale = scale * module.weight
        return scale.reshape(*a.shape[:2], *(1 for _ in a.shape[2:]))
    if isinstance(module, INSTANCE_NORMS):
        scale = (a.var(list(range(2, a.dim())), correction=0, keepdim=True) + module.eps).rsqrt()
        if module.affine and not plain:
            scale = scale * module.weight.reshape(-1, *(1 for _ in a.shape[2:]))
        return scale
    module = cast("nn.BatchNorm1d | nn.BatchNorm2d", module)
    dims = [i for i in range(a.dim()) if i != 1]
    if module.training or module.running_var is None:
        variance = a.var(dims, correction=0)
    else:
        variance = module.running_var
    scale = (variance + module.eps).rsqrt()
    if module.affine and not plain:
        scale = scale * module.weight
    return scale.reshape(1, -1, *(1 for _ in dims[1:]))


def tangent_of_norm(module: nn.Module, a: Tensor, change: Tensor) -> Tensor:
    """The tangent of a normalisation's output for the tangent ``change`` of ``a``.

    Args:
        module: as for ``scale_of_norm``.
        a: its input.
        change: of a's shape.
    """
    scale = scale_of_norm(module, a)
    if isinstance(module, Normalise):
        dims = list(range(1 if module.over == "sample" else 0, a.dim()))
        length = a.square().sum(dims, keepdim=True).sqrt().clamp_min(module.eps)
        return scale * change - scale**2 * a * (a * change).sum(dims, keepdim=True) / length
    if isinstance(module, nn.LayerNorm):
        dims = [-1 - i for i in range(len(module.normalized_shape))]
    else:
        module = cast(nn.BatchNorm1d, module)
        if not (module.training or module.running_var is None):
            return scale * change
        dims = [i for i in range(a.dim()) if i != 1]
    centred = a - a.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True) + module.eps
    along = (centred * change).mean(dims, keepdim=True) / variance
    return scale * (change - change.mean(dims, keepdim=True) - centred * along)


def tangent_of_max_pool(module: nn.Module, a: Tensor, change: Tensor) -> Tensor:
    """The tangent of max pooling's output: that of each window's largest element."""
    where = _largest(module, a)
    return change.flatten(2).gather(2, where.flatten(2)).reshape(where.shape)


def back_through_max_pool(module: nn.Module, a: Tensor, signal: Tensor) -> Tensor:
    """The signal at max pooling's input: each window's goes to its largest element.

    Args:
        module: the pooling.
        a: its input.
        signal: of its output's shape.
    """
    where = _largest(module, a)
    nothing = torch.zeros_like(a).flatten(2)
    return nothing.scatter_add(2, where.flatten(2), signal.flatten(2)).reshape(a.shape)


def back_through_average_pool(module: nn.Module, a: Tensor, signal: Tensor) -> Tensor:
    """As ``back_through_max_pool``; the matrix of average pooling is what it makes of units."""
    positions = a.shape[2:].numel()
    units = torch.eye(positions, dtype=a.dtype, device=a.device)
    pooled: Tensor = module(units.reshape(positions, 1, *a.shape[2:]))
    return (signal.flatten(2) @ pooled.flatten(1).T).reshape(a.shape)


def _largest(module: nn.Module, a: Tensor) -> Tensor:
    """Where the largest element of each window of a max pooling is, in a channel's elements."""
    if isinstance(module, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)):
        flat = isinstance(module, nn.AdaptiveMaxPool1d)
        pool = functional.adaptive_max_pool1d if flat else functional.adaptive_max_pool2d
        _, where = pool(a, module.output_size, return_indices=True)  # pyright: ignore
    else:
        module = cast(nn.MaxPool2d, module)
        pool = functional.max_pool1d if isinstance(module, nn.MaxPool1d) else functional.max_pool2d
        _, where = pool(  # pyright: ignore
            a,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            ceil_mode=module.ceil_mode,
            return_indices=True,
        )
    return cast(Tensor, where)
