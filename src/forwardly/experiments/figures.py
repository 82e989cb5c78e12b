"""Figures: errors over training, and a network drawn with its weights.

Figures are made without pyplot: no global state, no display.
"""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

from forwardly.experiments.history import History
from forwardly.experiments.statistics import Array
from forwardly.files import write
from forwardly.files.text import visible

# Okabe & Ito's colours, which colour-blind readers can tell apart.
_RULE_COLOURS = {"pepita": "#D55E00", "readout-only": "#999999", "backprop": "#0072B2"}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#332288", "#882255")
_POSITIVE, _NEGATIVE = "#0072B2", "#D55E00"
_VALIDATION = (0, (4, 2))
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (10, 3)), (0, (3, 3)))
_GREY = "#444444"
_EPOCHS = "Epoch (full-batch updates)"
_MOST_UNITS = 24

LARGEST = 1e30
"""Larger values, on the way to infinity, are not drawn: they would squeeze all else together."""


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


def dashes_of(names: Sequence[str]) -> dict[str, Any]:
    """A line style for each, in turn: with ``label_ends``, what tells lines apart beside colour."""
    return {name: _DASHES[i % len(_DASHES)] for i, name in enumerate(names)}


def mae_figure(histories: Sequence[History]) -> Figure:
    """Errors over epochs, both axes logarithmic where values span enough.

    Of one seed each: training solid, validation dashed, all rules in one panel, named where their
    lines end. Of several: a panel a rule, with a thin line a seed and the median of those that did
    not diverge in bold. A line that diverged ends in a cross at the upper edge, at the epoch where
    it did.

    Args:
        histories: of each rule, with one epoch or more.
    """
    if any(len(history.seeds) > 1 for history in histories):
        return _seeds_figure(histories)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = colours_of([history.rule for history in histories])
    ends: dict[str, Line2D] = {}
    for history in histories:
        colour = colours[history.rule]
        _draw_seeds(axes, history, "train", color=colour, linewidth=1.1)
        # Wider dashes show on a line that they coincide with.
        dashed = {"linestyle": _VALIDATION, "linewidth": 1.8, "markerfacecolor": "white"}
        (line,) = _draw_seeds(axes, history, "validation", color=colour, **dashed)
        ends[f"{history.rule} (diverged)" if history.diverged else history.rule] = line
    _scale_errors([axes], histories, ("train", "validation"))
    axes.set_xlabel(_EPOCHS + _scale_of(axes.get_xscale()))
    axes.set_ylabel("Mean absolute error" + _scale_of(axes.get_yscale()))
    handles = [
        Line2D([], [], color=_GREY, linewidth=1.1, label="training"),
        Line2D([], [], color=_GREY, linewidth=1.8, label="validation", linestyle=_VALIDATION),
    ]
    _add_legend(figure, handles + _cross(histories))
    label_ends(axes, ends)
    return figure


