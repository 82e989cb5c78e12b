"""Figures of training runs: losses and accuracies over epochs, with the spread of seeds."""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup  # noqa: TID251, the one place
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from forwardly.experiments.figures import (
    LARGEST,
    as_label,
    colours_of,
    dashes_of,
    label_ends,
    rule_colour,
)
from forwardly.experiments.statistics import Array, mean_and_sd_over_seeds
from forwardly.files.text import visible

_INK = "#123456"
"""Stands for the page's text colour; see ``inline_svg``."""

_SIZE = 10.8
"""Of text, in points: 11 pixels where the figure is as wide as a phone's page."""

_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def training_figure(rows: Sequence[Mapping[str, float]], rule: str, title: str) -> Figure:
    """Loss and, of data with classes, accuracy: training solid, validation dashed."""
    kinds = [("loss", "Loss")]
    if "accuracy" in rows[0]:
        kinds.append(("accuracy", "Accuracy (%)"))
    figure = Figure(figsize=(4.6 * len(kinds), 3.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(kinds), squeeze=False)[0])
    epochs = [row["epoch"] for row in rows]
    colour = rule_colour(rule)
    for axes, (name, label) in zip(panels, kinds, strict=True):
        scale = 100 if name == "accuracy" else 1
        for prefix, style, text in (("", "-", "training"), ("validation_", "--", "validation")):
            values = [scale * row.get(prefix + name, np.nan) for row in rows]
            marker = "o" if len(rows) == 1 else ""
            axes.plot(epochs, values, style, color=colour, marker=marker, label=text)
        _dress(axes, label)
        axes.legend(frameon=False)
    figure.suptitle(as_label(title))
    return figure


def spread_figure(
    series: Mapping[str, Sequence[Sequence[float]]],
    label: str,
    *,
    colours: Mapping[str, str] | None = None,
    points: Mapping[int, float] | None = None,
    line: float | None = None,
) -> Figure:
    """Lines over epochs, one a name: means over seeds, and a band of one standard deviation.

    Dashes and names at the ends tell them apart, and lines that coincide are named beneath.

    Args:
        series: for each name the curve of each seed, from epoch 1; curves may differ in length.
        label: of the vertical axis.
        colours: of the names, where several figures are to agree; see ``figures.colours_of``.
            Dashes go by their order.
        points: published values by epoch, drawn as crosses.
        line: a value to mark, such as a right angle.
    """
    colours, dashes = colours or colours_of(list(series)), dashes_of(list(colours or series))
    with rc_context({**dict.fromkeys(_INKED, _INK), "font.size": _SIZE}):
        height = 2.8 + 0.25 * max(len(series) - 5, 0)  # room for the names
        figure = Figure(figsize=(4.8, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        lines: dict[str, Line2D] = {}
        for name, curves in series.items():
            mean, sd = mean_and_sd_over_seeds(_table(curves))
            epochs = np.arange(1, len(mean) + 1)
            (lines[name],) = axes.plot(
                epochs, mean, color=colours[name], linestyle=dashes[name], linewidth=1.5
            )
            axes.fill_between(
                epochs, mean - sd, mean + sd, color=colours[name], alpha=0.2, linewidth=0
            )
        if points:
            axes.plot(
                list(points), list(points.values()), "x", color=_INK, label="published", zorder=4
            )
            axes.legend(frameon=False, fontsize=_SIZE)
        if line is not None:
            axes.axhline(line, color=_INK, linewidth=0.8, linestyle=":")
        _dress(axes, label)
        label_ends(axes, lines, size=_SIZE)
    return figure


_INKED = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")


def inline_svg(figure: Figure, description: str, number: int) -> Markup:
    """The figure as an ``<svg>`` element of a page, its text and axes in the page's text colour.

    Args:
        figure: of ``spread_figure``.
        description: for those who do not see it.
        number: of the figure in its page, as identifiers of different figures must differ.
    """
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": str(number), "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(content.getvalue())  # noqa: S314, matplotlib's own
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name, value in list(element.items()):
            value = value.replace(_INK, "currentColor").replace("url(#", f"url(#figure-{number}-")
            if name == "id":
                value = f"figure-{number}-{value}"
            elif name == _HREF:
                del element.attrib[name]
                name, value = "href", value.replace("#", f"#figure-{number}-", 1)
            element.set(name, value)
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    for name in ("width", "height"):  # the page's to say
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": visible(description)}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704, which escapes


def _table(curves: Sequence[Sequence[float]]) -> Array:
    """Curves that may differ in length, (seeds, epochs); NaN where there is nothing to draw."""
    table = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    table[~(np.abs(table) < LARGEST)] = np.nan
    return table


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(color="#80808040", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
