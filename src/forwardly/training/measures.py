"""What may be measured after each epoch, by name; see ``fit``. Each looks at one fixed batch.

norms       length of each parameter's update                       norm/PARAMETER
alignment   cosine of each update with backprop's                   alignment/PARAMETER
angles      between weights and feedback, degrees; where there is   angle/F, angle/SYNAPSE
"""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from forwardly.metrics import feedback_angle, layer_angles, update_alignment
from forwardly.rule import Rule
from forwardly.training.run import Measure


def norms(rule: Rule, x: Tensor, target: Tensor) -> dict[str, float]:
    """The length of each parameter's update."""
    updates = rule(x, target).updates
    return {f"norm/{name}": float(update.norm()) for name, update in updates.items()}


def alignment(rule: Rule, x: Tensor, target: Tensor) -> dict[str, float]:
    """The cosine of each parameter's update with backprop's."""
    cosines = update_alignment(rule, x, target)
    return {f"alignment/{name}": value for name, value in cosines.items()}


def angles(rule: Rule, x: Tensor, target: Tensor) -> dict[str, float]:  # noqa: ARG001
    """Angles between weights and feedback matrices, for rules and layers that have them."""
    measured: dict[str, float] = {}
    with suppress(TypeError):  # no F, or a convolution
        measured["angle/F"] = feedback_angle(rule)
    with suppress(TypeError):  # no feedback matrix a layer
        measured |= {f"angle/{name}": value for name, value in layer_angles(rule).items()}
    return measured


MEASURES: dict[str, Measure] = {"norms": norms, "alignment": alignment, "angles": angles}
