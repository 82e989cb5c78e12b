"""Run what of an experiment is not recorded yet, in parallel processes that survive being killed.

Each run keeps a checkpoint in its working folder, is locked against a second process, and ends as a
record. So a command that was killed, or a machine that was switched off, is continued by giving the
same command again.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from queue import Empty
from typing import Any, Literal, NamedTuple

import torch

from forwardly import files
from forwardly.errors import UsageError
from forwardly.experiments import records
from forwardly.experiments.experiment import TRIAL_SEED, Experiment
from forwardly.experiments.provenance import provenance
from forwardly.experiments.recipe import Prepared, Recipe, prepare
from forwardly.experiments.records import Record
from forwardly.experiments.run_folder import RunFolder
from forwardly.training import Fit, Row, evaluate
from forwardly.training.measures import MEASURES

_BATCHES_BETWEEN_LOOKS = 20
_SIGNALS = signal.SIGINT, signal.SIGTERM


@dataclass(frozen=True)
class Job:
    """One run: a recipe with a seed, and where its record and its checkpoint belong.

    A trial is run to choose a setting by, so its accuracy on test images is not shown.
    """

    experiment: str
    cell: str
    seed: int
    recipe: Recipe
    records: Path
    work: Path
    data_root: Path | None
    threads: int
    trial: bool = False

    @property
    def name(self) -> str:
        """What to show."""
        return f"{self.cell} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its working folder."""
        return records.folder(self.work, self.experiment, self.cell, self.seed)

    @property
    def record(self) -> Path:
        """The folder of its record, which is there once it has ended."""
        return records.folder(self.records, self.experiment, self.cell, self.seed)

    @property
    def checkpoint(self) -> Path:
        """The file that it goes on from."""
        return self.folder / "checkpoint.pt"

    @property
    def settings(self) -> dict[str, Any]:
        """What a run must share with the checkpoint that it goes on from."""
        return {"recipe": self.recipe.as_data(), "run_seed": self.seed}

    @property
    def recorded(self) -> bool:
        """Whether it has ended."""
        return files.is_there(self.record)


class State(NamedTuple):
    """How far a run is."""

    job: int
    epoch: float  # with the part of the epoch that is under way
    accuracy: float | None


Outcome = Literal["finished", "stopped", "taken"]
"""How a run ended: recorded; told to stop, or its parent gone; another process runs it."""


def jobs_of(
    experiment: Experiment,
    cells: Sequence[str],
    seeds: int,
    *,
    first_seed: int,
    record_root: Path,
    work: Path,
    data_root: Path | None,
    threads: int,
    recorded: bool = False,
) -> list[Job]:
    """The runs of these cells that have no record yet; all cells' first seed, then the second, ….

    Trials come first, as they are what settings are chosen by; they have a seed of their own.

    With ``recorded`` those that have one too.

    Raises:
        UsageError: if a record is damaged, or of another recipe.
    """
    results = [cell for cell in cells if not experiment.cells[cell].trial]
    runs = [(TRIAL_SEED, cell) for cell in cells if experiment.cells[cell].trial]
    runs += [(first_seed + further, cell) for further in range(seeds) for cell in results]
    jobs = [
        Job(
            *experiment.place(cell),
            seed,
            experiment.cells[cell].recipe,
            record_root,
            work,
            data_root,
            threads,
            experiment.cells[cell].trial,
        )
        for seed, cell in runs
    ]
    for job in jobs:
        if job.recorded:
            records.check_recipe(records.read(job.record), job.recipe)
    return [job for job in jobs if recorded or not job.recorded]


def run(
    job: Job, report: Callable[[float, float | None], None], stop: Callable[[], bool]
) -> Outcome:
    """Train, or go on from the checkpoint, and write the record.

    Args:
        job: which.
        report: called with the epochs done and the last validation accuracy, now and then.
        stop: whether to stop; asked now and then.

    Raises:
        UsageError: if the data is not there, the recipe makes no sense, or nothing can be written.
    """
    from filelock import Timeout

    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with RunFolder(job.folder).lock():
            return _run(job, report, stop)
    except Timeout:
        return "taken"
    except OSError as problem:  # the disk is full, say
        raise cannot_write(job, problem) from None


def cannot_write(job: Job, problem: OSError) -> UsageError:
    """What to say where a record or a checkpoint could not be written."""
    return UsageError(
        f"{job.name} cannot write to {problem.filename or job.folder}: {problem.strerror}. "
        "Checkpoints are kept as they last were; once there is room the same command goes on"
    )


class _StopError(Exception):
    """Training was told to stop."""


