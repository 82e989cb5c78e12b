"""Which engine takes a step, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import forwardly as fw
from forwardly.fast import find
from forwardly.fast.cpu_step import descent, shallow_kernel
from forwardly.fast.threads import pool
from test_products import needs_bfloat16

D, UNITS, K = 600, 130, 10
"""Large enough for whatever is compiled."""

compiled = pytest.mark.skipif(
    pool() is None or not shallow_kernel.suits_processor(),
    reason="needs GNU's OpenMP and AVX2",
)


def network(*between: nn.Module, d: int = D) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, UNITS), nn.ReLU(), *between, nn.Linear(UNITS, K))


def batch(n: int = 66, d: int = D) -> tuple[Tensor, Tensor]:
    return torch.rand(n, d), torch.arange(n) % K


def path_of(model: nn.Module, kind: Any = fw.PEPITA, n: int = 66, **options: Any) -> find.Path:
    rule = kind(model, nn.CrossEntropyLoss())
    optimizer = fw.LocalSGD(rule, lr=0.01, **{"momentum": 0.9, **options})
    assert optimizer.path is None
    optimizer.step(*batch(n, model[0].in_features))
    assert optimizer.path is not None
    return optimizer.path


@compiled
def test_pepita_with_one_hidden_layer_is_one_kernel() -> None:
    for model in (network(), network(nn.Dropout(0.1))):
        path = path_of(model)
        assert path == ("whole_step", {})
        assert str(path) == "whole_step"


@compiled
@pytest.mark.parametrize(
    ("model", "options", "why_not"),
    [
        (network(), {"kind": fw.MemPEPITA}, "it is for PEPITA"),
        (network(nn.Linear(UNITS, UNITS), nn.ReLU()), {}, "one hidden layer of rectifiers"),
        (network(nn.Tanh()), {}, "one hidden layer of rectifiers"),
        (network(), {"n": 3}, "a batch of 3 would leave much of its tiles empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_are_compiled_where_the_whole_is_not(
    model: nn.Module, options: dict[str, Any], why_not: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "suits_processor", lambda: True)
    path = path_of(model, **options)
    assert path.engine == "cpu_step"
    assert why_not in path.why_not["whole_step"]
    assert str(path) == f"cpu_step (not whole_step: {path.why_not['whole_step']})"


@compiled
def test_steps_of_weights_are_torchs_where_registers_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(descent, "suits_processor", lambda: False)
    path = path_of(network(), kind=fw.MemPEPITA)
    assert path.engine == "algebra"
    assert "no AVX-512, without which torch's steps are quicker" in path.why_not["cpu_step"]
    dropped = path_of(network(nn.Dropout(0.1)), kind=fw.MemPEPITA)
    assert dropped.engine == "cpu_step"  # its masks are


@compiled
@needs_bfloat16
def test_the_kernel_in_float32_takes_no_step_in_bfloat16() -> None:
    path = path_of(network(), precision="bf16")
    assert (path.engine, set(path.why_not)) == ("cpu_step", set())


@pytest.mark.parametrize(
    ("model", "options", "why_not"),
    [
        (network(d=20), {}, "nor a linear float32 layer of 65,536 weights"),
        (network(), {"momentum": 0.0}, "trained with momentum"),
        (network(), {"n": 1100}, "batches of up to 1,024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_nothing_is_compiled(model: nn.Module, options: dict[str, Any], why_not: str) -> None:
    path = path_of(model, **options)
    assert path.engine == "algebra"
    assert why_not in path.why_not["cpu_step"]


def test_who_counts_operations_sees_torchs() -> None:
    with FlopCounterMode(display=False):
        path = path_of(network())
    assert path.engine == "algebra"
    assert path.why_not["cpu_step"] == "operations are traced or counted"


def test_what_a_model_has_of_its_own_is_called_as_it_is() -> None:
    model = network()
    model[1].register_forward_hook(lambda *_: None)
    path = path_of(model)
    assert path.engine == "readable"
    assert set(path.why_not.values()) == {"module '1' has a hook"} or pool() is None
    assert path_of(network(), fast=False) == ("readable", {})


def test_the_path_is_that_of_the_last_step() -> None:
    optimizer = fw.LocalSGD(fw.PEPITA(network(), nn.CrossEntropyLoss()), lr=0.01, momentum=0.9)
    engines: list[str] = []
    usual = {"momentum": 0.9, "dampening": 0.0, "maximize": False}
    for change in ({}, {"momentum": 0.0}, {}, {"dampening": 0.5}, {"maximize": True}):
        optimizer.param_groups[0].update(usual | change)
        optimizer.step(*batch())
        assert optimizer.path is not None
        engines.append(optimizer.path.engine)
    assert engines[0] == engines[2]
    assert engines[1] == engines[3] == engines[4] == "algebra"
