"""What is exact of feedback that learns as the weights do: where it tends, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.fast.sgd import Descent, descend
from forwardly.testing import CASES, Case, build

pytestmark = pytest.mark.unchecked

RATE, DECAY = 0.05, 0.6
STEPS = 4


FLATTENED = Case(  # without pooling: B of direct feedback has the readout's shape
    "conv-dense",
    lambda: [nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)],
    (1, 4, 3),
    4,
)
NAMED = {case.name: case for case in (*CASES, FLATTENED)}


def differences(rule: fw.Rule) -> dict[str, Tensor]:
    """W_l − B_l of Kolen–Pollack, W_L − B_{L−1}ᵀ of its direct form."""
    own = rule.state_dict()
    W = {l: stage.synapse.weight.detach() for l, stage in enumerate(rule.network.stages, start=1)}
    if isinstance(rule, fw.KolenPollack):
        return {f"B_{l}": W[l] - own[f"B_{l}"] for l in W if l > 1}
    last = max(W)
    return {f"B_{last - 1}": W[last] - own[f"B_{last - 1}"].T}


def by_torch(rule: fw.Rule, **settings: Any) -> Callable[[Tensor, Tensor], object]:
    optimizer = torch.optim.SGD(rule.parameters(), RATE, weight_decay=DECAY, **settings)

    def step(x: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        rule.accumulate(x, target)
        optimizer.step()

    return step


def by_local_sgd(rule: fw.Rule, **settings: Any) -> Callable[[Tensor, Tensor], object]:
    return fw.LocalSGD(rule, RATE, weight_decay=DECAY, **settings).step


@pytest.mark.parametrize("way", [by_torch, by_local_sgd])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((fw.KolenPollack, name) for name in ("dropout", "conv2d", "activated-output")),
        *((fw.DirectKolenPollack, name) for name in ("dropout", "conv-dense")),
    ],
)
def test_the_difference_descends_as_if_there_were_no_data(
    kind: Any, name: str, momentum: float, nesterov: bool, way: Any
) -> None:
    """By (1 − ηλ) a step without momentum: the data, and the rates of learning, drop out."""
    case = NAMED[name]
    rule = build(kind, case)
    before = differences(rule)
    start = {name: value.clone() for name, value in rule.named_parameters()}
    step = way(rule, momentum=momentum, nesterov=nesterov)
    for seed in range(STEPS):
        step(*case.batch(seed=seed))
    descent = Descent(momentum, DECAY, RATE, nesterov)
    for name, after in differences(rule).items():
        expected, momenta = before[name], None
        for _ in range(STEPS):
            expected, momenta = descend(expected, momenta, torch.zeros_like(expected), descent)
        assert_close(after, expected)
        if momentum == 0:
            assert_close(after, (1 - RATE * DECAY) ** STEPS * before[name])
        moved = rule.get_parameter(name) - (1 - RATE * DECAY) ** STEPS * start[name]
        assert moved.abs().max() > 1e-3, "of its own accord it decays; it must learn as well"


def test_it_shrinks_under_adamw_too() -> None:
    case = NAMED["dense"]
    rule = build(fw.KolenPollack, case)
    before = differences(rule)
    optimizer = torch.optim.AdamW(rule.parameters(), RATE, weight_decay=DECAY)
    for seed in range(STEPS):
        optimizer.zero_grad()
        rule.accumulate(*case.batch(seed=seed))
        optimizer.step()
    for name, after in differences(rule).items():
        assert_close(after, (1 - RATE * DECAY) ** STEPS * before[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_feedback_that_has_come_to_equal_the_weights_makes_it_backprop(case: Case) -> None:
    """And it stays equal: each B_l learns what its W_l learns."""
    rule = build(fw.KolenPollack, case)
    numbers = range(2, len(rule.network.stages) + 1)
    for l in numbers:
        rule.state_dict()[f"B_{l}"].copy_(rule.network.stages[l - 1].synapse.weight.detach())
    x, target = case.batch()
    backprop = fw.Backprop(rule.model, rule.loss)
    backprop.noise = rule.noise
    updates = rule(x, target).updates
    for name, gradient in backprop(x, target).updates.items():
        assert_close(updates[name], gradient)
    for l in numbers:
        weight = f"{rule.network.stages[l - 1].name}.weight"
        assert_close(updates[f"rule.B_{l}"], updates[weight], rtol=0, atol=1e-14)


def test_with_one_hidden_layer_the_two_rules_are_one() -> None:
    case = NAMED["probabilities"]
    chained, direct = build(fw.KolenPollack, case), build(fw.DirectKolenPollack, case)
    chained.state_dict()["B_2"].copy_(direct.get_parameter("B_1").detach().T)
    for seed in range(STEPS):
        for rule in (chained, direct):
            by_local_sgd(rule)(*case.batch(seed=seed))
    for name, parameter in chained.model.named_parameters():
        assert_close(parameter, direct.model.get_parameter(name))
    assert_close(chained.get_parameter("B_2"), direct.get_parameter("B_1").T)


def test_direct_feedback_below_a_linear_layer_comes_to_invert_it() -> None:
    """W₂B₁ − B₂ shrinks by 1 − ηλ as B₂ − W₃ᵀ does, if W₂ is held still: no transpose of W₂."""
    torch.manual_seed(0)
    parts = nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4, bias=False), nn.Linear(4, 3)
    model = nn.Sequential(*parts).double()
    model[2].requires_grad_(False)
    rule = fw.DirectKolenPollack(model, nn.CrossEntropyLoss())
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1)).double()
    target = x[:, :3].argmax(1)

    def off() -> tuple[Tensor, Tensor]:
        B_1, B_2 = rule.get_parameter("B_1").detach(), rule.get_parameter("B_2").detach()
        W_2, W_3 = (model[i].weight.detach() for i in (2, 3))
        return W_2 @ B_1 - B_2, W_2 @ B_1 - W_3.T

    before = off()
    optimizer = fw.LocalSGD(rule, 0.5, weight_decay=0.02)
    for _ in range(900):
        optimizer.step(x, target)
    for now, then in zip(off(), before, strict=True):
        assert_close(now, (1 - 0.5 * 0.02) ** 900 * then, rtol=0, atol=1e-12)
    assert model[3].weight.abs().max() > 0.1, "there must be something left to invert"


def test_feedback_beside_a_frozen_weight_goes_on_learning() -> None:
    case = NAMED["dense"]
    rule, frozen = build(fw.KolenPollack, case), build(fw.KolenPollack, case)
    frozen.network.stages[1].synapse.weight.requires_grad_(False)
    batch = case.batch()
    updates, others = rule(*batch).updates, frozen(*batch).updates
    assert updates.keys() - others.keys() == {f"{rule.network.stages[1].name}.weight"}
    assert all(torch.equal(update, updates[name]) for name, update in others.items())
