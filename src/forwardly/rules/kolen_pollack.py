"""Kolen–Pollack: feedback weights that learn as the forward weights do, and so come to equal them.

Kolen & Pollack, "Backpropagation without Weight Transport", IEEE ICNN 1994; as a circuit in which
each synapse computes its own change: Akrout, Wilson, Humphreys, Lillicrap & Tweed, "Deep Learning
without Weight Transport", NeurIPS 2019, arXiv 1904.05391.

    output           δ_L = e ⊙ σ′(z_L)
    hidden, l < L    δ_l = (B_{l+1} δ_{l+1}) ⊙ σ′(z_l)        as feedback alignment
    update           ΔW_l = δ_l a_{l−1}ᵀ
    feedback, l > 1  ΔB_l = a_{l−1} δ_lᵀ                      the transpose of ΔW_l
    decay            W_l ← (1 − ηλ) W_l − η ΔW_l,  B_l alike: the optimizer's

    therefore        W_l − B_lᵀ ← (1 − ηλ) (W_l − B_lᵀ)       exactly, whatever the data

Shapes
    e (n, k); B_l is kept in W_l's own shape (its transpose stands in the equations), see
    ``feedback_alignment``.

Deviations
    The rule has no decay of its own: λ is ``weight_decay`` of an optimizer of
    ``rule.parameters()``, with one rate and one decay for W_l and B_l. Without decay W_l − B_lᵀ
    stays as it was drawn, and is small beside the weights once these have grown. With momentum it
    goes to zero as a damped oscillator does: it obeys the optimizer with no update. Optimizers that
    scale each element by its own history, such as Adam, see the same updates for both, but add λW
    to them first; the sum is scaled, and the difference need not shrink. AdamW's decay is exact.
    Derivatives and the drawing of B_l are those of ``feedback_alignment``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.feedback_alignment import feedback_stages, weights_by_synapse
from forwardly.rules.papers import paper


@final
class KolenPollack(Rule):
    """Feedback weights learn what the weights do, and decay with them (Kolen & Pollack 1994).

    Train ``rule.parameters()`` with weight decay, ``torch.optim.SGD(rule.parameters(), lr=0.1,
    weight_decay=1e-4)``: it is what makes B_l forget how it was drawn.

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient. Beside a
            weight W_l that is frozen, B_l goes on learning: leave it out of the optimizer too.
        loss: see ``Rule``.
        backward: how the feedback weights are drawn, from (fan-in, units) of each layer.
        input_shape: not needed.
        error: see ``Rule``.
        generator: where the feedback weights are drawn from; torch's global generator if None.

    The parameters ``B_2`` … ``B_L`` have the shapes of the weights; ``rule.B`` lists them by
    synapse.

    Raises what ``Rule`` does. Not for ``torch.export``, but for ``fw.export``.
    """

    paper = paper("kolen1994backpropagation")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "B, a layer each, learned"
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
            self.register_own(f"B_{stage.l}", B, learned=True)

    @property
    def B(self) -> dict[str, Tensor]:
        """The feedback weights by the name of their synapse."""
        return weights_by_synapse(self)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, the error sent back through B, and what B learns of it."""
        clean = step.recorded(step.prepare(x))
        output = clean.output
        e = self.error(output, target)
        updates: dict[str, Tensor] = {}
        learned: dict[str, Tensor] = {}
        for stage, layer, delta in step.signals(clean, e, self.B):
            updates |= step.update(stage, delta, layer.pre)
            if stage.sends_back:
                name, more = (
                    f"rule.B_{stage.same_weight}",
                    step.weight_update(stage, delta, layer.pre),
                )
                learned[name] = learned[name] + more if name in learned else more
        updates |= learned
        return Credit(updates, output, self.loss_value(output, target), e)
