"""PEPITA without the second product with the input.

The error has few numbers, k, and enters the first synapse linearly, so what it changes there is a
correction of rank k:

    linear          W₁(x + F e) = W₁x + (W₁F) e
    convolution     W₁∗(x + F e) = W₁∗x + Σ_c e_c (W₁∗F_c)      F_c, a column of F, as an image

The columns of F go through the synapse as k more samples of the batch, since a product with k
columns alone takes nearly as long as one with n.

Later synapses see the difference of the activities below, which is there already:

    linear          W h_err = W h − W (h − h_err)

It is as much work as W h_err, but rounding errors are as small as the difference is, which is what
the update needs; in bfloat16 those of two passes would drown it.

Maps of a two-dimensional convolution lie with the channels last, in which torch's convolution and
pooling are quicker, and what has been used is written over.

Shapes
    x (n, d), e (n, k), F (d, k) with k much smaller than n and d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forwardly.feedback import check_sizes
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit
from forwardly.rules.pepita import PEPITA, perturbed


def assign(rule: PEPITA, x: Tensor, target: Tensor, step: Step) -> Credit:
    """What ``PEPITA.assign`` gives."""
    a_0 = _channels_last(rule, step.prepare(x))
    z_1, response, copy = _through_first_synapse(rule, a_0, step)
    first_pass = step.kept(a_0, first_z=z_1)
    del z_1
    output = first_pass.output
    e = rule.error(output, target)

    take_clean = rule.presynaptic == "clean"
    *hidden, last = rule.network.stages
    clean = first_pass.layers()
    updates: dict[str, Tensor] = {}
    pre_err, change = _perturbed_in_place(rule, copy, e), a_0
    for stage in hidden:
        first = next(clean)
        if stage is hidden[0]:
            z_err = _corrected(first.z, e, response, rule.sign, in_place=_done_with(first))
        else:
            z_err = _less(step, stage, first.z, change, in_place=_done_with(first))
        h_err, a_err = step.through(stage, pre_err, z=z_err, keep_z=False)[2:]
        del z_err
        goes_on = stage is not hidden[-1] or rule.output_error == "second"
        reshaped = first.a - a_err if stage.reshaping and goes_on else None
        # Where no later update takes h as its presynaptic side, the difference takes its place.
        post = first.h - h_err if take_clean else first.h.sub_(h_err)
        updates |= step.update(stage, post, first.pre if take_clean else pre_err)
        pre_err, change = a_err, post if reshaped is None else reshaped
        del first, h_err, a_err, post, reshaped
    first = next(clean)
    # The modulated output itself is needed only where its error is.
    e_output = e
    if rule.output_error == "second":
        if hidden:
            z_err = _less(step, last, first.z, change, in_place=False)
        else:
            z_err = _corrected(first.z, e, response, rule.sign, in_place=False)
        e_output = rule.error(step.through(last, pre_err, z=z_err).a, target)
    pre = first.pre if take_clean else pre_err
    updates |= step.update(last, e_output.reshape(first.z.shape), pre)
    return Credit(updates, output, rule.loss_value(output, target), e)


def _through_first_synapse(rule: PEPITA, a_0: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """z₁, the synapse's response, without bias, to each column of F, and a copy of a₀."""
    stage = rule.network.stages[0]
    n, columns = len(a_0), rule.F.T
    check_sizes("F", rule.F, a_0, len(columns))
    if a_0.dim() > 2:
        columns = _channels_last(rule, columns.reshape(-1, *a_0.shape[1:]))
    together = torch.cat([a_0, columns])
    z = step.through_synapse(stage, together)
    z_1, response = z[:n], z[n:]
    if stage.synapse.bias is not None:
        units = [1] * response.dim()
        units[stage.unit_dimension(response)] = -1
        response = response - stage.synapse.bias.reshape(units)
    return z_1, response, together[:n]


def _perturbed_in_place(rule: PEPITA, copy: Tensor, e: Tensor) -> Tensor:
    """``perturbed`` of a copy of a₀ that nobody needs."""
    if copy.dim() == 2:
        check_sizes("F", rule.F, copy, e.shape[1])
        return copy.addmm_(e, rule.F.T, alpha=rule.sign)
    return _channels_last(rule, perturbed(copy, e, rule.F, rule.sign))


def _corrected(z_1: Tensor, e: Tensor, response: Tensor, sign: int, in_place: bool) -> Tensor:
    """z₁ ± e · response: the modulated pass's."""
    z, r = z_1, response
    lies_otherwise = z_1.dim() == 4 and not z_1.is_contiguous()
    if lies_otherwise:
        z, r = z_1.permute(0, 2, 3, 1), response.permute(0, 2, 3, 1)
    flat = z.flatten(1)
    if in_place and flat.data_ptr() == z_1.data_ptr():  # no copy was made
        flat.addmm_(e, r.flatten(1), alpha=sign)
        return z_1
    corrected = torch.addmm(flat, e, r.flatten(1), alpha=sign).reshape(z.shape)
    return corrected.permute(0, 3, 1, 2) if lies_otherwise else corrected


def _done_with(first: Activity) -> bool:
    """Whether nothing that was made of z₁ still lies there."""
    return first.h.untyped_storage().data_ptr() != first.z.untyped_storage().data_ptr()


def _less(step: Step, stage: Stage, z: Tensor, change: Tensor, in_place: bool) -> Tensor | None:
    """z − W · change; None, to be computed from its input, for a convolution."""
    if not isinstance(stage.synapse, nn.Linear):
        return None
    product = step.product(stage, change)
    return z.sub_(product) if in_place else z - product


def _channels_last(rule: PEPITA, a_0: Tensor) -> Tensor:
    if isinstance(rule.network.stages[0].synapse, nn.Conv2d):
        return a_0.contiguous(memory_format=torch.channels_last)
    return a_0
