"""Rules that learn parameters of their own: every way to take a step moves them, or says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.errors import UsageError
from forwardly.fast.sgd import Descent
from forwardly.network import Step
from forwardly.testing import CASES, LAWS
from forwardly.training.functional import load, state_of, step_of

pytestmark = pytest.mark.unchecked

DATA = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
TARGET = DATA[:, :3].argmax(1)


@final
class Learned(fw.Rule):
    """Direct feedback B to one hidden layer, which learns e hᵀ as the readout does."""

    paper = fw.PEPITA.paper
    uses_autograd = False
    forward_passes = 1
    feedback_path = "B, learned"
    B: nn.Parameter
    teacher = "error"
    trains = "synapses"

    def __init__(self, model: nn.Module, loss: nn.Module, **given: Any) -> None:
        super().__init__(model, loss, **given)
        *_, readout = (stage.synapse.weight for stage in self.network.stages)
        numbers = given.get("generator")
        drawn = torch.randn(readout.shape, generator=numbers, dtype=readout.dtype)
        self.register_own("B", 0.3 * drawn, learned=True)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> fw.Credit:
        first, last = self.network.stages
        hidden, output = step.activities(step.prepare(x))
        e = self.error(output.a, target)
        updates = step.update(first, e @ self.B * step.slope(first, hidden.z), hidden.pre)
        updates |= step.update(last, e.reshape(output.z.shape), output.pre)
        updates["rule.B"] = e.T @ output.pre.flatten(1) / len(x)
        return fw.Credit(updates, output.a, self.loss_value(output.a, target), e)


def built(seed: int = 0, **names: str) -> Learned:
    torch.manual_seed(seed)
    hidden, readout = nn.Linear(6, 8), nn.Linear(8, 3)
    parts = {names.get("hidden", "0"): hidden, "1": nn.Tanh(), "2": readout}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return Learned(model.double(), nn.CrossEntropyLoss())


def state(rule: fw.Rule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in rule.state_dict().items()}


def test_it_keeps_the_laws() -> None:
    cases = [case for case in CASES if case.name in ("regression", "probabilities", "layer-norm")]
    assert len(cases) == 3
    for law in LAWS:
        if law.__name__ != "hidden_units_have_no_order":  # B has columns of units
            for case in cases:
                law(Learned, case)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_all_ways_to_step_end_at_the_same_place(momentum: float) -> None:
    plain, local, slow, pure = (built() for _ in range(4))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=momentum)
    fast = fw.LocalSGD(local, lr=0.1, momentum=momentum)
    readable = fw.LocalSGD(slow, lr=0.1, momentum=momentum, fast=False)
    descent = Descent(momentum, 0.0, 0.1, nesterov=False)
    step = step_of(pure, {name: descent for name, _ in pure.named_parameters()})
    after = state_of(pure)
    start = built().B.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        credit = plain.accumulate(DATA, TARGET)
        assert plain.B.grad is not None
        assert torch.equal(plain.B.grad, credit.updates["rule.B"])
        optimizer.step()
        fast.step(DATA, TARGET)
        readable.step(DATA, TARGET)
        after, _ = step(after, DATA, TARGET)
    load(pure, after)
    for other in (local, slow, pure):
        torch.testing.assert_close(state(other), state(plain))
    assert (plain.B - start).abs().max() > 1e-3


def test_what_an_optimizer_of_the_model_alone_would_leave_out_is_said() -> None:
    rule = built()
    optimizer = torch.optim.SGD(rule.model.parameters(), lr=0.1)
    rule.accumulate(DATA, TARGET)
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"rule\.B were not: make the optimizer of rule\.param"):
        rule.accumulate(DATA, TARGET)
    with pytest.raises(UsageError, match=r"does not hold rule\.B, which Learned learns"):
        fw.fit(rule, (DATA, TARGET), optimizer, epochs=1)
    # Gradients of several batches are added up, as one is used to.
    rule = built()
    for _ in range(2):
        rule.accumulate(DATA, TARGET)


def test_frozen_is_what_the_optimizer_does_not_hold() -> None:
    rule = built()
    before = rule.B.detach().clone()
    optimizer = fw.LocalSGD(rule, 0.1, params=rule.model.parameters())
    weight = rule.model[0].weight.detach().clone()  # pyright: ignore
    optimizer.step(DATA, TARGET)
    assert torch.equal(rule.B, before)
    assert not torch.equal(rule.model[0].weight, weight)  # pyright: ignore


def test_a_run_goes_on_with_them(tmp_path: Path) -> None:
    whole, part = built(), built()
    fw.fit(whole, (DATA, TARGET), fw.LocalSGD(whole, 0.1, 0.9), epochs=3, batch=16)
    path = tmp_path / "checkpoint.pt"
    options: dict[str, Any] = {"batch": 16, "checkpoint": path}
    fw.fit(part, (DATA, TARGET), fw.LocalSGD(part, 0.1, 0.9), epochs=1, **options)
    last = built(seed=5)
    fw.fit(last, (DATA, TARGET), fw.LocalSGD(last, 0.1, 0.9), epochs=3, resume=True, **options)
    assert all(torch.equal(value, state(last)[name]) for name, value in state(whole).items())


def test_alignment_is_of_the_models_parameters() -> None:
    assert fw.metrics.update_alignment(built(), DATA, TARGET).keys() == built().trained


def test_a_name_that_would_mean_two_is_refused() -> None:
    rule = built(hidden="rule")
    rule(DATA, TARGET)
    rule = built(hidden="rule")
    rule.register_parameter("weight", nn.Parameter(torch.ones(1).double()))
    with pytest.raises(ValueError, match=r"has a parameter named 'rule\.weight'"):
        rule(DATA, TARGET)


def test_it_cannot_be_frozen_silently() -> None:
    rule = built()
    rule.B.requires_grad_(False)
    with pytest.raises(ValueError, match=r"B of its own, .* leave it out of the optimizer"):
        rule.accumulate(DATA, TARGET)


def test_one_of_another_type_is_refused() -> None:
    rule = built()
    rule.model.float()
    with pytest.raises(TypeError, match="the rule's B"):
        rule(DATA.float(), TARGET)
