"""The transposes of the linear modules: what carries a signal back without differentiating.

Synapses and reshaping modules of torch have closed forms, and pooling has a matrix that its forward
pass on unit images gives. Max pooling, which is not linear, counts as the mean of its window.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import (
    conv1d_input,  # pyright: ignore[reportUnknownVariableType]
    conv2d_input,  # pyright: ignore[reportUnknownVariableType]
)

from forwardly.network.kinds import ELEMENTWISE, MAX_POOLS, RESHAPES
from forwardly.network.stage import Part, Stage


def of_synapse(stage: Stage, signal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Wᵀ signal: (m, *z) to (m, *shape), the shape of a sample's a_{l−1}."""
    synapse = stage.synapse
    if isinstance(synapse, nn.Linear):
        return signal @ synapse.weight
    channels, *positions = shape
    padding: str | tuple[int, ...] = synapse.padding
    pad: Callable[[Tensor], Tensor] | None = None
    if synapse.padding_mode != "zeros" or isinstance(padding, str):
        sides = synapse._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
        mode = "constant" if synapse.padding_mode == "zeros" else synapse.padding_mode

        def pad_units(units: Tensor) -> Tensor:
            return functional.pad(units, sides, mode=mode)

        pad, padding = pad_units, (0,) * len(positions)
        ends = zip(sides[::2], sides[1::2], strict=True)  # the last dimension first
        positions = [
            size + sum(end) for size, end in zip(positions, reversed([*ends]), strict=True)
        ]
    back = cast(
        Callable[..., Tensor], conv1d_input if isinstance(synapse, nn.Conv1d) else conv2d_input
    )
    options = (synapse.stride, padding, synapse.dilation, synapse.groups)
    padded = back((len(signal), channels, *positions), synapse.weight, signal, *options)
    return padded if pad is None else _by_units(pad, padded, shape)


def of_reshaping(part: Part, signal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(m, *what the module makes of a sample) to (m, *shape), the shape that it is given.

    Elementwise modules, which may stand behind a pooling, are passed over.

    Raises:
        TypeError: if the module was altered, so that it is unknown what is linear in it.
    """
    if isinstance(part.module, ELEMENTWISE):
        return signal
    if part.altered:
        raise TypeError(
            f"no transpose is known of {part.name!r}, which has {part.altered}: use torch's own "
            "module as it is, or a rule that needs no transpose"
        )
    if isinstance(part.module, RESHAPES):
        return signal.reshape(-1, *shape)

    def mean_of_window(units: Tensor) -> Tensor:
        pooled = part.module(units)
        return pooled / pooled.sum(0) if isinstance(part.module, MAX_POOLS) else pooled

    return _by_units(mean_of_window, signal, shape)


def _by_units(linear: Callable[[Tensor], Tensor], signal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of a map that does the same to each channel: its matrix, by unit images."""
    channels, *positions = shape
    n = prod(positions)
    units = torch.eye(n, dtype=signal.dtype, device=signal.device).reshape(n, 1, *positions)
    matrix = linear(units).flatten(1)
    # Not (m · channels) rows at once, in which the audit could not tell signals from channels.
    back = torch.bmm(signal.flatten(2), matrix.T.expand(len(signal), -1, -1))
    return back.reshape(-1, channels, *positions)
