"""Direct feedback alignment: the output error goes to every hidden layer at once.

Nøkland, "Direct Feedback Alignment Provides Learning in Deep Neural Networks", NeurIPS 2016,
arXiv 1609.01596.

    hidden, l < L    δ_l = (B_l e) ⊙ σ′(z_l)          ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

Shapes
    e (n, k); B_l (n_l, k), n_l the numbers of one sample's z_l: the whole map of a convolution; or
    one row a channel, see ``feedback.per_channel``.

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
    rule: Rule,
    backward: feedback.Initialiser | feedback.PerChannel,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """B_1 … B_{L−1} for a rule, by these names, as ``feedback.to_layer`` says; one where units are
    the same.
    """
    layers = rule.network.probe(rule.input_shape)
    k = layers[-1].a[0].numel()
    drawn: dict[str, Tensor] = {}
    for stage, layer in zip(rule.network.stages, layers, strict=True):
        rule.network.check_by_sample(stage, type(rule).__name__)
        if stage.is_readout or stage.same_units < stage.l:
            continue
        name = f"B_{stage.l}"
        drawn[name] = feedback.to_layer(name, backward, stage, layer.z, k, generator)
    return drawn


def send_error_to_all(
    rule: Rule,
    x: Tensor,
    target: Tensor,
    step: Step,
    also: Callable[[int, Activity, Tensor], None] | None = None,
) -> Credit:
    """The equations above with ``rule.B_1`` …

    Args:
        rule: whose stages and matrices.
        x: as for ``Rule``.
        target: as for ``Rule``.
        step: as for ``Rule.assign``.
        also: called at each hidden layer with l, the layer's activities, and e.
    """
    forward = step.kept(step.prepare(x))
    output = forward.output
    e = rule.error(output, target)
    updates: dict[str, Tensor] = {}
    layers = forward.layers()
    for stage in rule.network.stages:
        layer, l = next(layers), stage.same_units
        post = e.reshape(layer.z.shape) if stage.is_readout else None
        if post is None:
            B = cast(Tensor, getattr(rule, f"B_{l}"))
            signal = feedback.sent(f"B_{l}", B, e, layer.z)
            post = step.through_elementwise(stage, layer.z, signal)
            if also is not None:
                also(l, layer, e)
            del signal
        updates |= step.update(stage, post, layer.pre)
        del layer, post
    return Credit(updates, output, rule.loss_value(output, target), e)


@final
class DirectFeedbackAlignment(Rule):
    """Fixed random matrices carry the error to each hidden layer directly (Nøkland 2016).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        backward: how the feedback matrices are drawn, from (n_l, k) of each layer; for large maps
            ``feedback.per_channel()``.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where they are drawn from; torch's global generator if None.

    The buffers ``B_1`` … ``B_{L−1}`` are (n_l, k), or as ``feedback.per_channel`` says.

    Raises what ``Rule`` does.
    """

    paper = paper("nokland2016direct")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "B, from error to each layer"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    updates_at_once = True

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
            self.register_buffer(name, B)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the error to all layers."""
        return send_error_to_all(self, x, target, step)