def _seeds_figure(histories: Sequence[History]) -> Figure:
    """A panel a rule: its seeds and their median."""
    columns = min(len(histories), 3)
    rows = -(-len(histories) // columns)
    size = max(2.7 * columns, 4.5) + 0.5, 2.9 * rows + 0.9
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    colours = colours_of([history.rule for history in histories])
    for axes, history in zip(panels, histories, strict=False):
        colour = colours[history.rule]
        _draw_seeds(axes, history, "validation", color=colour, linewidth=0.8, alpha=0.75)
        title = f"{_in_lines(history.rule, 28)}\n{_divergences(history)}"
        axes.set_title(title, fontsize=10, pad=9)
    _scale_errors(panels, histories, ("validation",))
    for axes, history in zip(panels, histories, strict=False):
        if history.alive:
            _draw_median(axes, history)
    for axes in panels[len(histories) :]:
        axes.set_visible(False)
    figure.supxlabel(_EPOCHS + _scale_of(panels[0].get_xscale()), fontsize=10)
    label = "Mean absolute error, validation" + _scale_of(panels[0].get_yscale())
    figure.supylabel(label, fontsize=10)
    cross = _cross(histories)
    median = "median of the others" if cross else "median"
    seed = Line2D([], [], color=_GREY, linewidth=0.8, label="one seed")
    _add_legend(figure, [seed, *cross, Line2D([], [], color=_GREY, linewidth=2.4, label=median)])
    return figure


def label_ends(axes: Axes, lines: Mapping[str, Line2D], *, size: float = 9) -> None:
    """Name lines where they end, as colours alone do not tell them apart for everyone.

    Names are moved off each other, each with a piece of its line leading to it. Lines of which one
    covers the other are named beneath the figure. Called last, when limits and scales are final.

    Args:
        axes: the lines'.
        lines: by name.
        size: of the text, in points.
    """
    figure = cast(Figure, axes.figure)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    points = {name: _in_axes(axes, line) for name, line in lines.items()}
    points = {name: at for name, at in points.items() if len(at)}
    if not points:
        return
    said = [f"{', '.join(group[:-1])} and {group[-1]}" for group in _coinciding(points)]
    if said:
        letters = int(figure.get_figwidth() * 72 / (0.6 * size))
        note = as_label(f"Lines that coincide: {'; '.join(said)}.")
        note = "\n".join(wrap(note, letters, break_on_hyphens=False))
        figure.supxlabel(note, fontsize=size)
    figure.draw_without_rendering()  # lays it out
    texts = {name: _in_lines(name) for name in points}
    names = sorted(points, key=lambda name: points[name][-1, 1])
    rows = np.array([texts[name].count("\n") + 1 for name in names])
    room = size * 1.3 * figure.dpi / 72 / axes.bbox.height  # of a line of text
    # As near to the ends as leaves each its room, and none above or below the axes.
    middles = room * (np.cumsum(rows) - rows / 2)
    ends = np.array([points[name][-1, 1] for name in names])
    from scipy.optimize import isotonic_regression  # pyright: ignore  # slow, and untyped

    shifts = cast(Array, isotonic_regression(ends - middles).x)  # pyright: ignore
    places = np.clip(shifts, 0, max(0, 1 - room * rows.sum())) + middles
    for name, place in zip(names, places, strict=True):
        line = lines[name]
        axes.annotate(
            texts[name],
            points[name][-1],
            (1.07, place),
            "axes fraction",
            "axes fraction",
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 1,
                "linestyle": line.get_linestyle(),
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )


def network_figure(drawings: Sequence[Drawing]) -> Figure:
    """Networks side by side as neurons and synapses, on one scale of weights."""
    columns = 2 if len(drawings) == 4 else min(len(drawings), 3) or 1
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


def _draw_seeds(
    axes: Axes, history: History, which: Literal["train", "validation"], **style: Any
) -> list[Line2D]:
    """A line a seed; one that diverged goes up to where ``_scale_errors`` puts its cross."""
    lines: list[Line2D] = []
    for seed, values in zip(history.seeds, history.curves(which), strict=True):
        shown = np.nan_to_num(values, nan=np.inf) < LARGEST
        epochs, values = np.array(history.epochs)[shown], values[shown]
        if seed in history.diverged:
            epochs, values = np.append(epochs, history.diverged[seed]), np.append(values, LARGEST)
        style["marker"] = "o" if len(epochs) == 1 else ""
        lines += axes.plot(epochs, values, zorder=3, **style)
    return lines


def _draw_median(axes: Axes, history: History) -> None:
    """Of the seeds that did not diverge, with its last value."""
    median = np.median(history.curves("validation")[history.alive], axis=0)
    shown = median < LARGEST
    epochs = np.array(history.epochs)[shown]
    halo = [withStroke(linewidth=4, foreground="white")]
    colour = axes.lines[0].get_color()
    axes.plot(epochs, median[shown], color=colour, linewidth=2.4, zorder=4, path_effects=halo)
    if shown[-1]:
        axes.annotate(
            f"{median[-1]:.3f}" if median[-1] > 0.01 else f"{median[-1]:.2g}",
            (epochs[-1], median[-1]),
            (-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            fontweight="bold",
            zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _divergences(history: History) -> str:
    """Which seeds diverged, or how many if they are many."""
    seeds = [str(seed) for seed in sorted(history.diverged)]
    if len(seeds) > 3:
        return f"{len(seeds)} of {len(history.seeds)} seeds diverged"
    several = f"seeds {', '.join(seeds[:-1])} and" if len(seeds) > 1 else "seed"
    return f"{several} {seeds[-1]} diverged" if seeds else "no seed diverged"


def _cross(histories: Sequence[History]) -> list[Line2D]:
    """The legend's cross, if there is one in the figure."""
    if not any(history.diverged for history in histories):
        return []
    return [Line2D([], [], linestyle="", marker="x", color=_GREY, label="diverged")]


def _add_legend(figure: Figure, handles: list[Line2D]) -> None:
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )


def _scale_errors(
    panels: Sequence[Axes],
    histories: Sequence[History],
    shown: Sequence[Literal["train", "validation"]],
) -> None:
    """Scales and limits of all panels, by the seeds that did not diverge; crosses of the others."""
    living = any(history.alive for history in histories)  # if none, limits are by all
    values = np.concatenate(
        [
            history.curves(which)[history.alive if living else slice(None)].ravel()
            for history in histories
            for which in shown
        ]
    )
    values = values[(values > 0) & (values < LARGEST)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.5, 1.0)
    first = float(min(history.epochs[0] for history in histories))
    last = float(max(history.epochs[-1] for history in histories))
    for axes in panels:
        if first < last:
            axes.set_xscale("log" if last > 10 * first else "linear")
            axes.set_xlim(first, last)
        _label_ticks(axes.xaxis, first, last)
        if high > 3 * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.2, high * 1.2)
            _label_ticks(axes.yaxis, low, high)
        else:
            axes.set_ylim(0, 1.05 * high)
        axes.grid(color="#E6E6E6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:
        top = axes.get_ylim()[1]
        for line in axes.lines:
            x, y = (np.asarray(values, dtype=float) for values in line.get_data())
            if len(y) and y[-1] == LARGEST:
                axes.plot(
                    x[-1:],
                    [top],
                    color=line.get_color(),
                    marker="x",
                    markersize=6,
                    clip_on=False,
                    zorder=5,
                )


def _label_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers; between powers of ten too where there are few of those."""
    if axis.get_scale() != "log":
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return
    axis.set_minor_formatter(FuncFormatter(_some_minor) if high <= 400 * low else NullFormatter())
    axis.set_major_formatter(FuncFormatter(_power_of_ten))
    if high < 1e7 * low:
        axis.set_major_locator(LogLocator(numticks=9))


def _scale_of(scale: str) -> str:
    return ", log scale" if scale == "log" else ""


def _in_lines(name: str, letters: int = 18) -> str:
    """A name as a label, in lines of a few letters, where it can be broken."""
    hyphens = name.replace("-", "").isalnum()  # of a rule or a cell, and no text with a minus
    label = as_label(re.sub(r"([:,])(?=\w+=)", r"\1 ", name))  # before each option of a rule
    return "\n".join(wrap(label, letters, break_long_words=False, break_on_hyphens=hyphens))


def _in_axes(axes: Axes, line: Line2D) -> Array:
    """The line's finite points in fractions of the axes, (points, 2), none outside of them."""
    to_axes = axes.transScale + axes.transLimits
    data = np.column_stack([np.asarray(values, dtype=float) for values in line.get_data()])
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.asarray(to_axes.transform(data[np.isfinite(data).all(1)]))
    return np.clip(points[np.isfinite(points).all(1)], 0, 1)


def _coinciding(points: Mapping[str, Array]) -> list[list[str]]:
    """Names of lines that lie on each other wherever both are, to about a line's width."""
    groups: list[list[str]] = []
    for name, own in points.items():
        for group in groups:
            other = points[group[0]]
            _, i, j = np.intersect1d(own[:, 0], other[:, 0], return_indices=True)
            if len(i) and np.abs(own[i, 1] - other[j, 1]).max() < 0.008:
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def _power_of_ten(value: float, _: int) -> str:
    """In as many letters as fit between those of its neighbours."""
    if 1e3 <= value < 1e6:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


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
    axes.set_title(_in_lines(drawing.title, 28), fontsize=11)
    axes.set_xlim(-0.3, len(sizes) - 0.7)
    axes.set_ylim(-0.62 if max(sizes) <= _MOST_UNITS else -0.7, 0.54)


def _places(layer: int, units: int) -> Array:
    """Where a layer's units are drawn, (units, 2): a column, evenly spaced about the middle."""
    spacing = 1 / max(units, 12)
    heights = (np.arange(units)[::-1] - (units - 1) / 2) * spacing
    return np.column_stack([np.full(units, float(layer)), heights])
