"""Figures: errors over training, and a network drawn with its weights.

Figures are made without pyplot: no global state, no display.
"""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from forwardly.experiments.statistics import Array, mean_and_sd_over_seeds
from forwardly.files import write
from forwardly.files.text import visible

# Okabe & Ito's colours, which colour-blind readers can tell apart.
_RULE_COLOURS = {"pepita": "#D55E00", "readout-only": "#999999", "backprop": "#0072B2"}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#332288", "#882255")
_POSITIVE, _NEGATIVE = "#0072B2", "#D55E00"
_DASHES = (0, (4, 2))
_MOST_UNITS = 24

LARGEST = 1e30
"""Larger values, on the way to infinity, are not drawn: they would squeeze all else together."""


class Curve(NamedTuple):
    """Mean absolute error of one rule over training.

    Attributes:
        rule: its name on the command line.
        epochs: the epochs measured, (E,).
        train: error on the training set, (seeds, E).
        validation: error on the validation set, (seeds, E).
        left_out: seeds that diverged and are not in it.
    """

    rule: str
    epochs: NDArray[np.int64]
    train: Array
    validation: Array
    left_out: int = 0


class Drawing(NamedTuple):
    """One panel of a network drawing: a title, and each layer's weights (n_l, n_{l−1})."""

    title: str
    weights: Sequence[Array]


