"""Sign-error PEPITA: the signs of the errors perturb the input.

A variant in the code of Dellaferrera & Kreiman (ICML 2022, arXiv 2201.11665).

    clean pass       a₀ = x                   h_l    for l = 1 … L    e = error of the output
    modulated pass   a₀ᵉʳʳ = x + F sign(e)    h_lᵉʳʳ for l = 1 … L    same weights and dropout masks
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) (a_{l−1}ᵉʳʳ)ᵀ
    output           ΔW_L = e (a_{L−1}ᵉʳʳ)ᵀ

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e (n, k); F (d, k).

Deviations
    F is drawn ten times smaller than PEPITA's, as in that code, for signs do not shrink.
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
class SignPEPITA(Rule):
    """PEPITA with sign(e) in the projection (Dellaferrera & Kreiman 2022, their code).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        projection: how F is drawn, or F itself, of shape (d, k).
        sign: +1 for x + F sign(e), −1 for x − F sign(e).
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where F is drawn from; torch's global generator if None.

    Raises what ``PEPITA`` does.
    """

    paper = paper("dellaferrera2022pepita")
    uses_autograd = False
    forward_passes = 2
    feedback_path = "F, from the error's signs to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    projection_scale = 0.005
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
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.sign = one_of("sign", sign, (1, -1))
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The two passes and the updates of the module docstring."""
        a_0 = step.prepare(x)
        first_pass = step.kept(a_0)
        output = first_pass.output
        e = self.error(output, target)

        clean = first_pass.layers()
        a_0_err = perturbed(a_0, e.sign(), self.F, self.sign)
        modulated = step.activities(a_0_err, keep_z=False)
        del a_0_err
        updates: dict[str, Tensor] = {}
        for stage in self.network.stages:
            first, second = next(clean), next(modulated)
            post = e.reshape(first.z.shape) if stage.is_readout else first.h - second.h
            updates |= step.update(stage, post, second.pre)
            del first, second, post
        return Credit(updates, output, self.loss_value(output, target), e)
