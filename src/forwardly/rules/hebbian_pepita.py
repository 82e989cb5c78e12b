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
    projection_scale = 0.05
    compares_passes = True
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
        clean = list(step.activities(a_0))
        output = clean[-1].a
        e = self.error(output, target)
        y = losses.prediction(self.loss, output)
        t = losses.encoded(self.loss, target, output.shape, output.dtype)
        modulated = list(step.activities(perturbed(a_0, e, self.F, self.sign)))

        firsts = [layer.h for layer in clean[:-1]] + [y.reshape(clean[-1].z.shape)]
        seconds = [layer.h for layer in modulated[:-1]] + [t.reshape(clean[-1].z.shape)]
        updates: dict[str, Tensor] = {}
        for l, stage in enumerate(self.network.stages):
            against = stage.synapse_update(firsts[l], clean[l].pre)
            towards = stage.synapse_update(seconds[l], modulated[l].pre)
            updates |= {name: against[name] - towards[name] for name in against}
        return Credit(updates, output, self.loss_value(output, target), e)
