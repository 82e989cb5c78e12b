"""``forwardly reproduce``: run a published experiment as far as it is not recorded."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from rich.progress import TaskID

from forwardly import files
from forwardly.commands import reproduce_list
from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.engines import check_cluster, engine_of, threads_of
from forwardly.commands.teacher_student import teacher_student
from forwardly.data import load
from forwardly.errors import UsageError
from forwardly.experiments import records as records_of
from forwardly.experiments.engines.cluster import Dask
from forwardly.experiments.experiment import Cell
from forwardly.experiments.jobs import Engine, Job, Outcome, Restarted, State, jobs_of, run_all
from forwardly.experiments.published import experiment
from forwardly.experiments.run_folder import check_places
from forwardly.experiments.settings import MOST_SEEDS, MOST_THREADS, at_least, require
from forwardly.experiments.teacher_student import PARTS
from forwardly.fast.devices import AUTO, Chosen, choose


def reproduce(
    name: str = "",
    *,
    list_: Annotated[bool, Parameter("--list", negative=())] = False,
    cells: tuple[str, ...] = (),
    seeds: int = 3,
    seed: int = 0,
    jobs: int | None = None,
    device: str = "cpu",
    cluster: str | None = None,
    epochs: int | None = None,
    again: Annotated[bool, Parameter(negative=())] = False,
    data_root: Path | None = None,
    records: Path = Path("records"),
    work: Path = Path("runs/reproduce"),
) -> int:
    """Run a published experiment, as far as it is not recorded yet, or list what is.

    Without a name all experiments are listed.

    Each run ends as a small record. A command that was stopped or killed goes on where it was when
    it is given again. Where a data set is neither there nor can be downloaded, the other cells are
    run, and the exit code is 1.

    Parameters
    ----------
    name
        The experiment: dellaferrera2022_table1, dellaferrera2022_tutorial, srinivasan2023_table,
        srinivasan2023_depth, hinton2022, bfloat16, unbound_cifar10, unbound_cifar100,
        unbound_mnist, unbound_fashion_mnist, unbound_depth, unbound_convolution,
        unbound_rules, any_module, sanfiz2021 or teacher_student.
    list_
        Run nothing; show the experiment's cells, which of them are recorded, and how long each
        takes here: as long as its records took, or as a few steps on this machine say.
    cells
        Which of its cells, with * and ? as wildcards, e.g. "fc-mnist/*" (default: all).
    seeds
        How many seeds a cell; trials, by which settings are chosen, have one seed of their own.
    seed
        The first of them.
    jobs
        Runs at a time: each in a process of its own (default: 2); on a GPU as one step of all that
        differ in nothing but seeds and learning rates (default: 10); of Slurm, its jobs (default:
        10).
    device
        Where: cpu, which most records are of; or a GPU: cuda, cuda:1 (the second), xpu or mps; or
        auto, which takes a GPU if there is one and the cells can be run there.
    cluster
        Run on a Dask cluster: local:4, so many processes of this machine; tcp://HOST:8786, a
        scheduler that is running; slurm, as Dask's settings say; or ssh:FILE, which names a machine
        a line.
    epochs
        Try the first so many epochs only. That is a trial and no record of the experiment: it is
        kept in a folder of its own, WORK/trials.
    again
        Run what is recorded too. Records are not overwritten: the new ones are kept in WORK/again,
        and each result is shown beside the recorded one.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    records
        The folder of the records.
    work
        The folder of the checkpoints, and of what --again and --epochs run.
    """
    where = Chosen(torch.device("cpu")) if cluster and device == AUTO else choose(device)
    if cluster is not None:
        check_cluster(cluster, where.device.type, jobs)
    require(at_least(1), seeds=seeds, jobs=jobs, epochs=epochs)
    require(MOST_SEEDS, seeds=seeds)
    require(MOST_THREADS, jobs=jobs)
    require(at_least(0), seed=seed)
    check_places(records=records, work=work)
    if again and epochs:
        raise UsageError("a trial of some --epochs runs whatever is recorded; leave --again out")
    console = PlainConsole()
    if not name:
        if again or epochs or cells:
            raise UsageError("--again, --epochs and --cells are of an experiment: name it")
        reproduce_list.experiments(records, console)
        return 0
    place = work / "trials" if epochs else work / "again" if again else records
    if name.replace("-", "_") == "teacher_student":
        if list_:
            reproduce_list.teacher_student(records, console)
            return 0
        if where.device.type != "cpu" and device != AUTO:
            raise UsageError("the experiment teacher_student is of the CPU: leave --device out")
        if cluster is not None:
            raise UsageError("the experiment teacher_student runs here: leave --cluster out")
        return _teacher_student(place, records, work, epochs, console)
    chosen = experiment(name)
    wanted = list(chosen.choose(cells))
    recorded_name = chosen.name
    if epochs:
        chosen = chosen.trial(wanted, epochs)
    if device == AUTO and where.device.type != "cpu":
        where = _unless_refused(where, (chosen.cells[cell] for cell in wanted))
    if jobs is None:
        jobs = 10 if where.device.type != "cpu" or cluster == "slurm" else 2
    make = partial(
        jobs_of,
        chosen,
        wanted,
        seeds,
        first_seed=seed,
        work=work / "again" / "checkpoints" if again else work,
        data_root=data_root,
        threads=threads_of(jobs, cluster),
    )
    if list_:
        every = make(record_root=place, recorded=True)
        if reproduce_list.cells(chosen, every, jobs, console):
            _say_that_all_is_there(chosen.name, recorded_name, place, records, console)
        return 0
    todo = make(record_root=place)
    if epochs:
        console.say(
            f"This is a trial of {epochs} epochs, and no record of {recorded_name}; it is kept in "
            f"{place / chosen.name}."
        )
    if not todo:
        _say_that_all_is_there(chosen.name, recorded_name, place, records, console)
        return 0
    with engine_of(cluster, where.device, jobs, console) as engine:
        absent = _absent(todo, data_root, engine)
        here = [job for job in todo if job.recipe.data not in absent]
        if not here:
            raise UsageError("\n".join(absent.values()))
        for why in absent.values():
            console.say(f"{why}\nThe other cells are run.", style="yellow")
        if where.why:
            console.say(f"Device: {where}.")
        code = _run_jobs(here, run_all(here, engine), console, records if again else None)
    if not absent or code == INTERRUPTED:
        return code
    left_out = Counter(job.recipe.data for job in todo if job.recipe.data in absent)
    runs = ", ".join(f"{count} on {data}" for data, count in left_out.items())
    console.say(f"Runs left out, as their data could not be had: {runs}.", style="yellow")
    return 1


def _unless_refused(gpu: Chosen, cells: Iterable[Cell]) -> Chosen:
    """A GPU, or the processor where one of the cells cannot be run there."""
    from forwardly.experiments.engines.at_once import why_not

    why = next(filter(None, (why_not(cell.recipe) for cell in cells)), "")
    return Chosen(torch.device("cpu"), f"as a cell cannot be run elsewhere: {why}") if why else gpu


def _say_that_all_is_there(
    name: str, recorded_name: str, place: Path, records: Path, console: PlainConsole
) -> None:
    if place == records:
        console.say(
            f"All of it is recorded in {place / name}. forwardly report {place} shows it on a "
            "page; the same command with --again runs it anew, and leaves these records."
        )
    else:
        console.say(
            f"All of it was run already, and is in {place / name}; move that away to run it once "
            f"more. forwardly reproduce {recorded_name} --list shows what is recorded."
        )


def _absent(todo: Sequence[Job], data_root: Path | None, engine: Engine) -> dict[str, str]:
    """The data sets that cannot be had, and why; others are downloaded."""
    names = sorted({job.recipe.data for job in todo})
    if isinstance(engine, Dask):
        return engine.absent(names, data_root)
    absent: dict[str, str] = {}
    for data in names:
        try:
            load(data, data_root, progress=True)
        except UsageError as problem:
            absent[data] = str(problem)
    return absent


def _teacher_student(
    place: Path, records: Path, work: Path, epochs: int | None, console: PlainConsole
) -> int:
    """The blog post's experiment, part by part."""
    name = "teacher-student" + (f"-trial-of-{epochs}-epochs" if epochs else "")
    whole = PARTS["default"].epochs
    if epochs and epochs >= whole:
        raise UsageError(
            f"a trial has fewer epochs than the experiment, which has {whole}; given {epochs}"
        )
    if epochs:
        console.say(
            f"This is a trial of {epochs} epochs, and no record of teacher-student; it is kept in "
            f"{place / name}."
        )
    for part, settings in PARTS.items():
        kept = place / name / part
        if files.is_there(kept):
            how = "move it away to run it once more" if place != records else "--again runs it anew"
            console.say(f"{kept} is there already; {how}.")
            continue
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = work / "teacher-student"
        scratch.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(prefix=f"{part}-", dir=scratch))
        code = teacher_student(settings=replace(settings, epochs=epochs or whole), out=out)
        if code == INTERRUPTED:
            return code
        shutil.move(out, kept)  # a seed that diverged is a result
        console.say(f"kept as {kept}")
    return 0


