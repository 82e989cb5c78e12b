"""The figure of a comparison: each rule's seeds as points, with their mean, best first."""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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


def comparison_figure(rows: Sequence[Row], metric: Metric, *, title: str = "") -> Figure:
    """A row for each rule: a dot a seed, and a bar at their mean.

    Args:
        rows: of the table.
        metric: what is compared.
        title: of the figure.
    """
    values = {row.rule: [value for value in row.finite if abs(value) < LARGEST] for row in rows}
    order = sorted(values, key=lambda rule: _place(values[rule], metric))
    figure = Figure(figsize=(7.2, 1.5 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    for place, rule in enumerate(order):
        own = values[rule]
        colour = rule_colour(rule) if rule in _NAMED else _OTHERS
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
    axes.set_yticks(range(len(order)), [as_label(rule) for rule in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel(metric.label[:1].upper() + metric.label[1:])
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if title:
        axes.set_title(as_label(title), fontsize=11)
    _scale(axes, [value for own in values.values() for value in own], metric)
    _add_legend(figure, [rule for rule in _MARKED if values.get(rule)])
    return figure


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


def _add_legend(figure: Figure, marked: Sequence[str]) -> None:
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
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
