"""The folder that a teacher–student run leaves behind.

config.json    the settings, and which software
arrays.npz     what the first seed started from, for ``--arrays``
metrics.csv    rule, seed, epoch, train_mae, val_mae
summary.json   final and best errors, seconds, divergences
mae.png, .svg  the errors over training
network.svg    the first student that did not diverge, before and after
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from forwardly.errors import UsageError
from forwardly.experiments import arrays
from forwardly.experiments.comparison import LEARNING_RATES, Digits, Row
from forwardly.experiments.provenance import provenance
from forwardly.experiments.teacher_student import Run, Task, TeacherStudent
from forwardly.files import is_there, write
from forwardly.files.fields import Fields
from forwardly.files.text import csv_table


def new_folder(out: Path | None, experiment: str) -> Path:
    """Make the folder ``out``, or one named after the time under ``runs/EXPERIMENT``; it is empty.

    Raises:
        UsageError: if ``out`` holds something already, or cannot be made or written to.
    """
    folder = Path("runs") / experiment if out is None else out
    try:
        if out is None:
            folder = _timed_folder(folder)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} exists already, and nothing is overwritten: name another --out"
            )
        else:
            out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise _cannot_write(folder, reason) from None
    check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Show before training, not after it, whether a folder can be written to.

    Raises:
        UsageError: if it cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as reason:
        raise _cannot_write(folder, reason) from None


def _cannot_write(folder: Path, reason: OSError) -> UsageError:
    return UsageError(f"cannot write to {folder}: {reason.strerror}; name another --out")


def write_start(folder: Path, settings: TeacherStudent, task: Task, source: Path | None) -> None:
    """What is known before training."""
    config: dict[str, Any] = {
        "experiment": "teacher-student",
        "settings": asdict(settings),
        "arrays": None if source is None else str(source),
        **provenance(),
    }
    _write_json(folder / "config.json", config)
    arrays.save(task, folder / "arrays.npz")


def write_metrics(folder: Path, run: Run) -> None:
    """All that has been logged so far."""
    names = ("rule", "seed", "epoch", "train_mae", "val_mae")
    rows = chain.from_iterable(history.rows() for history in run.histories.values())
    write(folder / "metrics.csv", csv_table(names, rows))


def write_results(folder: Path, run: Run, status: str) -> list[Path]:
    """Metrics, summary and figures of a run that has ended; the paths of the figures.

    Args:
        folder: where to.
        run: what to write.
        status: "finished" or "interrupted".
    """
    write_metrics(folder, run)
    summary: dict[str, Any] = {
        "status": status,
        "learning_rate": run.settings.learning_rate,
        "rules": {name: history.summary() for name, history in run.histories.items()},
        **provenance(),
    }
    _write_json(folder / "summary.json", summary)
    return _write_figures(folder, run)


@dataclass(frozen=True)
class RuleErrors:
    """What a run's summary says of one rule.

    Attributes:
        epoch: the last that was measured; 0 if none was.
        train, validation: mean absolute error then, mean and standard deviation over the seeds
            (None of one seed); None if none was measured.
        seeds: the last validation error of every seed that did not diverge.
        diverged: how many seeds did.
    """

    epoch: int
    train: tuple[float, float | None] | None
    validation: tuple[float, float | None] | None
    seeds: Sequence[float]
    diverged: int


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
    if "final" not in rule:
        return RuleErrors(0, None, None, (), diverged)
    final, seeds = rule.fields("final"), rule.fields("seeds")
    train, validation = (
        (
            final.number(f"{part}_mae"),
            final.number(f"{part}_mae_sd") if f"{part}_mae_sd" in final else None,
        )
        for part in ("train", "val")
    )
    last = [seeds.fields(seed).number("val_mae") for seed in seeds]
    return RuleErrors(final.whole("epoch", 1), train, validation, last, diverged)


def write_comparison(
    folder: Path, settings: Digits, rows: Sequence[Row], status: str, software: dict[str, Any]
) -> None:
    """Settings and results of ``forwardly compare``, as summary.json.

    Args:
        folder: where to.
        settings: the comparison's.
        rows: its table.
        status: "running", "finished" or "interrupted".
        software: the provenance when it began.
    """
    content: dict[str, Any] = {
        "experiment": "compare",
        "data": "digits",
        "status": status,
        "settings": asdict(settings),
        "learning_rates": {name: LEARNING_RATES.get(name) for name in settings.rules},
        "rules": {row.rule: row.as_data() for row in rows},
        **software,
    }
    _write_json(folder / "summary.json", content)


def _write_figures(folder: Path, run: Run) -> list[Path]:
    from forwardly.experiments import figures  # matplotlib is slow to import, and only needed here

    logged = [history for history in run.histories.values() if history.epochs]
    paths: list[Path] = []
    if logged:
        curves = [
            figures.Curve(
                history.rule,
                np.array(history.epochs),
                np.stack(history.train, axis=1)[history.shown],
                np.stack(history.validation, axis=1)[history.shown],
                left_out=len(history.seeds) - len(history.shown),
            )
            for history in logged
        ]
        figure = figures.mae_figure(curves)
        paths += [folder / "mae.png", folder / "mae.svg"]
        for path in paths:
            figures.save(figure, path)
    histories = run.histories.values()
    everywhere = set[int].intersection(*(set(history.alive) for history in histories))
    which = min(everywhere, default=0)
    drawings = [figures.Drawing("before", run.before(which))]
    for name, history in run.histories.items():
        title = f"after {name}" if which in history.alive else f"{name} diverged"
        drawings.append(figures.Drawing(title, run.trainings[name].weights(which)))
    paths.append(folder / "network.svg")
    figures.save(figures.network_figure(drawings), paths[-1])
    return paths


def _timed_folder(parent: Path) -> Path:
    name = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in count(1):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write(path, json.dumps(content, indent=2) + "\n")
