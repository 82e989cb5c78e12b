"""Error broadcast and decorrelation: its limits, and that every step moves its correlations."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.fast.engine import Batch
from forwardly.fast.sgd import Descent
from forwardly.testing import CASES, Case, build
from forwardly.training.full_batch import FullBatchTraining
from forwardly.training.functional import state_of, step_of
from test_pepita import dense


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "activated-output"], ids=str)
def test_what_never_forgets_is_direct_feedback_alignment(case: Case) -> None:
    """With the same matrices, in the second step too; so the paper's appendix I.6 says."""

    def never_forgets(*args: Any, **options: Any) -> fw.Rule:
        return fw.ErrorBroadcast(*args, forgetting=1.0, **options)

    ours, theirs = build(never_forgets, case), build(fw.DirectFeedbackAlignment, case)
    for seed in (1, 2):
        batch = case.batch(seed=seed)
        assert_close(ours.accumulate(*batch), theirs.accumulate(*batch), rtol=0, atol=1e-14)


def test_correlations_become_the_readout_with_its_sign_turned() -> None:
    """Where the readout decays as R forgets: R ∝ −Wᵀ, and hidden updates go up the gradient.

    W ← (1 − ηκ)W − η · mean of e hᵀ and R ← λR + (1 − λ) · mean of h eᵀ, where ηκ = 1 − λ.
    """
    forgetting, rate = 0.999, 0.05
    model = nn.Sequential(*dense(6, 5, 3, bias=False, activation=nn.Tanh)).double()
    rule = fw.ErrorBroadcast(model, nn.MSELoss(), forgetting=forgetting)
    readout = model[2].weight
    scale = -rate / (1 - forgetting)
    with torch.no_grad():
        readout.copy_(scale * rule.get_buffer("R_1").mul_(0.001).T)
    groups = [
        {"params": [model[0].weight]},
        {"params": [readout], "weight_decay": (1 - forgetting) / rate},
    ]
    optimizer = fw.LocalSGD(rule, rate, params=groups)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    for _ in range(50):
        optimizer.step(x, target)
        assert_close(readout.detach(), scale * rule.get_buffer("R_1").T, rtol=1e-9, atol=1e-12)
    assert fw.metrics.update_alignment(rule, x, target)["0.weight"] < -0.99


def rules(count: int) -> list[fw.Rule]:
    made: list[fw.Rule] = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = nn.Sequential(*dense(6, 5, 4, 3, activation=nn.Tanh)).double()
        generator = torch.Generator().manual_seed(seed)
        made.append(fw.ErrorBroadcast(model, nn.MSELoss(), forgetting=0.5, generator=generator))
    return made


def test_every_way_to_take_a_step_moves_the_correlations() -> None:
    numbers = torch.Generator().manual_seed(2)
    x = torch.randn(2, 8, 6, dtype=torch.float64, generator=numbers)
    target = torch.randn(2, 8, 3, dtype=torch.float64, generator=numbers)
    at_once = FullBatchTraining(rules(2), Batch(x, target), Batch(x, target), learning_rate=0.1)
    at_once.advance(1, 4)
    for seed, rule in enumerate(rules(2)):
        batch, before = (x[seed], target[seed]), copy.deepcopy(rule.state_dict())
        fast, readable, pure = (copy.deepcopy(rule) for _ in range(3))
        optimizer = torch.optim.SGD(rule.model.parameters(), lr=0.1)
        engines = [fw.LocalSGD(fast, 0.1), fw.LocalSGD(readable, 0.1, fast=False)]
        descent = Descent(momentum=0.0, weight_decay=0.0, lr=0.1, nesterov=False)
        step = step_of(pure, {name: descent for name, _ in pure.named_parameters()})
        state = state_of(pure)
        for _ in range(4):
            optimizer.zero_grad()
            rule.accumulate(*batch)
            optimizer.step()
            for engine in engines:
                engine.step(*batch)
            state, _ = step(state, *batch)
        expected = rule.state_dict()
        for name in ("R_1", "R_2"):
            assert (expected[name] - before[name]).abs().max() > 0.1
        for found in (fast.state_dict(), readable.state_dict(), state.values):
            assert_close(dict(found), dict(expected))
        weights = zip(at_once.weights(seed), rule.model.parameters(), strict=True)
        for ours, theirs in weights:
            assert_close(torch.from_numpy(ours), theirs.detach())


@pytest.mark.parametrize("forgetting", [-0.1, 1.1, math.nan])
def test_what_cannot_be_kept(forgetting: float) -> None:
    with pytest.raises(ValueError, match="forgetting must be a number from 0 to 1; given"):
        fw.ErrorBroadcast(nn.Sequential(*dense(4, 3, 2)), nn.MSELoss(), forgetting=forgetting)


def test_images_of_another_size_are_refused() -> None:
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    rule = fw.ErrorBroadcast(nn.Sequential(*layers), nn.CrossEntropyLoss(), input_shape=(1, 6, 6))
    with pytest.raises(ValueError, match="R_1"):
        rule(torch.rand(4, 1, 7, 7), torch.zeros(4).long())
