"""Runs of an experiment: recorded once, in parallel, across kills."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from forwardly.commands import engines, reproduce
from forwardly.commands.console import PlainConsole
from forwardly.errors import UsageError
from forwardly.experiments import estimate, published, records, report
from forwardly.experiments.engines import processes
from forwardly.experiments.engines.processes import Processes
from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.jobs import (
    Ended,
    Engine,
    Job,
    Outcome,
    Restarted,
    State,
    jobs_of,
    run_all,
    train,
)
from forwardly.experiments.recipe import Recipe
from forwardly.training import checkpoint
from test_cli import Command

pytestmark = pytest.mark.unchecked  # whole commands

EPOCHS = 5


@pytest.fixture(autouse=True)
def _quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are copies of one that has imported torch, which takes them seconds each.

    Those of programs, below, begin as they do for users.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        imported = ["torch._dynamo", "sklearn.datasets", "forwardly.experiments.engines.processes"]
        multiprocessing.set_forkserver_preload(imported)
        context = multiprocessing.get_context("forkserver")
        monkeypatch.setattr(processes, "get_context", lambda _: context)


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


class InTurn:
    """An engine in this process."""

    def __init__(
        self,
        report: Callable[[float, float | None], None] = nothing,
        stop: Callable[[], bool] = never,
    ) -> None:
        self.report, self.stop = report, stop

    def train(
        self,
        jobs: Iterable[Job],
        given_up: Collection[int] = (),  # noqa: ARG002
    ) -> Generator[Ended]:
        for number, job in enumerate(jobs):
            yield Ended(number, train(job, self.report, self.stop))


def ended(todo: Sequence[Job], engine: Engine) -> dict[int, Outcome]:
    """How each run ended."""
    news = run_all(todo, engine)
    return dict(one for one in news if not isinstance(one, State | Restarted))


def run(
    job: Job, report: Callable[[float, float | None], None], stop: Callable[[], bool]
) -> Outcome:
    """Train and record one."""
    return ended([job], InTurn(report, stop))[0]


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
    for news in run_all(todo, Processes(2)):
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
    for news in run_all(todo, Processes(1)):
        assert isinstance(news, State)
        if news.epoch > 2:
            assert (todo[news.job].folder / "checkpoint.pt").exists()
            break
    assert not (tmp_path / "records").exists()


def test_a_users_mistake_in_a_run_reaches_the_parent(tmp_path: Path) -> None:
    (job, *_) = jobs(tmp_path, validation=5000)
    with pytest.raises(UsageError, match="validation must be 1 to 1496; given 5000"):
        list(run_all([job], Processes(1)))


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_reproduction import LONG, Processes, jobs, run_all
if __name__ == "__main__":
    for news in run_all(jobs(Path(sys.argv[1]), **LONG), Processes(2)):
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


@pytest.mark.long
def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """The others do not notice, and its run ends as it would have."""
    todo, alone = jobs(tmp_path / "killed", **LONG), jobs(tmp_path / "alone", **LONG)
    news, before = list[Any](), {child.pid for child in multiprocessing.active_children()}
    for one in run_all(todo, Processes(2)):
        mine = [c for c in multiprocessing.active_children() if c.pid not in before]
        if len(news) == 0 and isinstance(one, State) and one.epoch > 1:
            min(mine, key=lambda child: child.name).kill()
            news.append(one)
        elif news and not isinstance(one, State):
            news.append(one)
    lost = news[1]
    assert lost == Restarted(lost.job, "its process was killed")
    assert sorted(news[2:]) == [(0, "finished"), (1, "finished")]
    assert all(run(job, nothing, never) == "finished" for job in alone)
    ended = [records.read_all(tmp_path / name / "records") for name in ("killed", "alone")]
    for ours, expected in zip(*ended, strict=True):
        assert [row["loss"] for row in ours.rows] == [row["loss"] for row in expected.rows]
    assert sorted(ours.environment["sessions"] for ours in ended[0]) == [1, 2]


IMPATIENT = """
import os, signal, sys, time
from multiprocessing import active_children
from pathlib import Path
sys.path.insert(0, "tests")
from test_reproduction import Processes, jobs, run_all
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored after `make test &` in sh
    for news in run_all(jobs(Path(sys.argv[1]), epochs=100_000)[:1], Processes(1)):
        (worker,) = active_children()
        os.kill(worker.pid, signal.SIGSTOP)  # as one that is reading a large data set
        print(flush=True)
        while True:  # as signal.pause() would sleep through a signal that comes just before it
            time.sleep(0.01)
