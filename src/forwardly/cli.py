"""The command ``forwardly``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import cyclopts
import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from forwardly import __version__
from forwardly.data import load
from forwardly.errors import UsageError, check_rules
from forwardly.experiments import arrays as task_arrays
from forwardly.experiments import digits, results
from forwardly.experiments.registry import experiment
from forwardly.experiments.teacher_student import Run, TeacherStudent, draw
from forwardly.history import History
from forwardly.plugins import all_rules
from forwardly.provenance import provenance
from forwardly.records import folder as records_folder
from forwardly.records import read as read_record
from forwardly.reproduction import Job, Outcome, State, jobs_of, run_all

app = cyclopts.App(
    name="forwardly",
    help="Train networks with forward passes only: PEPITA and the rules it is compared with.",
    version=__version__,
)

_DEFAULTS = TeacherStudent()
_SECONDS_BETWEEN_SAVES = 3
_SEEDS_WORTH_THREADS = 4  # below that, threads cost more than they bring
_INTERRUPTED = 130  # what shells report of a command that Ctrl-C ended


@app.command(name="teacher-student")
def teacher_student(
    *,
    rules: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (
        _DEFAULTS.rules
    ),
    seeds: int = _DEFAULTS.seeds,
    epochs: int = _DEFAULTS.epochs,
    seed: int = _DEFAULTS.seed,
    hidden: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative="")] = None,
    learning_rate: float = _DEFAULTS.learning_rate,
    dtype: Literal["float64", "float32"] = "float64",
    log_every: int = _DEFAULTS.log_every,
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
    out
        Folder to write to; it must not hold anything yet (default: runs/teacher-student/TIME).
    arrays
        An .npz file to start from, with x_train, y_train, x_val, y_val, w1, w2 and F, samples in
        rows; such as the arrays.npz of an earlier run.
    threads
        Processor threads (default: 1 for fewer than 4 seeds, as tiny products get slower with
        more, else all).
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
    )
    if given is None:
        tasks = [draw(settings, np.random.default_rng(seed + i)) for i in range(seeds)]
    else:
        tasks = [given]
    folder = results.new_folder(out, "teacher-student")
    results.write_start(folder, settings, tasks[0], arrays)
    if threads is not None or seeds < _SEEDS_WORTH_THREADS:
        torch.set_num_threads(threads or 1)

    console = Console()
    run = Run(settings, tasks)
    status = "finished"
    try:
        _train(run, folder, console)
    except KeyboardInterrupt:
        status = "interrupted"
    figures = results.write_results(folder, run, status)
    return _report(run, status, [*figures, folder / "metrics.csv"], console)


def _train(run: Run, folder: Path, console: Console) -> None:
    """Train to the end under a progress bar a rule, saving the metrics now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("MAE {task.fields[mae]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {
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
            progress.update(bars[name], completed=run.trainings[name].epoch, mae=state)
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                results.write_metrics(folder, run)
                saved = time.monotonic()


def _report(run: Run, status: str, paths: Sequence[Path], console: Console) -> int:
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
    console.print(table)
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)
    for history in run.histories.values():
        _warn_of_divergence(history, run.settings, console)
    if status == "interrupted":
        epoch = max(training.epoch for training in run.trainings.values())
        console.print(f"Stopped at epoch {epoch:,}; what was done is written.", style="yellow")
        return _INTERRUPTED
    return 0 if all(history.alive for history in run.histories.values()) else 1


def _warn_of_divergence(history: History, settings: TeacherStudent, console: Console) -> None:
    if not history.diverged:
        return
    seeds = ", ".join(f"seed {seed} at epoch {at:,}" for seed, at in history.diverged.items())
    rest = "" if not history.alive else f"; the figures are of the other {len(history.alive)}"
    console.print(
        f"{history.rule} diverged (NaN or infinity) with learning rate {settings.learning_rate:g}: "
        f"{seeds}{rest}. Try a smaller --learning-rate.",
        style="red",
        soft_wrap=True,
    )


