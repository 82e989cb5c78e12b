"""Adaptive feedback alignment: what PEPITA tends to as its feedback becomes small.

Srinivasan et al., "Forward Learning with Top-Down Feedback: Empirical and Analytical
Characterization", ICLR 2024, arXiv 2302.05440, which derives it for one hidden layer.

    clean pass       a₀ = x           h_l  for l = 1 … L            e = error of the output
    tangent pass     ȧ₀ = F e         ż_l = W_l ȧ_{l−1}             ḣ_l = σ′(z_l) ⊙ ż_l
    hidden, l < L    ΔW_l = −ḣ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

With one hidden layer, ΔW_1 = −[(W_1 F e) ⊙ σ′(z_1)] xᵀ: feedback alignment whose backward weights
W_1 F adapt with W_1. The tangent pass is a forward pass, of the network's linearisation at x.

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e (n, k); F (d, k); ḣ_l as h_l.

Deviations
    Any depth, by the same first-order expansion of PEPITA's ΔW_l; the tangents of pooling and of
    normalisation are exact too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.checks import one_of
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper
from forwardly.rules.pepita import perturbed, register_projection


@final
class AdaptiveFeedbackAlignment(Rule):
    """The first-order limit of PEPITA (Srinivasan et al. 2024).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        projection: how F is drawn, or F itself, of shape (d, k).
        sign: +1 for x + F e, −1 for x − F e.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where F is drawn from; torch's global generator if None.

    Raises what ``PEPITA`` does.
    """

    paper = paper("srinivasan2024forward")
    uses_autograd = False
    forward_passes = 2
    feedback_path = "F, from error to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    updates_at_once = True
    projection_scale = 0.05
    F: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        projection: feedback.Initialiser | Tensor = feedback.uniform(projection_scale),
        sign: Literal[1, -1] = 1,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.sign = one_of("sign", sign, (1, -1))
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The clean and the tangent pass, and the updates of the module docstring."""
        a_0 = step.prepare(x)
        forward = step.kept(a_0)
        output = forward.output
        e = self.error(output, target)
        tangent = perturbed(torch.zeros_like(a_0), e, self.F, self.sign)
        updates: dict[str, Tensor] = {}
        layers = step.tangents(forward, a_0, tangent)
        for stage in self.network.stages:
            layer, h_tangent = next(layers)
            post = e.reshape(layer.z.shape) if h_tangent is None else -h_tangent
            del h_tangent
            updates |= step.update(stage, post, layer.pre)
            del layer, post
        return Credit(updates, output, self.loss_value(output, target), e)
