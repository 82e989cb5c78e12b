"""Sign symmetry: feedback weights that share the signs, not the magnitudes, of the forward weights.

Liao, Leibo & Poggio, "How Important Is Weight Symmetry in Backpropagation?", AAAI 2016,
arXiv 1510.05067. The equations of feedback alignment, with

    uSF     B_l = s · sign(W_l)                 uniform magnitudes
    brSF    B_l = s · R_l ⊙ sign(W_l)           R_l ~ U[0, 1), drawn anew for each batch
    frSF    B_l = s · R_l ⊙ sign(W_l)           R_l ~ U[0, 1), drawn once

Shapes
    B_l and R_l have W_l's shape; see ``feedback_alignment``.

Deviations
    The paper has s = 1 and controls the magnitude of the feedback by batch normalisation or by
    updates of fixed size. Here s = √(2 / fan-in), the standard deviation of He initialisation,
    unless ``scale`` gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.feedback_alignment import feedback_stages, send_error_back
from forwardly.rules.papers import paper


def _signs(stage: Stage, scale: float | None) -> Tensor:
    weight = stage.synapse.weight.detach()
    return weight.sign() * (math.sqrt(2 / weight[0].numel()) if scale is None else scale)


@final
class UniformSignSymmetry(Rule):
    """uSF: the forward weights' signs carry the error back (Liao, Leibo & Poggio 2016).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        scale: s of the module docstring; √(2 / fan-in) of each layer if None.
        input_shape: not needed.
        error: see ``Rule``.
        generator: see ``Rule``.

    Raises what ``Rule`` does. Not for ``torch.export``, but for ``fw.export``.
    """

    paper = paper("liao2016symmetry")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "the weights' signs"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    output_update = "gradient"

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        scale: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.scale = scale

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error sent back through the signs."""
        back = [stage for stage in self.network.stages if stage.sends_back]
        weights = {stage.name: _signs(stage, self.scale) for stage in back}
        return send_error_back(self, x, target, step, weights)


@final
class BatchSignSymmetry(Rule):
    """brSF: signs of the weights, magnitudes drawn anew for each batch (Liao et al. 2016).

    Args:
        scale: s of the module docstring; √(2 / fan-in) of each layer if None.

    Otherwise takes, and raises, what ``UniformSignSymmetry`` does.
    """

    paper = paper("liao2016symmetry")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "the weights' signs, magnitudes drawn each step"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    output_update = "gradient"
    draws = True

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        scale: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.scale = scale

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error sent back through this step's magnitudes."""
        weights: dict[str, Tensor] = {}
        for stage in self.network.stages:
            if not stage.sends_back:
                continue
            l = stage.same_weight - 1
            signs = _signs(stage, self.scale)
            weights[stage.name] = signs * step.uniform(l, tuple(signs.shape), signs.dtype)
        return send_error_back(self, x, target, step, weights)


@final
class FixedSignSymmetry(Rule):
    """frSF: signs of the weights, magnitudes drawn once (Liao et al. 2016).

    Args:
        scale: s of the module docstring; √(2 / fan-in) of each layer if None.

    Otherwise takes, and raises, what ``UniformSignSymmetry`` does. The magnitudes are the buffers
    ``R_2`` … .
    """

    paper = paper("liao2016symmetry")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "the weights' signs, fixed magnitudes R a layer"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    output_update = "gradient"

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        scale: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.scale = scale
        for stage in feedback_stages(self.network):
            # |U(±1)| is U[0, 1).
            unit = feedback.like_weight(feedback.uniform_within(1.0), stage, generator)
            self.register_buffer(f"R_{stage.l}", unit.abs())

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error sent back through the fixed magnitudes."""
        weights = {
            stage.name: _signs(stage, self.scale) * self.get_buffer(f"R_{stage.same_weight}")
            for stage in self.network.stages
            if stage.sends_back
        }
        return send_error_back(self, x, target, step, weights)
