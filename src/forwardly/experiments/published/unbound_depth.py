"""One to five hidden layers on CIFAR-10: whether PEPITA with the clean presynaptic term goes deep.

Srinivasan et al. (arXiv 2302.05440) lose four points from one to five normalised hidden layers;
``srinivasan2023_depth`` is theirs. Here inputs are centred, F is longer and the presynaptic term
the clean one, as in ``unbound``. PEPITA, MemPEPITA, direct feedback alignment, backprop and
readout-only are treated alike, without (column "plain") and with the normalisation of each
sample's activities.

Settings. Hidden layers of 256 rectifiers without biases, batches of 64, momentum 0.9, no dropout,
learning rate divided by ten after epochs 12 and 18 of 20. Every rule has learning rates of its own,
one for one and two layers, found with one, and one for three to five, found with five: the smallest
of the column's within a standard error of the best on the validation images of a seed that no
result is of, after four epochs (columns "rates-…", of which nobody looks at the test images).
MemPEPITA, whose updates are PEPITA's, has PEPITA's rates.
"""

from __future__ import annotations

from functools import partial

from forwardly.experiments.experiment import Cell, Experiment, trials
from forwardly.experiments.recipe import Recipe

RULES: dict[str, dict[str, float | int | str]] = {
    "pepita": {"presynaptic": "clean", "projection": 0.4},
    "mem-pepita": {"presynaptic": "clean", "projection": 0.4},
    "direct-feedback-alignment": {},
    "backprop": {},
    "readout-only": {},
}
RATES = {
    "plain": (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04),
    "normalised": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
CHOSEN: dict[str, dict[str, tuple[float, float]]] = {
    "plain": {
        "pepita": (0.04, 0.001),  # with five layers all rates diverge
        "direct-feedback-alignment": (0.01, 0.0025),
        "backprop": (0.02, 0.005),
        "readout-only": (0.04, 0.02),
    },
    "normalised": {
        "pepita": (0.3, 1.0),
        "direct-feedback-alignment": (3.0, 1.0),
        "backprop": (1.0, 0.03),
        "readout-only": (0.3, 1.0),
    },
}
"""The learning rates of each rule with one hidden layer and with five; MemPEPITA has PEPITA's."""

LAYERS = (1, 2, 3, 4, 5)
_DEEP = 3  # layers from which on the rate is that of five


def rate_of(column: str, rule: str, layers: int) -> float:
    """A rule's learning rate with so many hidden layers."""
    return CHOSEN[column][rule.removeprefix("mem-")][layers >= _DEEP]


def recipe(column: str, rule: str, layers: int, rate: float) -> Recipe:
    """How a network of so many hidden layers is trained."""
    return Recipe(
        rule,
        "cifar10",
        RULES[rule],
        hidden=(256,) * layers,
        normalise="sample" if column == "normalised" else None,
        learning_rate=rate,
        epochs=20,
        milestones=(12, 18),
        preprocessing="centre",
    )


def _cells(column: str) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for rule in RULES:
        for layers in LAYERS:
            rate = rate_of(column, rule, layers)
            cells[f"{column}/{rule}-{layers}"] = Cell(recipe(column, rule, layers, rate))
    for rule in CHOSEN[column]:
        for layers in (LAYERS[0], LAYERS[-1]):
            row, of_rate = f"rates-{column}/{rule}-{layers}", partial(recipe, column, rule, layers)
            cells |= trials(row, of_rate, RATES[column], epochs=4, milestones=(3,))
    return cells


EXPERIMENT = Experiment(
    "unbound_depth",
    "One to five hidden layers on CIFAR-10, all rules treated alike",
    "https://arxiv.org/abs/2302.05440",
    {name: cell for column in RATES for name, cell in _cells(column).items()},
)
