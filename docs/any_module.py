"""What of networks that are no chain learns, read from records, for ``docs/generate.py``.

``forwardly reproduce any_module`` makes the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from forwardly.experiments.published import any_module
from forwardly.experiments.records import Record
from forwardly.experiments.report import Line, columns
from forwardly.experiments.statistics import Difference, difference

_CONTROL = "readout-only"
_ENDS = {
    "resmlp-mnist": ("stem", "head"),
    "resnet8-cifar10": ("conv", "fc"),
    "vit8-cifar10": ("embed", "head"),
}
"""By column: the first layer and the readout."""


@dataclass(frozen=True)
class Row:
    """What is recorded of a row.

    Attributes:
        line: its cell and runs.
        rate: its learning rate.
        over_control: paired by seed, what it has over frozen hidden layers that see the same
            inputs, in points.
        first: of the first layer's update, the cosine with backprop's on a batch of validation
            images after the last epoch, a mean over seeds; None if it stays as it was drawn.
        others: of the other hidden layers, a mean over these too.
    """

    line: Line
    rate: float
    over_control: Difference | None
    first: float | None
    others: float | None

    @property
    def learns(self) -> str:
        """Whether hidden layers help, as far as these seeds can tell."""
        if self.line.name.startswith(_CONTROL):
            return "the control"
        if self.line.diverged:
            return f"{len(self.line.diverged)} of {len(self.line.runs)} seeds diverge"
        if self.over_control is None:
            return "–"
        low, high = self.over_control.low, self.over_control.high
        return "yes" if low > 0 else "worse than frozen" if high < 0 else "not separable"


def rows(found: Sequence[Record]) -> dict[str, list[Row]]:
    """Of each column that has results."""
    made: dict[str, list[Row]] = {}
    for column in columns(any_module.EXPERIMENT, found):
        lines = {line.name: line for line in column.recorded}
        for line in lines.values():
            raw = line.cell.recipe.preprocessing is None
            control = lines.get(f"{_CONTROL}-raw" if raw else _CONTROL)
            rate = line.cell.recipe.learning_rate
            over = None if control in (None, line) else _over(line, control)
            made.setdefault(column.name, []).append(
                Row(line, rate, over, *cosines(line, column.name))
            )
    return made


def _over(line: Line, control: Line) -> Difference | None:
    both = sorted(line.accuracies.keys() & control.accuracies.keys())
    return difference(
        [line.accuracies[seed] for seed in both], [control.accuracies[seed] for seed in both]
    )


def cosines(line: Line, column: str) -> tuple[float | None, float | None]:
    """Of a row in a column: the first layer's, and the others' between that and the readout.

    Of weights, not of biases and norms; rules list them in orders of their own.
    """
    first, readout = (f"alignment/{end}.weight" for end in _ENDS[column])
    ended = [run.rows[-1] for run in line.runs.values() if run.result["diverged"] is None]
    others = [
        value
        for row in ended
        for name, value in row.items()
        if name.startswith("alignment/") and name.endswith(".weight")
        if "norm" not in name and name not in (first, readout)
    ]
    of_first = [row[first] for row in ended if first in row]
    return mean(of_first) if of_first else None, mean(others) if others else None
