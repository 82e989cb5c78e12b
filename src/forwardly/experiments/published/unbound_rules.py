"""Two hidden layers on MNIST by rules of every family, all treated alike.

What the papers print of local errors, Mono-Forward, Kolen–Pollack, FOTON, error broadcast and
perturbation is of networks, preprocessing and optimizers that differ from paper to paper. Here all
train the same network in the same way, beside PEPITA, feedback alignment, backprop and the control.

Settings. Hidden layers of 500 rectifiers without biases, centred inputs, batches of 64, momentum
0.9, no dropout, learning rate divided by ten after epochs 12 and 18 of 20. Every rule has a
learning rate of its own, the smallest of several within a standard error of the best on the
validation images of a seed that no result is of, after four epochs (cells "rates/…", of which
nobody looks at the test images). Options are the rules' defaults: the longer F of ``unbound`` is
of one hidden layer, see ``unbound_depth``. Two rules, which stand below the control with theirs,
have a second row with the option that frees them:

    foton-warm            the softmax of ten times the outputs, which orthonormal weights keep short
    node-perturbation-16  sixteen noisy passes a step, which divide the variance by as many
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from forwardly.experiments.experiment import Cell, Experiment, trials
from forwardly.experiments.recipe import Recipe

RULES = (
    *("pepita", "local-errors", "mono-forward", "kolen-pollack", "direct-kolen-pollack", "foton"),
    *("error-broadcast", "node-perturbation", "weight-perturbation", "feedback-alignment"),
    *("direct-feedback-alignment", "backprop", "readout-only"),
)
FREED: Mapping[str, tuple[str, dict[str, float | int | str]]] = {
    "foton-warm": ("foton", {"temperature": 10.0}),
    "node-perturbation-16": ("node-perturbation", {"samples": 16}),
}
"""Rows of a rule with an option: (rule, options)."""
RATES = (0.000025, 0.0001, 0.0004, 0.0016, 0.0064, 0.025, 0.1, 0.4)
CHOSEN = {
    "foton": 0.1,
    "foton-warm": 0.025,
    "pepita": 0.1,
    "node-perturbation": 0.0004,
    "node-perturbation-16": 0.0016,
    "readout-only": 0.1,
    "backprop": 0.025,
    "local-errors": 0.1,
    "mono-forward": 0.1,
    "kolen-pollack": 0.1,
    "direct-kolen-pollack": 0.025,
    "error-broadcast": 0.025,
    "feedback-alignment": 0.025,
    "direct-feedback-alignment": 0.025,
}
"""The learning rate of each rule.

Weight perturbation has none: with half a million weights its estimate of the gradient is so noisy
that it diverges at all rates that were tried.
"""


def recipe(row: str, rate: float) -> Recipe:
    """How a row's network is trained."""
    rule, options = FREED.get(row, (row, {}))
    return Recipe(
        rule,
        "mnist",
        options,
        hidden=(500, 500),
        learning_rate=rate,
        epochs=20,
        milestones=(12, 18),
        preprocessing="centre",
    )


def _cells() -> dict[str, Cell]:
    cells = {f"mlp-mnist/{row}": Cell(recipe(row, rate)) for row, rate in CHOSEN.items()}
    for row in (*RULES, *FREED):
        cells |= trials(f"rates/{row}", partial(recipe, row), RATES, epochs=4, milestones=(3,))
    return cells


EXPERIMENT = Experiment(
    "unbound_rules",
    "Two hidden layers on MNIST by rules of every family, all treated alike",
    "https://arxiv.org/abs/2201.11665",
    _cells(),
)