def _with_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


@app.command(name="rules")
def list_rules() -> int:
    """List the rules, those of other installed packages too, and what each of them needs."""
    table = Table("rule", "paper", "year", "passes", "autograd", "feedback", "hidden layers see")
    rules, problems = all_rules()
    for name, rule in rules.items():
        people = [author.split()[-1] for author in rule.paper.authors]
        table.add_row(
            name,
            people[0] if len(people) == 1 else f"{people[0]} et al.",
            str(rule.paper.year),
            str(rule.forward_passes),
            "yes" if rule.uses_autograd else "no",
            rule.feedback_path or "–",
            {"error": "the error", "target": "the target", "label": "labels as input"}[rule.teacher]
            if rule.trains != "readout"
            else "nothing",
        )
    Console().print(table)
    for problem in problems:
        Console(stderr=True).print(problem, style="yellow", highlight=False, markup=False)
    return 0


@app.command
def cite(*names: str) -> int:
    """Print the BibTeX entries of rules' papers.

    Parameters
    ----------
    names
        Rules, as ``forwardly rules`` lists them.
    """
    rules, _ = all_rules()
    check_rules(names, rules)
    for entry in dict.fromkeys(rules[name].paper.bibtex for name in names):
        sys.stdout.write(entry + "\n")  # plain, for a file or a pipe
    return 0


