"""Products of activities and weights by oneDNN, torch's other library for them.

``torch.nn.functional.linear`` takes MKL on x86 processors. For a batch of 64 on an AMD processor
oneDNN, which torch brings too and takes for convolutions, needs three quarters of MKL's time, and
two thirds where the batch is no multiple of 16; see docs/decisions.md. Small products stay with
MKL, since oneDNN takes some 10 µs to begin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST = 1 << 16
"""Numbers in a weight from which oneDNN is quicker."""


def linear(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """a Wᵀ + b, as ``torch.nn.functional.linear``; by oneDNN only where no graph is wanted.

    Args:
        a: (n, …, inputs).
        weight: (units, inputs).
        bias: (units,).
    """
    by_onednn = _onednn()
    if (
        by_onednn is None
        or weight.numel() < _SMALLEST
        or not (a.dtype == weight.dtype == torch.float32)
        or not (a.device.type == weight.device.type == "cpu")
        or a.numel() == 0
        or torch.is_grad_enabled()
    ):
        return functional.linear(a, weight, bias)
    return by_onednn(a, weight, bias, "none", [], "")


def _onednn() -> Callable[..., Tensor] | None:
    """The operation that torch.compile takes for linear layers, if this build of torch has it."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # pyright: ignore
        return None
    return cast(Callable[..., Tensor] | None, getattr(torch.ops.mkldnn, "_linear_pointwise", None))
