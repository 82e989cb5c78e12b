"""One convolution on CIFAR-10: what PEPITA's kernels learn, with F as drawn and with F mirrored.

As published, a convolutional network that PEPITA trains does no better than one whose kernels stay
as they were drawn: one kernel serves all positions, and what a random F says at each averages out.
``feedback.JacobianMirror`` turns F to the network's own Jacobian; docs/convolution.md says why
that helps.

Settings. The network of ``dellaferrera2022_table1``, 32 kernels of 5 × 5, rectifiers, pooling and a
readout; centred inputs, batches of 64, momentum 0.9, no dropout, learning rate divided by ten after
epochs 12 and 18 of 20. Every rule has a learning rate of its own, the smallest of several within a
standard error of the best on the validation images of a seed that no result is of, after five
epochs (column "rates", of which nobody looks at the test images). How long F is, and how fast
kernels learn beside the readout, was tried in the same way, a few values each: with F as drawn a
hundred times as slowly, as faster ones are worse, with F mirrored half as fast, by any other rule
as fast.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from forwardly.experiments.experiment import Cell, Experiment, trials
from forwardly.experiments.recipe import JacobianMirroring, Recipe

ROWS: dict[str, dict[str, Any]] = {
    "pepita-mirrored": {
        "options": {"presynaptic": "clean", "projection": 0.05},
        "conv_rate": 0.5,
        "mirroring": JacobianMirroring(0.01),
    },
    "pepita": {"options": {"presynaptic": "clean", "projection": 0.4}, "conv_rate": 0.01},
    "backprop": {},
    "readout-only": {},
}
"""What is a row's own."""

RATES = (0.01, 0.02, 0.04, 0.08)
CHOSEN = {"pepita-mirrored": 0.02, "pepita": 0.02, "backprop": 0.01, "readout-only": 0.02}
"""The learning rate of each row, as far as its trials are done."""


def recipe(row: str, rate: float) -> Recipe:
    """How a row's network is trained."""
    plain = Recipe(
        row.removesuffix("-mirrored"),
        "cifar10",
        model="conv",
        hidden=(32,),
        learning_rate=rate,
        epochs=20,
        milestones=(12, 18),
        preprocessing="centre",
    )
    return replace(plain, **ROWS[row])


def _cells() -> dict[str, Cell]:
    cells = {f"conv-cifar10/{row}": Cell(recipe(row, rate)) for row, rate in CHOSEN.items()}
    for row in ROWS:
        cells |= trials(f"rates/{row}", partial(recipe, row), RATES, epochs=5, milestones=(3,))
    return cells


EXPERIMENT = Experiment(
    "unbound_convolution",
    "One convolution on CIFAR-10, with F as drawn and mirrored, all rules treated alike",
    "https://arxiv.org/abs/2201.11665",
    _cells(),
)
