"""One page of all records: published beside ours, curves, slowness, angles, settings, gaps.

Runs of ``forwardly train`` stand side by side: what differs, how each ended, their curves.

The page is self-contained (no script, no font, no picture from elsewhere) and works offline.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from forwardly import __version__, files
from forwardly.errors import UsageError
from forwardly.experiments import records, results, train_runs
from forwardly.experiments.curves import inline_svg, spread_figure
from forwardly.experiments.experiment import Cell, Experiment
from forwardly.experiments.figures import colours_of
from forwardly.experiments.published import EXPERIMENTS
from forwardly.experiments.published import dellaferrera2022_tutorial as tutorial
from forwardly.experiments.records import Record
from forwardly.experiments.results import Summary
from forwardly.experiments.statistics import (
    Difference,
    Distance,
    difference,
    distance,
    mean_text,
    sd_text,
)
from forwardly.experiments.train_runs import TrainRun, setting_text
from forwardly.files import page
from forwardly.metrics import slowness

CONTROL = "readout-only"


@dataclass(frozen=True)
class Line:
    """One row of an experiment's table: a cell and its runs.

    Attributes:
        name: of the row, within its column.
        cell: what it is.
        runs: its records, by seed.
        accuracies: test accuracies of those that did not diverge, in percent, by seed.
        over_control: paired difference from readout-only of the same column, in points.
        slowness: of each run's validation curve before the learning rate first drops.
    """

    name: str
    cell: Cell
    runs: Mapping[int, Record]
    accuracies: Mapping[int, float]
    over_control: Difference | None
    slowness: Sequence[float]

    @property
    def ours(self) -> str:
        """Mean ± sd over seeds."""
        return mean_text(list(self.accuracies.values()))

    @property
    def published(self) -> str:
        """As in the paper."""
        p = self.cell.published
        return sd_text(p and (p.mean, p.sd))

    @property
    def distance(self) -> Distance | None:
        """Ours from the published mean."""
        p = self.cell.published
        if p is None or not self.accuracies:
            return None
        return distance(list(self.accuracies.values()), p.mean, p.sd, p.seeds)

    @property
    def diverged(self) -> list[int]:
        """The seeds that did."""
        return [seed for seed, run in self.runs.items() if run.result["diverged"] is not None]


@dataclass(frozen=True)
class Column:
    """A part of an experiment's table: one data set and kind of network."""

    name: str
    lines: Sequence[Line]

    @property
    def recorded(self) -> list[Line]:
        """The rows that have runs."""
        return [line for line in self.lines if line.runs]

    @property
    def missing(self) -> list[Line]:
        """The rows that have none."""
        return [line for line in self.lines if not line.runs]

    def missing_names(self) -> list[str]:
        """The cells that have none; one pattern where that is the whole column."""
        if not self.recorded:
            return [f"{self.name}/*"]
        return [f"{self.name}/{line.name}" for line in self.missing]


def columns(experiment: Experiment, found: Sequence[Record]) -> list[Column]:
    """The experiment's table, filled with the records that are of its recipes.

    Raises:
        UsageError: if a record was made with another recipe than the experiment has now, or two
            are of the same run.
    """
    by_place: dict[tuple[str, str], dict[int, Record]] = {}
    for record in found:
        runs = by_place.setdefault((record.experiment, record.cell), {})
        if record.seed in runs:
            first = runs[record.seed].place
            files.refuse(record.place, f"holds the same run as {first}, which counts once")
        runs[record.seed] = record
    tables: dict[str, list[tuple[str, Cell, dict[int, Record]]]] = {}
    for name, cell in experiment.cells.items():
        runs = by_place.get(experiment.place(name), {})
        for record in runs.values():
            records.check_recipe(record, cell.recipe)
        column, _, row = name.partition("/")
        if cell.trial:
            continue
        tables.setdefault(column, []).append((row, cell, runs))
    return [Column(name, _lines(rows)) for name, rows in tables.items()]


def trials(experiment: Experiment, found: Sequence[Record]) -> dict[str, float]:
    """Of the cells that are run to choose by: the validation accuracy, a mean over seeds, 0 to 1.

    0 where training diverged.
    """
    tried: dict[str, list[float]] = {}
    for record in found:
        cell = experiment.cells.get(record.cell)
        if record.experiment == experiment.name and cell is not None and cell.trial:
            last = record.rows[-1].get("validation_accuracy", 0.0)
            diverged = record.result["diverged"] is not None
            tried.setdefault(record.cell, []).append(0.0 if diverged else last)
    return {name: sum(values) / len(values) for name, values in tried.items()}


