"""Measuring, evaluating and building change nothing else: modes, random states, memory."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.data import Dataset, Split
from forwardly.training.measures import MEASURES

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(1))
DATA = Dataset("mine", 3, Split(X, Y), Split(X, Y), Split(X, Y))


def net(*behind: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 20), *behind, nn.ReLU(), nn.Linear(20, 3))


def make(name: str, model: nn.Module, seed: int = 0) -> fw.Rule:
    kind: Any = fw.RULES[name]
    generator = torch.Generator().manual_seed(seed)
    return kind(model, nn.CrossEntropyLoss(), generator=generator)


def modes(rule: fw.Rule) -> list[bool]:
    return [module.training for module in rule.modules()]


def test_modules_keep_their_modes() -> None:
    model = net(nn.BatchNorm1d(20, affine=False), nn.Dropout(0.2))
    rule = make("pepita", model)
    model[1].eval()
    before, statistics = modes(rule), copy.deepcopy(model[1].state_dict())
    fw.evaluate(rule, DATA.test)
    assert modes(rule) == before
    fw.fit(rule, DATA, fw.LocalSGD(rule, 0.1), epochs=2, measures=tuple(MEASURES.values()))
    assert modes(rule) == before
    assert_close(model[1].state_dict(), statistics, rtol=0, atol=0)
    model.eval()  # as after an evaluation by hand: the whole model is to be trained again
    fw.fit(rule, DATA, fw.LocalSGD(rule, 0.1), epochs=1)
    assert all(modes(rule))


def test_modes_come_back_after_a_failure() -> None:
    rule = make("pepita", net(nn.Dropout(0.2)))
    rule.model[1].eval()
    before = modes(rule)
    with pytest.raises(ValueError, match="class indices"):
        fw.evaluate(rule, Split(X, torch.full((24,), 7)))
    assert modes(rule) == before


@pytest.mark.parametrize("name", fw.RULES)
def test_a_credit_is_the_callers(name: str) -> None:
    """What is done with gradients, or by later steps, does not change it; nor the other way."""
    rule = make(name, net(nn.Dropout(0.2)))
    credit = rule.accumulate(X, Y)
    kept = copy.deepcopy(credit)
    rule.accumulate(X, Y)
    torch.nn.utils.clip_grad_norm_(rule.parameters(), 1e-6)
    torch.optim.SGD(rule.parameters(), 1.0, momentum=0.9).step()
    fw.LocalSGD(rule, 0.1, 0.9).step(X, Y)
    rule.model.zero_grad(set_to_none=False)
    assert_close(credit, kept, rtol=0, atol=0)
    before = copy.deepcopy(rule.state_dict())
    gradients = {
        name: p.grad.clone() for name, p in rule.model.named_parameters() if p.grad is not None
    }
    for value in (*credit.updates.values(), credit.output, credit.error):
        value.fill_(7)
    assert_close(rule.state_dict(), before, rtol=0, atol=0)
    for name, gradient in gradients.items():
        assert_close(rule.model.get_parameter(name).grad, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("name", fw.RULES)
def test_a_steps_credit_is_of_its_own_memory(name: str) -> None:
    rule = make(name, net())
    x, y, parameters = X.clone(), Y.clone(), {p.data_ptr() for p in rule.parameters()}
    local = fw.LocalSGD(rule, 0.1, 0.9)
    for credit in (rule(x, y), local.step(x, y)):
        first = [value.data_ptr() for value in (*credit.updates.values(), *credit[1:])]
        assert parameters.isdisjoint(first)
        assert x.data_ptr() not in first
    kept = copy.deepcopy(credit)
    local.step(2 * x, y)
    assert_close(credit, kept, rtol=0, atol=0)


def test_samples_are_not_written_over() -> None:
    """Whatever the first module does; by a slice, which is no copy of them."""
    rule = make("pepita", nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), *net()))
    fw.evaluate(rule, DATA.test)
    rule.predict(X)
    fw.fit(rule, DATA, fw.LocalSGD(rule, 0.1), epochs=1, measures=tuple(MEASURES.values()))
    assert_close(X, torch.randn(24, 6, generator=torch.Generator().manual_seed(0)))


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.unchecked  # checks of annotations draw from random
@pytest.mark.parametrize("name", fw.RULES)
def test_only_building_draws_from_the_global_generator(name: str) -> None:
    """With a generator of its own not even that; and whatever is done then draws from nowhere."""
    before = states()
    rule = make(name, copy.deepcopy(MODEL))
    batch = X, Y
    fw.metrics.update_alignment(rule, *batch)
    fw.metrics.UpdateAlignment().update(rule, *batch)
    for measure in MEASURES.values():
        measure(rule, *batch)
    fw.evaluate(rule, DATA.test)
    fw.fit(rule, DATA, fw.LocalSGD(rule, 0.1), epochs=1, measures=tuple(MEASURES.values()))
    rule.accumulate(*batch)
    fw.audit(rule, *batch)
    copy.deepcopy(rule)
    assert states() == before


MODEL = net(nn.Dropout(0.5))


def test_measuring_does_not_change_what_is_trained_next() -> None:
    ends: list[dict[str, Tensor]] = []
    for measures in ((), tuple(MEASURES.values())):
        torch.manual_seed(0)
        rule = make("pepita", copy.deepcopy(MODEL))
        fw.fit(rule, DATA, fw.LocalSGD(rule, 0.1), epochs=2, measures=measures)
        ends.append(make("pepita", net()).state_dict())  # from the global generator, after that
    assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in fw.RULES if n not in ("backprop", "readout-only")])
def test_feedback_does_not_depend_on_dropout(name: str) -> None:
    plain, dropping = make(name, net()), make(name, net(nn.Dropout(0.5)))
    drawn, others = plain.state_dict(), dropping.state_dict()
    own = {n for n in drawn if not n.startswith("model.")}
    feedback = {n for n in own if drawn[n].is_floating_point()}
    for matrix in feedback:
        assert_close(drawn[matrix], others[matrix], rtol=0, atol=0)
    without = ("forward-forward", "foton", "sign-symmetry-uniform", "sign-symmetry-batch")
    if name not in without and "perturbation" not in name:
        assert feedback


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("name", fw.RULES)
def test_an_optimizer_can_be_copied(name: str, duplicate: Any) -> None:
    """With its rule and model, which go on alike and apart."""
    local = fw.LocalSGD(make(name, copy.deepcopy(MODEL)), 0.1, 0.9)
    local.step(X, Y)
    other = duplicate(local)
    assert other.rule is not local.rule
    held = {id(p) for group in other.param_groups for p in group["params"]}
    assert held == {id(p) for p in other.rule.parameters()}
    before = copy.deepcopy(local.rule.state_dict())
    other.step(X, Y)
    assert_close(local.rule.state_dict(), before, rtol=0, atol=0)
    local.step(X, Y)
    assert_close(local.rule.state_dict(), other.rule.state_dict(), rtol=0, atol=0)
