"""The figure that opens the README's results: CIFAR-10 as published, as reproduced, and unbound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.figure import Figure

from forwardly.experiments import figures
from forwardly.experiments.published import dellaferrera2022_table1, unbound_cifar10
from forwardly.experiments.records import Record
from forwardly.experiments.report import Column, Line, columns

FIGURE = Path(__file__).parent / "accuracy.svg"
_RULES = (
    *("backprop", "feedback-alignment", "direct-feedback-alignment"),
    *("adaptive-feedback-alignment", "pepita", unbound_cifar10.MIRRORED, "drtp", "readout-only"),
)
_COLUMN = "fc-cifar10"
_MARKS = {
    "published": ("o", "white", "#444444"),
    "reproduced": ("o", "#999999", "#666666"),
    "unbound": ("D", "#0072B2", "#0072B2"),
    "unbound, flips": ("D", "#D55E00", "#D55E00"),
}


class Point(NamedTuple):
    """A mark of the figure: test accuracy in percent, over so many seeds."""

    rule: str
    kind: str
    accuracy: float
    sd: float
    seeds: int


def points(found: Sequence[Record]) -> list[Point]:
    """What is recorded."""
    made: list[Point] = []
    table = _named(columns(dellaferrera2022_table1.EXPERIMENT, found), _COLUMN)
    for line in table.lines:
        if line.name not in _RULES:
            continue
        if (published := line.cell.published) is not None:
            sd, seeds = published.sd or 0.0, published.seeds or 1
            made.append(Point(line.name, "published", published.mean, sd, seeds))
        made += _point(line.name, "reproduced", line)
    unbound = columns(unbound_cifar10.EXPERIMENT, found)
    for kind, name in (("unbound", _COLUMN), ("unbound, flips", f"{_COLUMN}-flips")):
        for line in _named(unbound, name).lines:
            if line.name in (*unbound_cifar10.CHOSEN, unbound_cifar10.MIRRORED):
                made += _point(line.name, kind, line)
    return made


def draw(made: Sequence[Point]) -> Figure:
    """A row a rule, its marks side by side."""
    figure = Figure(figsize=(6.8, 3.6), layout="constrained")
    axes = figure.subplots()
    rules = [rule for rule in _RULES if any(point.rule == rule for point in made)]
    for kind, (marker, face, edge) in _MARKS.items():
        of_kind = [point for point in made if point.kind == kind]
        axes.errorbar(
            [point.accuracy for point in of_kind],
            [-rules.index(point.rule) for point in of_kind],
            xerr=[point.sd for point in of_kind],
            fmt=marker,
            markersize=6.5,
            markerfacecolor=face,
            markeredgecolor=edge,
            ecolor=edge,
            label=kind,
        )
    axes.set_yticks([-i for i in range(len(rules))], rules)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_xlabel("Test accuracy on CIFAR-10, one hidden layer of 1024 (%)")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def in_words(made: Sequence[Point]) -> str:
    """The same for who cannot see it."""
    said = []
    for rule in _RULES:
        own = [f"{p.kind} {p.accuracy:.2f}" for p in made if p.rule == rule]
        if own:
            said.append(f"{rule}: {', '.join(own)}")
    return "; ".join(said)


def save(made: Sequence[Point]) -> None:
    """Write the figure."""
    figures.save(draw(made), FIGURE)


def _named(of: Sequence[Column], name: str) -> Column:
    return next(column for column in of if column.name == name)


def _point(rule: str, kind: str, line: Line) -> list[Point]:
    found = list(line.accuracies.values())
    if not found:
        return []
    return [Point(rule, kind, mean(found), stdev(found) if len(found) > 1 else 0.0, len(found))]
