"""Records: small folders, one a training run, from which tables and the report are made.

    ROOT/EXPERIMENT/CELL/seed-N/record.json    recipe, seed, result, software and machine
    ROOT/EXPERIMENT/CELL/seed-N/epochs.csv     what each epoch measured

A folder appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwardly.errors import UsageError
from forwardly.training import Row


@dataclass(frozen=True)
class Record:
    """One run that has ended.

    Attributes:
        experiment: its name.
        cell: the name of the cell of the experiment's table.
        seed: of data split, weights, feedback and order.
        recipe: as ``Recipe.as_data`` gives it.
        result: test_accuracy and test_loss (None of a run that diverged), diverged (its epoch, or
            None), epochs and seconds of training.
        environment: software, revision and machine; see ``provenance``.
        rows: what each epoch measured.
    """

    experiment: str
    cell: str
    seed: int
    recipe: Mapping[str, Any]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]


def folder(root: Path, experiment: str, cell: str, seed: int) -> Path:
    """Where a run's record stands."""
    return root / experiment / cell / f"seed-{seed}"


def write(root: Path, record: Record) -> Path:
    """Write a record; its folder, which must not be there yet, appears whole."""
    place = folder(root, record.experiment, record.cell, record.seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    content = {
        name: getattr(record, name)
        for name in ("experiment", "cell", "seed", "recipe", "result", "environment")
    }
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
    try:
        part.chmod(0o755)
        (part / "record.json").write_text(json.dumps(content, indent=2) + "\n")
        (part / "epochs.csv").write_text(table(record.rows))
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return place


def read(place: Path) -> Record:
    """The record in a folder.

    Raises:
        UsageError: if there is none, or it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads((place / "record.json").read_text())
        with (place / "epochs.csv").open(newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        return Record(**content, rows=rows)
    except (OSError, ValueError, TypeError) as reason:
        raise UsageError(f"{place} is not a record: {reason}") from None


def read_all(root: Path) -> list[Record]:
    """All records of training runs under a folder, sorted by experiment, cell and seed.

    Raises:
        UsageError: if the folder is not there, or a record is damaged.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}")
    found = [read(path.parent) for path in sorted(root.rglob("record.json"))]
    return sorted(found, key=lambda record: (record.experiment, record.cell, record.seed))


def table(rows: Sequence[Row], digits: int = 6) -> str:
    """What epochs measured as CSV, to so many significant digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.{digits}g}" for name, value in row.items()} for row in rows)
    return text.getvalue()
