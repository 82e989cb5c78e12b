"""Figures of predictions: which classes are confused, and how far numbers are off."""

# matplotlib's own annotations leave keyword arguments untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from forwardly.experiments.figures import as_label

_MOST_WRITTEN = 20
"""Classes up to which every count is written into its field."""


def confusion_figure(confusion: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """A matrix of targets (rows) and predictions, shaded by the share of each row.

    Args:
        confusion: counts, (k, k).
        labels: of the classes.
    """
    k = len(labels)
    size = max(3.6, min(12.0, 1.6 + 0.42 * k))
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = list(map(as_label, labels))
    every = max(1, k // 50)
    axes.set_xticks(range(0, k, every), names[::every], rotation=45, ha="right")
    axes.set_yticks(range(0, k, every), names[::every])
    axes.set_xlabel("Predicted")
    axes.set_ylabel("Target")
    if k <= _MOST_WRITTEN:
        for (row, column), count in np.ndenumerate(confusion):
            ink = "white" if share[row, column] > 0.6 else "black" if count else "#B0B0B0"
            axes.text(column, row, f"{count}", ha="center", va="center", color=ink, fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("Share of the target's samples")
    return figure


def predicted_figure(target: NDArray[Any], predicted: NDArray[Any]) -> Figure:
    """Predictions over targets, a point a sample and output; the line is where they are equal."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    low = float(min(target.min(), predicted.min()))
    high = float(max(target.max(), predicted.max()))
    axes.plot([low, high], [low, high], color="#999999", linewidth=1, label="equal")
    for i in range(target.shape[1]):
        label = "samples" if target.shape[1] == 1 else f"output {i + 1}"
        axes.plot(target[:, i], predicted[:, i], ".", markersize=4, alpha=0.6, label=label)
    axes.set_xlabel("Target")
    axes.set_ylabel("Predicted")
    if target.shape[1] <= 10:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
