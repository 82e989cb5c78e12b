"""PEPITA beyond the papers' accuracy on CIFAR-10, beside other rules that are treated alike.

One hidden layer of 1024 rectifiers without biases, as in ``dellaferrera2022_table1``, but with
centred inputs, and for PEPITA the clean presynaptic term and a longer F, which
docs/self-amplification.md explains.

Settings. Batches of 64, momentum 0.9, learning rate divided by ten after epochs 60 and 90 of 100.
Every rule has the learning rate that suits it, of the same five, chosen on the validation images of
a seed that no result is of, in 15 epochs (cells "rates/…").
"""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell, Experiment
from forwardly.experiments.recipe import Recipe

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
_OPTIONS = {
    "pepita": {"presynaptic": "clean", "projection": 0.4},
    "adaptive-feedback-alignment": {"projection": 0.4},
    "backprop": {},
    "feedback-alignment": {},
    "direct-feedback-alignment": {},
    "readout-only": {},
}


def _recipe(rule: str, rate: float) -> Recipe:
    return Recipe(
        rule,
        "cifar10",
        _OPTIONS[rule],
        dropout=0.3,
        learning_rate=rate,
        epochs=100,
        milestones=(60, 90),
        preprocessing="centre",
    )


def _trials() -> dict[str, Cell]:
    return {
        f"rates/{rule}-{rate:g}": Cell(replace(_recipe(rule, rate), epochs=15, milestones=(9, 13)))
        for rule in _OPTIONS
        for rate in RATES
    }


EXPERIMENT = Experiment(
    name="unbound_cifar10",
    title="CIFAR-10 beyond the papers' accuracy, all rules treated alike",
    url="https://arxiv.org/abs/2201.11665",
    cells=_trials(),
)