"""


@pytest.mark.unchecked
@pytest.mark.skipif(os.name != "posix", reason="stops processes the POSIX way")
def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(IMPATIENT, "utf-8")
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, -signal.SIGKILL)


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
    assert "--again runs it anew" in done.stdout


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command
) -> Callable[..., CompletedProcess[str]]:
    """``forwardly reproduce toy2026``, whose runs are in this process too."""

    monkeypatch.setattr(engines, "Processes", lambda _: InTurn())
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment(epochs=2, milestones=()))
    return partial(command, "reproduce", "toy2026", "--seeds=1")


def found(root: Path) -> list[tuple[str, str]]:
    return [(record.experiment, record.cell) for record in records.read_all(root)]


BOTH = [("toy2026", "small/pepita"), ("toy2026", "small/readout-only")]


def test_again_beside_the_records(here: Command, tmp_path: Path) -> None:
    assert here("--cells=*/pepita").returncode == 0
    place = tmp_path / "records/toy2026/small/pepita/seed-0/record.json"
    content = json.loads(place.read_text("utf-8"))
    content["result"]["test_accuracy"] = 0.1234
    place.write_text(json.dumps(content), "utf-8")
    before = place.read_bytes(), place.with_name("epochs.csv").read_bytes()
    done = here("--again")
    assert done.returncode == 0
    new, old = "test accuracy [3-9][0-9].[0-9]+ %", "recorded: test accuracy 12.34 %"
    assert re.search(rf"small/pepita seed 0: {new} \({old}\)", done.stdout)
    assert re.search(rf"small/readout-only seed 0: {new} \(not recorded\)", done.stdout)
    assert (place.read_bytes(), place.with_name("epochs.csv").read_bytes()) == before
    assert found(tmp_path / "records") == BOTH[:1]
    assert found(tmp_path / "runs/reproduce/again") == BOTH
    done = here("--again")
    assert "All of it was run already, and is in runs/reproduce/again/toy2026" in done.stdout


def test_trials_have_one_seed_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting is chosen by a seed that no result is of, however many seeds are asked for."""
    cells = {
        "small/pepita": Cell(recipe("pepita")),
        "rates/pepita-0.1": Cell(recipe("pepita", epochs=1, milestones=()), trial=True),
    }
    made = Experiment("toy2026", "A toy", "https://example.org", cells)
    todo = jobs_of(
        made,
        list(cells),
        2,
        first_seed=1,
        record_root=tmp_path / "records",
        work=tmp_path / "work",
        data_root=None,
        threads=1,
    )
    assert [(job.cell, job.seed, job.trial) for job in todo] == [
        ("rates/pepita-0.1", 100, True),
        ("small/pepita", 1, False),
        ("small/pepita", 2, False),
    ]
    assert run(todo[0], lambda *_: None, lambda: False) == "finished"
    monkeypatch.setenv("COLUMNS", "100")
    reproduce._say_how_it_ended(  # pyright: ignore[reportPrivateUsage]
        todo[0], "finished", PlainConsole(), None
    )
    accuracy = records.read(todo[0].record).rows[-1]["validation_accuracy"]
    assert capsys.readouterr().out == (
        f"rates/pepita-0.1 seed 100: validation accuracy {100 * accuracy:.2f} %\n"
    ), "of a trial nobody looks at the test images"


def test_a_trial_is_no_record(here: Command, tmp_path: Path) -> None:
    assert here().returncode == 0
    done = here("--epochs=1")
    assert done.returncode == 0
    assert "a trial of 1 epochs, and no record of toy2026" in done.stdout
    assert found(tmp_path / "records") == BOTH
    trials = records.read_all(tmp_path / "runs/reproduce/trials")
    assert [(trial.experiment, trial.recipe["epochs"], len(trial.rows)) for trial in trials] == [
        ("toy2026-trial-of-1-epochs", 1, 1)
    ] * 2
    # Nor is it one where somebody puts it among them.
    (tmp_path / "runs/reproduce/trials/toy2026-trial-of-1-epochs").rename(tmp_path / "records/x")
    page = report.render([tmp_path / "records"])
    assert "not shown: toy2026-trial-of-1-epochs." in page
    assert "given 2" in here("--epochs=2").stderr
    assert "leave --again out" in here("--epochs=1", "--again").stderr


