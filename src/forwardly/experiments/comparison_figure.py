"""The figure of a comparison: each rule's seeds as points, with their mean; a panel a condition."""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, StrMethodFormatter

from forwardly.experiments.comparison_table import Metric, Row
from forwardly.experiments.figures import LARGEST, as_label, rule_colour

_MARKED: dict[str, Literal["--", ":"]] = {"backprop": "--", "readout-only": ":"}
"""The reference and the control, whose means go through the rows of all."""

_NAMED = {"pepita", *_MARKED}
_OTHERS = "#444444"
_BESIDE = 3
"""Panels in a line."""

_WHEN_CLEAN: dict[str, Any] = {"marker": "x", "color": "#888888", "markersize": 5}


def comparison_figure(
    panels: Mapping[str, Sequence[Row]], metric: Metric, *, title: str = ""
) -> Figure:
    """A row for each rule: a dot a seed, and a bar at their mean.

    Args:
        panels: the rows of each condition's table, the clean one first, by which rules are sorted.
        metric: what is compared.
        title: of the figure.
    """
    drawn = {name: _values(rows) for name, rows in panels.items()}
    clean = next(iter(drawn.values()))
    order = sorted(clean, key=lambda rule: _place(clean[rule], metric))
    columns = min(len(drawn), _BESIDE)
    lines = math.ceil(len(drawn) / columns)
    width = 7.2 if columns == 1 else 2.2 + 3.2 * columns
    figure = Figure(figsize=(width, 0.6 + lines * (0.9 + 0.32 * len(order))), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    label = metric.label[:1].upper() + metric.label[1:]
    for number, axes in enumerate(grid.flat):
        if number >= len(drawn):
            axes.remove()
            continue
        name = [*drawn][number]
        _draw(axes, drawn[name], order, None if number == 0 else clean)
        axes.set_title(as_label(name if len(drawn) > 1 else title), fontsize=11)
        if number + columns >= len(drawn):
            axes.set_xlabel(label)
            axes.tick_params(axis="x", labelbottom=True)
    first = grid[0, 0]
    first.set_yticks(range(len(order)), [as_label(rule) for rule in order])
    first.set_ylim(len(order) - 0.4, -0.6)
    if title and len(drawn) > 1:
        figure.suptitle(as_label(title), fontsize=12)
    every = [value for values in drawn.values() for own in values.values() for value in own]
    _scale(first, every, metric)
    _add_legend(figure, [rule for rule in _MARKED if clean.get(rule)], len(drawn) > 1)
    return figure


def _values(rows: Sequence[Row]) -> dict[str, list[float]]:
    """What can be drawn of each rule."""
    return {row.rule: [value for value in row.finite if abs(value) < LARGEST] for row in rows}


def _draw(
    axes: Axes,
    values: Mapping[str, Sequence[float]],
    order: Sequence[str],
    clean: Mapping[str, Sequence[float]] | None,
) -> None:
    """One condition; with the means of the clean one, if it is another."""
    for place, rule in enumerate(order):
        own = values[rule]
        colour = rule_colour(rule) if rule in _NAMED else _OTHERS
        if clean is not None and clean[rule]:
            axes.plot([float(np.mean(clean[rule]))], [place], **_WHEN_CLEAN)
        if not own:
            axes.text(
                0.01,
                place,
                "no result",
                transform=axes.get_yaxis_transform(),
                va="center",
                color=colour,
                fontsize=9,
            )
            continue
        mean = float(np.mean(own))
        axes.plot(own, [place] * len(own), "o", color=colour, alpha=0.45, markersize=5.5, mew=0)
        axes.plot([mean], [place], "|", color=colour, markersize=15, markeredgewidth=2.4)
        if rule in _MARKED:
            axes.axvline(mean, color=colour, linestyle=_MARKED[rule], linewidth=1.1, zorder=0)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _place(values: Sequence[float], metric: Metric) -> float:
    """By which rules are sorted: the best first, those without a result last."""
    if not values:
        return np.inf
    return float(np.mean(values)) * (-1 if metric.name == "accuracy" else 1)


def _scale(axes: Axes, values: Sequence[float], metric: Metric) -> None:
    """Losses over more than a decade have a logarithmic axis."""
    if metric.name == "loss" and values and 0 < 10 * min(values) < max(values):
        axes.set_xscale("log")
        few = max(values) <= 100 * min(values)
        axes.xaxis.set_minor_formatter(FuncFormatter(_some_minor) if few else NullFormatter())
        if min(values) > 1e-4 and max(values) < 1e5:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _some_minor(value: float, _: int) -> str:
    """Labels at 2 and 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _add_legend(figure: Figure, marked: Sequence[str], under_stress: bool) -> None:
    handles = [
        Line2D([], [], color=_OTHERS, marker="o", alpha=0.45, linestyle="", label="a seed", mew=0),
        Line2D(
            [],
            [],
            color=_OTHERS,
            marker="|",
            linestyle="",
            markersize=12,
            markeredgewidth=2.4,
            label="mean over seeds",
        ),
        *(
            Line2D([], [], color=rule_colour(rule), linestyle=_MARKED[rule], label=f"{rule}'s mean")
            for rule in marked
        ),
    ]
    if under_stress:
        handles.insert(2, Line2D([], [], linestyle="", label="mean when clean", **_WHEN_CLEAN))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
