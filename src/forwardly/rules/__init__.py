"""The rules: one file, one rule, one paper."""

from __future__ import annotations

from forwardly.rule import Rule
from forwardly.rules.backprop import Backprop
from forwardly.rules.pepita import PEPITA
from forwardly.rules.readout_only import ReadoutOnly

RULES: dict[str, type[Rule]] = {
    "backprop": Backprop,
    "pepita": PEPITA,
    "readout-only": ReadoutOnly,
}
"""Every rule by its name on the command line, sorted."""

__all__ = ["PEPITA", "RULES", "Backprop", "ReadoutOnly"]
