"""MemPEPITA: PEPITA's updates without storing a pass, at the price of a third pass.

Pau & Aymone, "Suitability of Forward-Forward and PEPITA Learning to MLCommons-Tiny benchmarks",
COINS 2023.

    first pass       a₀ = x               e = error of the output; nothing else is kept
    then, side by side, layer by layer
    clean pass       a₀ = x               h_l        modulated pass    a₀ᵉʳʳ = x + F e    h_lᵉʳʳ
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) (a_{l−1}ᵉʳʳ)ᵀ          then both layers are dropped
    output           ΔW_L = e (a_{L−1}ᵉʳʳ)ᵀ

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e (n, k); F (d, k).

Deviations
    ``presynaptic`` as for PEPITA. Dropout masks are drawn again in each pass, from the same seed.
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
class MemPEPITA(Rule):
    """PEPITA in memory that does not grow with depth (Pau & Aymone 2023).

    Args:
        projection: how F is drawn, or F itself, of shape (d, k).
        presynaptic: whether updates take a_{l−1} of the modulated or of the clean pass.
        sign: +1 for x + F e, −1 for x − F e.

    Otherwise takes, and raises, what ``PEPITA`` does, but for its option ``output_error``, which is
    PEPITA's default.
    """

    paper = paper("pau2023mempepita")
    uses_autograd = False
    forward_passes = 3
    feedback_path = "F, from error to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    projection_scale = 0.05
    compares_passes = True
    updates_at_once = True
    redraws_masks = True
    F: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        projection: feedback.Initialiser | Tensor = feedback.uniform(projection_scale),
        presynaptic: Literal["modulated", "clean"] = "modulated",
        sign: Literal[1, -1] = 1,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.presynaptic = one_of("presynaptic", presynaptic, ("modulated", "clean"))
        self.sign = one_of("sign", sign, (1, -1))
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The three passes, two of them side by side."""
        a_0 = step.prepare(x)
        output = a_0
        for layer in step.activities(a_0):
            output = layer.a
            del layer
        e = self.error(output, target)

        clean = step.activities(a_0)
        a_0_err = perturbed(a_0, e, self.F, self.sign)
        modulated = step.activities(a_0_err, keep_z=False)
        del a_0_err
        updates: dict[str, Tensor] = {}
        for stage in self.network.stages:
            first, second = next(clean), next(modulated)
            post = e.reshape(first.z.shape) if stage.is_readout else first.h - second.h
            pre = second.pre if self.presynaptic == "modulated" else first.pre
            updates |= step.update(stage, post, pre)
            del first, second, post, pre
        return Credit(updates, output, self.loss_value(output, target), e)