def _lines(rows: Sequence[tuple[str, Cell, dict[int, Record]]]) -> list[Line]:
    control = _accuracies(
        next((runs for row, _, runs in rows if row == CONTROL), dict[int, Record]())
    )
    lines: list[Line] = []
    for row, cell, runs in rows:
        accuracies = _accuracies(runs)
        paired = sorted(accuracies.keys() & control.keys())
        over = difference([accuracies[s] for s in paired], [control[s] for s in paired])
        slow = [a for run in runs.values() if (a := _slowness(run, cell)) is not None]
        lines.append(Line(row, cell, runs, accuracies, over, slow))
    return lines


def _accuracies(runs: Mapping[int, Record]) -> dict[int, float]:
    return {
        seed: 100 * run.result["test_accuracy"]
        for seed, run in sorted(runs.items())
        if run.result["test_accuracy"] is not None
    }


def _slowness(run: Record, cell: Cell) -> float | None:
    """Over the epochs before the first drop of the learning rate, if there are enough."""
    curve = [row["validation_accuracy"] for row in run.rows if "validation_accuracy" in row]
    curve = curve[: min(cell.recipe.milestones, default=len(curve))]
    if len(curve) < 3 or not all(map(math.isfinite, curve)):
        return None
    classes = 100 if cell.recipe.data == "cifar100" else 10
    return slowness(curve, chance=1 / classes)


@dataclass
class Section:
    """What the page says of one experiment."""

    experiment: Experiment
    columns: list[Column]
    figures: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict[str, list[tuple[str, str]]]
    )

    @property
    def missing(self) -> list[str]:
        """Cells without a run; a pattern for a whole column."""
        return [name for column in self.columns for name in column.missing_names()]

    @property
    def recorded(self) -> bool:
        """Whether any cell has a run."""
        return any(column.recorded for column in self.columns)


def render(roots: Sequence[Path]) -> str:
    """The page, as HTML.

    Args:
        roots: folders of records, or of runs of ``forwardly train``.

    Raises:
        UsageError: if a folder is missing or holds nothing to show, or a record or run is damaged,
            or a record is outdated.
    """
    found: list[Record] = []
    teacher_student: list[TeacherStudent] = []
    trained: list[TrainRun] = []
    for root in roots:
        here = records.read_all(root), _teacher_student(root), train_runs.read_all(root)
        if not any(here):
            raise UsageError(
                f"there is no record in {root}; forwardly reproduce makes them, and forwardly "
                "train makes runs, which are shown too"
            )
        found += here[0]
        teacher_student += here[1]
        trained += here[2]
    numbers = count(1)
    sections = [Section(e, columns(e, found)) for e in EXPERIMENTS.values()] if found else []
    for section in sections:
        for column in section.columns:
            if column.recorded:
                section.figures[column.name] = _figures(section.experiment, column, numbers)
    train = _trained(trained, numbers)
    counts = {
        "recorded training runs": len(found),
        "runs of forwardly train": len(train.runs),
        "teacher–student experiments": len(teacher_student),
    }
    contents = [("train", "Runs of forwardly train")] if trained else []
    for number, section in enumerate(sections, start=1):
        if section.recorded:
            contents.append((f"experiment-{number}", section.experiment.title))
    if teacher_student:
        contents.append(("teacher-student", "Teacher–student: the experiment of the blog post"))
    return page.render(
        "report.html.jinja",
        sections=sections,
        teacher_student=teacher_student,
        train=train,
        counted=", ".join(f"{number} {what}" for what, number in counts.items() if number),
        contents=contents,
        measured=_measured_text,
        others=_others(found),
        mean_text=mean_text,
        sd_text=sd_text,
        setting_text=setting_text,
        tutorial=tutorial.EXPERIMENT.name,
        published_slowness=tutorial.PUBLISHED_SLOWNESS,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
        environments=_environments(found),
    )


def _others(found: Sequence[Record]) -> list[str]:
    """Experiments, or cells of experiments, that this version does not know but has records of."""
    known = {e.place(cell) for e in EXPERIMENTS.values() for cell in e.cells}
    return sorted(
        {
            f"{r.experiment}/{r.cell}" if r.experiment in EXPERIMENTS else r.experiment
            for r in found
            if (r.experiment, r.cell) not in known
        }
    )


def _figures(
    experiment: Experiment, column: Column, numbers: Iterator[int]
) -> list[tuple[str, str]]:
    """(caption, figure) of one column: accuracy, angles, alignment of updates."""
    made: list[tuple[str, str]] = []
    colours = colours_of([line.name for line in column.recorded])

    def add(caption: str, series: Mapping[str, Any], label: str, **options: Any) -> None:
        if series:
            figure = spread_figure(series, label, colours=colours, **options)
            description = f"{caption}: {', '.join(series)}"
            made.append((caption, inline_svg(figure, description, next(numbers))))

    accuracy = _measured(column, "validation_accuracy", 100.0)
    points = tutorial.PUBLISHED_CURVE if experiment.name == tutorial.EXPERIMENT.name else None
    add("Validation accuracy", accuracy, "Validation accuracy (%)", points=points)
    angles = _measured(column, "angle/F")
    caption = "Angle between the chained weights and F (90°: no relation)"
    add(caption, angles, "Angle (degrees)", line=90.0)
    for layer in _layers(column):
        alignment = _measured(column, f"alignment/{layer}")
        alignment.pop("backprop", None)
        add(f"Cosine of the update of {layer} with backprop's", alignment, "Cosine", line=0.0)
    return made


