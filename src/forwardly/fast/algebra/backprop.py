"""Backprop a layer at a time, so that no layer's update need be held beside its weights.

    δ_L = e ⊙ σ′(z_L),  δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ σ′(z_l)        ΔW_l = δ_l a_{l−1}ᵀ

Feedback alignment's chain with the network's own weights; the readable rule is torch's autograd.
"""

from __future__ import annotations

from torch import Tensor, nn

from forwardly.network import Step
from forwardly.rule import Credit
from forwardly.rules.backprop import Backprop
from forwardly.rules.feedback_alignment import send_error_back


def assign(rule: Backprop, x: Tensor, target: Tensor, step: Step) -> Credit:
    """What ``Backprop.assign`` gives; for linear layers, with no other parameters than theirs."""
    stages = rule.network.stages
    of_synapses = {f"{stage.name}.{name}" for stage in stages for name in stage.trained}
    linear = all(isinstance(stage.synapse, nn.Linear) for stage in stages)
    if not linear or rule.trained - of_synapses:
        return rule.assign(x, target, step)
    weights = {stage.name: stage.synapse.weight for stage in stages}
    return send_error_back(rule, x, target, step, weights)
