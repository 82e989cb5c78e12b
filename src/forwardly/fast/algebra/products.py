"""The products of a training step: of activities and weights, and of the two sides of an update.

``InFloat32`` takes oneDNN for the former, torch's other library for products beside MKL. For a
batch of 64 on an AMD processor it needs three quarters of MKL's time, and two thirds where the
batch is no multiple of 16. Small products stay with MKL, since oneDNN takes some 10 µs to begin.
Updates are added to weights and momentum by as many products as there are threads, so that a row of
a weight and of its momentum stays with one processor. See docs/decisions.md.

``InBFloat16`` rounds what goes through linear weights to bfloat16, 8 bits of precision. Updates,
weights, momentum and what lies between products stay in float32: in bfloat16 a weight would swallow
updates of less than a 256th of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from forwardly.fast.sgd import FEWEST_NUMBERS
from forwardly.fast.threads import all_threads_come


class InFloat32:
    """Of the tensors' own type, whichever that is."""

    def linear(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """a Wᵀ + b, as ``torch.nn.functional.linear``; by oneDNN only where no graph is wanted.

        Args:
            a: (n, …, inputs).
            weight: (units, inputs).
            bias: (units,).
        """
        if (
            weight.numel() < FEWEST_NUMBERS
            or not (a.dtype == weight.dtype == torch.float32)
            or not (a.device.type == weight.device.type == "cpu")
            or a.numel() == 0
            or torch.is_grad_enabled()
            or not all_threads_come()
            or (by_onednn := _onednn()) is None
        ):
            return functional.linear(a, weight, bias)
        return by_onednn(a, weight, bias, "none", [], "")

    def add_outer(self, to: Tensor, post: Tensor, pre: Tensor, keep: float, times: float) -> None:
        """to ← keep · to + times · postᵀ pre, in place.

        Args:
            to: (units, inputs).
            post: (n, units).
            pre: (n, inputs).
            keep: a factor.
            times: a factor.
        """
        parts, units = torch.get_num_threads(), len(to)
        if parts == 1 or units % parts or to.numel() < FEWEST_NUMBERS or to.device.type != "cpu":
            to.addmm_(post.T, pre, beta=keep, alpha=times)
            return
        # A product for each thread, of the rows that it has in sums of whole tensors too.
        rows = units // parts
        posts = post.reshape(len(post), parts, rows).permute(1, 2, 0)
        pres = pre.expand(parts, *pre.shape)
        to.view(parts, rows, -1).baddbmm_(posts, pres, beta=keep, alpha=times)


class InBFloat16(InFloat32):
    """Of activities and weights rounded to bfloat16; for one step, as it keeps rounded weights.

    Raises:
        ValueError: if the processor does not multiply in bfloat16, which would be slower.
    """

    def __init__(self) -> None:
        if not has_bfloat16():
            raise ValueError("this processor has no instructions for bfloat16; use float32")
        self._rounded: dict[Tensor, Tensor] = {}

    def linear(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See ``InFloat32``; the sum over inputs is rounded to bfloat16 too, but not the bias."""
        if a.dtype != torch.float32:
            return super().linear(a, weight, bias)
        rounded = self._rounded.get(weight)
        if rounded is None:
            rounded = self._rounded[weight] = weight.detach().bfloat16()
        z = functional.linear(a.bfloat16(), rounded).float()
        return z if bias is None else z.add_(bias)


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported is not None and torch.backends.mkldnn.is_available() and supported())


def _onednn() -> Callable[..., Tensor] | None:
    """The operation that torch.compile takes for linear layers, if this build of torch has it."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # pyright: ignore
        return None
    return cast(Callable[..., Tensor] | None, getattr(torch.ops.mkldnn, "_linear_pointwise", None))