def test_what_can_be_run_without_a_data_set_is(
    here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment(epochs=2, milestones=())
    far = {"far/pepita": Cell(recipe("pepita", "mnist"))}
    monkeypatch.setitem(
        published.EXPERIMENTS, "toy2026", replace(made, cells={**far, **made.cells})
    )

    def load(name: str, *_: object, **__: object) -> None:
        if name == "mnist":
            raise UsageError("mnist is not here")

    monkeypatch.setattr(reproduce, "load", load)
    done = here()
    assert done.returncode == 1
    assert found(tmp_path / "records") == BOTH
    assert done.stdout.startswith("mnist is not here\nThe other cells are run.")
    assert done.stdout.endswith("Runs left out, as their data could not be had: 1 on mnist.\n")
    assert here().returncode == 2  # nothing is left that could be run
    monkeypatch.setattr(reproduce, "load", nothing)
    assert here("--cells=small/*").returncode == 0


def test_the_list(
    here: Command, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def from_timing(recipe: Recipe, threads: int) -> float:
        asked.append(recipe.rule)
        return 2.5 * 3600

    monkeypatch.setattr(estimate, "from_timing", from_timing)
    assert here("--cells=*/pepita").returncode == 0
    place = tmp_path / "records/toy2026/small/pepita/seed-0/record.json"
    content = json.loads(place.read_text("utf-8"))
    content["result"]["seconds"] = 600
    place.write_text(json.dumps(content), "utf-8")
    done = command("reproduce", "toy2026", "--list", "--seeds=2", "--jobs=2")
    assert done.returncode == 0
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
    assert ["", "small/pepita", "0", "10 min", "recorded", ""] in cells
    assert ["", "small/readout-only", "–", "2.5 h", "timed", ""] in cells
    assert "1 of 4 runs are recorded in records. The others take about 2.6 h, 2 at a time" in (
        done.stdout
    )
    assert asked == ["readout-only"]
    assert not (tmp_path / "runs/reproduce/toy2026/small/readout-only").exists()
    done = here("--list", "--cells=*/pepita")
    assert "All of it is recorded" in done.stdout


def test_all_experiments(here: Command, command: Command) -> None:
    assert here("--cells=*/pepita").returncode == 0
    done = command("reproduce")
    assert done.returncode == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[lines.index("toy2026") + 1] == "A toy"
    assert lines[lines.index("toy2026") + 2].startswith("1 of 2 cells recorded: 1 run, ")
    assert lines[lines.index("bfloat16") + 2] == "0 of 4 cells recorded"
    assert {*published.EXPERIMENTS, "teacher_student"} <= set(lines)


def test_estimates() -> None:
    record = records.read_all(Path(__file__).parent.parent / "records" / "bfloat16")[0]
    others = [replace(record, result={**record.result, "seconds": s}) for s in (1, 50, 99)]
    epochs = len(record.rows)
    assert estimate.from_records(others, 2 * epochs) == 2 * 50
    environment = {**record.environment, "device": "a GPU"}
    quick = replace(others[0], environment=environment)  # which says nothing of a processor
    assert estimate.from_records([*others, quick, quick], 2 * epochs) == 2 * 50
    assert estimate.from_records([quick], 3) is None
    made = Recipe("pepita", "mnist", hidden=(4,), validation=10_000, epochs=3)
    seconds = estimate.from_timing(made, 1)
    assert seconds is not None
    assert 0 < seconds < 600
    assert estimate.from_timing(replace(made, epochs=6, learning_rate=0.5), 1) == 2 * seconds
    assert estimate.from_timing(replace(made, data="digits"), 1) is None


def test_a_full_disk_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, alone = jobs(tmp_path)[0], jobs(tmp_path / "alone")[0]
    write, written = checkpoint.write, [0]

    def full(path: Path, content: bytes) -> None:
        written[0] += 1
        if written[0] > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", full)
        with pytest.raises(UsageError, match=r"^small/pepita seed 0 cannot write .*: No space"):
            run(job, nothing, never)
    assert len(checkpoint.load(job.folder / "checkpoint.pt")["rows"]) == 2
    assert [run(each, nothing, never) for each in (job, alone)] == ["finished"] * 2
    ours, expected = (records.read(each.record) for each in (job, alone))
    assert ours.result["test_loss"] == expected.result["test_loss"]


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_checkpoint_that_has_no_room(tmp_path: Path) -> None:
    """Torch's own writer raises a RuntimeError, of which nobody could tell what it means."""
    import resource

    checkpoint.save(tmp_path / "checkpoint.pt", {"a": torch.ones(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(tmp_path / "checkpoint.pt", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.load(tmp_path / "checkpoint.pt")["a"].tolist() == [1, 1, 1]


def test_a_process_that_was_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ThreadPoolExecutor):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(1)

        def submit(self, *_: Any, **__: Any) -> Any:
            def killed() -> None:
                raise BrokenProcessPool

            return super().submit(killed)

    monkeypatch.setattr(processes, "ProcessPoolExecutor", Broken)
    with pytest.raises(UsageError, match=r"killed while it ran small/.* seed 0.* fewer --jobs"):
        list(run_all(jobs(tmp_path), Processes(1)))


def test_help_names_every_experiment() -> None:
    said = str(reproduce.reproduce.__doc__)
    for name in (*published.EXPERIMENTS, "teacher_student"):
        assert re.search(rf"\b{name}\b", said), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("toy2026 --epochs 0", "epochs must be at least 1; given 0"),
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