def as_label(name: str) -> str:
    """A name as figures may have it: no formula of matplotlib's, no control character."""
    text = visible(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # an underscore hides it from legends


def rule_colour(rule: str) -> str:
    """A colour that the rule has in every figure, save beside another rule that has it too."""
    number = sum(map(ord, rule))
    return _RULE_COLOURS.get(rule, _OTHER_COLOURS[number % len(_OTHER_COLOURS)])


def colours_of(rules: Sequence[str]) -> dict[str, str]:
    """Each rule's colour, or where an earlier one has taken it, the next that is free."""
    colours = {rule: rule_colour(rule) for rule in rules if rule in _RULE_COLOURS}
    for rule in rules:
        if rule in colours:
            continue
        start = _OTHER_COLOURS.index(rule_colour(rule))
        choices = _OTHER_COLOURS[start:] + _OTHER_COLOURS[:start]
        free = (colour for colour in choices if colour not in colours.values())
        colours[rule] = next(free, choices[0])
    return colours


def mae_figure(curves: Sequence[Curve], *, title: str = "") -> Figure:
    """Training (solid) and validation (dashed) errors over epochs.

    With several seeds the lines are means, and a band spans one standard deviation either way of
    the validation error.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = colours_of([curve.rule for curve in curves])
    for curve in curves:
        _draw_errors(axes, curve, "-", colours[curve.rule])
        _draw_errors(axes, curve, _DASHES, colours[curve.rule])
    _scale_errors(axes, curves)
    axes.set_xlabel("Epoch (full-batch updates)")
    axes.set_ylabel("Mean absolute error")
    axes.set_title(as_label(title))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(figure, curves, colours)
    return figure


def network_figure(drawings: Sequence[Drawing], *, title: str = "") -> Figure:
    """Networks side by side as neurons and synapses, on one scale of weights."""
    columns = min(len(drawings), 4) or 1
    rows = -(-len(drawings) // columns) or 1
    layers = max((len(drawing.weights) + 1 for drawing in drawings), default=0)
    width = max(max(3.0, 0.95 * layers) * columns, 6.0)  # room for the legend
    figure = Figure(figsize=(width, 4.4 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    finite = [np.abs(w[np.isfinite(w)]) for drawing in drawings for w in drawing.weights]
    largest = max((float(w.max()) for w in finite if w.size), default=1.0) or 1.0
    for axes in panels:
        axes.axis("off")
    for axes, drawing in zip(panels, drawings, strict=False):
        _draw_network(axes, drawing, largest)
    figure.legend(
        handles=[
            Line2D([], [], color=_POSITIVE, linewidth=2.5, label="positive weight"),
            Line2D([], [], color=_NEGATIVE, linewidth=2.5, label="negative weight"),
            Line2D([], [], color="none", label=f"width ∝ |weight|, at most {largest:.2g}"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    if title:
        figure.suptitle(as_label(title))
    return figure


def scaling_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Time a sample over width, depth and batch, both axes logarithmic; dotted, the arithmetic's.

    Args:
        points: each with "axis", "value", and "seconds" and "macs" a sample by subject.
    """
    axes_names = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(3.4 * len(axes_names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(axes_names), squeeze=False)[0]
    for panel, name in zip(panels, axes_names, strict=True):
        own = [point for point in points if point["axis"] == name]
        values = [point["value"] for point in own]
        for subject in own[0]["seconds"]:
            colour = _RULE_COLOURS[subject]
            micros = [1e6 * point["seconds"][subject] for point in own]
            macs = [point["macs"][subject] for point in own]
            scaled = [micros[-1] * count / macs[-1] for count in macs]
            panel.loglog(values, micros, "o-", color=colour, label=as_label(subject), markersize=4)
            panel.loglog(values, scaled, ":", color=colour)
        panel.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.yaxis.set_minor_formatter(FuncFormatter(_some_minor))
        panel.set_xlabel(as_label(name))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("µs a sample")
    panels[-1].plot([], [], ":", color="black", label="as its products grow")
    panels[-1].legend(frameon=False)
    panels[0].legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format of the path's suffix.

    The same figure gives the same bytes: no date, no random identifiers.
    """
    content = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    with rc_context({"svg.hashsalt": "forwardly"}):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(content, format=kind, dpi=200, metadata=metadata)
    write(path, content.getvalue())


def _drawable(values: Array) -> NDArray[np.bool_]:
    """Epochs at which all seeds' errors can be drawn, (E,)."""
    return np.all(np.nan_to_num(values, nan=np.inf) < LARGEST, axis=0)


def _draw_errors(
    axes: Axes, curve: Curve, style: Literal["-"] | tuple[int, tuple[int, int]], colour: str
) -> None:
    """The line of one set's errors, and the band of the validation set's."""
    values = curve.train if style == "-" else curve.validation
    shown = _drawable(values)
    epochs = curve.epochs[shown]
    mean, sd = mean_and_sd_over_seeds(values[:, shown])
    axes.plot(
        epochs,
        mean,
        color=colour,
        linestyle=style,
        # Wider dashes show on a line that they coincide with.
        linewidth=1.1 if style == "-" else 1.8,
        marker="o" if shown.sum() == 1 else "",
        markerfacecolor=colour if style == "-" else "white",
        zorder=3,
    )
    if style != "-" and len(values) > 1:
        # Below zero has no place on a log axis: there the band leaves the figure at its lower edge.
        low = np.maximum(mean - sd, mean / 100)
        axes.fill_between(epochs, low, mean + sd, color=colour, alpha=0.15, linewidth=0, zorder=2)


def _add_legend(figure: Figure, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    handles: list[Artist] = []
    for curve in curves:
        label = as_label(curve.rule)
        if curve.left_out:
            label += f" ({len(curve.train)} of {len(curve.train) + curve.left_out} seeds)"
        handles.append(Line2D([], [], color=colours[curve.rule], linewidth=2.2, label=label))
    grey = "#444444"
    handles += [
        Line2D([], [], color=grey, linewidth=1.1, label="training"),
        Line2D([], [], color=grey, linewidth=1.8, label="validation", linestyle=_DASHES),
    ]
    seeds = max((len(curve.train) for curve in curves), default=1)
    if seeds > 1:
        label = f"mean ± sd of {seeds} seeds"
        handles.append(Patch(color=grey, alpha=0.15, linewidth=0, label=label))
    columns = len(handles) if len(handles) < 6 else 3
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9
    )


def _scale_errors(axes: Axes, curves: Sequence[Curve]) -> None:
    shown = [
        errors[:, _drawable(errors)].mean(0)
        for curve in curves
        for errors in (curve.train, curve.validation)
    ]
    values = np.concatenate(shown) if shown else np.ones(1)
    values = values[values > 0]
    if values.size and values.max() > 3 * values.min():
        axes.set_yscale("log")
        few = values.max() <= 100 * values.min()
        axes.yaxis.set_minor_formatter(FuncFormatter(_some_minor) if few else NullFormatter())
        if values.max() < 1e5 and values.min() > 1e-4:
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_ylim(bottom=max(axes.get_ylim()[0], float(values.min()) / 3))
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _some_minor(value: float, _: int) -> str:
    """Labels at 2 and 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _draw_network(axes: Axes, drawing: Drawing, largest: float) -> None:
    sizes = [drawing.weights[0].shape[1], *(len(w) for w in drawing.weights)]
    places = [_places(layer, min(size, _MOST_UNITS)) for layer, size in enumerate(sizes)]
    for layer, w in enumerate(drawing.weights):
        before, after = places[layer], places[layer + 1]
        shown = w[: len(after), : len(before)]
        strength = np.where(np.isfinite(shown), np.abs(shown), 0) / largest
        # Strong synapses last, so that weak ones do not hide them.
        order = np.argsort(strength, axis=None)
        posts, pres = np.unravel_index(order, shown.shape)
        lines = np.stack([before[pres], after[posts]], axis=1)
        colours = np.where(shown[posts, pres] > 0, _POSITIVE, _NEGATIVE)
        widths = list(3.5 * strength[posts, pres])
        axes.add_collection(
            LineCollection(
                list(lines), linewidths=widths, colors=list(colours), alpha=0.75, zorder=1
            )
        )
    names = ["inputs", *["hidden"] * (len(sizes) - 2), "outputs"]
    for place, size, name in zip(places, sizes, names, strict=True):
        axes.scatter(*place.T, s=46, color="white", edgecolors="#222222", linewidths=0.9, zorder=2)
        more = f"\n({_MOST_UNITS} shown)" if size > _MOST_UNITS else ""
        name = name.removesuffix("s") if size == 1 else name
        axes.annotate(
            f"{size} {name}{more}", (place[0, 0], -0.56), ha="center", va="top", fontsize=9
        )
    axes.set_title(as_label(drawing.title), fontsize=11)
    axes.set_xlim(-0.3, len(sizes) - 0.7)
    axes.set_ylim(-0.62 if max(sizes) <= _MOST_UNITS else -0.7, 0.54)


def _places(layer: int, units: int) -> Array:
    """Where a layer's units are drawn, (units, 2): a column, evenly spaced about the middle."""
    spacing = 1 / max(units, 12)
    heights = (np.arange(units)[::-1] - (units - 1) / 2) * spacing
    return np.column_stack([np.full(units, float(layer)), heights])
