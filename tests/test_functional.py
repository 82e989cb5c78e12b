"""The pure step: ``accumulate`` and torch's SGD, batched, traced, for seeds at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

import forwardly as fw
from forwardly.fast.engine import Batch
from forwardly.fast.sgd import Descent
from forwardly.rule import Rule
from forwardly.training.full_batch import FullBatchTraining
from forwardly.training.functional import State, load, state_of, step_of

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
]


def model_of(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Tanh(), nn.Linear(5, 4)).double()


def rule_of(name: str, *between: nn.Module, seed: int = 0) -> Rule:
    torch.manual_seed(seed)
    kind: Any = fw.RULES[name]
    options = {"learning_rate": 0.1} if kind.needs_learning_rate else {}
    generator = torch.Generator().manual_seed(seed)
    return kind(model_of(*between), nn.CrossEntropyLoss(), generator=generator, **options)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.Generator().manual_seed(1)
    return [
        (
            torch.rand(8, 6, dtype=torch.float64, generator=numbers),
            torch.randint(4, (8,), generator=numbers),
        )
        for _ in range(count)
    ]


def descents_of(rule: Rule, settings: dict[str, Any]) -> dict[str, Descent]:
    given = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False, **settings}
    return {name: Descent(**given) for name, p in rule.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", fw.RULES)
def test_is_accumulate_and_torchs_sgd(name: str, settings: dict[str, Any]) -> None:
    """Parameters, statistics, dropout's numbers and momenta, and the given state is left alone."""
    theirs = rule_of(name, nn.BatchNorm1d(5, affine=False), nn.Dropout(0.3))
    ours = copy.deepcopy(theirs)
    optimizer = torch.optim.SGD(theirs.parameters(), **settings)
    before = copy.deepcopy(ours.state_dict())
    start = state = state_of(ours)
    step = step_of(ours, descents_of(ours, settings))
    for x, target in batches(3):
        state, credit = step(state, x, target)
        optimizer.zero_grad()
        expected = theirs.accumulate(x, target)
        optimizer.step()
        torch.testing.assert_close(credit.output, expected.output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.values, dict(theirs.state_dict()), rtol=1e-12, atol=1e-12)
    momenta = {
        name: optimizer.state[p]["momentum_buffer"]
        for name, p in theirs.named_parameters()
        if optimizer.state[p].get("momentum_buffer") is not None
    }
    torch.testing.assert_close(state.momenta, momenta, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in start.values.items())
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())
    load(ours, state)
    assert all(torch.equal(ours.state_dict()[name], v) for name, v in state.values.items())


def test_what_has_no_descent_stays() -> None:
    rule = rule_of("pepita")
    descents = {"model.0.weight": descents_of(rule, SETTINGS[0])["model.0.weight"]}
    state, _ = step_of(rule, descents)(state_of(rule), *batches(1)[0])
    changed = {n for n, value in state_of(rule).values.items() if (value != state.values[n]).any()}
    assert changed == {"model.0.weight"}


def test_the_next_step_sees_a_changed_model() -> None:
    rule = rule_of("pepita")
    step = step_of(rule, descents_of(rule, SETTINGS[0]))
    batch, start = batches(1)[0], state_of(rule)
    step(start, *batch)
    rule.model[1] = nn.Sigmoid()
    rule.model[0].requires_grad_(False)
    _, credit = step(start, *batch)
    torch.testing.assert_close(credit, rule(*batch))
    assert credit.updates.keys() == {"2.weight", "2.bias"}


def test_descents_of_unknown_parameters_are_refused() -> None:
    """As by its name in the model, which would train nothing without a word."""
    rule = rule_of("pepita")
    descent = descents_of(rule, SETTINGS[0])["model.0.weight"]
    with pytest.raises(ValueError, match=r"the rule has no parameters 0\.weight"):
        step_of(rule, {"0.weight": descent})


@pytest.mark.parametrize("name", ["pepita", "sign-symmetry-batch", "feedback-alignment"])
def test_can_be_batched_over_states_and_traced(name: str) -> None:
    rules = [rule_of(name, nn.Dropout(0.3), seed=seed) for seed in range(3)]
    step = step_of(rules[0], descents_of(rules[0], SETTINGS[1]))
    (x, target), *_ = batches(1)
    alone = [step(state_of(rule), x, target)[0] for rule in rules]
    names = list(alone[0].values)
    stacked = {n: torch.stack([state_of(rule).values[n] for rule in rules]) for n in names}

    def values(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return step(State(given, {}), x, target)[0].values

    together = vmap(values)(stacked)
    traced = make_fx(vmap(values))(stacked)(stacked)
    for n in names:
        for which, expected in enumerate(alone):
            torch.testing.assert_close(together[n][which], expected.values[n])
        assert torch.equal(traced[n], together[n])


@pytest.mark.parametrize("name", ["pepita", "sign-symmetry-batch"])
def test_seeds_at_once_are_each_as_alone(name: str) -> None:
    """Those that draw new numbers in every step draw them here too."""
    rules = [rule_of(name, seed=seed) for seed in range(2)]
    for rule in rules:
        rule.loss = nn.MSELoss()
    numbers = torch.Generator().manual_seed(2)
    x = torch.rand(2, 8, 6, dtype=torch.float64, generator=numbers)
    target = torch.rand(2, 8, 4, dtype=torch.float64, generator=numbers)
    training = FullBatchTraining(rules, Batch(x, target), Batch(x, target), learning_rate=0.1)
    rows = training.advance(2, 2)
    for seed, rule in enumerate(rules):
        optimizer = torch.optim.SGD(rule.model.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            rule.accumulate(x[seed], target[seed])
            optimizer.step()
        weights = list(rule.model.parameters())
        for ours, theirs in zip(training.weights(seed), weights, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs.detach())
        mae = (rule.predict(x[seed]) - target[seed]).abs().mean()
        assert rows[-1].train[seed] == pytest.approx(float(mae))
