"""Draw what one convolution learns by each rule, from the records; ``docs/generate.py`` does so.

``forwardly reproduce unbound_convolution`` makes the records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forwardly.experiments import figures
from forwardly.experiments.published import unbound_convolution
from forwardly.experiments.records import Record
from forwardly.experiments.report import columns

ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "convolution.svg"

_COLUMN = "conv-cifar10"
_KERNELS = "0.weight"


@dataclass(frozen=True)
class Row:
    """What is recorded of a row.

    Attributes:
        name: the rule's, and how it differs from others of the rule.
        accuracies: of each seed on the test images, in percent.
        cosines: of the kernels' update with backprop's after each epoch, a mean over seeds; none of
            kernels that stay as they were drawn.
    """

    name: str
    accuracies: tuple[float, ...]
    cosines: tuple[float, ...]


def rows(found: Sequence[Record]) -> list[Row]:
    """Of each rule that is recorded."""
    made: list[Row] = []
    for column in columns(unbound_convolution.EXPERIMENT, found):
        if column.name != _COLUMN:
            continue
        for line in column.recorded:
            epochs = zip(*(run.rows for run in line.runs.values()), strict=False)
            cosines = [
                mean(row.get(f"alignment/{_KERNELS}", math.nan) for row in epoch)
                for epoch in epochs
            ]
            learned = tuple(cosine for cosine in cosines if math.isfinite(cosine))
            made.append(Row(line.name, tuple(line.accuracies.values()), learned))
    return made


def draw(made: Sequence[Row]) -> Figure:
    """On the left accuracies, a dot a seed; on the right how well the kernels' updates point."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [row.name for row in made]
    colours = figures.colours_of(names)
    for place, row in enumerate(made):
        left.plot(row.accuracies, [-place] * len(row.accuracies), "o", color=colours[row.name])
        if row.cosines:
            epochs = range(1, len(row.cosines) + 1)
            right.plot(epochs, row.cosines, color=colours[row.name], label=row.name)
    left.set_yticks([-place for place in range(len(made))], names)
    left.set_xlabel("Test accuracy (%)")
    left.grid(axis="x", linewidth=0.4)
    right.axhline(0, color="grey", linewidth=0.6)
    right.set_xlabel("Epoch")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("Cosine of the kernels' update\nwith backprop's")
    right.legend(frameon=False, fontsize="small")
    return figure


def save(found: Sequence[Record]) -> None:
    """Write the figure."""
    figures.save(draw(rows(found)), FIGURE)
