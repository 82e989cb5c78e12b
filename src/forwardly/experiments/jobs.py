"""Run what of an experiment is not recorded yet.

Each run keeps a checkpoint in its working folder, is locked against a second process, and ends as a
record, which only the process that was asked writes. So a command that was killed, or a machine
that was switched off, is continued by giving the same command again. Where runs are trained is the
business of an ``Engine``; see ``engines``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Job:
    """One run: a recipe with a seed, and where its record and its checkpoint belong.

    A trial is run to choose a setting by, so its accuracy on test images is not shown. A run that
    is not ``tested`` does not look at them, and makes no whole record.
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
    tested: bool = True

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
        recipe = self.recipe
        return {"recipe": recipe.as_data(), "run_seed": self.seed, **recipe.own_model()}

    @property
    def recorded(self) -> bool:
        """Whether it has ended."""
        return files.is_there(self.record)


class State(NamedTuple):
    """How far a run is."""

    job: int
    epoch: float  # with the part of the epoch that is under way
    accuracy: float | None


class Restarted(NamedTuple):
    """A run whose process or machine was lost, and which is begun again."""

    job: int
    why: str


Outcome = Literal["finished", "stopped", "taken"]
"""How a run ended: recorded; told to stop, or its parent gone; another process runs it."""


class Ended(NamedTuple):
    """A run that is under way no more: what is to be recorded of it, or why there is nothing."""

    job: int
    result: Record | Outcome


@runtime_checkable
class Engine(Protocol):
    """Where jobs are trained: ``engines.processes``, ``engines.cluster`` or ``at_once``."""

    def train(
        self, jobs: Iterable[Job], given_up: Collection[int] = ()
    ) -> Generator[State | Restarted | Ended]:
        """How far runs are, and how each ended, as it comes; numbers are places in ``jobs``.

        Closing the generator, or Ctrl-C in it, stops all runs; their checkpoints stay.

        Args:
            jobs: which; each is asked for when there is room for it.
            given_up: numbers of runs to be stopped, looked at now and then.

        Raises:
            UsageError: of the first run that cannot be done.
        """
        ...


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


def run_all(
    jobs: Sequence[Job], engine: Engine
) -> Iterator[State | Restarted | tuple[int, Outcome]]:
    """Have an engine train jobs, and record each as it ends; yields what happens.

    A record that has appeared meanwhile, as another command ran the same, is left as it is. Leaving
    the loop (or Ctrl-C in it) stops all runs; their checkpoints stay.

    Raises:
        UsageError: of the first run that cannot be done, or recorded.
    """
    with closing(engine.train(jobs)) as news_of:
        for news in news_of:
            if isinstance(news, Ended):
                yield news.job, _keep(jobs[news.job], news.result)
            else:
                yield news


def _keep(job: Job, result: Record | Outcome) -> Outcome:
    """Write the record, if there is one, and remove the checkpoint.

    Raises:
        UsageError: if it cannot be written.
    """
    if not isinstance(result, Record):
        return result
    try:
        records.write(job.records, result)
        job.checkpoint.unlink(missing_ok=True)
    except OSError as problem:
        raise cannot_write(job, problem) from None
    return "finished"


def train(
    job: Job, report: Callable[[float, float | None], None], stop: Callable[[], bool]
) -> Record | Outcome:
    """Train, or go on from the checkpoint; writes nothing but that.

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
            return _train(job, report, stop)
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


def _train(
    job: Job, report: Callable[[float, float | None], None], stop: Callable[[], bool]
) -> Record | Outcome:
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
    return record_of(job, prepared, trained, environment)


def record_of(job: Job, prepared: Prepared, trained: Fit, environment: dict[str, Any]) -> Record:
    """Test what was trained; what is to be recorded."""
    tests = job.tested and not trained.diverged
    tested = evaluate(prepared.rule, prepared.dataset.test) if tests else {}
    result = {
        **{f"test_{name}": tested.get(name) for name in ("loss", "accuracy")},
        "diverged": trained.diverged,
        "epochs": len(trained.rows),
        "seconds": round(trained.seconds, 1),
    }
    run = job.experiment, job.cell, job.seed, job.recipe.as_data()
    return Record(*run, result, environment, trained.rows)


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
