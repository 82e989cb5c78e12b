"""Mono-Forward: each hidden layer learns together with a classifier of its own.

Gong, Li & Abdulla, "Mono-Forward: Backpropagation-Free Algorithm for Efficient Neural Network
Training Harnessing Local Errors", 2025, arXiv 2501.09238.

    goodness, l < L  G_l = M_l a_l            e_l, the error of G_l as an output
    projection       ΔM_l = e_l a_lᵀ
    hidden           δ_l = (M_lᵀ e_l) ⊙ σ′(z_l)          ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

So W_l and M_l descend the layer's own loss, and nothing is passed from layer to layer but activity.

    prediction       "readout": W_L a_{L−1}, as a network trained by backprop predicts
                     "all": the mean of this and of the goodness G_1 … G_{L−1}

Shapes
    e, G_l, e_l (n, k); M_l (k, n_l), n_l the numbers of one sample's a_l: after pooling, flattened.

Deviations
    The paper predicts by M_{L−1}, or by the sum of all G_l. Here the model ends in a readout W_L
    that stands beside M_{L−1} and learns the same from the same activity, from other initial
    weights: what predicts is the model itself. The mean stands for the sum, for targets that are
    numbers. The error is that of the loss that is given, the paper's cross-entropy. σ′ as in
    ``local_errors``. M_l begins as torch's linear layers do, U(±√(1 / n_l)), as in public code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly._typing import Shaped
from forwardly.checks import one_of
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.local_errors import drawn_heads, head, teach_locally
from forwardly.rules.papers import paper

_AS_TORCH_DOES = feedback.uniform(1 / math.sqrt(6))  # U(±√(1 / n_l)), as nn.Linear begins


@final
class MonoForward(Rule):
    """Each hidden layer and its own classifier learn from their local error (Gong et al. 2025).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``; also that of each layer.
        heads: how the projections begin, from (n_l, k) of each layer.
        prediction: whether ``predict`` asks the model's readout, or takes the mean of all layers.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``; also of each layer's goodness.
        generator: where they are drawn from; torch's global generator if None.

    The parameters ``M_1`` … ``M_{L−1}`` are (k, n_l): make optimizers of ``rule.parameters()``.

    Raises what ``Rule`` does.
    """

    paper = paper("gong2025mono")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "M, a learned classifier for each layer"
    teacher = "target"
    trains = "synapses"
    needs_chain = "it teaches each layer by a classifier of what it hands on"
    needs_whole_batch = ""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        heads: feedback.Initialiser = _AS_TORCH_DOES,
        prediction: Literal["readout", "all"] = "readout",
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.prediction = one_of("prediction", prediction, ("readout", "all"))
        self.output_predicts = prediction == "readout"
        drawn, self._shape = drawn_heads(self, heads, generator)
        for name, M in drawn.items():
            self.register_own(name, M, learned=True)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass; a hidden layer's update needs no more of it than that layer."""
        return teach_locally(self, self._shape, x, target, step, learn=True)

    @torch.no_grad()
    def predict(self, x: Shaped[Tensor, "n ..."]) -> Tensor:
        """The model's output, or the mean over all layers; of the output's shape."""
        if self.prediction == "readout":
            return super().predict(x)
        step = self.network.step(self.noise)
        *hidden, last = step.activities(step.prepare(x))
        goodness = [head(self, l, layer.a)[1] for l, layer in enumerate(hidden, start=1)]
        total = sum((G.reshape(last.a.shape) for G in goodness), last.a)
        return total / (len(hidden) + 1)
