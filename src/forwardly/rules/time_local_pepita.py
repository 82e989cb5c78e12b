"""Time-local PEPITA: the first pass updates the weights before the second one begins.

Srinivasan et al., "Forward Learning with Top-Down Feedback: Empirical and Analytical
Characterization", ICLR 2024, arXiv 2302.05440.

    clean pass       a₀ = x              h_l    for l = 1 … L    y = prediction, e = y − t
    first half       ΔW_l¹ = h_l a_{l−1}ᵀ        ΔW_L¹ = y a_{L−1}ᵀ        W_l′ = W_l − η ΔW_l¹
    modulated pass   a₀ᵉʳʳ = x + F e     h_lᵉʳʳ with the weights W_l′, same dropout masks
    second half      ΔW_l² = −h_lᵉʳʳ (a_{l−1}ᵉʳʳ)ᵀ               ΔW_L² = −t (a_{L−1}ᵉʳʳ)ᵀ
    update           ΔW_l = ΔW_l¹ + ΔW_l²

So no activity of the first pass is needed in the second.

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e, y, t (n, k); F (d, k).

Deviations
    A rule is pure and leaves weights to an optimizer, so the modulated pass runs on a copy W_l′ and
    both halves are returned together: exact for SGD without momentum at the learning rate η. Both
    halves are averages over the batch, so a batch is not the mean of its samples.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from forwardly import feedback, losses
from forwardly.checks import one_of
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper
from forwardly.rules.pepita import perturbed, register_projection


@final
class TimeLocalPEPITA(Rule):
    """The Hebbian form's two halves, each at once (Srinivasan et al. 2024).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: one of ``forwardly.losses``, which says what y and t are.
        learning_rate: η, of the plain SGD that will apply the updates.
        projection: how F is drawn, or F itself, of shape (d, k).
        sign: +1 for x + F e, −1 for x − F e.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        generator: where F is drawn from; torch's global generator if None.

    Raises what ``PEPITA`` does, and ValueError if the learning rate is negative.
    """

    paper = paper("srinivasan2024forward")
    uses_autograd = False
    forward_passes = 2
    feedback_path = "F, from error to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = "its second pass has weights that the first has changed, by the batch"
    projection_scale = 0.05
    compares_passes = True
    needs_learning_rate = True
    F: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        learning_rate: float = 0.01,
        projection: feedback.Initialiser | Tensor = feedback.uniform(projection_scale),
        sign: Literal[1, -1] = 1,
        input_shape: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        if not learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0; given {learning_rate}")
        self.learning_rate = learning_rate
        self.sign = one_of("sign", sign, (1, -1))
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The passes and halves of the module docstring."""
        a_0 = step.prepare(x)
        updates: dict[str, Tensor] = {}
        output = a_0
        readouts: list[tuple[Stage, Activity]] = []
        activities = step.activities(a_0)
        for stage in self.network.stages:
            layer = next(activities)
            if stage.is_readout:
                readouts.append((stage, layer))
            else:
                step.add(updates, stage, layer.h, layer.pre)
            output = layer.a
            del layer
        y = losses.prediction(self.loss, output)
        for stage, layer in readouts:
            step.add(updates, stage, y.reshape(layer.z.shape), layer.pre)
        e = self.error(output, target)
        t = losses.encoded(self.loss, target, output.shape, output.dtype)

        weights = dict(self.model.named_parameters())
        changed = {n: weights[n] - self.learning_rate * half for n, half in updates.items()}
        modulated = step.activities(perturbed(a_0, e, self.F, self.sign), weights | changed)
        towards: dict[str, Tensor] = {}
        for stage in self.network.stages:
            layer = next(modulated)
            post = t.reshape(layer.z.shape) if stage.is_readout else layer.h
            step.add(towards, stage, post, layer.pre)
            del layer, post
        for name, half in towards.items():
            updates[name] = updates[name] - half
        return Credit(updates, output, self.loss_value(output, target), e)
