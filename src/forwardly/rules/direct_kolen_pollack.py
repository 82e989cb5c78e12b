"""Direct Kolen–Pollack: the matrices of direct feedback alignment learn, too.

Webster, Choi & Ahn, "Learning the Connections in Direct Feedback Alignment", submitted to ICLR
2021, https://openreview.net/forum?id=zgGmAx9ZcY.

    hidden, l < L    δ_l = (B_l e) ⊙ σ′(z_l)          ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ
    feedback, l < L  ΔB_l = h_l eᵀ
    decay            W_l ← (1 − ηλ) W_l − η ΔW_l,  B_l alike: the optimizer's

What B_l comes to. For the last hidden layer ΔB_{L−1} is the transpose of ΔW_L, so this is the rule
of Kolen and Pollack: W_L − B_{L−1}ᵀ shrinks by 1 − ηλ a step, exactly. Further down the paper hopes
for W_{l+1}ᵀ … W_Lᵀ, along which backprop would send the error. What is exact there: where layer
l + 1 is linear, without bias, and held still, W_{l+1} ΔB_l = ΔB_{l+1}, so W_{l+1} B_l tends to
B_{l+1}, as it does to W_Lᵀ in the end: B_l inverts the layers above rather than transposing them.
The two are one where W_{l+1} W_{l+1}ᵀ is the identity.

Shapes
    e (n, k); B_l (n_l, k), n_l the numbers of one sample's z_l: the whole map of a convolution; or
    one row a channel, which learns the sum over its places, see ``feedback.per_channel``.

Deviations
    As in ``direct_feedback_alignment``, B_l reaches the layer before its pooling, and so learns
    from h_l there; where there is pooling or a reshaping before the readout, B_{L−1} is therefore
    no transpose of W_L. The rule has no decay of its own, as in ``kolen_pollack``. Public
    code of the method takes Adam at 10⁻⁴, decaying, for B_l and SGD for W_l: two optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Activity, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.direct_feedback_alignment import matrices, send_error_to_all
from forwardly.rules.papers import paper


@final
class DirectKolenPollack(Rule):
    """Matrices from the error to each hidden layer learn with it (Webster, Choi & Ahn 2021).

    Train ``rule.parameters()`` with weight decay, ``torch.optim.SGD(rule.parameters(), lr=0.1,
    weight_decay=1e-4)``: it is what makes B_l forget how it was drawn.

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        backward: how the feedback matrices are drawn, from (n_l, k) of each layer; for large maps
            ``feedback.per_channel()``.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where they are drawn from; torch's global generator if None.

    The parameters ``B_1`` … ``B_{L−1}`` are (n_l, k), or as ``feedback.per_channel`` says.

    Raises what ``Rule`` does.
    """

    paper = paper("webster2021learning")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "B, from error to each layer, learned"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        backward: feedback.Initialiser | feedback.PerChannel = feedback.uniform(1.0),
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        for name, B in matrices(self, backward, generator).items():
            self.register_own(name, B, learned=True)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, the error to all layers, and what B learns of both."""
        learned: dict[str, Tensor] = {}

        def learn(l: int, layer: Activity, e: Tensor) -> None:
            B = cast(Tensor, getattr(self, f"B_{l}"))
            learned[f"rule.B_{l}"] = feedback.correlation(B, layer.h, e / e.shape[0])

        credit = send_error_to_all(self, x, target, step, learn)
        credit.updates.update(learned)
        return credit
