"""How pooling and normalisation pass a small change of their input on, to first order.

In closed form, for the reason that ``forwardly.activations`` gives.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from forwardly.normalisation import Normalise


def of_norm(module: nn.Module, a: Tensor, change: Tensor, scale: Tensor) -> Tensor:
    """How a normalisation's output changes, when ``a`` changes by ``change``.

    Args:
        module: one of torch's batch norms, ``nn.LayerNorm`` or ``Normalise``.
        a: its input.
        change: of a's shape.
        scale: what it multiplies (centred) units by.
    """
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


def of_max_pool(module: nn.Module, a: Tensor, change: Tensor) -> Tensor:
    """How max pooling's output changes: as each window's largest element does."""
    if isinstance(module, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d):
        one = isinstance(module, nn.AdaptiveMaxPool1d)
        pool = functional.adaptive_max_pool1d if one else functional.adaptive_max_pool2d
        _, where = pool(a, module.output_size, return_indices=True)  # pyright: ignore
    else:
        module = cast(nn.MaxPool2d, module)
        one = isinstance(module, nn.MaxPool1d)
        pool = functional.max_pool1d if one else functional.max_pool2d
        _, where = pool(  # pyright: ignore
            a,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            ceil_mode=module.ceil_mode,
            return_indices=True,
        )
    where = cast(Tensor, where)
    return change.flatten(2).gather(2, where.flatten(2)).reshape(where.shape)
