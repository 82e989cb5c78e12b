"""What a teacher–student run leaves in its folder.

config.json    the settings, and which software
arrays.npz     what the first seed started from, for ``--arrays``
metrics.csv    rule, seed, epoch, train_mae, val_mae
summary.json   final and best errors, seconds, divergences, failures
mae.png, .svg  the errors over training
network.svg    the first student that did not diverge, before and after, and its teacher
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from forwardly.data.teacher_student import Task, save
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.teacher_student import Run, TeacherStudent
from forwardly.files import is_there
from forwardly.files.fields import Fields
from forwardly.files.text import csv_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_start(
    folder: RunFolder,
    settings: TeacherStudent,
    task: Task,
    source: Path | None,
    device: Mapping[str, str],
) -> None:
    """What is known before training."""
    config = {
        "experiment": "teacher-student",
        "settings": asdict(settings),
        "arrays": None if source is None else str(source),
        **device,
        **provenance(),
    }
    folder.write_json("config.json", config)
    save(task, folder.path / "arrays.npz")


def write_metrics(folder: RunFolder, run: Run) -> None:
    """All that has been logged so far."""
    names = ("rule", "seed", "epoch", "train_mae", "val_mae")
    rows = chain.from_iterable(history.rows() for history in run.histories.values())
    folder.write("metrics.csv", csv_table(names, rows))


def write_results(folder: RunFolder, run: Run, status: str) -> list[Path]:
    """Metrics, summary and figures of a run that has ended; the paths of the figures.

    Args:
        folder: where to.
        run: what to write.
        status: "finished" or "interrupted".
    """
    write_metrics(folder, run)
    summary = {
        "status": status,
        "learning_rate": run.settings.learning_rate,
        "rules": {name: history.summary() for name, history in run.histories.items()},
        **provenance(),
    }
    folder.write_json("summary.json", summary)
    return write_figures(folder, run)


@dataclass(frozen=True)
class RuleErrors:
    """What a run's summary says of one rule.

    Attributes:
        epoch: the last that was measured; 0 if none was.
        train, validation: mean absolute error then, mean and standard deviation over the seeds
            (None of one seed); None if none was measured.
        seeds: the last validation error of every seed that did not diverge.
        diverged: how many seeds did.
        seconds: of training, all seeds together.
    """

    epoch: int
    train: tuple[float, float | None] | None
    validation: tuple[float, float | None] | None
    seeds: Sequence[float]
    diverged: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """A teacher–student run that was written: its first seed, how many, and each rule's errors."""

    seed: int
    seeds: int
    rules: Mapping[str, RuleErrors]


def read(folder: Path) -> Summary | None:
    """The run in a folder with a summary.json; None if that is of something else.

    Raises:
        UsageError: if one of its files is damaged.
    """
    if not is_there(folder / "config.json"):
        return None
    config = Fields.read(folder / "config.json")
    if config.content.get("experiment") != "teacher-student":
        return None
    settings = config.fields("settings")
    rules = Fields.read(folder / "summary.json").fields("rules")
    return Summary(
        settings.whole("seed"),
        settings.whole("seeds", 1),
        {name: _errors(rules.fields(name)) for name in rules},
    )


def _errors(rule: Fields) -> RuleErrors:
    diverged = len(list(rule.fields("diverged")))
    seconds = rule.number("seconds")
    if "final" not in rule:
        return RuleErrors(0, None, None, (), diverged, seconds)
    final, seeds = rule.fields("final"), rule.fields("seeds")
    train, validation = (
        (
            final.number(f"{part}_mae"),
            final.number(f"{part}_mae_sd") if f"{part}_mae_sd" in final else None,
        )
        for part in ("train", "val")
    )
    last = [seeds.fields(seed).number("val_mae") for seed in seeds]
    return RuleErrors(final.whole("epoch", 1), train, validation, last, diverged, seconds)


def write_figures(folder: RunFolder, run: Run) -> list[Path]:
    """Errors over training, and a teacher and its student before and after; their paths."""
    from forwardly.experiments import figures  # matplotlib is slow to import, and only needed here

    histories = list(run.histories.values())
    measured = [history for history in histories if history.epochs]
    made: dict[str, Figure] = {}
    if measured:
        made["mae.png"] = made["mae.svg"] = figures.mae_figure(measured)
    everywhere = set[int].intersection(*(set(history.alive) for history in histories))
    which = min(everywhere, default=0)
    drawings = [figures.Drawing("student before", run.before(which))]
    if teacher := run.teacher(which):
        drawings.insert(0, figures.Drawing("teacher", teacher))
    for name, training in run.trainings.items():
        history = run.histories[name]
        title = f"after {name}" if which in history.alive else f"{name} diverged"
        title += " (failed)" * (history.failure is not None)
        drawings.append(figures.Drawing(title, training.weights(which)))
    made["network.svg"] = figures.network_figure(drawings)
    for name, figure in made.items():
        figures.save(figure, folder.path / name)
    return [folder.path / name for name in made]
