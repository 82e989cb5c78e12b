"""Train PyTorch networks with forward passes only: PEPITA and the rules it is compared with."""

from forwardly import data, feedback, metrics, testing
from forwardly.audit import AuditReport, audit
from forwardly.local_sgd import LocalSGD
from forwardly.network import Network
from forwardly.normalisation import Normalise
from forwardly.rule import Credit, Paper, Rule
from forwardly.rules import (
    DRTP,
    PEPITA,
    RULES,
    AdaptiveFeedbackAlignment,
    Backprop,
    BatchSignSymmetry,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FixedSignSymmetry,
    ForwardForward,
    HebbianPEPITA,
    MemPEPITA,
    ReadoutOnly,
    SignPEPITA,
    TimeLocalPEPITA,
    UniformSignSymmetry,
)
from forwardly.training import evaluate, fit

__version__ = "0.1.0"

__all__ = [
    "DRTP",
    "PEPITA",
    "RULES",
    "AdaptiveFeedbackAlignment",
    "AuditReport",
    "Backprop",
    "BatchSignSymmetry",
    "Credit",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "FixedSignSymmetry",
    "ForwardForward",
    "HebbianPEPITA",
    "LocalSGD",
    "MemPEPITA",
    "Network",
    "Normalise",
    "Paper",
    "ReadoutOnly",
    "Rule",
    "SignPEPITA",
    "TimeLocalPEPITA",
    "UniformSignSymmetry",
    "audit",
    "data",
    "evaluate",
    "feedback",
    "fit",
    "metrics",
    "testing",
]
