"""One synapse and what follows it, and the local update of the synapse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import (
    conv1d_weight,  # pyright: ignore[reportUnknownVariableType]
    conv2d_weight,  # pyright: ignore[reportUnknownVariableType]
    conv3d_weight,  # pyright: ignore[reportUnknownVariableType]
)

from forwardly._typing import Float
from forwardly.checks import shape_of
from forwardly.network.diagonal import Diagonal
from forwardly.network.kinds import TRANSPOSED
from forwardly.network.local import vector_jacobian

if TYPE_CHECKING:
    Synapse = nn.Linear | nn.Conv1d | nn.Conv2d
else:
    Synapse = nn.Module
"""What chains have. In a graph it may also be one of the other convolutions, or a ``Diagonal``,
which have a weight and a bias as these have; of a ``Diagonal`` either may be None."""
_CORRELATIONS = cast(
    tuple[Callable[..., Tensor], ...], (conv1d_weight, conv2d_weight, conv3d_weight)
)
_TRANSPOSED = cast(
    tuple[Callable[..., Tensor], ...],
    (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
)


class Part(NamedTuple):
    """A module of the model.

    Attributes:
        name: its dotted name in the model; where it stands in several places, each has its own.
        module: the module itself.
        parameters: (its name in the module, its name in the model) of each of its parameters; the
            latter is that of the first place, where a parameter has several.
        altered: how it differs from torch's class, see ``alterations``; empty if it does not.
        call: which call of the module it is, where a model calls one several times, from 0.
        plain: whether it stands for a norm without its scale and shift, which follow as a synapse.
    """

    name: str
    module: nn.Module
    parameters: tuple[tuple[str, str], ...] = ()
    altered: str = ""
    call: int = 0
    plain: bool = False


# No property: torch 2.8 cannot compile those of named tuples.
def key_of(part: Part) -> str:
    """Its name, and which call it is, if not the first."""
    return f"{part.name} (call {part.call + 1})" if part.call else part.name


class Activity(NamedTuple):
    """What one pass records at one stage; the letters are those of ``forwardly.network``.

    Of a network that is no chain a is h, and for the last stage the output.
    """

    pre: Tensor  # a_{l-1}
    z: Tensor
    h: Tensor
    a: Tensor


@dataclass(frozen=True)
class Stage:
    """One synapse and what follows it up to the next one.

    Attributes:
        part: the synapse.
        elementwise: what follows it, in a chain; a graph has operations instead.
        reshaping: likewise.
        trained: those of "weight" and "bias" that require a gradient.
        l: its place among the stages, from 1.
        is_readout: whether no other synapse lies between it and the output.
        sends_back: whether its weight carries signals to other synapses, on a way back.
        same_weight: the first l whose synapse has this weight; l, unless it is shared.
        same_units: the first l whose units are these; l, unless synapses are added up.
    """

    part: Part
    elementwise: tuple[Part, ...]
    reshaping: tuple[Part, ...]
    trained: frozenset[str]
    l: int
    is_readout: bool
    sends_back: bool
    same_weight: int
    same_units: int

    @property
    def name(self) -> str:
        """Of the synapse, in the model."""
        return self.part.name

    @property
    def synapse(self) -> Synapse:
        """The module."""
        return cast(Synapse, self.part.module)

    def weigh(self, a: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """W a + b, of z's shape.

        Args:
            a: a presynaptic activity.
            weight: in place of the synapse's own.
            bias: none if None.
        """
        synapse = self.part.module
        weight = self.synapse.weight if weight is None else weight
        if isinstance(synapse, Diagonal):
            return synapse.weigh(a, weight, bias)
        if isinstance(synapse, nn.Linear):
            return functional.linear(a, weight, bias)
        if isinstance(synapse, TRANSPOSED):
            convolve = _TRANSPOSED[len(synapse.kernel_size) - 1]
            options = (synapse.padding, synapse.output_padding, synapse.groups, synapse.dilation)
            return convolve(a, weight, bias, synapse.stride, *options)
        convolution = cast(nn.Conv2d, synapse)
        return convolution._conv_forward(a, weight, bias)  # pyright: ignore[reportPrivateUsage]

    @property
    def updated(self) -> list[str]:
        """The names of ``synapse_update``'s results."""
        return [self.parameter(own) for own in ("weight", "bias") if own in self.trained]

    def parameter(self, own: str) -> str:
        """The name in the model of the synapse's "weight" or "bias"."""
        return dict(self.part.parameters)[own]

    def synapse_update(
        self,
        post: Tensor,
        pre: Tensor,
        less: tuple[Tensor, Tensor] | None = None,
        samples: int | None = None,
    ) -> dict[str, Tensor]:
        """Mean over the batch of post ⊗ pre for the weight, and of post for the bias.

        For a convolution post ⊗ pre is their correlation, summed over the output's positions (as
        it is over any dimension between the first and the last of a linear layer's activity).

        Args:
            post: a factor for each postsynaptic unit, of z's shape.
            pre: the presynaptic activity.
            less: another (post, pre), whose update is subtracted.
            samples: how many the batch has, where that is not the length of post: models may count
                parts of a sample, such as windows, in the first dimension.

        Returns:
            Updates of the weight's and the bias's shapes, by the model's parameter names. Frozen
            parameters have none.
        """
        updates: dict[str, Tensor] = {}
        if "weight" in self.trained:
            updates[self.parameter("weight")] = self.weight_update(post, pre, samples)
        if "bias" in self.trained:
            updates[self.parameter("bias")] = self._bias_update(post, samples or post.shape[0])
        if less is not None:
            taken = self.synapse_update(*less, samples=samples)
            updates = {name: update - taken[name] for name, update in updates.items()}
        return updates

    def weight_update(self, post: Tensor, pre: Tensor, samples: int | None = None) -> Tensor:
        """Mean over the batch of post ⊗ pre, of the weight's shape, be the weight frozen or not."""
        n = samples or post.shape[0]
        if isinstance(self.part.module, Diagonal):
            return _at_places(self.part.module, post * pre, self.synapse.weight) / n
        if isinstance(self.synapse, nn.Linear):  # the smaller tensor is divided: activities here
            return self._correlation(post / n, pre)
        return self._correlation(post, pre) / n

    def _bias_update(self, post: Tensor, n: int) -> Tensor:
        if isinstance(self.part.module, Diagonal):
            return _at_places(self.part.module, post, self.synapse.bias) / n
        positions = [i for i in range(post.dim()) if i != self.unit_dimension(post)]
        return post.sum(positions) / n

    def send_back(self, post: Tensor, pre: Tensor, weight: Tensor | None) -> Tensor:
        """The vector–Jacobian product of this synapse alone: ``post`` through ``weight``ᵀ.

        Args:
            post: a signal of z's shape.
            pre: the presynaptic activity, for its shape.
            weight: the synapse's own, or a feedback weight of that shape.
        """
        return vector_jacobian(lambda a: self.weigh(a, weight), pre, post)

    def unit_dimension(self, z: Tensor) -> int:
        """Which dimension of z counts the synapse's units (channels, for a convolution)."""
        module = self.part.module
        is_last = (
            not module.channels if isinstance(module, Diagonal) else isinstance(module, nn.Linear)
        )
        return z.dim() - 1 if is_last else 1

    def check_presynaptic(self, pre: Float[Tensor, "..."]) -> None:
        """Refuse an activity of a shape that the synapse does not take."""
        synapse = self.synapse
        if isinstance(self.part.module, Diagonal):
            return
        if isinstance(synapse, nn.Linear):
            if pre.dim() >= 2 and pre.shape[-1] == synapse.in_features:
                return
            expected = f"(samples, {synapse.in_features})"
        else:
            positions = len(synapse.kernel_size)
            if pre.dim() == 2 + positions and pre.shape[1] == synapse.in_channels:
                return
            sides = "dhw"[3 - positions :]
            expected = f"(samples, {synapse.in_channels}, {', '.join(sides)})"
        raise ValueError(
            f"synapse {self.name!r}, {synapse}, needs an input of shape {expected}; "
            f"what reaches it is {shape_of(pre)}. Check the shape of x and the layers before it"
        )

    def _correlation(self, post: Tensor, pre: Tensor) -> Tensor:
        synapse = self.synapse
        if isinstance(synapse, nn.Linear):
            return post.flatten(0, -2).T @ pre.flatten(0, -2)
        padding: str | tuple[int, ...] = synapse.padding
        if synapse.padding_mode != "zeros" or isinstance(padding, str):
            sides = synapse._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
            mode = "constant" if synapse.padding_mode == "zeros" else synapse.padding_mode
            pre = functional.pad(pre, sides, mode=mode)
            padding = (0,) * len(synapse.kernel_size)
        correlate = _CORRELATIONS[len(synapse.kernel_size) - 1]
        options = (synapse.stride, padding, synapse.dilation, synapse.groups)
        if isinstance(self.part.module, TRANSPOSED):  # the convolution that goes from post to pre
            return correlate(post, synapse.weight.shape, pre, *options)
        return correlate(pre, synapse.weight.shape, post, *options)


def _at_places(synapse: Diagonal, each: Tensor, parameter: Tensor | None) -> Tensor:
    """The sum over samples, and over the units that have a parameter in common."""
    if parameter is None:
        raise AssertionError("only what is there is trained")
    return each.sum_to_size(synapse.places(parameter, each)).reshape(parameter.shape)


Apply = Callable[[Stage, Tensor, Tensor, tuple[Tensor, Tensor] | None], None]
"""Takes a stage, the post and pre of its update, and those of what is subtracted."""
