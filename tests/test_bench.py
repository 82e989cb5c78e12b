"""The benchmark's arithmetic and command; no test asserts a time."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly.benchmarks import memory, scaling, steps
from forwardly.benchmarks.cases import CASES
from forwardly.benchmarks.timing import Ratio, fastest, paired, ratio, verdict
from forwardly.commands import bench as bench_command
from forwardly.commands.bench import bench
from forwardly.errors import UsageError
from forwardly.experiments import figures

pytestmark = pytest.mark.unchecked  # whole commands


def test_ratio_is_of_rounds_not_of_medians() -> None:
    """A machine that slows down for both leaves the ratio as it is."""
    drift = np.linspace(1, 5, 21)
    found = ratio(3 * drift, drift)
    assert found.median == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx((3, 3))
    assert (found.first_quartile, found.third_quartile) == pytest.approx((3, 3))


def test_intervals_hold_the_median() -> None:
    numbers = np.random.default_rng(0)
    over = 2 + 0.1 * numbers.standard_normal(101)
    found = ratio(over, np.ones(101))
    assert found.low < np.median(over) < found.high
    assert found.high - found.low < 0.1
    few = ratio(np.array([1.0, 2.0, 4.0]), np.ones(3))
    assert (few.low, few.high) == (1, 4)


@pytest.mark.parametrize(
    ("found", "lower", "expected"),
    [
        (Ratio(0.8, 0.78, 0.82, 0.79, 0.81), True, "hope"),
        (Ratio(0.9, 0.88, 0.92, 0.89, 0.91), True, "must"),
        (Ratio(1.2, 1.15, 1.25, 1.19, 1.21), True, "missed"),
        (Ratio(1.0, 0.95, 1.05, 0.99, 1.01), True, "undecided"),
        (Ratio(0.8, 0.78, 0.82, 0.75, 1.1), True, "undecided"),  # half the rounds in a bad mood
        (Ratio(1.2, 1.15, 1.25, 0.9, 1.3), True, "undecided"),
        (Ratio(0.8, 0.78, 0.82, 0.75, 0.9), True, "must"),
        (Ratio(0.9, 0.86, 0.95, 0.89, 0.91), False, "missed"),
        (Ratio(0.98, 0.94, 1.02, 0.97, 0.99), False, "undecided"),
        (Ratio(1.2, 1.15, 1.25, 1.19, 1.21), False, "hope"),
        (Ratio(1.2, 1.15, 1.25, 0.95, 1.3), False, "undecided"),
        (Ratio(0.5, 0.4, 0.6, 0.45, 0.55), False, "missed"),
    ],
)
def test_verdicts(found: Ratio, lower: bool, expected: str) -> None:
    must, hope = 1.0, (0.85 if lower else 1.1)
    assert verdict(found, must, hope, lower=lower) == expected


def test_a_case_goes_on_until_its_median_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of noise take all there may be, quiet ones the fewest; the goal has no say."""
    numbers = np.random.default_rng(0)

    def rounds_of(noise: float, must: float) -> int:
        def noisy(subjects: object, *, rounds: int, **_: object) -> object:
            return {n: np.exp(noise * numbers.standard_normal(rounds)) for n in ("a", "b")}

        case = replace(CASES[0], name="x", over="a", under="b", must=must, make=dict)
        monkeypatch.setattr(bench_command, "paired", noisy)
        monkeypatch.setattr(bench_command, "CASES", (case,))
        monkeypatch.setattr(bench_command.memory, "process_bytes", lambda *_: None)
        out = tmp_path / f"{noise}-{must}"
        assert bench(cases=("x",), out=out) == 0
        return json.loads((out / "bench.json").read_text("utf-8"))["cases"]["x"]["rounds"]

    assert [rounds_of(0.001, must) for must in (0.5, 1.0, 2.0)] == [24, 24, 24]
    assert [rounds_of(1.0, must) for must in (0.5, 1.0, 2.0)] == [96, 96, 96]
    assert 24 < rounds_of(0.08, 0.5) < 96


def test_the_fastest_of_a_group_is_compared() -> None:
    seconds = {
        "backprop, a": np.array([2.0]),
        "backprop, b": np.array([1.0]),
        "other": np.array([0.1]),
    }
    assert fastest(seconds, "backprop") == "backprop, b"
    assert fastest(seconds, "other") == "other"


def test_subjects_take_turns() -> None:
    calls: list[str] = []

    def subject(name: str) -> object:
        def run() -> None:
            calls.append(name)
            time.sleep(0.01)

        return run

    found = paired({"a": subject("a"), "b": subject("b")}, rounds=4, burst=0.001)  # type: ignore
    assert {name: len(one) for name, one in found.items()} == {"a": 4, "b": 4}
    assert calls[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]