@app.command
def compare(
    *,
    data: Literal["digits"] = "digits",
    rules: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    hidden: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (128,),
    activation: Literal["relu", "tanh"] = "relu",
    seeds: int = 5,
    seed: int = 0,
    epochs: int = 30,
    out: Path | None = None,
) -> int:
    """Train rules on the same network, data and seeds, and compare their test accuracy.

    Every rule is tested against readout-only, seed by seed, as a frozen hidden layer learns too.

    Parameters
    ----------
    data
        The data set: scikit-learn's 1,797 digits.
    rules
        Rules to compare, separated by spaces (default: all).
    hidden
        Sizes of the hidden layers, separated by spaces.
    activation
        Of the hidden layers.
    seeds
        How many seeds.
    seed
        The first of them.
    epochs
        Passes over the training images.
    out
        Folder to write to; it must not hold anything yet (default: runs/compare/TIME).
    """
    settings = digits.Digits(
        rules=rules or tuple(digits.LEARNING_RATES),
        hidden=hidden,
        activation=activation,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
    )
    software = provenance()
    folder = results.new_folder(out, "compare")
    torch.set_num_threads(1)
    console = Console()
    accuracies: dict[str, list[float]] = {name: [] for name in settings.rules}
    status = "finished"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task(data, total=len(settings.rules) * seeds)
            for name, _, accuracy in digits.run(settings):
                accuracies[name].append(accuracy)
                results.write_comparison(folder, settings, _rows(accuracies), "running", software)
                progress.update(bar, advance=1, description=f"{data}, {name}")
    except KeyboardInterrupt:
        status = "interrupted"
    rows = _rows(accuracies)
    results.write_comparison(folder, settings, rows, status, software)
    table = Table(caption="difference from readout-only, paired by seed, with its 95 % interval")
    for heading in ("rule", "test accuracy (%)", "difference", "p"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(row.rule, row.accuracy_text(), *row.difference_text())
    console.print(table)
    console.print(str(folder / "summary.json"), soft_wrap=True, highlight=False)
    if status == "interrupted":
        console.print("Stopped; what was done is written.", style="yellow")
        return _INTERRUPTED
    return 0


@app.command
def reproduce(
    name: str,
    *,
    cells: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    seeds: int = 3,
    seed: int = 0,
    jobs: int = 2,
    data_root: Path | None = None,
    records: Path = Path("records"),
    work: Path = Path("runs/reproduce"),
) -> int:
    """Run a published experiment, as far as it is not recorded yet.

    Each run ends as a small record. A command that was stopped or killed goes on where it was when
    it is given again.

    Parameters
    ----------
    name
        The experiment: dellaferrera2022_table1, dellaferrera2022_tutorial, srinivasan2023_table,
        srinivasan2023_depth or teacher_student.
    cells
        Which of its cells, with * and ? as wildcards, e.g. "fc-mnist/*" (default: all).
    seeds
        How many seeds a cell.
    seed
        The first of them.
    jobs
        Runs at a time, each in a process of its own.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    records
        The folder of the records.
    work
        The folder of the checkpoints.
    """
    for option, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1; given {value}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0; given {seed}")
    chosen = experiment(name)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    todo = jobs_of(
        chosen,
        list(chosen.choose(cells)),
        seeds,
        first_seed=seed,
        record_root=records,
        work=work,
        data_root=data_root,
        threads=threads,
    )
    console = Console()
    if not todo:
        console.print(f"All of it is recorded in {records / chosen.name}.", highlight=False)
        return 0
    for data in sorted({job.recipe.data for job in todo}):
        load(data, data_root, progress=True)  # downloads once, and says now if it cannot
    return _run_jobs(todo, jobs, console)


def _run_jobs(todo: Sequence[Job], processes: int, console: Console) -> int:
    """Run jobs under a bar for all and one for each that is running; the exit code."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    outcomes: list[Outcome] = []
    with Progress(*columns, console=console) as progress:
        total = sum(job.recipe.epochs for job in todo)
        whole = progress.add_task(f"{len(todo)} runs", total=total, state="")
        bars: dict[int, TaskID] = {}
        epochs = dict.fromkeys(range(len(todo)), 0.0)
        try:
            for news in run_all(todo, processes):
                if isinstance(news, State):
                    number, epoch, accuracy = news
                    job = todo[number]
                    if number not in bars:
                        bars[number] = progress.add_task(
                            job.name, total=job.recipe.epochs, state=""
                        )
                    epochs[number] = epoch
                    state = "" if accuracy is None else f"validation {100 * accuracy:.2f} %"
                    progress.update(bars[number], completed=epoch, state=state)
                else:
                    number, outcome = news
                    outcomes.append(outcome)
                    epochs[number] = todo[number].recipe.epochs
                    if number in bars:
                        progress.remove_task(bars.pop(number))
                    _say_how_it_ended(todo[number], outcome, console)
                done = len(outcomes)
                progress.update(whole, completed=sum(epochs.values()), state=f"{done} done")
        except KeyboardInterrupt:
            console.print("Stopped; the same command goes on from the checkpoints.", style="yellow")
            return _INTERRUPTED
    return 0 if all(outcome == "finished" for outcome in outcomes) else 1


def _say_how_it_ended(job: Job, outcome: Outcome, console: Console) -> None:
    message = {"taken": "another process runs it", "stopped": "stopped"}.get(outcome)
    if message is None:
        place = records_folder(job.records, job.experiment, job.cell, job.seed)
        accuracy = read_record(place).result["test_accuracy"]
        message = "diverged" if accuracy is None else f"test accuracy {100 * accuracy:.2f} %"
    console.print(f"{job.name}: {message}", highlight=False, soft_wrap=True)


def _rows(accuracies: dict[str, list[float]]) -> list[digits.Row]:
    control = accuracies.get("readout-only", [])
    return [digits.Row.of(name, values, control) for name, values in accuracies.items()]


def main() -> None:
    """Run the command line; a user's mistake gives a message and exit code 2, no traceback."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, stop)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (UsageError, cyclopts.CycloptsError) as mistake:
        message = f"error: {mistake}"
        if isinstance(mistake, cyclopts.UnknownOptionError):
            options = (argument.name for argument in mistake.argument_collection)
            message += f" The options are {', '.join(options)}."
        console = Console(stderr=True)
        console.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
