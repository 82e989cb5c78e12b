"""``forwardly teacher-student``: the experiment of the blog post."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, Several, bars
from forwardly.errors import UsageError
from forwardly.experiments import arrays as task_arrays
from forwardly.experiments import results
from forwardly.experiments.history import History
from forwardly.experiments.teacher_student import Run, TeacherStudent, draw

_DEFAULTS = TeacherStudent()
_SECONDS_BETWEEN_SAVES = 3
_SEEDS_WORTH_THREADS = 4  # below that, threads cost more than they bring


def teacher_student(
    *,
    rules: Several[str] = (_DEFAULTS.rules),
    seeds: int = _DEFAULTS.seeds,
    epochs: int = _DEFAULTS.epochs,
    seed: int = _DEFAULTS.seed,
    hidden: Several[int] | None = None,
    learning_rate: float = _DEFAULTS.learning_rate,
    dtype: Literal["float64", "float32"] = "float64",
    log_every: int = _DEFAULTS.log_every,
    engine: Literal["compiled", "readable"] = "compiled",
    out: Path | None = None,
    arrays: Path | None = None,
    threads: int | None = None,
) -> int:
    """Learn a small teacher network's outputs: the experiment of the blog post.

    A 16-8-1 student learns 1,000 outputs of a 16-8-1 teacher, full batch, by each rule. Writes the
    mean absolute errors (MAE) on training and validation set, and figures of them.

    Parameters
    ----------
    rules
        Rules to compare, separated by spaces; ``forwardly rules`` lists them.
    seeds
        How many seeds to run at once; figure and table then show mean and standard deviation.
    epochs
        Full-batch updates.
    seed
        The first seed, of teacher, data, student and feedback matrix.
    hidden
        Sizes of the student's hidden layers, separated by spaces (default: 8).
    learning_rate
        On updates summed over the batch.
    dtype
        Precision of the training.
    log_every
        Epochs between two measurements of the MAE.
    engine
        How the epochs run: compiled, for the rules that have it, or the readable rules as they
        are written. Both come to the same errors.
    out
        Folder to write to; it must not hold anything yet (default: runs/teacher-student/TIME).
    arrays
        An .npz file to start from, with x_train, y_train, x_val, y_val, w1, w2 and F, samples in
        rows; such as the arrays.npz of an earlier run.
    threads
        Processor threads (default: all; one seed needs no more than one).
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1; given {threads}")
    given = None
    if arrays is not None:
        if seeds > 1 or hidden is not None:
            option = "--seeds" if seeds > 1 else "--hidden"
            raise UsageError(f"--arrays fixes data and weights, so {option} cannot go with it")
        given = task_arrays.load(arrays)
        hidden = tuple(w.shape[1] for w in given.weights[:-1])
    settings = TeacherStudent(
        rules=rules,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
        hidden=_DEFAULTS.hidden if hidden is None else hidden,
        learning_rate=learning_rate,
        dtype=dtype,
        log_every=log_every,
        engine=engine,
    )
    if given is None:
        tasks = [draw(settings, np.random.default_rng(seed + i)) for i in range(seeds)]
    else:
        tasks = [given]
    folder = results.new_folder(out, "teacher-student")
    results.write_start(folder, settings, tasks[0], arrays)
    if threads is not None or seeds < _SEEDS_WORTH_THREADS:
        torch.set_num_threads(threads or 1)

    console = PlainConsole()
    run = Run(settings, tasks, threads)
    status = "finished"
    try:
        with console.status("Compiling the training loops; once on this machine, then kept"):
            run.prepare()
        _train(run, folder, console)
    except KeyboardInterrupt:
        status = "interrupted"
    figures = results.write_results(folder, run, status)
    return _report(run, status, [*figures, folder / "metrics.csv"], console)


def _train(run: Run, folder: Path, console: PlainConsole) -> None:
    """Train to the end under a progress bar a rule, saving the metrics now and then."""
    with bars(console, "MAE {task.fields[mae]}") as progress:
        tasks = {
            name: progress.add_task(name, total=run.settings.epochs, mae="…")
            for name in run.histories
        }
        saved = time.monotonic()
        for name in run.advance():
            history = run.histories[name]
            state = "diverged" if not history.alive else "…"
            if history.alive and history.epochs:
                train, validation = history.mean_and_sd("train"), history.mean_and_sd("validation")
                state = f"train {train[0]:.4f}, validation {validation[0]:.4f}"
            progress.update(tasks[name], completed=run.trainings[name].epoch, mae=state)
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                results.write_metrics(folder, run)
                saved = time.monotonic()


def _report(run: Run, status: str, paths: Sequence[Path], console: PlainConsole) -> int:
    """The closing table, paths and warnings; the exit code."""
    table = Table()
    for heading in ("rule", "train MAE", "validation MAE", "seconds"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    for name, history in run.histories.items():
        errors = ("–", "–")
        if history.epochs:
            errors = tuple(
                _with_sd(*history.mean_and_sd(which)) for which in ("train", "validation")
            )
        table.add_row(name, *errors, f"{history.seconds:.1f}")
    console.table(table)
    for path in paths:
        console.say(str(path))
    for history in run.histories.values():
        _warn_of_divergence(history, run.settings, console)
    if status == "interrupted":
        epoch = max(training.epoch for training in run.trainings.values())
        console.say(f"Stopped at epoch {epoch:,}; what was done is written.", style="yellow")
        return INTERRUPTED
    return 0 if all(history.alive for history in run.histories.values()) else 1


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


def _with_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
