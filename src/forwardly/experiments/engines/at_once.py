"""Run what of an experiment is not recorded yet on a GPU: runs of one form as one batched step.

Runs are of one form if their recipes differ in nothing but the learning rate: the seeds of a cell,
and the trials of a rule. Weights, feedback and order are drawn as ``jobs`` draws them, so results
pair with those of the processor. Checkpoints are those of ``jobs`` too, once a minute.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from filelock import Timeout

from forwardly.data import Dataset
from forwardly.errors import UsageError
from forwardly.experiments.jobs import (
    Ended,
    Job,
    State,
    cannot_write,
    environment_of,
    record_of,
)
from forwardly.experiments.recipe import Prepared, Recipe, load_data, prepare_on
from forwardly.experiments.run_folder import RunFolder
from forwardly.training.measures import MEASURES
from forwardly.training.run import Run, begin
from forwardly.training.seeds import epochs_at_once

_SECONDS_BETWEEN_CHECKPOINTS = 60
_OF_DATA = "data", "target", "task", "validation", "stress", "preprocessing"
"""The settings that decide what is learned from."""


@dataclass(frozen=True)
class _Begun:
    """A job under way: its number, what its recipe made, and the state of its run."""

    number: int
    job: Job
    prepared: Prepared
    run: Run
    environment: dict[str, Any]


@final
class AtOnce:
    """An ``Engine`` on one device.

    Args:
        device: where.
        most: how many runs at once.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self._device, self._most = device, most

    def train(
        self,
        jobs: Iterable[Job],
        given_up: Collection[int] = (),  # noqa: ARG002
    ) -> Generator[State | Ended]:
        """See ``Engine``; says how far runs are after each epoch, and does not give one up."""
        jobs = [*jobs]
        for group in _groups(jobs, self._most):
            with ExitStack() as locks:
                begun = list[_Begun]()
                for number in group:
                    job = jobs[number]
                    try:
                        job.folder.mkdir(parents=True, exist_ok=True)
                        locks.enter_context(RunFolder(job.folder).lock())
                    except Timeout:
                        yield Ended(number, "taken")
                        continue
                    except OSError as problem:
                        raise cannot_write(job, problem) from None
                    if job.recorded:
                        yield Ended(number, "finished")  # by another process, meanwhile
                    else:
                        begun.append(_begin(number, job, self._device))
                for epoch in sorted({len(one.run.fit.rows) for one in begun}):
                    yield from _trained([one for one in begun if len(one.run.fit.rows) == epoch])


def _groups(jobs: Sequence[Job], most: int) -> Iterator[list[int]]:
    """Numbers of jobs that are of one form, so many at most, in the order of the first of each."""
    groups: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        if why := why_not(job.recipe):
            raise UsageError(
                f"{job.name} cannot be run on a device, as {why}: leave it out with --cells, or "
                "run it without --device"
            )
        groups.setdefault(repr(replace(job.recipe, learning_rate=0.0)), []).append(number)
    for numbers in groups.values():
        for first in range(0, len(numbers), most):
            yield numbers[first : first + most]


def why_not(recipe: Recipe) -> str:
    """Why a recipe's runs are no batch; empty if they are one."""
    if recipe.mirroring is not None:
        return "its F learns between the steps"
    if recipe.may_be_a_graph:
        return "its model is no chain of layers"
    if recipe.patience is not None or recipe.keep != "last":
        return "runs that end by themselves are not trained at once"
    return "its precision is bfloat16" if recipe.dtype == "bf16" else ""


def _begin(number: int, job: Job, device: torch.device) -> _Begun:
    recipe = job.recipe
    of_data = tuple(getattr(recipe, name) for name in _OF_DATA)
    dataset = _dataset(of_data, job.seed, job.data_root, device)
    prepared = prepare_on(dataset, recipe, job.seed).to(device)
    with warnings.catch_warnings():
        # In the first measure that differentiates; torch does what it says it attempts.
        warnings.filterwarnings("ignore", "Attempting to run cuBLAS")
        run = begin(
            prepared.rule,
            prepared.dataset,
            prepared.optimizer,
            batch=recipe.batch,
            seed=prepared.order_seed,
            scheduler=prepared.scheduler,
            measures=tuple(MEASURES.values()),
            augment=recipe.augmentation,
            settings=job.settings,
        )
    if job.checkpoint.exists():
        run.load(job.checkpoint)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads()
    environment = {**environment_of(job), "threads": threads, "device": name}
    return _Begun(number, job, prepared, run, environment)


@lru_cache(maxsize=16)  # of all cells that learn from the same
def _dataset(
    of_data: tuple[Any, ...], seed: int, root: Path | None, device: torch.device
) -> Dataset:
    recipe = Recipe(**dict(zip(_OF_DATA, of_data, strict=True)))
    return load_data(recipe, seed, root).to(device)


def _trained(begun: Sequence[_Begun]) -> Generator[State | Ended]:
    measures = tuple(MEASURES.values())
    saved = time.monotonic()
    runs = [one.run for one in begun]
    for _ in epochs_at_once(runs, begun[0].job.recipe.epochs, measures=measures):
        for one in begun:
            last = one.run.fit.rows[-1]
            yield State(one.number, last["epoch"], last.get("validation_accuracy"))
        if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            for one in begun:
                try:
                    one.run.save(one.job.checkpoint)
                except OSError as problem:
                    raise cannot_write(one.job, problem) from None
            saved = time.monotonic()
    for one in begun:
        environment = {**one.environment, "runs_at_once": len(begun)}
        yield Ended(one.number, record_of(one.job, one.prepared, one.run.fit, environment))
