"""MemPEPITA in the memory of four layers: rectifiers write over z, clean inputs are let go early.

The readable rule holds a layer's z and h, and its clean presynaptic activity, until the layer is
done, and runs the last layer again. What is computed is the same.
"""

from __future__ import annotations

from torch import Tensor

from forwardly.network import Step
from forwardly.rule import Credit
from forwardly.rules.mem_pepita import MemPEPITA
from forwardly.rules.pepita import perturbed


def assign(rule: MemPEPITA, x: Tensor, target: Tensor, step: Step) -> Credit:
    """What ``MemPEPITA.assign`` gives."""
    *hidden, last = rule.network.stages
    a_0 = step.prepare(x)
    output = a_0
    for stage in hidden:
        output = step.through(stage, output, keep_z=False).a
    layer = step.through(last, output, keep_z=False)
    output, z_shape = layer.a, layer.z.shape
    del layer
    e = rule.error(output, target)

    take_clean = rule.presynaptic == "clean"
    clean, modulated = a_0, perturbed(a_0, e, rule.F, rule.sign)
    updates: dict[str, Tensor] = {}
    for stage in hidden:
        pre = clean if take_clean else modulated
        _, _, h, clean = step.through(stage, clean, keep_z=False)
        _, _, h_err, modulated = step.through(stage, modulated, keep_z=False)
        updates |= step.update(stage, h - h_err, pre)
        del h, h_err, pre
    updates |= step.update(last, e.reshape(z_shape), clean if take_clean else modulated)
    return Credit(updates, output, rule.loss_value(output, target), e)
