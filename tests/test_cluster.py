"""Experiments on Dask clusters: real schedulers and workers, which are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import Timeout

import slurm
import sshd
from forwardly.errors import UsageError
from forwardly.experiments import published, records
from forwardly.experiments.engines import cluster as clusters
from forwardly.experiments.engines.cluster import cluster
from forwardly.experiments.jobs import Job, State, jobs_of, run_all
from forwardly.experiments.run_folder import RunFolder
from forwardly.fast import processors
from test_cli import Command
from test_reproduction import InTurn, ended, experiment, jobs
from waiting import SECONDS, until

pytest.importorskip("distributed", reason="of the extra cluster")
pytestmark = pytest.mark.unchecked  # other processes

HERE = Path(__file__).parent
LONG = {"epochs": 60}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def begin() -> Generator[Callable[..., subprocess.Popen[bytes]]]:
    """Begin a process, which is killed in the end."""
    with ExitStack() as left:

        def begun(*arguments: str, **changes: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=ENVIRONMENT | changes,
                cwd=HERE.parent,
                start_new_session=True,
            )
            left.callback(process.wait)
            left.callback(process.kill)
            return process

        yield begun


@pytest.fixture
def scheduler(begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> str:
    """The address of a scheduler without workers."""
    file = tmp_path / "scheduler.json"
    begin(
        *("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
        *("--no-dashboard", "--no-show", "--scheduler-file", str(file)),
    )
    until(lambda: file.exists() and file.read_text("utf-8").endswith("}"))  # all of it
    return json.loads(file.read_text("utf-8"))["address"]


@pytest.fixture
def worker(
    begin: Callable[..., subprocess.Popen[bytes]], scheduler: str, tmp_path: Path
) -> Callable[..., subprocess.Popen[bytes]]:
    """Begin a worker with one thread, which nobody begins again."""

    def begun(**changes: str) -> subprocess.Popen[bytes]:
        return begin(
            *("-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-nanny"),
            *("--no-dashboard", "--local-directory", str(tmp_path)),
            **changes,
        )

    return begun


def six(root: Path, *, recorded: bool = False) -> list[Job]:
    """Jobs of six cells, as far as they are not recorded, or all."""
    made = experiment(**LONG)
    cell = made.cells["small/pepita"]
    rates = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12)
    cells = {
        f"small/{rate}": replace(cell, recipe=replace(cell.recipe, learning_rate=rate))
        for rate in rates
    }
    return jobs_of(
        replace(made, cells=cells),
        list(cells),
        1,
        first_seed=0,
        record_root=root / "records",
        work=root / "work",
        data_root=None,
        threads=1,
        recorded=recorded,
    )


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_cluster import cluster, ended, six
if __name__ == "__main__":
    with cluster(sys.argv[1], 1) as dask:
        ended(six(Path(sys.argv[2])), dask)
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="kills processes the POSIX way")
def test_killed_workers_and_a_killed_client(
    tmp_path: Path,
    scheduler: str,
    worker: Callable[..., subprocess.Popen[bytes]],
    begin: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Every run is recorded once, bit for bit as by itself, and begun as often as it must be."""
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    workers = [worker() for _ in range(3)]
    client = begin("-c", PROGRAM, scheduler, str(killed))

    def under_way() -> int:
        return len(list(killed.rglob("checkpoint.pt")))

    until(lambda: under_way() == 3, client, *workers)
    workers.pop().kill()
    until(lambda: any(records_in(killed)), client, *workers)
    client.kill()
    client.wait()
    todo = six(killed)
    assert 0 < len(todo) < 6
    # The workers hear that nobody waits any more.
    until(lambda: all(is_left(job) for job in todo if job.folder.exists()))
    before = [starts(job) for job in six(killed, recorded=True)]
    assert 3 <= sum(before) <= 6 + 1, "one run more than there are cells: its worker was killed"
    with cluster(scheduler, 1) as dask:
        assert set(ended(todo, dask).values()) == {"finished"}
    ended(six(alone), InTurn())
    ours, theirs = records_in(killed), records_in(alone)
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.cell == other.cell
        assert one.result["test_loss"] == other.result["test_loss"]
        assert [row["loss"] for row in one.rows] == [row["loss"] for row in other.rows]
    left = [job in todo for job in six(killed, recorded=True)]
    assert [one.environment["sessions"] for one in ours] == [
        *map(sum, zip(before, left, strict=True))
    ]
    names = {path.name for path in killed.rglob("*") if path.is_file()}
    assert names == {"record.json", "epochs.csv", "revisions.json", "lock"}


