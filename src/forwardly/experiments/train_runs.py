"""What ``forwardly train`` leaves in a folder, read while it runs or when it has ended.

config.json    recipe and seed, from the start
epochs.csv     what each epoch measured, so far
result.json    how it ended, once it has
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwardly import files
from forwardly.experiments.records import read_table
from forwardly.files.fields import Fields
from forwardly.training import Row


@dataclass(frozen=True)
class TrainRun:
    """One run of ``forwardly train``.

    Attributes:
        place: its folder.
        rule, data: their names.
        settings: all of its recipe, and its seed, as text.
        epochs: how many it was to have.
        rows: what each epoch measured, as far as it has come.
        ended: whether it has.
        diverged: the epoch in which it did, if it did.
        accuracy, loss: of the test set; None where there is none.
    """

    place: Path
    rule: str
    data: str
    settings: Mapping[str, str]
    epochs: int
    rows: Sequence[Row]
    ended: bool
    diverged: int | None
    accuracy: float | None
    loss: float | None

    def last(self, name: str) -> float | None:
        """What the last epoch measured, if it did."""
        return self.rows[-1].get(name) if self.rows else None


def read_all(root: Path) -> list[TrainRun]:
    """The runs under a folder, or in it, sorted.

    Raises:
        UsageError: if there is no such folder, or a file of a run is damaged.
    """
    found = map(_read, files.find(root, "config.json"))
    return [run for run in found if run is not None]


def _read(folder: Path) -> TrainRun | None:
    """The run in a folder with a config.json; None if that is of something else."""
    config = Fields.read(folder / "config.json")
    if not {"recipe", "run_seed"} & set(config):
        return None
    recipe = config.fields("recipe")
    try:
        settings = {name: setting_text(value) for name, value in recipe.content.items()}
    except RecursionError:
        recipe.refuse("options", "fewer levels")
    table = folder / "epochs.csv"
    rows = read_table(table) if files.is_there(table) else []
    ended, diverged, accuracy, loss = False, None, None, None
    if files.is_there(folder / "result.json"):
        result = Fields.read(folder / "result.json")
        # A run that was given more epochs, and has not ended again, has more lines.
        ended = len(rows) <= result.whole("epochs", 1)
        if ended:
            if len(rows) < result.whole("epochs", 1):
                files.refuse(table, f"must have the epochs 1 to {result.whole('epochs')}")
            diverged = result.whole("diverged", 1) if "diverged" in result else None
            accuracy = result.share("test_accuracy") if "test_accuracy" in result else None
            loss = result.number("test_loss") if "test_loss" in result else None
    return TrainRun(
        folder,
        recipe.text("rule"),
        recipe.text("data"),
        {"seed": str(config.whole("run_seed"))} | settings,
        recipe.whole("epochs", 1),
        rows,
        ended,
        diverged,
        accuracy,
        loss,
    )


def names_of(runs: Sequence[TrainRun]) -> list[str]:
    """What to call runs beside each other: their folders, from the one that has them all."""
    places = [os.path.abspath(run.place) for run in runs]  # noqa: PTH100, which takes .. away
    try:
        common = os.path.commonpath([os.path.dirname(place) for place in places])  # noqa: PTH120
    except ValueError:  # there is none, or they are on several drives of Windows
        return places
    return [os.path.relpath(place, common) for place in places]


def differing(runs: Sequence[TrainRun]) -> list[str]:
    """The settings in which runs differ, but for rule, data and epochs."""
    return [
        name
        for name in all_settings(runs)
        if name not in ("rule", "data", "epochs")
        and len({run.settings.get(name) for run in runs}) > 1
    ]


def all_settings(runs: Iterable[TrainRun]) -> list[str]:
    """The names of all settings, each once."""
    return list(dict.fromkeys(name for run in runs for name in run.settings))


def setting_text(value: Any) -> str:
    """A setting as people write it."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {setting_text(v)}" for k, v in value.items()) or "none"  # pyright: ignore
    if isinstance(value, tuple | list):
        return ", ".join(map(setting_text, value)) or "none"  # pyright: ignore
    return f"{value:g}" if isinstance(value, float) else str(value)
