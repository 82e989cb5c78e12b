"""Feedback alignment: backprop's chain, with fixed random weights on the way back.

Lillicrap, Cownden, Tweed & Akerman, "Random synaptic feedback weights support error backpropagation
for deep learning", Nature Communications 7, 2016.

    output           δ_L = e ⊙ σ′(z_L)
    hidden, l < L    δ_l = (B_{l+1} δ_{l+1}) ⊙ σ′(z_l)        B_{l+1} in place of W_{l+1}ᵀ
    update           ΔW_l = δ_l a_{l−1}ᵀ

Shapes
    e (n, k); B_l is kept in W_l's own shape (its transpose stands in the equations), so that a
    convolution goes back as a transposed convolution.

Deviations
    "⊙ σ′(z_l)" stands for the derivative of all that follows synapse l (pooling, normalisation,
    dropout), one stage at a time. B_l is drawn from U(±√(6 / fan-in)), as He initialisation draws
    W_l; the paper tunes the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Network, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


def feedback_stages(network: Network) -> list[Stage]:
    """The stages that have a B_l: the first of those that share a weight, if it sends back."""
    return [stage for stage in network.stages if stage.sends_back and stage.same_weight == stage.l]


def weights_by_synapse(rule: Rule) -> dict[str, Tensor]:
    """A rule's B_2 … B_L, buffers or parameters, by the names of their synapses."""
    back = [stage for stage in rule.network.stages if stage.sends_back]
    return {stage.name: getattr(rule, f"B_{stage.same_weight}") for stage in back}


def send_error_back(
    rule: Rule, x: Tensor, target: Tensor, step: Step, weights: Mapping[str, Tensor]
) -> Credit:
    """The equations above with these weights."""
    clean = step.recorded(step.prepare(x))
    output = clean.output
    e = rule.error(output, target)
    updates: dict[str, Tensor] = {}
    for stage, layer, delta in step.signals(clean, e, weights):
        updates |= step.update(stage, delta, layer.pre)
    return Credit(updates, output, rule.loss_value(output, target), e)


@final
class FeedbackAlignment(Rule):
    """Fixed random weights carry the error back (Lillicrap et al. 2016).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        backward: how the feedback weights are drawn, from (fan-in, units) of each layer.
        input_shape: not needed.
        error: see ``Rule``.
        generator: where the feedback weights are drawn from; torch's global generator if None.

    The buffers ``B_2`` … ``B_L`` have the shapes of the weights; ``rule.B`` lists them by synapse.

    Raises what ``Rule`` does. Not for ``torch.export``, but for ``fw.export``.
    """

    paper = paper("lillicrap2016random")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "B, a layer each"
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
        backward: feedback.Initialiser = feedback.uniform(1.0),
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        for stage in feedback_stages(self.network):
            B = feedback.like_weight(backward, stage, generator)
            self.register_buffer(f"B_{stage.l}", B)

    @property
    def B(self) -> dict[str, Tensor]:
        """The feedback weights by the name of their synapse."""
        return weights_by_synapse(self)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error sent back through B."""
        return send_error_back(self, x, target, step, self.B)