def starts(job: Job) -> int:
    """How often it was begun."""
    path = job.folder / "revisions.json"
    return len(json.loads(path.read_text("utf-8"))) if path.exists() else 0


def is_left(job: Job) -> bool:
    """Whether no process is at work on it."""
    try:
        with RunFolder(job.folder).lock():
            return True
    except Timeout:
        return False


def records_in(root: Path) -> list[records.Record]:
    return records.read_all(root / "records") if (root / "records").exists() else []


def test_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """The command: its output, and that nothing listens to other machines."""
    psutil: Any = pytest.importorskip("psutil")
    heard: set[str] = set()
    wait = clusters.Dask.wait

    def look(self: clusters.Dask, waiting: Callable[[], None]) -> None:
        wait(self, waiting)
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            heard.update(
                connection.laddr.ip
                for connection in process.net_connections()
                if connection.status == psutil.CONN_LISTEN
            )

    monkeypatch.setattr(clusters.Dask, "wait", look)
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment(epochs=2, milestones=()))
    done = command("reproduce", "toy2026", "--cluster", "local:2", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The cluster's page is http://127.0.0.1:")
    assert done.stdout.count("test accuracy") == 2
    assert heard == {"127.0.0.1"}
    ended(jobs(tmp_path / "alone", epochs=2, milestones=()), InTurn())
    for one, other in zip(records_in(tmp_path), records_in(tmp_path / "alone"), strict=True):
        assert one.result["test_loss"] == pytest.approx(other.result["test_loss"], rel=1e-5)


PROGRAM_OF_COMMAND = """
import sys
sys.path.insert(0, {tests!r})
from test_reproduction import experiment
from forwardly.cli import main
from forwardly.experiments import published
published.EXPERIMENTS["toy2026"] = experiment(epochs={epochs}, milestones=())
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="interrupts processes the POSIX way")
def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    """As a terminal sends it: to all processes at once."""
    program = tmp_path / "program.py"
    made = PROGRAM_OF_COMMAND.format(tests=str(HERE), epochs=100_000)
    program.write_text(made, "utf-8")
    process = subprocess.Popen(
        [sys.executable, str(program), "reproduce", "toy2026", "--cluster", "local:2"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        until(lambda: len(list(tmp_path.rglob("checkpoint.pt"))) == 2, process)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0].decode()
        until(lambda: not is_alive(process.pid))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Stopped; the same command goes on from the checkpoints." in said
    assert "Traceback" not in said
    assert "distributed" not in said
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 2


@pytest.mark.long
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not())
def test_on_slurm(tmp_path: Path) -> None:
    """A real one. Its jobs are gone when the command is, and each run has its job's share."""
    pytest.importorskip("dask_jobqueue", reason="of the extra cluster")
    program = tmp_path / "program.py"
    made = PROGRAM_OF_COMMAND.format(tests=str(HERE), epochs=2)
    program.write_text(made, "utf-8")
    settings = {
        "cores": "1",
        "processes": "1",
        "memory": "1GB",
        "walltime": "00:10:00",
        "interface": "lo",
        "log_directory": "logs",
        "local_directory": str(tmp_path),
    }
    asked = {f"DASK_JOBQUEUE__SLURM__{name.upper()}": value for name, value in settings.items()}
    with slurm.slurm(tmp_path / "slurm") as environment:
        done = subprocess.run(
            [
                *(sys.executable, str(program), "reproduce", "toy2026", "--seeds", "1"),
                *("--cluster", "slurm", "--jobs", "2"),
            ],
            env=environment | asked,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        until(lambda: not slurm.jobs(environment))
    assert done.returncode == 0, done.stderr
    assert "Waiting for a first worker" in done.stdout
    assert done.stdout.count("test accuracy") == 2
    assert len(records_in(tmp_path)) == 2
    assert len(list((tmp_path / "logs").iterdir())) >= 1  # Slurm's, of its jobs


@pytest.mark.long
@pytest.mark.skipif(bool(sshd.why_not()), reason=sshd.why_not())
def test_by_ssh(tmp_path: Path) -> None:
    """A real server, on this machine under another name; its processes end with the command."""
    pytest.importorskip("asyncssh", reason="of the extra cluster")
    program, hosts = tmp_path / "program.py", tmp_path / "hosts.txt"
    program.write_text(PROGRAM_OF_COMMAND.format(tests=str(HERE), epochs=2), "utf-8")
    arguments = ["reproduce", "toy2026", "--seeds", "1", "--cluster", f"ssh:{hosts}"]
    before = begun_by_ssh()
    with sshd.server(tmp_path / "ssh", "far-away") as environment:
        for named, code in (("nowhere", 2), ("far-away", 0)):
            hosts.write_text(f"# the lab's\n{named}\n", "utf-8")
            done = subprocess.run(
                [sys.executable, str(program), *arguments],
                env=environment | {"DASK_LOGGING__DISTRIBUTED": "critical"},  # somebody's settings
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == code, done.stderr
            if code:
                assert "cannot be begun or reached" in done.stderr
                assert done.stderr.count("\n") == 1
        until(lambda: not begun_by_ssh() - before)
    assert len(records_in(tmp_path)) == 2


def begun_by_ssh() -> set[int]:
    """Dask's processes on what it takes for other machines."""
    import psutil

    found: set[int] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "distributed.cli.dask_spec" in process.cmdline():
                found.add(process.pid)
    return found


def test_processors_are_those_of_ones_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm need not bind a job's processes to the processors that it has."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    alone = processors.count()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert processors.count() == 1
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(alone + 5))
    assert processors.count() == alone
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert processors.count() == 1


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_of_other_versions(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scheduler: str,
    worker: Callable[..., subprocess.Popen[bytes]],
) -> None:
    worker()
    ours = clusters.versions()
    with cluster(scheduler, 1) as dask:
        dask.wait(lambda: None)
        assert dask.absent(["digits"], None) == {}
        monkeypatch.setattr(clusters, "versions", lambda: {**ours, "torch": "1.0"})
        says = r"the worker tcp://127.0.0.1:\d+ has torch \d.*, and here is torch 1.0"
        with pytest.raises(UsageError, match=says):
            dask.absent([], None)
        with pytest.raises(UsageError, match=says):  # one that came late
            ended(jobs(tmp_path, epochs=1, milestones=()), dask)
    assert not (tmp_path / "records").exists()


def test_data_and_mistakes_of_workers(
    tmp_path: Path, scheduler: str, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "empty").mkdir()
    worker(FORWARDLY_DATA=str(tmp_path / "empty"), FORWARDLY_OFFLINE="1")
    with cluster(scheduler, 1) as dask:
        dask.wait(lambda: None)
        absent = dask.absent(["digits", "mnist"], None)
        assert [*absent] == ["mnist"]
        assert absent["mnist"].startswith("On the worker tcp://127.0.0.1:")
        assert "mnist is not in" in absent["mnist"]
        (job, *_) = jobs(tmp_path, validation=5000)
        with pytest.raises(UsageError, match="validation must be 1 to 1496; given 5000"):
            ended([job], dask)


def test_a_worker_with_a_folder_of_its_own(
    tmp_path: Path, scheduler: str, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Checkpoints are there, not in the asking command's folder; and go once they are recorded."""
    own = tmp_path / "own"
    worker(FORWARDLY_WORK=str(own))
    todo = jobs(tmp_path, epochs=100_000)[:1]
    with cluster(scheduler, 1) as dask:
        for news in run_all(todo, dask):
            if isinstance(news, State) and news.epoch > 1:
                break
    (found,) = own.rglob("checkpoint.pt")
    assert not list((tmp_path / "work").rglob("*"))
    (job, *_) = jobs(tmp_path, epochs=3)
    until(lambda: is_left(replace(todo[0], work=own)))
    found.unlink()  # of another recipe
    with cluster(scheduler, 1) as dask:
        assert ended([job], dask) == {0: "finished"}
        until(lambda: not list(own.rglob("checkpoint.pt")))


def test_where_a_worker_keeps_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = clusters._work_folder  # pyright: ignore[reportPrivateUsage]
    with place(tmp_path) as seen:
        assert seen == tmp_path
    with place(tmp_path / "of another machine") as made:
        assert made.is_dir()
    assert not made.exists()
    monkeypatch.setenv("FORWARDLY_WORK", str(tmp_path / "own"))
    with place(tmp_path) as own:
        assert own == tmp_path / "own"


def test_a_run_has_a_name_of_its_own(tmp_path: Path) -> None:
    first, *others = six(tmp_path)
    again = replace(first, work=tmp_path / "elsewhere", threads=3)
    key = clusters._key  # pyright: ignore[reportPrivateUsage]
    assert len({key(job) for job in (first, *others)}) == 6
    assert key(again) == key(first)
    assert key(first) != key(replace(first, recipe=replace(first.recipe, momentum=0.5)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--cluster here", "a cluster is local:4 (so many processes here), tcp://HOST:8786"),
        ("--cluster local:0", "processes must be at least 1; given 0"),
        ("--cluster local:9999", "processes must be at most 1,024; given 9999"),
        ("--cluster local:", "given 'local:'"),
        ("--cluster tcp://127.0.0.1:1", "the cluster tcp://127.0.0.1:1 cannot be begun or reached"),
        ("--cluster ssh:nowhere.txt", "nowhere.txt"),
        ("--cluster local:2 --jobs 3", "leave --jobs out"),
        ("--cluster local:2 --device mps", "leave --device out"),
    ],
)
def test_mistakes(
    options: str, says: str, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(clusters, "_SECONDS_TO_CONNECT", 1)
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment())
    monkeypatch.setattr("forwardly.fast.devices.device_named", lambda name, **_: torch.device(name))
    done = command("reproduce", "toy2026", *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_posts_experiment_runs_here(command: Command) -> None:
    done = command("reproduce", "teacher_student", "--cluster", "local:2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "runs here: leave --cluster out" in done.stderr


def test_the_documents_commands_are_tried() -> None:
    """Each kind of cluster that docs/scaling.md has a command for is begun by a test above."""
    text = (HERE.parent / "docs" / "scaling.md").read_text("utf-8")
    commands = re.findall(r"^    forwardly (.+)$", text, re.MULTILINE)
    assert commands.pop().startswith("tune --rule pepita --data digits"), "see test_tune.py"
    kinds = [re.split("[: ]", command.split("--cluster ")[1])[0] for command in commands]
    assert kinds == ["local", "ssh", "slurm", "tcp"]
    for command in commands:
        name, *_ = command.removeprefix("reproduce ").split()
        assert published.EXPERIMENTS[name].choose(("fc-mnist/*",))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(published.EXPERIMENTS, "toy2026", experiment())
    done = command("reproduce", "toy2026", "--cluster", "local:2")
    assert done.returncode == 2
    assert "for --cluster the package dask is needed" in done.stderr
    assert "pip install 'forwardly[cluster]'" in done.stderr
