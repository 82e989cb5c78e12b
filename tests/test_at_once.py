"""Experiments with all runs of one form as one step: the records of runs by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from forwardly.errors import UsageError
from forwardly.experiments import published, records
from forwardly.experiments.engines import at_once
from forwardly.experiments.engines.at_once import AtOnce
from forwardly.experiments.jobs import State, run_all
from forwardly.experiments.recipe import JacobianMirroring
from forwardly.experiments.run_folder import RunFolder
from test_cli import Command
from test_reproduction import EPOCHS, ended, experiment, jobs, never, nothing, run

pytestmark = pytest.mark.unchecked  # whole commands

CPU = torch.device("cpu")


def assert_same(ours: Path, theirs: Path, rel: float) -> None:
    pairs = zip(*(records.read_all(root / "records") for root in (ours, theirs)), strict=True)
    for one, other in pairs:
        assert (one.cell, one.seed) == (other.cell, other.seed)
        assert one.result["test_loss"] == pytest.approx(other.result["test_loss"], rel=rel)
        assert len(one.rows) == len(other.rows) == EPOCHS
        for row, expected in zip(one.rows, other.rows, strict=True):
            shown = [
                {n: v for n, v in given.items() if "second" not in n} for given in (row, expected)
            ]
            assert shown[0] == pytest.approx(shown[1], rel=rel)


@pytest.mark.parametrize(
    "model", [{}, {"model": "resmlp", "hidden": (8, 8)}], ids=["chain", "graph"]
)
def test_records_are_those_of_single_runs(model: dict[str, Any], tmp_path: Path) -> None:
    changes = {"dtype": "float64", **model}
    together, alone = (jobs(tmp_path / name, seeds=2, **changes) for name in ("a", "b"))
    news = list(run_all(together, AtOnce(CPU, 10)))
    assert [one for one in news if not isinstance(one, State)] == [
        (number, "finished")
        for number in (0, 2, 1, 3)  # a cell's seeds at once
    ]
    told = [one for one in news if isinstance(one, State)]
    assert len(told) == 4 * EPOCHS
    assert {one.epoch for one in told} == {1, 2, 3, 4, 5}
    for job in alone:
        run(job, nothing, never)
    assert_same(tmp_path / "a", tmp_path / "b", rel=1e-5)
    for record in records.read_all(tmp_path / "a" / "records"):
        assert (record.environment["device"], record.environment["runs_at_once"]) == ("cpu", 2)
    assert not list(tmp_path.rglob("checkpoint.pt"))
    assert set(ended(together, AtOnce(CPU, 10)).values()) == {"finished"}  # there already


def test_a_stopped_batch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be they as far as each other or not: one is alone for its first epochs."""
    monkeypatch.setattr(at_once, "_SECONDS_BETWEEN_CHECKPOINTS", -1)
    whole, stopped = (jobs(tmp_path / name, seeds=3, dtype="float64")[::2] for name in ("a", "b"))
    assert set(ended(whole, AtOnce(CPU, 10)).values()) == {"finished"}
    for some, epoch in ((stopped[:1], 2), (stopped[1:], 3)):
        news = run_all(some, AtOnce(CPU, 10))
        while (one := next(news)) and not (isinstance(one, State) and one.epoch == epoch + 1):
            pass
        news.close()
        assert all(job.checkpoint.exists() for job in some)
    assert not (tmp_path / "b" / "records").exists()
    told = list(run_all(stopped, AtOnce(CPU, 10)))
    first = {one.job: one.epoch for one in reversed(told) if isinstance(one, State)}
    assert first == {0: 3, 1: 4, 2: 4}
    assert_same(tmp_path / "a", tmp_path / "b", rel=1e-12)
    sessions = [r.environment["sessions"] for r in records.read_all(tmp_path / "b" / "records")]
    assert sessions == [2, 2, 2]


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    assert len(ended(jobs(tmp_path, seeds=3, epochs=1)[::2], AtOnce(CPU, 2))) == 3
    found = [r.environment["runs_at_once"] for r in records.read_all(tmp_path / "records")]
    assert sorted(found) == [1, 2, 2]


def test_what_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    todo = jobs(tmp_path, seeds=2, epochs=1)[::2]
    todo[0].folder.mkdir(parents=True)
    with RunFolder(todo[0].folder).lock():
        assert ended(todo, AtOnce(CPU, 10)) == {0: "taken", 1: "finished"}


def test_one_that_diverges(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, learning_rate=1e30)[:1]
    assert ended([job], AtOnce(CPU, 10)) == {0: "finished"}
    (record,) = records.read_all(tmp_path / "records")
    assert (record.result["diverged"], record.result["test_accuracy"]) == (1, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mirroring": JacobianMirroring(0.01)}, "F learns between the steps"),
        ({"patience": 3}, "end by themselves"),
        ({"dtype": "bf16"}, "bfloat16"),
    ],
)
def test_what_is_no_batch_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"small/pepita seed 0 cannot be run on .*{says}"):
        ended(jobs(tmp_path, **changes), AtOnce(CPU, 10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "a device is auto, cpu, cuda, cuda:1 (the second), xpu or mps; given 'gpu'"),
        ("cuda:x", "given 'cuda:x'"),
        ("meta", "given 'meta'"),
        ("cuda:99", "there is no device 'cuda:99': of NVIDIA's and AMD's GPUs torch"),
    ],
)
def test_a_device_that_is_not_there(device: str, says: str, command: Command) -> None:
    done = command("reproduce", "hinton2022", "--device", device)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """With a device that is the processor under another name."""

    def on_the_processor(device: torch.device, most: int) -> AtOnce:
        assert (device, most) == (torch.device("mps"), 10)
        return AtOnce(CPU, most)

    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment(epochs=2, milestones=()))
    monkeypatch.setattr("forwardly.fast.devices.device_named", lambda name, **_: torch.device(name))
    monkeypatch.setattr(at_once, "AtOnce", on_the_processor)
    done = command("reproduce", "toy2026", "--seeds", "2", "--device", "mps")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 4
    assert len(records.read_all(tmp_path / "records")) == 4
