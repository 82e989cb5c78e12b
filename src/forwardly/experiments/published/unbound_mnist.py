"""PEPITA beyond the papers' accuracy on MNIST; see ``unbound``. Images are shifted by a pixel."""

from __future__ import annotations

from forwardly.experiments.published import unbound

RATES = (*unbound.RATES, 0.08, 0.16)
CHOSEN = {
    "pepita": 0.04,
    "adaptive-feedback-alignment": 0.04,
    "backprop": 0.04,
    "feedback-alignment": 0.04,
    "readout-only": 0.08,
}
"""The learning rate of each rule."""

EXPERIMENT = unbound.unbound(
    "mnist",
    "MNIST beyond the papers' accuracy, all rules treated alike",
    CHOSEN,
    ("shifts", {"shift": 1}),
    RATES,
)
