"""Error broadcast and decorrelation: the error reaches a layer by what it correlates with there.

Erdogan, Pehlevan & Erdogan, "Error Broadcast and Decorrelation as a Potential Artificial and
Natural Learning Mechanism", NeurIPS 2025, arXiv 2504.11558, its multi-layer perceptron.

    correlation, l < L   R_l ← λ R_l + (1 − λ) · mean of h_l eᵀ       moves with every step
    hidden, l < L        δ_l = (R_l e) ⊙ σ′(z_l)                      ΔW_l = δ_l a_{l−1}ᵀ
    output               δ_L = e ⊙ σ′(z_L)                            ΔW_L = δ_L a_{L−1}ᵀ

An optimal estimator's error is uncorrelated with any function of the input, so each layer descends
its own loss ½‖R_l‖²; of that gradient the part that goes through h_l is kept, and not the part
that goes through e, which would have to be sent back. R_l is that of the same step: it has seen the
batch. With λ = 1 it never moves, and the rule is direct feedback alignment.

What it learns it learns through the R_l that it starts with, to which the weights align. What moves
R_l works against that: the readout descends along the same mean of h e, so where it decays as R_l
forgets, R_{L−1} becomes −W_Lᵀ, scaled, and δ_{L−1} minus backprop's. Started from R_l = 0, hidden
activities shrink, and the network ends below the control: the collapse that the paper names. So λ
is next to 1.

Shapes
    e (n, k); h_l as z_l; R_l (n_l, k), n_l the numbers of one sample's h_l: the whole map of a
    convolution.

Deviations
    Decorrelation alone, by the activities themselves, g(h) = h. Left out is what the paper adds
    against collapse (power normalisation, layer entropy), sparse weights and activities, and the
    layers' projections forward to the output. So its figures cannot be expected.
    The factor 1 − λ of the gradient is part of the learning rate, as in the paper's experiments;
    R_l keeps it. R_l starts from U(±√(6 / n_l)), as B_l does for direct feedback alignment, and
    learns at the rate of the output; the paper starts a hundred times smaller, at rates thousands
    of times larger.
    With cross-entropy e is the loss's derivative, for which the same orthogonality holds (Uzun et
    al. 2026, arXiv 2605.30638); the paper has squared errors.
    σ′ is the derivative of the elementwise modules after the synapse, the statistics of
    normalisations taken as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


@final
class ErrorBroadcast(Rule):
    """Each layer decorrelates from the error, which its correlation brings (Erdogan et al. 2025).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        forgetting: λ, how much of the correlation a step keeps, 0 to 1.
        backward: how the correlations before the first step are drawn, from (n_l, k) of each layer.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where they are drawn from; torch's global generator if None.

    The buffers ``R_1`` … ``R_{L−1}`` are (n_l, k), and move with every step.

    Raises what ``Rule`` does; ValueError also if λ is not from 0 to 1.
    """

    paper = paper("erdogan2025error")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "R, from error to each layer"
    teacher = "error"
    trains = "synapses"
    needs_chain = "it has only been tried there"
    needs_whole_batch = "its correlations move by the whole batch before they carry the error"
    output_update = "gradient"

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        forgetting: float = 0.99999,
        backward: feedback.Initialiser = feedback.uniform(1.0),
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        if not 0 <= forgetting <= 1:
            raise ValueError(f"forgetting must be a number from 0 to 1; given {forgetting}")
        self.forgetting = forgetting
        *hidden, last = self.network.probe(self.input_shape)
        k = last.a[0].numel()
        for l, layer in enumerate(hidden, start=1):
            R, *_ = feedback.drawn(backward, (layer.h[0].numel(), k), generator, layer.h)
            self.register_own(f"R_{l}", R, learned=False)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, the correlations moved by it, and the error through them."""
        *hidden, last = step.activities(step.prepare(x))
        e = self.error(last.a, target)
        updates: dict[str, Tensor] = {}
        for l, layer in enumerate(hidden, start=1):
            stage, before = self.network.stages[l - 1], self.get_buffer(f"R_{l}")
            feedback.check_sizes(f"R_{l}", before, layer.h, e.shape[1])
            correlation = layer.h.flatten(1).T @ (e / e.shape[0])
            R = self.forgetting * before + (1 - self.forgetting) * correlation
            step.moved[f"R_{l}"] = R
            signal = (e @ R.T).reshape(layer.z.shape)
            delta = step.through_elementwise(stage, layer.z, signal)
            updates |= step.update(stage, delta, layer.pre)
        stage = self.network.stages[-1]
        delta = step.through_elementwise(stage, last.z, e.reshape(last.z.shape))
        updates |= step.update(stage, delta, last.pre)
        return Credit(updates, last.a, self.loss_value(last.a, target), e)
