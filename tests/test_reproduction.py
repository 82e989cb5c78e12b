"""Runs of an experiment: recorded once, in parallel, across kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forwardly.errors import UsageError
from forwardly.experiments import published, records
from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.jobs import Job, State, jobs_of, run, run_all
from forwardly.experiments.recipe import Recipe
from test_cli import Command

pytestmark = pytest.mark.unchecked  # whole commands

EPOCHS = 5


def recipe(rule: str, data: str = "digits", **changes: Any) -> Recipe:
    settings: dict[str, Any] = {"hidden": (16,), "epochs": EPOCHS, "milestones": (3,)} | changes
    return Recipe(rule, data, {}, **settings)


def experiment(**changes: Any) -> Experiment:
    cells = {
        "small/pepita": Cell(recipe("pepita", **changes), Published(90.0, 1.0, 10, "Table 9")),
        "small/readout-only": Cell(recipe("readout-only", **changes)),
    }
    return Experiment("toy2026", "A toy", "https://example.org", cells)


def jobs(folder: Path, seeds: int = 1, **changes: Any) -> list[Job]:
    made = experiment(**changes)
    return jobs_of(
        made,
        list(made.cells),
        seeds,
        first_seed=0,
        record_root=folder / "records",
        work=folder / "work",
        data_root=None,
        threads=1,
    )


def never() -> bool:
    return False


def nothing(*_: object) -> None:
    pass


def test_what_is_recorded_is_not_run_again(tmp_path: Path) -> None:
    first, *others = jobs(tmp_path, seeds=2)
    assert [job.name for job in others] == [
        "small/readout-only seed 0",
        "small/pepita seed 1",
        "small/readout-only seed 1",
    ]
    assert run(first, nothing, never) == "finished"
    assert [job.name for job in jobs(tmp_path, seeds=2)] == [job.name for job in others]
    (record,) = records.read_all(tmp_path / "records")
    assert (record.experiment, record.cell, record.seed) == ("toy2026", "small/pepita", 0)
    assert Recipe.from_data(record.recipe) == first.recipe
    assert len(record.rows) == record.result["epochs"] == EPOCHS
    assert 0.3 < record.result["test_accuracy"] < 1
    assert record.result["diverged"] is None
    assert record.environment["sessions"] == 1
    assert record.environment["versions"]["torch"]
    assert {"norm/1.weight", "alignment/1.weight", "angle/F"} <= record.rows[0].keys()
    assert not (first.folder / "checkpoint.pt").exists()


def test_a_record_of_another_recipe_is_not_mixed_in(tmp_path: Path) -> None:
    run(jobs(tmp_path)[0], nothing, never)
    with pytest.raises(UsageError, match="made with another recipe than the experiment has now"):
        jobs(tmp_path, learning_rate=0.2)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    job = jobs(tmp_path)[0]
    alone = jobs(tmp_path / "alone")[0]
    looks = [0]

    def stop() -> bool:
        looks[0] += 1
        return looks[0] == 4

    assert run(job, nothing, stop) == "stopped"
    assert (job.folder / "checkpoint.pt").exists()
    assert not (tmp_path / "records").exists()
    assert run(job, nothing, never) == "finished"
    assert run(alone, nothing, never) == "finished"
    (ours,), (expected,) = (
        records.read_all(folder / "records") for folder in (tmp_path, tmp_path / "alone")
    )
    assert ours.result["test_loss"] == expected.result["test_loss"]
    assert [row["loss"] for row in ours.rows] == [row["loss"] for row in expected.rows]
    assert (ours.environment["sessions"], expected.environment["sessions"]) == (2, 1)


def test_divergence_is_a_result(tmp_path: Path) -> None:
    job = jobs(tmp_path, learning_rate=1e30)[0]
    assert run(job, nothing, never) == "finished"
    (record,) = records.read_all(tmp_path / "records")
    assert record.result["diverged"] == 1
    assert record.result["test_accuracy"] is None


def test_side_by_side(tmp_path: Path) -> None:
    todo = jobs(tmp_path, seeds=2, epochs=2)[:3]
    ended: dict[int, str] = {}
    seen: set[int] = set()
    for news in run_all(todo, 2):
        if isinstance(news, State):
            seen.add(news.job)
            assert 0 < news.epoch <= 2
        else:
            ended[news[0]] = news[1]
    assert ended == dict.fromkeys(range(3), "finished")
    assert seen == set(range(3))
    assert len(records.read_all(tmp_path / "records")) == 3
    in_one = tmp_path / "one"
    for job in jobs(in_one, seeds=2, epochs=2)[:3]:
        run(job, nothing, never)
    pairs = zip(
        records.read_all(tmp_path / "records"), records.read_all(in_one / "records"), strict=True
    )
    for ours, expected in pairs:
        assert ours.result["test_loss"] == pytest.approx(expected.result["test_loss"], rel=1e-5)


def test_leaving_the_loop_stops_the_runs(tmp_path: Path) -> None:
    todo = jobs(tmp_path, epochs=100_000)[:1]
    for news in run_all(todo, 1):
        assert isinstance(news, State)
        if news.epoch > 2:
            assert (todo[news.job].folder / "checkpoint.pt").exists()
            break
    assert not (tmp_path / "records").exists()


def test_a_users_mistake_in_a_run_reaches_the_parent(tmp_path: Path) -> None:
    (job, *_) = jobs(tmp_path, validation=5000)
    with pytest.raises(UsageError, match="validation must be 1 to 1496; given 5000"):
        list(run_all([job], 1))


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_reproduction import LONG, jobs, run_all
if __name__ == "__main__":
    for news in run_all(jobs(Path(sys.argv[1]), **LONG), 2):
        pass
"""
LONG = {"epochs": 60}


