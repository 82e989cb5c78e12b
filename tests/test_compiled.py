"""Compiled epochs end where the readable rules do, step by step."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.fast.cpu_epochs.compiled import CompiledTraining, why_not_compiled
from forwardly.fast.cpu_epochs.layout import BLOCK
from forwardly.rule import Rule

ACTIVATIONS: list[type[nn.Module]] = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity]
RULES: list[tuple[str, dict[str, Any]]] = [
    ("pepita", {}),
    ("pepita", {"output_error": "second"}),
    ("pepita", {"sign": -1}),
    ("pepita", {"presynaptic": "clean", "sign": -1}),
    ("backprop", {}),
    ("readout-only", {}),
]
LOSSES = nn.MSELoss(), nn.CrossEntropyLoss(label_smoothing=0.1)
SAMPLES = 23


def network(
    sizes: tuple[int, ...], activation: type[nn.Module], bias: bool, dtype: torch.dtype
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def made(name: str, options: dict[str, Any], model: nn.Module, loss: nn.Module) -> Rule:
    kind: Any = fw.RULES[name]
    more: dict[str, Any] = {"projection": fw.feedback.uniform(0.3)} if name == "pepita" else {}
    return kind(model, loss, generator=torch.Generator().manual_seed(1), **more, **options)


def data(
    sizes: tuple[int, ...], loss: nn.Module, dtype: torch.dtype, samples: int = SAMPLES
) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(2)
    x = torch.rand(samples, sizes[0], generator=numbers, dtype=dtype)
    if isinstance(loss, nn.CrossEntropyLoss):
        return x, torch.randint(sizes[-1], (samples,), generator=numbers)
    return x, torch.rand(samples, sizes[-1], generator=numbers, dtype=dtype)


def descend(rule: Rule, x: Tensor, target: Tensor, rate: float, batch: int, order: Tensor) -> None:
    for chosen in order:
        for start in range(0, len(x), batch):
            part = chosen[start : start + batch]
            updates = rule(x[part], target[part]).updates
            with torch.no_grad():
                for name, update in updates.items():
                    rule.model.get_parameter(name).sub_(rate * update)


@pytest.mark.unchecked  # thousands of steps of the readable rules
@pytest.mark.parametrize("batch", [1, 7, SAMPLES])
@pytest.mark.parametrize("sizes", [(5, 3), (16, 8, 1), (16, 7, 3), (6, 9, 5, 3), (3, 4, 5, 6, 2)])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_equals_the_readable_rule(
    name: str, options: dict[str, Any], sizes: tuple[int, ...], batch: int
) -> None:
    torch.manual_seed(0)
    dtype, samples = torch.float64, 5 if batch == 1 else SAMPLES
    for activation in ACTIVATIONS:
        for bias in (False, True):
            for loss in LOSSES[: sizes[-1]]:  # of one class there is no error
                rule = made(name, options, network(sizes, activation, bias, dtype), loss)
                before = rule.network.stages[-1].synapse.weight.clone()
                x, target = data(sizes, loss, dtype, samples)
                order = torch.stack([torch.randperm(samples) for _ in range(2)])
                engine = CompiledTraining(rule)
                engine.train(x, target, learning_rate=0.1, epochs=2, batch=batch, order=order)
                expected = copy.deepcopy(rule)
                descend(expected, x, target, 0.1, batch, order)
                engine.write_back()
                for key, value in expected.model.state_dict().items():
                    found = rule.model.state_dict()[key]
                    torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
                assert not rule.network.stages[-1].synapse.weight.equal(before)


@pytest.mark.parametrize("batch", [600, 700, 1300])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_batches_larger_than_a_block(name: str, options: dict[str, Any], batch: int) -> None:
    """A batch is one update, though the loops take it in parts."""
    assert batch > BLOCK
    sizes, loss = (6, 5, 4, 3), nn.MSELoss()
    rule = made(name, options, network(sizes, nn.Tanh, True, torch.float64), loss)
    x, target = data(sizes, loss, torch.float64, 1300)
    engine, expected = CompiledTraining(rule), copy.deepcopy(rule)
    engine.train(x, target, learning_rate=0.1, epochs=2, batch=batch)
    descend(expected, x, target, 0.1, batch, torch.arange(1300).repeat(2, 1))
    engine.write_back()
    for key, value in expected.model.state_dict().items():
        torch.testing.assert_close(rule.model.state_dict()[key], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["pepita", "backprop", "readout-only"])
def test_single_precision(name: str) -> None:
    torch.manual_seed(0)
    sizes = (16, 8, 1)
    rule = made(name, {}, network(sizes, nn.ReLU, True, torch.float32), nn.MSELoss())
    x, target = data(sizes, nn.MSELoss(), torch.float32)
    engine = CompiledTraining(rule)
    engine.train(x, target, learning_rate=0.1, epochs=50)
    expected = copy.deepcopy(rule)
    descend(expected, x, target, 0.1, SAMPLES, torch.arange(SAMPLES).repeat(50, 1))
    engine.write_back()
    for key, value in expected.model.state_dict().items():
        assert rule.model.state_dict()[key].dtype == torch.float32
        torch.testing.assert_close(rule.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_measures_the_mean_absolute_error() -> None:
    torch.manual_seed(0)
    sizes = (6, 5, 3)
    rule = made("pepita", {}, network(sizes, nn.Tanh, True, torch.float64), nn.MSELoss())
    x, target = data(sizes, nn.MSELoss(), torch.float64)
    expected = (rule.model(x) - target).abs().mean()
    assert CompiledTraining(rule).mae(x, target) == pytest.approx(float(expected.detach()))


def test_the_rule_is_not_touched_before_it_is_written() -> None:
    rule = made("pepita", {}, network((6, 5, 3), nn.ReLU, True, torch.float64), nn.MSELoss())
    before = copy.deepcopy(rule.state_dict())
    engine = CompiledTraining(rule)
    engine.train(*data((6, 5, 3), nn.MSELoss(), torch.float64), learning_rate=0.1)
    assert all(value.equal(before[key]) for key, value in rule.state_dict().items())


def test_what_diverges_shows() -> None:
    rule = made("backprop", {}, network((6, 5, 3), nn.Identity, True, torch.float64), nn.MSELoss())
    x, target = data((6, 5, 3), nn.MSELoss(), torch.float64)
    engine = CompiledTraining(rule)
    assert engine.train(x, target, learning_rate=0.01, epochs=50) == 0
    stopped = CompiledTraining(rule).train(x, target, learning_rate=1e6, epochs=200)
    expected = copy.deepcopy(rule)
    assert stopped > 1
    for _ in range(stopped):
        assert all(p.isfinite().all() for p in expected.model.parameters())
        descend(expected, x, target, 1e6, SAMPLES, torch.arange(SAMPLES).unsqueeze(0))
    assert not all(p.isfinite().all() for p in expected.model.parameters())


@pytest.mark.parametrize(
    ("layers", "name", "why"),
    [
        (
            [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)],
            "drtp",
            "DRTP is none of PEPITA, Backprop",
        ),
        ([nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)], "pepita", "layer '0' is more than linear"),
        ([nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 2)], "pepita", "layer '0' is more than"),
        ([nn.Linear(4, 3), nn.ReLU(), nn.Tanh(), nn.Linear(3, 2)], "pepita", "several activations"),
        ([nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2)], "backprop", "layer '0' is more than"),
        ([nn.LayerNorm(4), nn.Linear(4, 2)], "backprop", "prepared by more than a Flatten"),
    ],
)
def test_what_it_is_not_made_for(layers: list[nn.Module], name: str, why: str) -> None:
    kind: Any = fw.RULES[name]
    rule = kind(nn.Sequential(*layers), nn.MSELoss())
    assert why in why_not_compiled(rule)
    with pytest.raises(TypeError, match="no compiled training for this rule"):
        CompiledTraining(rule)


def test_other_things_it_is_not_made_for() -> None:
    model = network((4, 3, 2), nn.ReLU, True, torch.float32)
    assert "not compiled" in why_not_compiled(fw.PEPITA(model, nn.BCEWithLogitsLoss()))
    own = fw.PEPITA(model, nn.MSELoss(), error=lambda output, target: output - target)
    assert "a function of its own" in why_not_compiled(own)
    model[1].bias.requires_grad_(False)
    assert "frozen in part" in why_not_compiled(fw.PEPITA(model, nn.MSELoss()))


def test_bad_batches_are_refused_as_by_the_rule() -> None:
    engine = CompiledTraining(
        fw.PEPITA(network((4, 3, 2), nn.ReLU, True, torch.float32), nn.MSELoss())
    )
    with pytest.raises(ValueError, match="NaN"):
        engine.train(torch.full((3, 4), torch.nan), torch.rand(3, 2), learning_rate=0.1)


def test_a_bias_alone_may_diverge() -> None:
    model = nn.Sequential(nn.Linear(2, 1)).double()
    training = CompiledTraining(fw.ReadoutOnly(model, nn.MSELoss()))
    x, target = torch.zeros(3, 2).double(), torch.full((3, 1), 1e200, dtype=torch.float64)
    assert training.train(x, target, learning_rate=1e200, epochs=5) == 1
    (weight,) = training.weights()
    assert abs(weight).max() < 1
