"""Networks that are no chain, by every rule that takes them: which ones teach hidden layers there.

That a rule runs on a network does not say that it teaches it. Columns:

    resmlp-mnist     five hidden layers of 256 rectifiers, four of which add to what they are
                     given; 10,000 images, 10 epochs
    resnet8-cifar10  the residual network of eight layers; 5,000 images, 5 epochs
    vit8-cifar10     a transformer of four blocks on patches of 8 × 8; 5,000 images, 8 epochs

Images and epochs of the latter two are as few as two processor cores have time for: what a row says
is whether a rule teaches hidden layers, not how far it would come.

Settings. Centred inputs, batches of 64, momentum 0.9, learning rate divided by ten for the last
fifth of the epochs, the rules' own options but for PEPITA's, which has three rows:

    pepita               the clean presynaptic term
    pepita-longer-f      and F eight times as long, as in ``unbound``
    pepita-as-published  the modulated term, and inputs as they are; with a control of its own,
                         readout-only-raw

Every row has a learning rate of its own, the smallest of a column's within a standard error of the
best on the validation images of a seed that no result is of, after some epochs (columns "rates-…",
of which nobody looks at the test images).

Left out: MemPEPITA, whose updates are PEPITA's; and of CIFAR-10 node perturbation, whose step takes
fifteen times as long, and weight perturbation, which learns nothing in so few steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from forwardly.experiments.experiment import Cell, Experiment, trials
from forwardly.experiments.recipe import Recipe

ROWS: Mapping[str, Mapping[str, Any]] = {
    "pepita": {"options": {"presynaptic": "clean"}},
    "pepita-longer-f": {
        "rule": "pepita",
        "options": {"presynaptic": "clean", "projection": 0.4},
    },
    "pepita-as-published": {"rule": "pepita", "preprocessing": None},
    "sign-pepita": {},
    "hebbian-pepita": {},
    "time-local-pepita": {},
    "adaptive-feedback-alignment": {},
    "drtp": {},
    "direct-feedback-alignment": {},
    "direct-kolen-pollack": {},
    "feedback-alignment": {},
    "kolen-pollack": {},
    "sign-symmetry-fixed": {},
    "sign-symmetry-batch": {},
    "sign-symmetry-uniform": {},
    "node-perturbation": {},
    "weight-perturbation": {},
    "backprop": {},
    "readout-only": {},
    "readout-only-raw": {"rule": "readout-only", "preprocessing": None},
}
"""What is a row's own."""

_CIFAR10: Mapping[str, Any] = {"data": "cifar10", "stress": "samples:5000"}
COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "resmlp-mnist": {
        "data": "mnist",
        "stress": "samples:10000",
        "model": "resmlp",
        "hidden": (256,) * 5,
        "epochs": 10,
        "milestones": (8,),
    },
    "resnet8-cifar10": {**_CIFAR10, "model": "resnet8", "epochs": 5, "milestones": (4,)},
    "vit8-cifar10": {**_CIFAR10, "model": "vit8", "epochs": 8, "milestones": (6,)},
}
"""What is a column's own."""

RATES: Mapping[str, tuple[float, ...]] = {
    "resmlp-mnist": (0.0001, 0.0004, 0.0016, 0.0064, 0.025, 0.1, 0.4),
    "resnet8-cifar10": (0.0016, 0.0064, 0.025, 0.1),
    "vit8-cifar10": (0.0016, 0.0064, 0.025, 0.1),
}
TRIAL_EPOCHS: Mapping[str, int] = {"resmlp-mnist": 3, "resnet8-cifar10": 2, "vit8-cifar10": 2}
CHOSEN: Mapping[str, Mapping[str, float]] = {
    "resmlp-mnist": {
        "pepita": 0.025,
        "pepita-longer-f": 0.0016,
        "pepita-as-published": 0.025,
        "sign-pepita": 0.0064,
        "hebbian-pepita": 0.0064,
        "time-local-pepita": 0.0004,
        "adaptive-feedback-alignment": 0.1,
        "drtp": 0.0001,
        "direct-feedback-alignment": 0.0064,
        "direct-kolen-pollack": 0.025,
        "feedback-alignment": 0.0016,
        "kolen-pollack": 0.025,
        "sign-symmetry-fixed": 0.1,
        "sign-symmetry-batch": 0.1,
        "sign-symmetry-uniform": 0.025,
        "node-perturbation": 0.0004,
        "backprop": 0.025,
        "readout-only": 0.4,
        "readout-only-raw": 0.4,
    },
    "resnet8-cifar10": {},
    "vit8-cifar10": {},
}
"""The learning rate of each row, as far as its trials are done.

Weight perturbation has none, as it diverges at all of them.
"""


def rows(column: str) -> list[str]:
    """The rows that a column has."""
    alike = COLUMNS[column]["data"] == "mnist"
    return [row for row in ROWS if alike or not row.endswith("-perturbation")]


def recipe(column: str, row: str, rate: float) -> Recipe:
    """How a row's network is trained."""
    alike: Mapping[str, Any] = {"rule": row, "learning_rate": rate, "preprocessing": "centre"}
    return Recipe(**{**alike, **COLUMNS[column], **ROWS[row]})


def _cells(column: str) -> dict[str, Cell]:
    cells = {
        f"{column}/{row}": Cell(recipe(column, row, rate)) for row, rate in CHOSEN[column].items()
    }
    for row in rows(column):
        of_rate = partial(recipe, column, row)
        name, epochs = f"rates-{column}/{row}", TRIAL_EPOCHS[column]
        cells |= trials(name, of_rate, RATES[column], epochs=epochs, milestones=())
    return cells


EXPERIMENT = Experiment(
    "any_module",
    "A residual MLP, a ResNet and a transformer, all rules treated alike",
    "https://arxiv.org/abs/2201.11665",
    {name: cell for column in COLUMNS for name, cell in _cells(column).items()},
)
