"""Every command with its defaults, in an empty folder.

Where the defaults take minutes, what takes them is made small from outside: the options, and all
that hangs on them (where results go, above all), stay what they are.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forwardly.benchmarks import scaling, steps
from forwardly.benchmarks.timing import paired
from forwardly.cli import app, main
from forwardly.commands import bench, engines, reproduce, teacher_student
from forwardly.data import npz
from forwardly.experiments import comparison, published, report
from forwardly.experiments.experiment import Cell, Experiment
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.teacher_student import PARTS, Run, TeacherStudent
from forwardly.rules import RULES
from test_reproduction import InTurn

pytestmark = pytest.mark.unchecked  # whole commands

RECORDS = Path(__file__).parent.parent / "records"

TESTED = {
    *("teacher-student", "train", "predict", "evaluate", "reproduce", "report", "compare"),
    *("audit", "bench", "rules", "cite", "export", "tune"),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    def called(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["forwardly", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return called


def only_run(experiment: str) -> Path:
    """The one folder that a command has made, named after the time."""
    (folder,) = Path("runs", experiment).iterdir()
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_no_command_is_forgotten() -> None:
    assert {name for name in app if not name.startswith("-")} == TESTED


def test_teacher_student(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundredth of the epochs."""

    def fewer(settings: TeacherStudent, *given: Any) -> Run:
        assert settings == TeacherStudent()
        return Run(replace(settings, epochs=1000), *given)

    monkeypatch.setattr(teacher_student, "Run", fewer)
    assert call("teacher-student") == 0
    assert names_in(only_run("teacher-student")) == {
        *("config.json", "arrays.npz", "metrics.csv", "summary.json", "mae.png", "mae.svg"),
        "network.svg",
    }


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Noise in MNIST's place, hardly more images than are put aside."""
    numbers = np.random.default_rng(0)

    def part(n: int, name: str) -> dict[str, Any]:
        x = numbers.integers(256, size=(n, 28, 28), dtype=np.uint8)
        return {f"x_{name}": x, f"y_{name}": numbers.integers(10, size=n)}

    data = tmp_path / "data"
    data.mkdir()
    npz.write(data / "mnist.npz", part(2100, "train") | part(50, "test"))
    monkeypatch.setenv("FORWARDLY_DATA", str(data))
    return data


def test_train(call: Any, data: Path) -> None:
    assert call("train") == 0
    trained = only_run("train")
    assert names_in(trained) == {
        *("config.json", "epochs.csv", "checkpoint.pt", "result.json", "curves.png"),
        "model.safetensors",
    }
    assert call("evaluate", str(trained)) == 0
    assert names_in(only_run("evaluate")) == {
        *("evaluation.json", "predictions.csv", "confusion.csv", "confusion.png"),
    }
    assert call("predict", str(trained), "--data", str(data / "mnist.npz")) == 0


def toy() -> Experiment:
    made = {
        f"small/{rule}": Cell(Recipe(rule, "digits", {}, hidden=(8,), epochs=1, milestones=()))
        for rule in ("pepita", "readout-only")
    }
    return Experiment("toy2026", "A toy", "https://example.org", made)


def test_reproduce_and_report(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of ours, two cells of an epoch, without processes; the page of its records."""

    monkeypatch.setattr(engines, "Processes", lambda _: InTurn())
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", toy())
    monkeypatch.setattr(report, "EXPERIMENTS", {"toy2026": toy()})
    assert call("reproduce", "toy2026") == 0
    for rule in ("pepita", "readout-only"):
        assert names_in(Path("records/toy2026/small", rule)) == {"seed-0", "seed-1", "seed-2"}
    assert call("report") == 0
    assert "A toy" in Path("report.html").read_text("utf-8")
    assert names_in(Path()) == {"records", "runs", "report.html"}


def test_tune(call: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial, without processes."""
    pytest.importorskip("optuna", reason="of the extra tune")
    monkeypatch.setattr(engines, "Processes", lambda _: InTurn())
    assert call("tune", "--trials", "1") == 0
    assert names_in(Path("runs/tune")) == {"pepita-mnist.log", "pepita-mnist"}


def test_report_of_nothing(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report") == 2
    assert "there is no folder records" in capsys.readouterr().err
    assert not names_in(Path())


def test_reproduce_teacher_student(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blog post's, with few epochs."""

    def quick(*, settings: TeacherStudent, out: Path) -> int:
        few = replace(settings, epochs=20, log_every=10, seeds=min(settings.seeds, 2))
        return teacher_student.teacher_student(settings=few, out=out)

    monkeypatch.setattr(reproduce, "teacher_student", quick)
    assert call("reproduce", "teacher-student") == 0
    assert names_in(Path("records/teacher-student")) == set(PARTS)
    assert call("reproduce", "teacher-student") == 0  # is recorded


def test_compare(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accuracies for the minutes that it takes to get them."""

    def trained(name: str, _: object, seed: int, *__: object) -> tuple[float, float]:
        return 0.5, 0.5 + 0.01 * seed + 0.001 * len(name)

    monkeypatch.setattr(comparison, "train", trained)
    assert call("compare") == 0
    folder = only_run("compare")
    assert names_in(folder) == {"summary.json", "results.csv", "compare.png"}
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert {len(rule["accuracies"]) for rule in summary["rules"].values()} == {5}
    assert set(summary["rules"]) == set(RULES)


def test_audit(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit") == 0
    folder = only_run("audit")
    assert names_in(folder) == {"audit.json", "audit.html"}
    assert str(folder / "audit.html") in capsys.readouterr().out
    made, recorded = (
        json.loads((place / "audit.json").read_text("utf-8"))["rules"]
        for place in (folder, RECORDS / "audit")
    )
    for name, answers in recorded.items():
        for question in ("transport", "locality", "frozen", "locking"):
            for part, value in answers[question].items():
                if part != "evidence":  # which names lines
                    assert made[name][question][part] == value, (name, question, part)


def test_export(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert call("export") == 0
    folder = only_run("export")
    assert names_in(folder) == {
        *("train_step.onnx", "train_steps.onnx", "train_epochs.onnx", "predict.onnx"),
        *("state.safetensors", "forwardly.json", "check.npz", "README.md"),
    }
    assert call("export", "--check", str(folder)) == 0
    assert capsys.readouterr().out.count("onnxruntime") == 8


def test_bench(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One case, of a small network, in rounds of a hundredth of the time, and little growth."""

    def quick(subjects: Any, *, rounds: int, burst: float, **options: Any) -> Any:
        return paired(subjects, rounds=rounds, burst=burst / 100, **options)

    case = replace(bench.CASES[0], make=lambda: steps.dense((12, 9, 4), 6))
    monkeypatch.setattr(bench, "CASES", (case,))
    monkeypatch.setattr(bench, "paired", quick)
    monkeypatch.setattr(bench.memory, "process_bytes", lambda *_: 1000)
    small = {"width": (4, 8, 16, 32), "depth": (1, 2, 3, 4), "batch": (1, 2, 4, 8)}
    monkeypatch.setattr(scaling, "AXES", small)
    assert call("bench") == 0
    assert names_in(only_run("bench")) == {"bench.json", "scaling.png"}


def test_rules_and_cite(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("rules") == 0
    said = capsys.readouterr().out
    assert not [name for name in RULES if name not in said]
    assert call("cite", "pepita") == 0
    assert capsys.readouterr().out.startswith("@inproceedings{dellaferrera2022pepita,")
    assert not names_in(Path())
