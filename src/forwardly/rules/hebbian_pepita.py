"""Hebbian PEPITA: each pass learns on its own, anti-Hebbian in the first, Hebbian in the second.

Srinivasan et al., "Forward Learning with Top-Down Feedback: Empirical and Analytical
Characterization", ICLR 2024, arXiv 2302.05440.

    clean pass       a₀ = x               h_l    for l = 1 … L    y = prediction, e = y − t
    modulated pass   a₀ᵉʳʳ = x + F e      h_lᵉʳʳ for l = 1 … L    same weights and dropout masks
    hidden, l < L    ΔW_l = h_l a_{l−1}ᵀ − h_lᵉʳʳ (a_{l−1}ᵉʳʳ)ᵀ
    output           ΔW_L = y a_{L−1}ᵀ − t (a_{L−1}ᵉʳʳ)ᵀ

y is what the loss compares with the target t: the softmax or sigmoid of the output, or the output.

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e, y, t (n, k); F (d, k).

Deviations
    None known.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from forwardly import feedback, losses
from forwardly.checks import one_of
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper
from forwardly.rules.pepita import perturbed, register_projection


@final
class HebbianPEPITA(Rule):
    """Products of pre- and postsynaptic activity of either pass (Srinivasan et al. 2024).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: one of ``forwardly.losses``, which says what y and t are.
        projection: how F is drawn, or F itself, of shape (d, k).
        sign: +1 for x + F e, −1 for x − F e.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
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
    projection_scale = 0.05
    compares_passes = True
    updates_at_once = True
    F: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        projection: feedback.Initialiser | Tensor = feedback.uniform(projection_scale),
        sign: Literal[1, -1] = 1,
        input_shape: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        self.sign = one_of("sign", sign, (1, -1))
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The two passes and the updates of the module docstring."""
        a_0 = step.prepare(x)
        first_pass = step.kept(a_0)
        output = first_pass.output
        e = self.error(output, target)
        y = losses.prediction(self.loss, output)
        t = losses.encoded(self.loss, target, output.shape, output.dtype)

        clean = first_pass.layers()
        a_0_err = perturbed(a_0, e, self.F, self.sign)
        modulated = step.activities(a_0_err, keep_z=False)
        del a_0_err
        updates: dict[str, Tensor] = {}
        for stage in self.network.stages:
            first, second = next(clean), next(modulated)
            against, towards = first.h, second.h
            if stage.is_readout:
                against, towards = y.reshape(first.z.shape), t.reshape(first.z.shape)
            updates |= step.update(stage, against, first.pre, less=(towards, second.pre))
            del first, second, against, towards
        return Credit(updates, output, self.loss_value(output, target), e)
