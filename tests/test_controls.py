"""Backprop, the reference of comparisons, and readout-only, their control."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from described import ERRORS, array, describe
from forwardly.testing import CASES, Case
from reference.pepita import backprop, readout_only
from test_pepita import NETWORKS, dense

DENSE = [
    case
    for case in NETWORKS
    if case.name == "activated-output" or case.name.endswith(("perceptron", "-hidden"))
]
DENSE.append(
    Case(
        "dense-dropout",
        lambda: [nn.Dropout(0.3), *dense(6, 5, 4), nn.Dropout(0.5), nn.Linear(4, 2)],
        (6,),
        2,
        nn.MSELoss,
    )
)


def backprop_is_the_chain_rule(make: Callable[..., fw.Rule], case: Case) -> None:
    rule = make(case.model(), case.loss(), generator=torch.Generator().manual_seed(0))
    x, target = case.batch(n=4)
    credit = rule(x, target)
    expected = backprop(describe(rule, x), array(x), target.numpy(), error=ERRORS[case.loss])
    np.testing.assert_allclose(credit.output, expected.output, rtol=0, atol=1e-10)
    for stage, (dW, db) in zip(rule.network.stages, expected.updates, strict=True):
        assert np.abs(dW).max() > 1e-6
        np.testing.assert_allclose(credit.updates[f"{stage.name}.weight"], dW, rtol=0, atol=1e-10)
        if db is not None:
            np.testing.assert_allclose(credit.updates[f"{stage.name}.bias"], db, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_backprop_is_the_chain_rule(case: Case) -> None:
    backprop_is_the_chain_rule(fw.Backprop, case)


@pytest.mark.parametrize("case", [c for c in CASES if "dropout" not in c.name], ids=str)
def test_backprop_is_the_gradient_of_the_loss(case: Case) -> None:
    """What loss.backward() leaves in .grad, for the loss whose error e is."""
    model = case.model()
    for module in model.modules():
        if isinstance(module, nn.Dropout1d | nn.Dropout2d):
            module.eval()
    rule, copied = fw.Backprop(model, case.loss()), copy.deepcopy(model)
    x, target = case.batch()
    loss = case.loss()(copied(x), target)
    # The modules average over outputs too; of the squared error, e belongs to the half.
    scale = {nn.MSELoss: case.outputs / 2, nn.BCEWithLogitsLoss: case.outputs}
    (loss * scale.get(case.loss, 1)).backward()
    rule.accumulate(x, target)
    for name, parameter in copied.named_parameters():
        assert_close(model.get_parameter(name).grad, parameter.grad)


def readout_only_is_the_delta_rule(make: Callable[..., fw.Rule], case: Case) -> None:
    rule = make(case.model(), case.loss(), generator=torch.Generator().manual_seed(0))
    x, target = case.batch(n=4)
    credit = rule(x, target)
    expected = readout_only(describe(rule, x), array(x), target.numpy(), error=ERRORS[case.loss])
    ((dW, db),) = expected.updates
    last = rule.network.stages[-1].name
    np.testing.assert_allclose(credit.updates[f"{last}.weight"], dW, rtol=0, atol=1e-10)
    if db is not None:
        np.testing.assert_allclose(credit.updates[f"{last}.bias"], db, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_readout_only_is_the_delta_rule(case: Case) -> None:
    readout_only_is_the_delta_rule(fw.ReadoutOnly, case)


def test_weight_decay_does_not_move_what_readout_only_freezes() -> None:
    model = nn.Sequential(*dense(4, 3, 2))
    before = copy.deepcopy(model)
    rule = fw.ReadoutOnly(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        rule.accumulate(torch.randn(5, 4), torch.randint(2, (5,)))
        optimizer.step()
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)
