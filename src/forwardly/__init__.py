"""Train PyTorch networks with forward passes only: PEPITA and the rules it is compared with."""

from forwardly import feedback
from forwardly.network import Network
from forwardly.rule import Credit, Paper, Rule
from forwardly.rules import PEPITA, RULES, Backprop, ReadoutOnly

__version__ = "0.1.0"

__all__ = [
    "PEPITA",
    "RULES",
    "Backprop",
    "Credit",
    "Network",
    "Paper",
    "ReadoutOnly",
    "Rule",
    "feedback",
]
