"""What a published experiment is: a table of cells, each a recipe and what was published for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from forwardly.errors import UsageError
from forwardly.experiments.recipe import Recipe

TRIAL_SEED = 100
"""The one seed of trials; no result is of it."""


@dataclass(frozen=True)
class Published:
    """A published test accuracy, in percent.

    Attributes:
        mean: over seeds.
        sd: standard deviation over seeds; None where none is given.
        seeds: how many; None where it is not said.
        where: the table or figure that it stands in.
    """

    mean: float
    sd: float | None
    seeds: int | None
    where: str


@dataclass(frozen=True)
class Cell:
    """One cell of an experiment's table.

    Attributes:
        recipe: how it is trained.
        published: what it is compared with, if anything.
        note: what a reader should know of its settings.
        shared: (experiment, cell) whose runs it is, where another experiment has the same one.
        trial: whether it is run to choose a setting by: with ``TRIAL_SEED`` only, its validation
            accuracy alone counts, and it stands in no table of results.
    """

    recipe: Recipe
    published: Published | None = None
    note: str = ""
    shared: tuple[str, str] | None = None
    trial: bool = False


def trials(
    row: str,
    recipe: Callable[[float], Recipe],
    rates: Iterable[float],
    *,
    epochs: int,
    milestones: tuple[int, ...],
) -> dict[str, Cell]:
    """Short runs of a row's recipe at several learning rates, one of which is to be chosen.

    Args:
        row: the name of the row of trials, "COLUMN/ROW"; the rate is put behind.
        recipe: of a rate.
        rates: which.
        epochs: how long.
        milestones: see ``Recipe``.
    """
    return {
        f"{row}-{np.format_float_positional(rate, trim='-')}": Cell(
            replace(recipe(rate), epochs=epochs, milestones=milestones), trial=True
        )
        for rate in rates
    }


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Attributes:
        name: on the command line and of its folder of records.
        title: what it is, in a line.
        url: of the paper.
        cells: by name, "COLUMN/ROW".
        missing: what of the paper is not among the cells, and why.
    """

    name: str
    title: str
    url: str
    cells: Mapping[str, Cell]
    missing: str = ""

    def choose(self, patterns: tuple[str, ...]) -> dict[str, Cell]:
        """The cells whose names match one of the patterns (``*`` and ``?``); all, if none is given.

        Raises:
            UsageError: if a pattern matches nothing.
        """
        chosen: dict[str, Cell] = {}
        for pattern in patterns or ("*",):
            found = [name for name in self.cells if fnmatchcase(name, pattern)]
            if not found:
                raise UsageError(
                    f"no cell of {self.name} is called {pattern!r}; there are "
                    f"{', '.join(self.cells)}"
                )
            chosen |= {name: self.cells[name] for name in found}
        return chosen

    def place(self, cell: str) -> tuple[str, str]:
        """(experiment, cell) under which the runs of a cell are recorded."""
        return self.cells[cell].shared or (self.name, cell)

    def trial(self, cells: Collection[str], epochs: int) -> Experiment:
        """The first epochs of these cells' recipes, as an experiment that has another name.

        So its records are never taken for those of this one.

        Raises:
            UsageError: if a recipe has no more epochs than that.
        """
        for name in cells:
            whole = self.cells[name].recipe.epochs
            if epochs >= whole:
                raise UsageError(
                    f"a trial has fewer epochs than the recipe, and {name} has {whole}; "
                    f"given {epochs}"
                )

        def short(cell: Cell) -> Cell:
            return Cell(replace(cell.recipe, epochs=epochs), note=cell.note)

        return Experiment(
            f"{self.name}-trial-of-{epochs}-epochs",
            f"{self.title} (a trial of {epochs} epochs)",
            self.url,
            {name: short(self.cells[name]) for name in cells},
        )
