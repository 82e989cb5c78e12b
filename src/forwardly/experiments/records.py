"""Records: small folders, one a training run, from which tables and the report are made.

    ROOT/EXPERIMENT/CELL/seed-N/record.json    recipe, seed, result, software and machine
    ROOT/EXPERIMENT/CELL/seed-N/epochs.csv     what each epoch measured

A folder appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forwardly import files
from forwardly.errors import UsageError
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.run_folder import RunFolder
from forwardly.files.fields import Fields
from forwardly.training import Row
from forwardly.training.loggers import table


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
        place: the folder that it was read from.
    """

    experiment: str
    cell: str
    seed: int
    recipe: Mapping[str, Any]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    place: Path = field(default=Path(), compare=False)


def folder(root: Path, experiment: str, cell: str, seed: int) -> Path:
    """Where a run's record stands."""
    return root / experiment / cell / f"seed-{seed}"


def write(root: Path, record: Record) -> Path:
    """Write a record; its folder appears whole, unless somebody was quicker: then theirs stays."""
    place = folder(root, record.experiment, record.cell, record.seed)
    content = {
        name: getattr(record, name)
        for name in ("experiment", "cell", "seed", "recipe", "result", "environment")
    }
    try:
        with RunFolder.whole(place) as made:
            made.write_json("record.json", content)
            made.write("epochs.csv", table(record.rows))
    except OSError:
        if not files.is_there(place / "record.json"):
            raise
    return place


def read(place: Path) -> Record:
    """The record in a folder.

    Raises:
        UsageError: if there is none, or it is damaged.
    """
    content = Fields.read(place / "record.json")
    result, environment = content.fields("result"), content.fields("environment")
    if "diverged" not in result:
        result.share("test_accuracy")
    elif result.whole("diverged", 1) and "test_accuracy" in result:
        result.refuse("test_accuracy", "null")
    versions = environment.fields("versions")
    for name in versions:
        versions.text(name)
    environment.text("platform")
    if "revision" in environment:
        environment.text("revision")
    if "device" in environment:
        environment.text("device")
    if "uncommitted_changes" in environment:
        environment.flag("uncommitted_changes")
    return Record(
        content.text("experiment"),
        content.text("cell"),
        content.whole("seed"),
        content.fields("recipe").content,
        {"diverged": None, "test_accuracy": None, **result.content},
        {"revision": None, "uncommitted_changes": None, **environment.content},
        _rows(place / "epochs.csv", result.whole("epochs", 1)),
        place,
    )


def _rows(path: Path, epochs: int) -> list[Row]:
    rows = read_table(path)
    if len(rows) != epochs:
        files.refuse(path, f"must have the epochs 1 to {epochs}, a line each")
    if not all(0 <= row.get("validation_accuracy", -1) <= 1 for row in rows):
        files.refuse(path, "must have a validation_accuracy from 0 to 1 in every line")
    return rows


def read_table(path: Path) -> list[Row]:
    """What ``table`` made of epochs, which are counted from 1.

    Raises:
        UsageError: if there is no such file, or it is damaged.
    """
    text = files.read_text(path)
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
        names = lines[0] if lines else []
        rows = [
            {name: float(cell) for name, cell in zip(names, line, strict=False) if cell}
            for line in lines[1:]
        ]
    except (ValueError, csv.Error) as problem:
        files.refuse(path, f"is no table of numbers ({problem})")
    if len(set(names)) < len(names) or any(len(line) != len(names) for line in lines):
        files.refuse(path, "must have a number, or nothing, under each name, and each name once")
    whole = text.endswith("\n")  # or else it may have been cut short within a number
    counted = all(row.get("epoch") == epoch for epoch, row in enumerate(rows, start=1))
    if not (whole and counted and rows):
        files.refuse(path, "must have the epochs from 1, a line each")
    return rows


def read_all(root: Path) -> list[Record]:
    """All records of training runs under a folder, sorted by experiment, cell and seed.

    Raises:
        UsageError: if the folder is not there, or a record is damaged.
    """
    found = [read(place) for place in files.find(root, "record.json")]
    return sorted(found, key=lambda record: (record.experiment, record.cell, record.seed))


def check_recipe(record: Record, recipe: Recipe) -> None:
    """Refuse a record of another recipe than its experiment has now.

    Raises:
        UsageError: that names the settings which differ.
    """
    # What makes no recipe at all is another one too.
    with suppress(UsageError, TypeError, ValueError, RecursionError):
        if Recipe.from_data(record.recipe) == recipe:
            return
    theirs, ours = record.recipe, json.loads(json.dumps(recipe.as_data()))
    names = [name for name in {**ours, **theirs} if theirs.get(name, ...) != ours.get(name, ...)]
    files.refuse(
        record.place / "record.json",
        f"was made with another recipe than the experiment has now (other: {', '.join(names)})",
    )
