"""The kernel of a weight's step on CUDA, by Triton's interpreter on the processor.

Where there is no Triton it is skipped; ``make test-triton`` has it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from cuda_graphs import Graphs, graphs
from forwardly.benchmarks import check
from forwardly.fast.sgd import Descent, descend

__all__ = ["graphs"]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, see make test-triton", allow_module_level=True)
kernel: Any = pytest.importorskip("forwardly.fast.cuda.kernel", reason="needs Triton")

RATE = 0.1
DESCENTS = {
    "plain": Descent(0.0, 0.0, RATE, False),
    "decay": Descent(0.0, 0.1, RATE, False),
    "momentum": Descent(0.9, 0.0, RATE, False),
    "momentum, decay": Descent(0.9, 0.1, RATE, False),
    "nesterov": Descent(0.9, 0.0, RATE, True),
    "nesterov, decay": Descent(0.9, 0.1, RATE, True),
    "maximize, dampening": Descent(0.9, 0.1, RATE, False, True, 0.3),
}
SHAPES = [(1, 1, 1), (5, 3, 7), (64, 64, 64), (33, 65, 130), (100, 10, 70)]
"""n, units, inputs: of one tile or many, full or not."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def both(
    shape: tuple[int, int, int],
    settings: Descent,
    *,
    networks: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
    steps: int = 2,
) -> list[tuple[Tensor, Tensor]]:
    """W and M after some steps, by the kernel and by definition, in float64."""
    n, units, inputs = shape
    weight, post = drawn(*networks, units, inputs), drawn(*networks, n, units).to(dtype)
    pre = drawn(*networks, n, inputs).to(dtype)
    rates = torch.full(networks or (1,), RATE) * torch.arange(1, 1 + (networks or (1,))[0])
    momentum = torch.full_like(weight, torch.nan) if settings.momentum else None
    expected_w, expected_m = weight.double(), None
    rate = rates.double().reshape(*networks, 1, 1) if networks else float(rates)
    for step in range(steps):
        if momentum is not None and step == 0:
            momentum.zero_()
        kernel.descend(
            *(weight, momentum, post, pre, settings, rates), scale=1 / n, is_new=step == 0
        )
        update = post.double().mT @ pre.double() / n
        expected_w, expected_m = descend(expected_w, expected_m, update, settings._replace(lr=rate))
    pairs = [(weight, expected_w.float())]
    if momentum is not None and expected_m is not None:
        pairs.append((momentum, expected_m.float()))
    return pairs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", DESCENTS)
def test_it_is_the_definition(shape: tuple[int, int, int], name: str) -> None:
    for found, expected in both(shape, DESCENTS[name]):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DESCENTS)
def test_networks_at_once_have_rates_of_their_own(name: str) -> None:
    for found, expected in both((40, 66, 70), DESCENTS[name], networks=(3,)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_activities_in_bfloat16_are_summed_in_float32() -> None:
    for found, expected in both((70, 66, 20), DESCENTS["momentum"], dtype=torch.bfloat16):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DESCENTS)
def test_local_sgd_takes_it(name: str, graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before there is a graph, which could not hold what is interpreted."""
    settings = DESCENTS[name]
    calls: list[object] = []
    step = kernel.descend
    monkeypatch.setattr(kernel, "descend", lambda *a, **k: (calls.append(a), step(*a, **k)))
    ends = list[Any]()
    for by_kernel in (False, True):
        torch.manual_seed(0)
        layers = nn.Linear(70, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 4, bias=False)
        rule = fw.PEPITA(nn.Sequential(*layers), nn.CrossEntropyLoss())
        optimizer = fw.LocalSGD(rule, RATE)
        optimizer.param_groups[0].update(settings._asdict())
        engines: Any = optimizer._engines
        if not by_kernel:
            engines.graphs.failed = "not asked"
        for seed in range(2):
            numbers = torch.Generator().manual_seed(seed)
            optimizer.step(torch.rand(66, 70, generator=numbers), torch.arange(66) % 4)
            if seed == 0:
                optimizer.param_groups[0]["lr"] = RATE / 2
        assert len(calls) == (4 if by_kernel else 0)  # of both weights
        momenta = [optimizer.state[p].get("momentum_buffer") for p in rule.parameters()]
        ends.append([rule.state_dict(), momenta])
        assert "kernel" not in optimizer.path.why_not  # pyright: ignore
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_the_benchmarks_check_of_it() -> None:
    assert check.of_kernel("cpu") <= check.MOST_OF_KERNEL
