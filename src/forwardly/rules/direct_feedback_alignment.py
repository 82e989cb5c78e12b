"""Direct feedback alignment: the output error goes to every hidden layer at once.

Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NeurIPS 2016,
arXiv 1609.01596.

    hidden, l < L    δ_l = (B_l e) ⊙ σ′(z_l)          ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

Shapes
    e (n, k); B_l (n_l, k), n_l the numbers of one sample's z_l: the whole map of a convolution.

Deviations
    σ′ is the derivative of the elementwise modules after the synapse, the statistics of
    normalisations taken as constants. Pooling comes after the layer that B_l reaches.
    B_l ~ U(±√(6 / n_l)), as in public code for DRTP; the paper tunes the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Activity, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


def matrices(
    rule: Rule, backward: feedback.Initialiser, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """B_1 … B_{L−1} for a rule, (n_l, k) each, by these names."""
    *hidden, last = rule.network.probe(rule.input_shape)
    k = last.a[0].numel()
    drawn: dict[str, Tensor] = {}
    for l, layer in enumerate(hidden, start=1):
        drawn[f"B_{l}"], *_ = feedback.drawn(backward, (layer.z[0].numel(), k), generator, layer.z)
    return drawn


def send_error_to_all(
    rule: Rule, x: Tensor, target: Tensor, step: Step
) -> tuple[Credit, list[Activity]]:
    """The equations above with ``rule.B_1`` …, and what the pass recorded at the hidden layers."""
    *hidden, last = step.activities(step.prepare(x))
    e = rule.error(last.a, target)
    updates: dict[str, Tensor] = {}
    for l, layer in enumerate(hidden, start=1):
        stage, B = rule.network.stages[l - 1], cast(Tensor, getattr(rule, f"B_{l}"))
        feedback.check_sizes(f"B_{l}", B, layer.z, e.shape[1])
        signal = (e @ B.T).reshape(layer.z.shape)
        delta = step.through_elementwise(stage, layer.z, signal)
        updates |= step.update(stage, delta, layer.pre)
    updates |= step.update(rule.network.stages[-1], e.reshape(last.z.shape), last.pre)
    return Credit(updates, last.a, rule.loss_value(last.a, target), e), hidden


@final
class DirectFeedbackAlignment(Rule):
    """Fixed random matrices carry the error to each hidden layer directly (Nøkland 2016).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        backward: how the feedback matrices are drawn, from (n_l, k) of each layer.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where they are drawn from; torch's global generator if None.

    The buffers ``B_1`` … ``B_{L−1}`` are (n_l, k).

    Raises what ``Rule`` does.
    """

    paper = paper("nokland2016direct")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "B, from error to each layer"
    teacher = "error"
    trains = "synapses"

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
        for name, B in matrices(self, backward, generator).items():
            self.register_buffer(name, B)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error to all layers."""
        return send_error_to_all(self, x, target, step)[0]
