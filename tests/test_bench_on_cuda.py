"""The benchmark of a GPU, as far as a processor can run it: cases, check and command.

CUDA's graphs are played by the processor, see ``graphs``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from cuda_graphs import Graphs, graphs
from forwardly.benchmarks import check, memory, on_cuda, steps
from forwardly.benchmarks.timing import processors_clock
from forwardly.commands import bench as bench_command
from forwardly.commands.bench import bench
from forwardly.errors import UsageError

__all__ = ["graphs"]

pytestmark = pytest.mark.unchecked  # whole commands

CPU = torch.device("cpu")
SIZES = 12, 9, 4


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cuda, "_STEPS", 5)


def test_goals_are_the_ones_that_were_set() -> None:
    cases = on_cuda.cases(torch.device("cuda"))
    assert {case.name: case.must for case in cases} == {
        "fc-cifar10": 0.9,
        "fc-cifar10-tf32": 1.0,
        "fc-deep": 1.0,
        "large": 1.05,
        "seeds": 0.65,
        "fit": 1.3,
        "bytes": 1.1,
    }
    assert [case.name for case in cases if case.tf32] == ["fc-cifar10-tf32", "fc-deep", "large"]


def test_every_case_runs(graphs: Graphs) -> None:
    """And each subject learns: the weights of all have moved, by about as much."""
    made = {
        "dense": on_cuda.dense(SIZES, 6, CPU),
        "at_once": on_cuda.at_once(3, SIZES, 6, CPU),
        "epochs": on_cuda.epochs(SIZES, 6, CPU),
        "deep": on_cuda.deep(SIZES, 6, CPU),
    }
    assert list(made["dense"]) == [
        *("pepita, LocalSGD", "pepita, fit"),
        *("backprop, foreach", "backprop, fused", "backprop, fused, graph"),
    ]
    for subjects in made.values():
        for run in subjects.values():
            for _ in range(6):
                run()
    # One of LocalSGD's and one of fit's step, one of backprop's; two of networks at once; two of
    # epochs; one of the step whose memory is counted.
    assert len(graphs) == 3 + 2 + 2 + 1
    assert all(graph.replays for graph in graphs)


def test_backprop_of_many_networks_is_each_ones_own() -> None:
    data = fw.Dataset.from_arrays(torch.rand(30, 12), torch.arange(30) % 4)
    ours = on_cuda._BackpropAtOnce(3, SIZES, 6, data)
    start = [w.detach().clone() for w in ours.W]
    torch.manual_seed(5)
    orders = [torch.randperm(30) for _ in range(3)]
    torch.manual_seed(5)
    ours.epoch()
    for i in range(3):
        model: Any = steps.network(SIZES)
        with torch.no_grad():
            for parameter, w in zip(model.parameters(), start, strict=True):
                parameter.copy_(w[i])
        optimizer = torch.optim.SGD(model.parameters(), steps.RATE, steps.MOMENTUM)
        for chosen in orders[i].split(6):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(model(data.train.x[chosen]), data.train.target[chosen]).backward()
            optimizer.step()
        for parameter, w in zip(model.parameters(), ours.W, strict=True):
            assert_close(parameter, w[i])
            assert not torch.equal(parameter, start[0][i])


def test_products_are_as_before_afterwards() -> None:
    matmul = torch.backends.cuda.matmul
    for tf32 in (True, False):
        with on_cuda.products_in(tf32):
            assert matmul.allow_tf32 == tf32
        assert not matmul.allow_tf32


@pytest.mark.parametrize("rule", ["pepita", "node-perturbation"])
def test_the_check_finds_no_difference_where_there_is_none(rule: str, graphs: Graphs) -> None:
    found = check.differences(rule, check.small_images(), "cpu")
    assert not found.wrong()
    assert found.path.startswith("cuda_graph")
    assert max(found[:-1]) <= 1e-10


def test_the_check_finds_what_a_graph_does_not_do(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one device of two; here one of LocalSGD's states is spoiled after its steps."""
    monkeypatch.setattr(fw.LocalSGD, "settle", _spoil_once())
    found = check.differences("readout-only", check.small_images(), "cpu")
    assert "steps" in found.wrong()
    nothing = check.Differences(float("nan"), 0.0, 0.0, 0.0, "")
    assert nothing.wrong() == ["update"]


def _spoil_once() -> Any:
    done: list[object] = []

    def settle(self: Any) -> None:
        if not done:
            done.append(None)
        with torch.no_grad():
            next(self.rule.parameters()).add_(float(len(done)) * 0.01)
        done.append(None)

    return settle


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, graphs: Graphs) -> None:
    """A GPU with the processor's abilities and small cases."""
    small = on_cuda.cases(CPU)[0]
    cases = (
        *(
            replace(small, make=partial(on_cuda.dense, SIZES, 6, CPU)),
            replace(on_cuda.cases(CPU)[-1], make=partial(on_cuda.deep, SIZES, 6, CPU)),
        ),
    )
    monkeypatch.setattr(on_cuda, "cases", lambda _: cases)
    monkeypatch.setattr(on_cuda, "allocated_bytes", memory.activation_bytes)
    monkeypatch.setattr(bench_command, "cuda_clock", processors_clock)
    monkeypatch.setattr(bench_command, "device_named", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(check, "RULES", fw.RULES)
    monkeypatch.setattr(bench_command, "RULES", {"pepita": fw.PEPITA})
    monkeypatch.setattr(check, "differences", partial(_on_processor, check.differences))


def _on_processor(differences: Any, rule: str, data: Any, _: str) -> Any:
    return differences(rule, data, "cpu")


@pytest.mark.usefixtures("card")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(quick=True, device="cuda", check=True, out=tmp_path / "b") == 0
    content = json.loads((tmp_path / "b" / "bench.json").read_text("utf-8"))
    assert content["device"] == "a card"
    assert set(content["cases"]) == {"fc-cifar10", "bytes"}
    assert content["check"]["rules"]["pepita"]["wrong"] == []
    case = content["cases"]["fc-cifar10"]
    assert case["must"] == 0.9
    assert case["over"].startswith("pepita, ")
    assert case["under"].startswith("backprop, ")
    assert len(case["median_seconds"]) == 5
    bytes_of = content["cases"]["bytes"]
    assert bytes_of["activation_bytes"].keys() == {"pepita", "backprop"}
    assert "scaling" not in content
    said = capsys.readouterr().out
    assert "a card; python" in said
    assert "1 rules compute what they compute on the processor" in said
    with pytest.raises(UsageError, match="unknown case 'conv'; the cases are fc-cifar10, bytes"):
        bench(cases=("conv",), device="cuda")


@pytest.mark.usefixtures("card")
def test_nothing_is_timed_where_something_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        check, "differences", lambda *_: check.Differences(0.0, 0.5, 0.0, 0.0, "cuda_graph")
    )
    assert bench(quick=True, device="cuda", check=True, out=tmp_path / "b") == 1
    content = json.loads((tmp_path / "b" / "bench.json").read_text("utf-8"))
    assert content["cases"] == {}
    assert content["check"]["rules"]["pepita"]["wrong"] == ["steps"]
    assert "pepita differs from the processor in: steps" in capsys.readouterr().out


def test_what_cannot_be_benchmarked_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no device 'cuda:99'"):
        bench(device="cuda:99")
    with pytest.raises(UsageError, match="check holds a GPU to the processor"):
        bench(check=True)
    with pytest.raises(UsageError, match="a device is cpu, cuda"):
        bench(device="graphics")