@pytest.mark.long
@pytest.mark.unchecked
@pytest.mark.skipif(os.name != "posix", reason="kills processes the POSIX way")
def test_killed_and_given_again_it_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL to the parent: its workers stop by themselves, and nothing is lost or mixed."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    process = subprocess.Popen(
        [sys.executable, str(program), str(killed)], cwd=Path(__file__).parent.parent
    )
    end = time.monotonic() + 90
    while len(list(killed.rglob("checkpoint.pt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    todo = jobs(killed, **LONG)
    assert "taken" in [run(job, nothing, never) for job in todo]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(killed.rglob("record.json"))) < 2
    for job in todo:
        while run(job, nothing, never) == "taken":  # until its worker sees that it is an orphan
            assert time.monotonic() < end
            time.sleep(0.02)
    for job in jobs(alone, **LONG):
        assert run(job, nothing, never) == "finished"
    ended = [records.read_all(folder / "records") for folder in (killed, alone)]
    assert len(ended[0]) == len(todo) == 2
    for ours, expected in zip(*ended, strict=True):
        assert ours.result["test_loss"] == expected.result["test_loss"]
        assert [row["loss"] for row in ours.rows] == [row["loss"] for row in expected.rows]
        assert len(ours.rows) == LONG["epochs"]
    assert any(ours.environment["sessions"] == 2 for ours in ended[0])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment(epochs=2))
    arguments = ("reproduce", "toy2026", "--seeds", "1", "--cells", "*/pepita")
    done = command(*arguments)
    assert done.returncode == 0
    record = json.loads(
        (tmp_path / "records/toy2026/small/pepita/seed-0/record.json").read_text("utf-8")
    )
    assert f"test accuracy {100 * record['result']['test_accuracy']:.2f} %" in done.stdout
    done = command(*arguments)
    assert done.returncode == 0
    assert "All of it is recorded in records/toy2026." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no experiment given; the known ones are dellaferrera2022_"),
        ("dellaferrera", "unknown experiment 'dellaferrera'; the known ones are dellaferrera2022_"),
        ("toy2026 --cells fc/*", "no cell of toy2026 is called 'fc/*'; there are small/pepita"),
        ("toy2026 --seeds 0", "seeds must be at least 1; given 0"),
        ("toy2026 --jobs 0", "jobs must be at least 1; given 0"),
        ("toy2026 --seed -1", "seed must be at least 0; given -1"),
        ("dellaferrera2022_table1 --data-root empty", "mnist is not in empty, and could not be"),
    ],
)
def test_mistakes(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment())
    cells = ["--cells", "fc-mnist/*"] if "table1" in arguments else []
    done = command("reproduce", *arguments.split(), *cells)
    assert done.returncode == 2
    assert message in done.stderr
