"""Direct random target projection: hidden layers learn from the target, without waiting.

Frenkel, Lefebvre & Bol, "Learning Without Feedback: Fixed Random Learning Signals Allow for
Feedforward Training of Deep Neural Networks", Frontiers in Neuroscience 15, 2021, arXiv 1909.01311.

    hidden, l < L    δ_l = −(B_l t) ⊙ σ′(z_l)         ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

t is the target as the loss compares it: one-hot for classes.

Shapes
    t, e (n, k); B_l (n_l, k), n_l the numbers of one sample's z_l: the whole map of a convolution;
    or one row a channel, see ``feedback.per_channel``.

Deviations
    The sign: the error of the right class is negative, so −t stands for e. As B and −B have the
    same distribution, this changes nothing. B_l ~ U(±√(6 / n_l)), as in the authors'
    code. σ′ as in ``direct_feedback_alignment``.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback, losses
from forwardly.checks import shape_of
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.by_stage import ByStage, Microbatch, Pass
from forwardly.rules.direct_feedback_alignment import matrices
from forwardly.rules.papers import paper


@final
class DRTP(Rule, ByStage):
    """Fixed random projections of the target teach each hidden layer (Frenkel et al. 2021).

    Args:
        backward: how the feedback matrices are drawn, from (n_l, k) of each layer; for large maps
            ``feedback.per_channel()``.

    Otherwise takes what ``DirectFeedbackAlignment`` does, but for ``error``: the loss must be one
    of ``forwardly.losses``, which says what its target is in numbers. Raises what ``Rule`` does.
    """

    paper = paper("frenkel2021drtp")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "B, from target to each layer"
    teacher = "target"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    updates_at_once = True
    passes = (Pass("forward"),)

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        backward: feedback.Initialiser | feedback.PerChannel = feedback.uniform(1.0),
        input_shape: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        for name, B in matrices(self, backward, generator).items():
            self.register_buffer(name, B)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass; a hidden layer's update needs no more of it than that layer."""
        t = self._target(target)
        updates: dict[str, Tensor] = {}
        output = x
        readouts: list[tuple[Stage, Activity]] = []
        activities = step.activities(step.prepare(x))
        for stage in self.network.stages:
            layer = next(activities)
            output = layer.a
            if stage.is_readout:
                readouts.append((stage, layer))
            else:
                updates |= self._hidden(stage, layer, t, step)
            del layer
        e = self.error(output, target)
        for stage, layer in readouts:
            updates |= step.update(stage, e.reshape(layer.z.shape), layer.pre)
        return Credit(updates, output, self.loss_value(output, target), e)

    def learn(self, stage: Stage, batch: Microbatch) -> dict[str, Tensor]:
        """See ``ByStage``."""
        layer, step = batch.left(stage, "forward"), batch.step
        if not stage.is_readout:
            return self._hidden(stage, layer, self._target(batch.target), step)
        e = self.error(layer.a, batch.target)
        return step.update(stage, e.reshape(layer.z.shape), layer.pre)

    def _hidden(self, stage: Stage, layer: Activity, t: Tensor, step: Step) -> dict[str, Tensor]:
        name = f"B_{stage.same_units}"
        signal = -feedback.sent(name, self.get_buffer(name), t, layer.z)
        delta = step.through_elementwise(stage, layer.z, signal)
        return step.update(stage, delta, layer.pre)

    def _target(self, target: Tensor) -> Tensor:
        """t in numbers, (n, k), without asking the output."""
        matrices = [name for name, _ in self.named_buffers(recurse=False) if name[:2] == "B_"]
        if not matrices:
            return target  # there is no hidden layer to teach
        n, k = target.shape[0], self.get_buffer(matrices[0]).shape[-1]
        shape = (n, k) if isinstance(self.loss, nn.CrossEntropyLoss) else tuple(target.shape)
        dtype = self.network.stages[0].synapse.weight.dtype
        t = losses.encoded(self.loss, target, shape, dtype).reshape(n, -1)
        if t.shape[1] != k:
            raise ValueError(
                f"a target must have {k} numbers, as the model has {k} outputs; given is a target "
                f"of shape {shape_of(target)}"
            )
        return t