def _run_jobs(
    todo: Sequence[Job],
    news_of: Iterator[State | Restarted | tuple[int, Outcome]],
    console: PlainConsole,
    before: Path | None = None,
) -> int:
    """Run jobs under a bar for all and one for each that is running; the exit code.

    Args:
        todo: what.
        news_of: them, as they run.
        console: where to.
        before: the folder of records that results are shown beside.
    """
    outcomes: list[Outcome] = []
    with bars(console, "{task.fields[state]}") as progress:
        total = sum(job.recipe.epochs for job in todo)
        whole = progress.add_task(f"{len(todo)} runs", total=total, state="")
        tasks: dict[int, TaskID] = {}
        epochs = dict.fromkeys(range(len(todo)), 0.0)
        try:
            for news in news_of:
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
                elif isinstance(news, Restarted):
                    again = f"{todo[news.job].name}: {news.why}; it goes on from its checkpoint"
                    console.say(again, style="yellow")
                else:
                    number, outcome = news
                    outcomes.append(outcome)
                    epochs[number] = todo[number].recipe.epochs
                    if number in tasks:
                        progress.remove_task(tasks.pop(number))
                    _say_how_it_ended(todo[number], outcome, console, before)
                done = len(outcomes)
                progress.update(whole, completed=sum(epochs.values()), state=f"{done} done")
        except KeyboardInterrupt:
            console.say("Stopped; the same command goes on from the checkpoints.", style="yellow")
            return INTERRUPTED
    return 0 if all(outcome == "finished" for outcome in outcomes) else 1


def _say_how_it_ended(
    job: Job, outcome: Outcome, console: PlainConsole, before: Path | None
) -> None:
    message = {"taken": "another process runs it", "stopped": "stopped"}.get(outcome)
    if message is None:
        message = _result(job, job.record)
        if before is not None:
            place = records_of.folder(before, job.experiment, job.cell, job.seed)
            there = files.is_there(place)
            message += f" ({f'recorded: {_result(job, place)}' if there else 'not recorded'})"
    console.say(f"{job.name}: {message}")


def _result(job: Job, place: Path) -> str:
    """What a record of the job says of how it ended."""
    record = records_of.read(place)
    accuracy = record.result["test_accuracy"]
    if accuracy is None:
        return "diverged"
    if job.trial:
        return f"validation accuracy {100 * record.rows[-1]['validation_accuracy']:.2f} %"
    return f"test accuracy {100 * accuracy:.2f} %"