def _layers(column: Column) -> list[str]:
    """The parameters whose alignment was measured, but for the readout's, always near 1."""
    names = dict.fromkeys(
        name.removeprefix("alignment/")
        for line in column.recorded
        for run in line.runs.values()
        for name in run.rows[0]
        if name.startswith("alignment/")
    )

    def place(name: str) -> list[tuple[int, str]]:  # 2 before 10
        return [(len(part), part) for part in name.split(".") if part.isdecimal()]

    return sorted(names, key=place)[:-1]


def _measured(column: Column, name: str, scale: float = 1.0) -> dict[str, list[list[float]]]:
    """For each row that has it, one figure's curve of every run."""
    series: dict[str, list[list[float]]] = {}
    for line in column.recorded:
        for run in line.runs.values():
            if name in run.rows[0]:
                curve = [scale * row.get(name, math.nan) for row in run.rows]
                series.setdefault(line.name, []).append(curve)
    return series


@dataclass(frozen=True)
class Trained:
    """Runs of ``forwardly train``, side by side.

    Attributes:
        runs: by what each is called.
        differing: the settings in which they differ.
        settings: all of them.
        figures: caption and figure of their curves.
    """

    runs: Mapping[str, TrainRun]
    differing: Sequence[str]
    settings: Sequence[str]
    figures: Sequence[tuple[str, str]]


def _trained(runs: Sequence[TrainRun], numbers: Iterator[int]) -> Trained:
    named = dict(zip(train_runs.names_of(runs), runs, strict=True))  # given twice, shown once
    figures: list[tuple[str, str]] = []
    colours = colours_of(list(named))
    of_rules = colours_of([run.rule for run in named.values()])
    if len(of_rules) == len(named):  # then each has its rule's
        colours = {name: of_rules[run.rule] for name, run in named.items()}
    # What a run that diverged measured last is nothing to look at.
    curves = {name: run.rows[: run.diverged and run.diverged - 1] for name, run in named.items()}
    classes = {name for name, rows in curves.items() if rows and "validation_accuracy" in rows[0]}
    for measure, scale, label in (
        ("validation_accuracy", 100, "Validation accuracy (%)"),
        ("validation_loss", 1, "Validation loss"),
    ):
        series = {
            name: [[scale * row.get(measure, math.nan) for row in rows]]
            for name, rows in curves.items()
            if rows and (name in classes) == (measure == "validation_accuracy")
        }
        if series:
            caption = label.removesuffix(" (%)")
            figure = spread_figure(series, label, colours=colours)
            description = f"{caption}: {', '.join(series)}"
            figures.append((caption, inline_svg(figure, description, next(numbers))))
    return Trained(named, train_runs.differing(runs), train_runs.all_settings(runs), figures)


def _measured_text(accuracy: float | None, loss: float | None) -> str:
    """Accuracy in percent, or where there is none the loss."""
    if accuracy is not None:
        return f"{100 * accuracy:.2f} %"
    return "–" if loss is None else f"loss {loss:.4g}"


class Picture(NamedTuple):
    """A PNG, in base64, and how wide its text is legible, in pixels of a page."""

    content: str
    legible: int


class TeacherStudent(NamedTuple):
    """A teacher–student record: the folder's name, what it says, and its figure as it left it."""

    name: str
    summary: Summary
    picture: Picture | None


def _teacher_student(root: Path) -> list[TeacherStudent]:
    """The teacher–student records under a folder."""
    return [
        TeacherStudent(folder.name, summary, _picture(folder / "mae.png"))
        for folder in files.find(root, "summary.json")
        if (summary := results.read(folder)) is not None
    ]


def _picture(path: Path) -> Picture | None:
    if not files.is_there(path):
        return None
    content = files.read(path)
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        files.refuse(path, "is no PNG")
    points = int.from_bytes(content[16:20]) * 72 // 200  # as ``figures.save`` has 200 dots an inch
    # Figures have text of 9 points and more, which are to be 11 pixels.
    return Picture(base64.b64encode(content).decode(), min(points * 11 // 9, 1000))


def _environments(found: Sequence[Record]) -> list[tuple[str, int]]:
    """Which software made how many of the records."""
    counts = Counter[str]()
    for record in found:
        environment = record.environment
        versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
        revision = str(environment["revision"] or "unknown")[:10]
        changed = " with uncommitted changes" if environment["uncommitted_changes"] else ""
        device = f"; {environment['device']}" if "device" in environment else ""
        text = f"revision {revision}{changed}; {versions}; {environment['platform']}{device}"
        counts[text] += 1
    return sorted(counts.items())