def _run(
    job: Job, report: Callable[[float, float | None], None], stop: Callable[[], bool]
) -> Outcome:
    if job.recorded:
        return "finished"  # by another process, meanwhile
    torch.set_num_threads(job.threads)
    environment = environment_of(job)
    prepared = prepare(job.recipe, job.seed, job.data_root)
    last: Row = {}

    def on_batch(done: int, batches: int) -> None:
        if done % _BATCHES_BETWEEN_LOOKS == 0:
            if stop():
                raise _StopError
            report(last.get("epoch", 0) + done / batches, last.get("validation_accuracy"))

    try:
        trained = prepared.fit(
            measures=tuple(MEASURES.values()),
            checkpoint=job.checkpoint,
            resume=True,
            settings=job.settings,
            on_batch=on_batch,
            on_epoch=last.update,
        )
    except _StopError:
        return "stopped"
    write_record(job, prepared, trained, environment)
    return "finished"


def write_record(job: Job, prepared: Prepared, trained: Fit, environment: dict[str, Any]) -> None:
    """Test what was trained, write the record, and remove the checkpoint."""
    tested = {} if trained.diverged else evaluate(prepared.rule, prepared.dataset.test)
    result = {
        **{f"test_{name}": tested.get(name) for name in ("loss", "accuracy")},
        "diverged": trained.diverged,
        "epochs": len(trained.rows),
        "seconds": round(trained.seconds, 1),
    }
    run = job.experiment, job.cell, job.seed, job.recipe.as_data()
    records.write(job.records, Record(*run, result, environment, trained.rows))
    job.checkpoint.unlink(missing_ok=True)


def environment_of(job: Job) -> dict[str, Any]:
    """Software and machine; with the revisions of all sessions, where a run was interrupted."""
    path = job.folder / "revisions.json"
    environment = {**provenance(), "threads": job.threads}
    revision = environment["revision"], environment["uncommitted_changes"]
    revisions = [*_revisions(path), revision]
    RunFolder(job.folder).write_json(path.name, revisions)
    before = sorted({name for name, _ in revisions[:-1] if name not in (None, revision[0])})
    environment["earlier_revisions"] = before
    environment["uncommitted_changes"] = any(changed for _, changed in revisions)
    environment["sessions"] = len(revisions)
    return environment


def _revisions(path: Path) -> list[tuple[str | None, bool]]:
    """Revision, and whether it was changed, of each session so far."""
    if not files.is_there(path):
        return []
    text = files.read_text(path)
    try:
        return [(name and str(name), bool(changed)) for name, changed in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        files.refuse(path, "is no list of revisions")


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[State | tuple[int, Outcome]]:
    """Run jobs side by side; yields how far they are, and how each ended.

    Leaving the loop (or Ctrl-C in it) stops all runs; their checkpoints stay.

    Raises:
        UsageError: of the first run that cannot be done.
    """
    context = get_context("spawn")  # torch's threads do not survive a fork
    stop, queue = context.RawValue("b", 0), context.Queue()  # no lock that a stopped process keeps
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(stop, queue)
    ) as pool:
        running: dict[Future[Outcome], int] = {}
        left = iter(enumerate(jobs))
        try:
            while True:
                for number, job in left:
                    with _without_signals():
                        running[pool.submit(_work, number, job)] = number
                    if len(running) >= processes:
                        break
                if not running:
                    return
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                with suppress(Empty):
                    while True:
                        yield State(*queue.get_nowait())
                for future in done:
                    number = running.pop(future)
                    try:
                        yield number, future.result()
                    except BrokenProcessPool:
                        raise UsageError(
                            f"a process was killed while it ran {jobs[number].name}, or one beside "
                            "it; if memory ran out, give fewer --jobs. Checkpoints are kept, and "
                            "the same command goes on"
                        ) from None
        finally:
            stop.value = 1
            try:
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # again, from somebody who does not want to wait
                for process in active_children():
                    process.kill()  # a checkpoint is whole, whatever happens
                raise


_worker: dict[str, Any] = {}
"""What ``_begin`` gives a process, for ``_work``."""


@contextmanager
def _without_signals() -> Generator[None]:
    """Keep Ctrl-C and SIGTERM until after the block; a process begun in it never has them.

    Else one that is still importing would end with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Any, queue: Any) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    _worker.update(stop=stop, queue=queue)


def _work(number: int, job: Job) -> Outcome:
    def stop() -> bool:
        parent = parent_process()
        if parent is not None and not parent.is_alive():  # killed; nobody waits for an answer
            os._exit(1)
        return bool(_worker["stop"].value)

    def report(epoch: float, accuracy: float | None) -> None:
        _worker["queue"].put((number, epoch, accuracy))

    return run(job, report, stop)
