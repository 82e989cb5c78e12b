"""Parameters one to one with units: a synapse from each unit to itself.

    z_i = γ_i â_i + β_i        Δγ_i = mean of post_i â_i        Δβ_i = mean of post_i

The scale and shift of a norm, â being what it makes without them; the scale alone of a LayerScale;
the shift alone of a position. It is the local update of any synapse, post ⊗ pre, of a weight matrix
of which only the diagonal is there. Where several units have one γ, as the pixels of a channel
have, the update is summed over them, as a convolution's is over positions. With δ for post these
are the derivatives of the loss: feedback alignment with B = W gives those of backprop.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional

from forwardly.network.kinds import ALL_BATCH_NORMS, INSTANCE_NORMS


class Lender(NamedTuple):
    """Whose parameter it is."""

    module: nn.Module
    name: str


class Diagonal(nn.Module):
    """γ ⊙ a + β, with another module's γ and β.

    Args:
        scale: where γ is; none if None.
        shift: where β is; none if None.
        channels: whether they are those of channels, dimension 1; else of the last dimensions.
    """

    def __init__(self, scale: Lender | None, shift: Lender | None, *, channels: bool) -> None:
        super().__init__()
        self.lenders = (scale, shift)
        self.channels = channels

    @property
    def weight(self) -> Tensor | None:
        """γ."""
        return _lent(self.lenders[0])

    @property
    def bias(self) -> Tensor | None:
        """β."""
        return _lent(self.lenders[1])

    def forward(self, a: Tensor) -> Tensor:
        """As a synapse's."""
        return self.weigh(a, self.weight, self.bias)

    def weigh(self, a: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """With these γ and β."""
        if weight is not None:
            a = a * weight.reshape(self.places(weight, a))
        return a if bias is None else a + bias.reshape(self.places(bias, a))

    def places(self, parameter: Tensor, a: Tensor) -> tuple[int, ...]:
        """The shape in which a parameter stands beside the activity."""
        if not self.channels:
            return tuple(parameter.shape)
        return (1, len(parameter), *(1 for _ in a.shape[2:]))


def _lent(lender: Lender | None) -> Tensor | None:
    return None if lender is None else cast(Tensor, getattr(lender.module, lender.name))


def has_channels(norm: nn.Module) -> bool:
    """Whether a norm's parameters are those of channels."""
    return isinstance(norm, (*ALL_BATCH_NORMS, nn.GroupNorm, *INSTANCE_NORMS))


WITH_PARAMETERS = (*ALL_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, *INSTANCE_NORMS)
"""Norms that may have a scale and a shift."""


def normalised(norm: nn.Module, a: Tensor) -> Tensor:
    """â, of norms other than batch norms: what they make of ``a`` without scale and shift."""
    if isinstance(norm, nn.LayerNorm):
        return functional.layer_norm(a, norm.normalized_shape, eps=norm.eps)
    if isinstance(norm, nn.RMSNorm):
        return functional.rms_norm(a, [*norm.normalized_shape], eps=norm.eps)
    if isinstance(norm, nn.GroupNorm):
        return functional.group_norm(a, norm.num_groups, eps=norm.eps)
    norm = cast(nn.InstanceNorm2d, norm)
    return functional.instance_norm(a, eps=norm.eps)
