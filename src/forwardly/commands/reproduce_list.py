"""``forwardly reproduce --list``: what is recorded, and how long the rest would take here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table

from forwardly import files
from forwardly.commands.console import PlainConsole
from forwardly.experiments import estimate, records, results
from forwardly.experiments.experiment import Experiment
from forwardly.experiments.jobs import Job
from forwardly.experiments.published import EXPERIMENTS
from forwardly.experiments.teacher_student import PARTS


def experiments(root: Path, console: PlainConsole) -> None:
    """All experiments, and how much of each is recorded under a folder."""
    for experiment in EXPERIMENTS.values():
        found = [
            [
                records.read(path)
                for path in (files.find(folder, "record.json") if files.is_there(folder) else [])
            ]
            for folder in (root.joinpath(*experiment.place(name)) for name in experiment.cells)
        ]
        seconds = [run.result.get("seconds") or 0 for cell in found for run in cell]
        count = f"{sum(map(bool, found))} of {len(found)} cells recorded"
        _say(experiment.name, count, seconds, experiment.title, console)
    parts = [_teacher_student(root, part) for part in PARTS]
    seconds = [took for took in parts if took is not None]
    count = f"{len(seconds)} of {len(parts)} parts recorded"
    title = "The blog post's experiment: a student network learns a teacher network's outputs"
    _say("teacher_student", count, seconds, title, console)
    console.say("")
    console.say("forwardly reproduce EXPERIMENT --list shows its cells, and how long each takes.")
    console.say(f"forwardly reproduce EXPERIMENT runs what is not recorded in {root} yet.")


def _say(
    name: str, count: str, seconds: Sequence[float], title: str, console: PlainConsole
) -> None:
    runs = "1 run" if len(seconds) == 1 else f"{len(seconds)} runs"
    took = f": {runs}, {_duration(sum(seconds))}" if seconds else ""
    console.say(name, style="bold")
    console.say(f"    {title}")
    console.say(f"    {count}{took}")


def cells(
    experiment: Experiment, jobs: Sequence[Job], processes: int, console: PlainConsole
) -> bool:
    """An experiment's cells, one a line; whether all the runs are recorded.

    Args:
        experiment: which.
        jobs: the runs that were asked for, recorded or not.
        processes: how many would run at a time.
        console: where to.
    """
    by_cell: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        by_cell.setdefault((job.experiment, job.cell), []).append(job)
    names = {experiment.place(name): name for name in experiment.cells}
    table = Table("cell", "seeds recorded", Column("time a run", no_wrap=True), "as")
    left, unknown = 0.0, 0
    with console.status("timing steps") as status:
        for place, runs in by_cell.items():
            name, recipe = names[place], runs[0].recipe
            there = [job for job in runs if job.recorded]
            source = "recorded"
            seconds = estimate.from_records(
                (records.read(job.record) for job in there), recipe.epochs
            )
            if seconds is None:
                status.update(f"timing steps of {name}")
                source = "timed"
                seconds = estimate.from_timing(recipe, runs[0].threads)
            lacking = len(runs) - len(there)
            left += lacking * (seconds or 0)
            unknown += lacking if seconds is None else 0
            table.add_row(
                name,
                ", ".join(str(job.seed) for job in there) or "–",
                "unknown" if seconds is None else _duration(seconds),
                "–" if seconds is None else source,
            )
    console.table(table)
    recorded = sum(job.recorded for job in jobs)
    text = f"{recorded} of {len(jobs)} runs are recorded in {jobs[0].records}."
    if recorded < len(jobs):
        text += f" The others take about {_duration(left / processes)}, {processes} at a time"
        text += f", without {unknown} of which it is not known." if unknown else "."
    console.say(text)
    console.say(
        "Times are of one run, with one seed. As recorded: what the records took, on the machine "
        "that made them. As timed: by a few steps on made-up data, just now on this machine; "
        "without what is measured after each epoch."
    )
    return recorded == len(jobs)


def teacher_student(root: Path, console: PlainConsole) -> None:
    """The parts of the blog post's experiment."""
    table = Table("cell", "seeds", "recorded", "time")
    for part, settings in PARTS.items():
        took = _teacher_student(root, part)
        hours = "unknown" if took is None else _duration(took)
        table.add_row(part, str(settings.seeds), "–" if took is None else "yes", hours)
    console.table(table)
    console.say("Times are those of the record, on the machine that made it.")


def _teacher_student(root: Path, part: str) -> float | None:
    """Seconds of training of a part that is recorded; None if it is not."""
    place = root / "teacher-student" / part
    if not files.is_there(place / "summary.json"):
        return None
    found = results.read(place)
    return None if found is None else sum(rule.seconds for rule in found.rules.values())


def _duration(seconds: float) -> str:
    """As people say it, to two digits."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"
