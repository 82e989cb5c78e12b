"""PEPITA without the second product with the input.

The error has few numbers, k, and enters the first synapse linearly, so what it changes there is a
correction of rank k:

    linear          W₁(x + F e) = W₁x + (W₁F) e
    convolution     W₁∗(x + F e) = W₁∗x + Σ_c e_c (W₁∗F_c)      F_c, a column of F, as an image

The columns of F go through the synapse as k more samples of the batch, since a product with k
columns alone takes nearly as long as one with n.

Shapes
    x (n, d), e (n, k), F (d, k) with k much smaller than n and d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forwardly.network import Step
from forwardly.rule import Credit
from forwardly.rules.pepita import PEPITA, perturbed


def assign(rule: PEPITA, x: Tensor, target: Tensor, step: Step) -> Credit:
    """What ``PEPITA.assign`` gives."""
    a_0 = step.prepare(x)
    z_1, response = _through_first_synapse(rule, a_0)
    clean = list(step.activities(a_0, first_z=z_1))
    output = clean[-1].a
    e = rule.error(output, target)

    a_0_err = perturbed(a_0, e, rule.F, rule.sign)
    change = (e @ response.flatten(1)).reshape(z_1.shape)
    modulated = step.activities(a_0_err, first_z=torch.add(z_1, change, alpha=rule.sign))
    *hidden, last = rule.network.stages
    updates: dict[str, Tensor] = {}
    pre_err = a_0_err
    for stage, first in zip(hidden, clean, strict=False):
        second = next(modulated)
        pre = second.pre if rule.presynaptic == "modulated" else first.pre
        updates |= step.update(stage, first.h - second.h, pre)
        pre_err = second.a
    # The modulated output itself is needed only where its error is.
    e_output = e if rule.output_error == "first" else rule.error(next(modulated).a, target)
    pre = pre_err if rule.presynaptic == "modulated" else clean[-1].pre
    updates |= step.update(last, e_output.reshape(clean[-1].z.shape), pre)
    return Credit(updates, output, rule.loss_value(output, target), e)


def _through_first_synapse(rule: PEPITA, a_0: Tensor) -> tuple[Tensor, Tensor]:
    """z₁ of the batch, and the synapse's response, without bias, to each column of F."""
    synapse = rule.network.stages[0].synapse
    columns = rule.F.T.reshape(-1, *a_0.shape[1:])
    z_1, response = synapse(torch.cat([a_0, columns])).split([len(a_0), len(columns)])
    if synapse.bias is not None:
        units = [1] * response.dim()
        units[rule.network.stages[0].unit_dimension(response)] = -1
        response = response - synapse.bias.reshape(units)
    return z_1, response
