"""The table of Srinivasan et al., "Forward Learning with Top-Down Feedback", arXiv 2302.05440.

PEPITA with one hidden layer of 1024: plain, with weight decay, with normalised activations, with
weight mirroring, and with pairs of these. Backprop and readout-only under the same settings stand
in ``dellaferrera2022_table1``.

Settings as in ``dellaferrera2022_table1``, with x − F e (``sign=-1``), as in the authors' code.

Deviations
    Rates of decay, of mirroring and of learning with normalised activations are not known to us;
    they are chosen on validation images after a few epochs. Normalisation is of each sample.
    Mirroring uses the synapses' linear response, every eighth batch, and F keeps its length:
    without that it grows fourfold within eight epochs, as weights do, and training diverges in all
    three rows, after 3 to 24 epochs; if each factor keeps its own length only, after 37 epochs on
    CIFAR-10, as factors turn towards each other. The learning rate η of mirroring is such that a
    mirrored weight of its initial size would have that length: ησ²/λ = (0.05²/2)^¼.
"""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.published import dellaferrera2022_table1 as table1
from forwardly.experiments.recipe import Mirroring, Recipe

_WHERE = "the table of one hidden layer"
_PUBLISHED = {  # mean and sd on MNIST, CIFAR-10, CIFAR-100
    "plain": ((98.02, 0.08), (52.45, 0.25), (24.69, 0.17)),
    "decay": ((98.12, None), (53.05, None), (24.86, None)),
    "normalised": ((98.41, None), (53.51, None), (22.87, None)),
    "mirroring": ((98.05, None), (52.63, None), (27.07, 0.11)),
    "decay-mirroring": ((98.10, None), (53.46, None), (27.04, None)),
    "normalised-mirroring": ((98.42, 0.05), (53.80, 0.25), (24.20, None)),
}
_DECAY = 1e-3
_MIRRORING = Mirroring(_DECAY * (0.05**2 / 2) ** 0.25 / 0.1**2, _DECAY, keep_norm=True)
_WEIGHT_DECAY = {"mnist": 1e-5, "cifar10": 1e-4, "cifar100": 1e-4}
_NORMALISED_RATE = {"mnist": 10.0, "cifar10": 1.0, "cifar100": 1.0}


def _recipe(row: str, name: str) -> Recipe:
    recipe = replace(table1.EXPERIMENT.cells[f"fc-{name}/pepita"].recipe, options={"sign": -1})
    if "decay" in row:
        recipe = replace(recipe, weight_decay=_WEIGHT_DECAY[name])
    if "normalised" in row:
        recipe = replace(recipe, normalise="sample", learning_rate=_NORMALISED_RATE[name])
    if "mirroring" in row:
        recipe = replace(recipe, mirroring=_MIRRORING)
    return recipe


EXPERIMENT = Experiment(
    name="srinivasan2023_table",
    title="PEPITA with weight decay, normalised activations and weight mirroring",
    url="https://arxiv.org/abs/2302.05440",
    cells={
        f"fc-{name}/{row}": Cell(
            _recipe(row, name), Published(*_PUBLISHED[row][column], None, _WHERE)
        )
        for column, name in enumerate(("mnist", "cifar10", "cifar100"))
        for row in _PUBLISHED
    }
    | {
        "fc-cifar10/normalised-63-epochs": Cell(
            replace(_recipe("normalised", "cifar10"), epochs=63),
            note="ends where it was best on validation images",
        )
    },
)
