"""``forwardly teacher-student``: the experiment of the blog post."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import fields_but
from forwardly.data.teacher_student import TaskSettings, draw, load
from forwardly.errors import UsageError
from forwardly.experiments import results
from forwardly.experiments.history import History
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.settings import MOST_THREADS, at_least, require
from forwardly.experiments.statistics import sd_text
from forwardly.experiments.teacher_student import Run, TeacherStudent
from forwardly.fast.devices import choose

_DEFAULTS = TeacherStudent()
_SECONDS_BETWEEN_SAVES = 3
_SEEDS_WORTH_THREADS = 4  # below that, threads cost more than they bring


def teacher_student(
    *,
    settings: Annotated[
        TeacherStudent, fields_but(*(field.name for field in fields(TaskSettings)))
    ] = _DEFAULTS,
    hidden: tuple[int, ...] | None = None,
    out: Path | None = None,
    arrays: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> int:
    """Learn a small teacher network's outputs: the experiment of the blog post.

    A 16-8-1 student learns 1,000 outputs of a 16-8-1 teacher, full batch, by each rule. Writes the
    mean absolute errors (MAE) on training and validation set, and figures of them.

    Parameters
    ----------
    hidden
        Sizes of the student's hidden layers, separated by spaces (default: 8).
    out
        Folder to write to; it must not hold anything yet (default: runs/teacher-student/TIME).
    arrays
        An .npz file to start from, with x_train, y_train, x_val, y_val, w1, w2 and F, samples in
        rows; such as the arrays.npz of an earlier run.
    device
        Where: cpu; or a GPU: cuda, cuda:1 (the second), xpu or mps, where the readable rules run,
        as what is compiled is for processors; or auto, which takes a GPU if there is one and an
        epoch of all seeds is large.
    threads
        Processor threads (default: all; one seed needs no more than one).
    """
    gc.set_threshold(20_000)  # what is imported stays; to look through it takes a tenth of the time
    require(at_least(1), threads=threads)
    require(MOST_THREADS, threads=threads)
    seeds = settings.seeds
    given = None
    if arrays is not None:
        if seeds > 1 or hidden is not None:
            option = "--seeds" if seeds > 1 else "--hidden"
            raise UsageError(f"--arrays fixes data and weights, so {option} cannot go with it")
        given = load(arrays)
        hidden = tuple(w.shape[1] for w in given.weights[:-1])
    if hidden is not None:
        settings = replace(settings, hidden=hidden)
    if given is None:
        tasks = [draw(settings, np.random.default_rng(settings.seed + i)) for i in range(seeds)]
    else:
        tasks = [given]
    work = len(tasks) * len(tasks[0].x_train) * sum(w.size for w in tasks[0].weights)
    chosen = choose(device, work, settings.torch_dtype)
    folder = RunFolder.new(out, "teacher-student")
    results.write_start(folder, settings, tasks[0], arrays, chosen.as_data())
    if threads is not None or seeds < _SEEDS_WORTH_THREADS:
        torch.set_num_threads(threads or 1)

    console = PlainConsole()
    if chosen.why:
        console.say(f"Device: {chosen}.")
    run = Run(settings, tasks, threads, chosen.device)
    status = "finished"
    try:
        with console.status("Compiling the training loops; once on this machine, then kept"):
            run.prepare()
        _train(run, folder, console)
    except KeyboardInterrupt:
        status = "interrupted"
    figures = results.write_results(folder, run, status)
    return _report(run, status, [*figures, folder.path / "metrics.csv"], console)


def _train(run: Run, folder: RunFolder, console: PlainConsole) -> None:
    """Train to the end under a progress bar a rule, saving the metrics now and then."""
    with bars(console, "MAE {task.fields[mae]}") as progress:
        tasks = {
            name: progress.add_task(name, total=run.settings.epochs, mae=_state(history))
            for name, history in run.histories.items()
        }
        saved = time.monotonic()
        for name in run.advance():
            state = _state(run.histories[name])
            progress.update(tasks[name], completed=run.trainings[name].epoch, mae=state)
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                results.write_metrics(folder, run)
                saved = time.monotonic()


def _state(history: History) -> str:
    """What a rule's bar says of it."""
    if history.failure is not None:
        return "failed"
    if not history.alive:
        return "diverged"
    if not history.epochs:
        return "…"
    train, validation = (
        sd_text((history.mean_and_sd(which)[0], None), 4) for which in ("train", "validation")
    )
    return f"train {train}, validation {validation}"


def _report(run: Run, status: str, paths: Sequence[Path], console: PlainConsole) -> int:
    """The closing table, paths and warnings; the exit code."""
    table = Table()
    for heading in ("rule", "train MAE", "validation MAE", "seconds"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    for name, history in run.histories.items():
        errors = (
            sd_text(history.mean_and_sd(which) if history.epochs else None, 4)
            for which in ("train", "validation")
        )
        table.add_row(name, *errors, f"{history.seconds:.1f}")
    console.table(table)
    if "readout-only" in run.histories:
        console.say("readout-only: hidden layers frozen, the control")
    for path in paths:
        console.say(str(path))
    for name, history in run.histories.items():
        _warn_of_divergence(history, run.settings, console)
        if history.failure is not None:
            done = run.trainings[name].epoch if name in run.trainings else 0
            console.say(f"{name} failed after {done:,} epochs: {history.failure}", style="red")
    if status == "interrupted":
        epoch = max((training.epoch for training in run.trainings.values()), default=0)
        console.say(f"Stopped at epoch {epoch:,}; what was done is written.", style="yellow")
        return INTERRUPTED
    ended = (history.alive and history.failure is None for history in run.histories.values())
    return 0 if all(ended) else 1


def _warn_of_divergence(history: History, settings: TeacherStudent, console: PlainConsole) -> None:
    if not history.diverged:
        return
    seeds = ", ".join(f"seed {seed} at epoch {at:,}" for seed, at in history.diverged.items())
    rest = "" if not history.alive else f"; the figures are of the other {len(history.alive)}"
    console.say(
        f"{history.rule} diverged (NaN or infinity) with learning rate {settings.learning_rate:g}: "
        f"{seeds}{rest}. Try a smaller --learning-rate.",
        style="red",
    )
