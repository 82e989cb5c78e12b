"""PEPITA beyond the papers' accuracy on CIFAR-10; see ``unbound``. Images are flipped."""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell
from forwardly.experiments.published.unbound import recipe, unbound

CHOSEN = {
    "pepita": 0.02,
    "adaptive-feedback-alignment": 0.02,
    "backprop": 0.02,
    "feedback-alignment": 0.01,
    "readout-only": 0.005,
}
"""The learning rate of each rule.

Direct feedback alignment is not among them: with one hidden layer, and the same B, it is feedback
alignment, trial by trial.
"""

_UNBOUND = unbound(
    "cifar10",
    "CIFAR-10 beyond the papers' accuracy, all rules treated alike",
    CHOSEN,
    ("flips", {"flip": True}),
)
_MODULATED = replace(
    recipe("cifar10", "pepita", 0.01), options={"projection": 0.2}, flip=True, dropout=0.0
)
EXPERIMENT = replace(
    _UNBOUND,
    cells={
        **_UNBOUND.cells,
        "fc-cifar10-flips/pepita-modulated": Cell(
            _MODULATED, note="the modulated presynaptic term with F 0.2"
        ),
    },
)