@pytest.mark.parametrize("momentum_steps", [1, 4])
def test_the_authors_way_is_pepitas_step(momentum_steps: int) -> None:
    """The transcript that ours is timed against ends at the same weights."""
    published = steps.Published((12, 9, 4), 6)
    published.rate, published.F = 0.1, 10 * published.F  # so that every term shows
    model = steps.network((12, 9, 4))
    with torch.no_grad():
        for parameter, w in zip(model.parameters(), published.W, strict=True):
            parameter.copy_(w)
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=published.F, output_error="first")
    optimizer = torch.optim.SGD(model.parameters(), lr=published.rate, momentum=0.9)
    for _ in range(momentum_steps):
        published()
        optimizer.zero_grad()
        rule.accumulate(published.x, published.target)
        optimizer.step()
    for parameter, w in zip(model.parameters(), published.W, strict=True):
        torch.testing.assert_close(parameter.detach(), w)


def test_memory_is_measured() -> None:
    data = steps.batch_of((64,), 10, 32)
    step = steps.backprop_step(steps.network((64, 48, 10)), data)
    used = memory.activation_bytes(step)
    assert 32 * 48 * 4 <= used < 100 * 32 * 48 * 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_process_of_its_own_shows_momentum_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = 4 * (3072 * 1024 + 1024 * 10)
    found = memory.process_bytes("fc-cifar10", "backprop, foreach", threads=1)
    assert found is not None
    assert 2 * weights <= found < 20 * weights
    monkeypatch.setattr(sys, "executable", "false")  # a process that fails
    assert memory.process_bytes("fc-cifar10", "backprop, foreach", threads=1) is None


def test_slopes() -> None:
    assert scaling.slope((1, 2, 4, 8), [1.0, 4.0, 16.0, 64.0]) == pytest.approx(2)


def test_products_of_fast_steps_are_counted() -> None:
    """By hand: both passes' and the updates' products, of a layer that oneDNN takes and one not."""
    n, d, h, k = 16, 300, 256, 10
    step = steps.local_step(
        fw.PEPITA(steps.network((d, h, k)), nn.CrossEntropyLoss()), steps.batch_of((d,), k, n)
    )
    first = (n + k) * d * h + n * k * h  # with F's columns, and the correction
    perturbed = n * k * d
    assert scaling.products(step) == first + perturbed + n * h * k + n * d * h + n * h * k


def test_cases_have_what_they_compare() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 15
    for case in CASES:
        if case.hope is not None:
            assert (case.hope < case.must) == case.lower


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(cases=("online-small",), quick=True, out=tmp_path / "b", threads=1) == 0
    content = json.loads((tmp_path / "b" / "bench.json").read_text("utf-8"))
    assert content["threads"] == 1
    case = content["cases"]["online-small"]
    assert (case["over"], case["under"]) == ("eager", "pepita")
    assert case["ratio"]["low"] <= case["ratio"]["median"] <= case["ratio"]["high"]
    said = capsys.readouterr().out
    assert "online-small" in said
    assert "1 threads; " in said
    assert f"torch {torch.__version__.partition('+')[0]}" in said
    with pytest.raises(UsageError, match="unknown case 'fast'; the cases are fc-cifar10, "):
        bench(cases=("fast",))
    with pytest.raises(UsageError, match="threads must be at least 1; given 0"):
        bench(threads=0)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        bench(cases=("online-small",), out=tmp_path / "b")


def test_what_a_machine_cannot_run_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [replace(case, why_not=lambda: "no such instructions") for case in CASES]
    monkeypatch.setattr(bench_command, "CASES", cases)
    assert bench(cases=("bf16",), quick=True, out=tmp_path / "b") == 0
    assert json.loads((tmp_path / "b" / "bench.json").read_text("utf-8"))["cases"] == {}
    assert "bf16 left out: no such instructions" in capsys.readouterr().out


def test_bytes_are_compared_too(tmp_path: Path) -> None:
    """And these are not the machine's, so the goal can be asserted."""
    assert bench(cases=("mem-pepita-bytes",), quick=True, out=tmp_path / "b") == 0
    case = json.loads((tmp_path / "b" / "bench.json").read_text("utf-8"))["cases"][
        "mem-pepita-bytes"
    ]
    used = case["activation_bytes"]
    assert case["ratio"]["median"] == used["mem-pepita"] / used["backprop"] <= 0.15
    assert case["verdict"] == "must"


def test_the_figure_of_growth(tmp_path: Path) -> None:
    points = [
        {
            "axis": axis,
            "value": value,
            "seconds": {"pepita": 12e-6 * value, "backprop": 20e-6 * value},
            "macs": {"pepita": 10 * value, "backprop": 20 * value},
        }
        for axis in ("width", "batch")
        for value in (1, 2, 4)
    ]
    figure = figures.scaling_figure(points)
    figures.save(figure, tmp_path / "scaling.png")
    for panel in figure.axes:  # though there is no power of ten
        labels = [label.get_text() for label in panel.get_yticklabels(minor=True)]
        assert {"20", "50"} <= set(labels)
    assert (tmp_path / "scaling.png").stat().st_size > 5000
