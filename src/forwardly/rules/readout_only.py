"""Readout only: the control. Hidden layers stay as they were drawn; the last synapse learns.

The delta rule of Widrow & Hoff, "Adaptive switching circuits", IRE WESCON Convention Record, 1960,
on random features. What learning in hidden layers is worth is the distance to this.

    hidden, l < L    no update
    output           ΔW_L = e a_{L−1}ᵀ

Shapes
    x (n, …); e (n, k); a_{L−1} what enters the last synapse.

Deviations
    None. Hidden parameters have no entry in ``Credit.updates`` (zeros would let an optimizer's
    weight decay move them).
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


@final
class ReadoutOnly(Rule):
    """Only the last synapse learns, by the delta rule (Widrow & Hoff 1960).

    Takes and raises what ``Rule`` does.
    """

    paper = paper("widrow1960adaptive")
    uses_autograd = False
    forward_passes = 1
    feedback_path = ""
    teacher = "error"
    trains = "readout"
    needs_chain = ""
    needs_whole_batch = ""

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass and the delta rule on what enters the last synapse."""
        output = x
        readouts: list[tuple[Stage, Activity]] = []
        activities = step.activities(step.prepare(x))
        for stage in self.network.stages:
            layer = next(activities)
            output = layer.a
            if stage.is_readout:
                readouts.append((stage, layer))
            del layer
        e = self.error(output, target)
        updates: dict[str, Tensor] = {}
        for stage, last in readouts:
            updates |= step.update(stage, e.reshape(last.z.shape), last.pre)
        return Credit(updates, output, self.loss_value(output, target), e)
