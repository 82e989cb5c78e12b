"""``forwardly reproduce``: run a published experiment as far as it is not recorded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.progress import TaskID

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.teacher_student import teacher_student
from forwardly.data import load
from forwardly.experiments.jobs import Job, Outcome, State, jobs_of, run_all
from forwardly.experiments.published import experiment
from forwardly.experiments.records import read
from forwardly.experiments.run_folder import check_places
from forwardly.experiments.settings import MOST_SEEDS, MOST_THREADS, at_least, require
from forwardly.experiments.teacher_student import TeacherStudent
from forwardly.fast import processors


def reproduce(
    name: str = "",
    *,
    cells: tuple[str, ...] = (),
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
        srinivasan2023_depth, bfloat16 or teacher_student.
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
    require(at_least(1), seeds=seeds, jobs=jobs)
    require(MOST_SEEDS, seeds=seeds)
    require(MOST_THREADS, jobs=jobs)
    require(at_least(0), seed=seed)
    check_places(records=records, work=work)
    if name.replace("-", "_") == "teacher_student":
        return _teacher_student(records, work)
    chosen = experiment(name)
    threads = max(1, processors.count() // jobs)
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
    console = PlainConsole()
    if not todo:
        console.say(f"All of it is recorded in {records / chosen.name}.")
        return 0
    for data in sorted({job.recipe.data for job in todo}):
        load(data, data_root, progress=True)  # downloads once, and says now if it cannot
    return _run_jobs(todo, jobs, console)


def _teacher_student(records: Path, work: Path) -> int:
    """The blog post's experiment: with its seed, which the figure shows, and with ten seeds."""
    console = PlainConsole()
    for part, seeds in (("default", 1), ("ten-seeds", 10)):
        place = records / "teacher-student" / part
        if place.exists():
            console.say(f"{place} is recorded.")
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = work / "teacher-student"
        scratch.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(prefix=f"{part}-", dir=scratch))
        code = teacher_student(settings=TeacherStudent(seeds=seeds), out=out)
        if code == INTERRUPTED:
            return code
        shutil.move(out, place)  # a seed that diverged is a result
        console.say(f"kept as {place}")
    return 0


def _run_jobs(todo: Sequence[Job], processes: int, console: PlainConsole) -> int:
    """Run jobs under a bar for all and one for each that is running; the exit code."""
    outcomes: list[Outcome] = []
    with bars(console, "{task.fields[state]}") as progress:
        total = sum(job.recipe.epochs for job in todo)
        whole = progress.add_task(f"{len(todo)} runs", total=total, state="")
        tasks: dict[int, TaskID] = {}
        epochs = dict.fromkeys(range(len(todo)), 0.0)
        try:
            for news in run_all(todo, processes):
                if isinstance(news, State):
                    number, epoch, accuracy = news
                    job = todo[number]
                    if number not in tasks:
                        tasks[number] = progress.add_task(
                            job.name, total=job.recipe.epochs, state=""
                        )
                    epochs[number] = epoch
                    state = "" if accuracy is None else f"validation {100 * accuracy:.2f} %"
                    progress.update(tasks[number], completed=epoch, state=state)
                else:
                    number, outcome = news
                    outcomes.append(outcome)
                    epochs[number] = todo[number].recipe.epochs
                    if number in tasks:
                        progress.remove_task(tasks.pop(number))
                    _say_how_it_ended(todo[number], outcome, console)
                done = len(outcomes)
                progress.update(whole, completed=sum(epochs.values()), state=f"{done} done")
        except KeyboardInterrupt:
            console.say("Stopped; the same command goes on from the checkpoints.", style="yellow")
            return INTERRUPTED
    return 0 if all(outcome == "finished" for outcome in outcomes) else 1


def _say_how_it_ended(job: Job, outcome: Outcome, console: PlainConsole) -> None:
    message = {"taken": "another process runs it", "stopped": "stopped"}.get(outcome)
    if message is None:
        accuracy = read(job.record).result["test_accuracy"]
        message = "diverged" if accuracy is None else f"test accuracy {100 * accuracy:.2f} %"
    console.say(f"{job.name}: {message}")
