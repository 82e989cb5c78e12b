"""First-order changes against torch's forward-mode derivatives; σ′ and local pieces likewise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.testing import assert_close

import forwardly as fw
from forwardly.testing import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tangent_pass_is_the_networks_linearisation(case: Case) -> None:
    model = case.model()
    rule = fw.ReadoutOnly(model, case.loss(), generator=torch.Generator().manual_seed(0))
    x, _ = case.batch()
    step = rule.network.step(rule.noise)
    a_0 = step.prepare(x)
    layers = list(step.activities(a_0))
    change = torch.randn(a_0.shape, generator=torch.Generator().manual_seed(1)).double()

    def activities(a_0: Tensor) -> list[Tensor]:
        return [tensor for layer in step.activities(a_0) for tensor in (layer.h, layer.a)]

    expected = jvp(activities, (a_0,), (change,))[1]
    for l, (stage, layer) in enumerate(zip(rule.network.stages, layers, strict=True)):
        h_change, change = step.tangent(stage, layer, change)
        assert_close(h_change, expected[2 * l])
        assert_close(change, expected[2 * l + 1])


@pytest.mark.parametrize("over", ["sample", "batch"])
def test_normalise(over: str) -> None:
    norm = fw.Normalise(over)
    h = torch.randn(5, 3, 2, dtype=torch.float64)
    lengths = norm(h).flatten(1).norm(dim=1)
    if over == "sample":
        assert_close(lengths, torch.ones(5, dtype=torch.float64))
        assert_close(norm(h)[:2], norm(h[:2]))
    else:
        assert_close(lengths.norm(), torch.ones((), dtype=torch.float64))
        assert not torch.allclose(norm(h)[:2], norm(h[:2]))
    model = nn.Sequential(nn.Linear(4, 3), norm, nn.ReLU(), nn.Linear(3, 2)).double()
    rule = fw.ReadoutOnly(model, nn.MSELoss())
    step, stage = rule.network.step(), rule.network.stages[0]
    (layer, _) = step.activities(torch.randn(5, 4, dtype=torch.float64))
    change = torch.randn(5, 4, dtype=torch.float64)

    def h_of(a_0: Tensor) -> Tensor:
        return next(step.activities(a_0)).h

    assert_close(step.tangent(stage, layer, change)[0], jvp(h_of, (layer.pre,), (change,))[1])


def test_normalise_over_something_else() -> None:
    with pytest.raises(ValueError, match="over must be one of 'sample', 'batch'; given 'units'"):
        fw.Normalise("units")


def test_zeros_stay_zeros() -> None:
    assert not fw.Normalise()(torch.zeros(2, 3)).any()
