"""A step of stochastic gradient descent, as torch's SGD takes it: the definition, and in place.

    update           U, what a rule assigns to a weight W
    gradient         g = ±U + λW                       minus, where a descent maximises
    momentum         M ← μM + (1 − τ)g                 τ, the dampening; M ← g in the first step
    weight           W ← W − ηM, with Nesterov's W ← W − η(g + μM); without momentum W ← W − ηg

``descend`` is the definition. ``Trained.add`` is the same in place, for an update that can be added
to the momentum by the operation that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Outer(NamedTuple):
    """An update that is yet to be summed: scale · Σ over samples of post ⊗ pre.

    Attributes:
        post: (n, units).
        pre: (n, inputs).
        scale: one over the number of samples.
    """

    post: Tensor
    pre: Tensor
    scale: float


class Descent(NamedTuple):
    """Settings, by torch's names: μ, λ, η, whether to look ahead, the sign of U, and τ."""

    momentum: float
    weight_decay: float
    lr: float
    nesterov: bool
    maximize: bool = False
    dampening: float = 0.0


class Weight(NamedTuple):
    """A weight, its momentum, and how it descends."""

    weight: Tensor
    momentum: Tensor
    settings: Descent


def descend(
    weight: Tensor, momentum: Tensor | None, update: Tensor, descent: Descent
) -> tuple[Tensor, Tensor | None]:
    """The weight and its momentum after a step; see the module docstring.

    Args:
        weight: W.
        momentum: M; None before the first step.
        update: U, of W's shape.
        descent: the settings.
    """
    keep, decay, rate, nesterov, maximize, dampening = descent
    g = -update if maximize else update
    if decay:
        g = g + decay * weight
    if keep == 0:
        return weight - rate * g, None
    momentum = g if momentum is None else keep * momentum + (1 - dampening) * g
    return weight - rate * (g + keep * momentum if nesterov else momentum), momentum


Into = Callable[[Tensor, float, float], object]
"""(to, keep, times): to ← keep · to + times · U, in place."""


def whole(update: Tensor) -> Into:
    """An update that is there already, as ``Into``."""
    return lambda to, keep, times: to.mul_(keep).add_(update, alpha=times)


class Trained:
    """The parameters that an optimizer trains, each with its settings and momentum.

    Args:
        descents: the settings of each.
        state: the optimizer's; momenta are found there, and put there where there is none yet.
        rates: η of some parameters as tensors (), in place of their settings': a captured step
            reads it from where it lies, as it may change.
    """

    def __init__(
        self,
        descents: Mapping[Tensor, Descent],
        state: Mapping[Tensor, dict[str, Any]],
        rates: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        self.descents = descents
        self.rates = rates or {}
        self._state = state

    def at_rates(self, rates: Iterable[Tensor]) -> Trained:
        """The same with learning rates in tensors, one for each parameter."""
        return Trained(self.descents, self._state, dict(zip(self.descents, rates, strict=True)))

    def is_compilable(self, parameter: Tensor) -> bool:
        """Whether compiled steps know how the parameter is trained."""
        descent = self.descents.get(parameter)
        if descent is None:
            return False
        return descent.momentum > 0 and not (descent.maximize or descent.dampening)

    def weight(self, parameter: Tensor) -> Weight:
        """What a compiled step needs of a parameter that it knows how to train."""
        return Weight(parameter, self.momentum(parameter), self.descents[parameter])

    def replace(self, parameter: Tensor, update: Tensor) -> None:
        """Take the step of ``descend``."""
        descent = self.descents.get(parameter)
        if descent is None:  # not this optimizer's
            return
        before = None if self.is_new(parameter) else self.momentum(parameter)
        after, momentum = descend(parameter, before, update, descent)
        parameter.copy_(after)
        if momentum is not None:
            self.momentum(parameter).copy_(momentum)

    def add(self, parameter: Tensor, update: Into) -> None:
        """Take the same step in place."""
        descent = self.descents.get(parameter)
        if descent is None:
            return
        keep, decay, number, nesterov, maximize, dampening = descent
        rate = self.rates.get(parameter, number) if self.rates else number
        sign = -1.0 if maximize else 1.0
        if keep == 0:
            if isinstance(rate, Tensor):
                update(g := torch.zeros_like(parameter), 0.0, sign)
                if decay:
                    parameter.mul_(1 - rate * decay)
                _move(parameter, g, rate, -1.0)
            else:
                update(parameter, 1 - rate * decay, -sign * rate)
            return
        part = 1.0 if self.is_new(parameter) else 1 - dampening
        momentum = self.momentum(parameter)
        if nesterov:
            # W − η(g + μM), where g = M − μM_before: needs the old momentum once more.
            _move(parameter, momentum, rate, keep)
            if decay:  # of the weights before that
                momentum.mul_(1 - rate * decay)
        update(momentum, keep, sign * part)
        if decay:
            momentum.add_(parameter, alpha=decay * part)
        _move(parameter, momentum, rate, -(1 + keep) if nesterov else -1.0)

    def momentum(self, parameter: Tensor) -> Tensor:
        """M, lying in memory as the parameter does; zero where there is none yet."""
        state = self._state[parameter]
        momentum: Tensor | None = state.get("momentum_buffer")
        if momentum is None:  # torch's SGD saves None where it had no momentum
            momentum = state["momentum_buffer"] = torch.zeros_like(parameter)
        elif layout(momentum) != layout(parameter):  # the rule was moved, or a state loaded
            momentum = state["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        return momentum

    def momentum_of(self, parameter: Tensor) -> Tensor | None:
        """M as it is; None where there is none yet."""
        own = self._state.get(parameter)
        return None if own is None else own.get("momentum_buffer")

    def is_new(self, parameter: Tensor) -> bool:
        """Whether it has no momentum yet."""
        return self.momentum_of(parameter) is None


def layout(tensor: Tensor) -> tuple[object, ...]:
    """All of a tensor but its values and where they are."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _move(parameter: Tensor, by: Tensor, rate: float | Tensor, times: float) -> None:
    """parameter ← parameter + times · η · by, in place."""
    if isinstance(rate, Tensor):
        parameter.addcmul_(by, rate, value=times)
    else:
        parameter.add_(by, alpha=times * rate)


FEWEST_NUMBERS = 1 << 16
"""Numbers in a weight from which oneDNN, a product a thread, and compiled steps are quicker."""

MOST_SAMPLES = 1 << 10
"""Samples up to which compiled steps are quicker; those of more no longer lie in a cache."""


def suits_kernels(tensor: Tensor) -> bool:
    """Whether compiled steps can read it: float32 on the processor, its rows one after another."""
    on_processor = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return on_processor and tensor.is_contiguous()


def is_large(weight: Tensor) -> bool:
    """Whether a compiled step of a weight like this is quicker, where there is one."""
    of_layer = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.dim() == 2
    return of_layer and weight.numel() >= FEWEST_NUMBERS
