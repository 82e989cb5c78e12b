"""Train PyTorch networks with forward passes only: PEPITA and the rules it is compared with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forwardly import data, feedback, metrics, testing
from forwardly.audit import AuditReport, audit
from forwardly.data import Dataset, Split
from forwardly.export import Exported, export
from forwardly.network import Network
from forwardly.network.normalisation import Normalise
from forwardly.rule import Credit, Paper, Rule
from forwardly.rules import (
    DRTP,
    FOTON,
    PEPITA,
    RULES,
    AdaptiveFeedbackAlignment,
    Backprop,
    BatchSignSymmetry,
    DirectFeedbackAlignment,
    DirectKolenPollack,
    ErrorBroadcast,
    FeedbackAlignment,
    FixedSignSymmetry,
    ForwardForward,
    HebbianPEPITA,
    KolenPollack,
    LocalErrors,
    MemPEPITA,
    MonoForward,
    NodePerturbation,
    ReadoutOnly,
    SignPEPITA,
    TimeLocalPEPITA,
    UniformSignSymmetry,
    WeightPerturbation,
)
from forwardly.saving import load, save
from forwardly.training import Fit, evaluate, fit, fit_seeds, loggers
from forwardly.training.local_sgd import LocalSGD

if TYPE_CHECKING:
    from forwardly import distributed, sklearn
    from forwardly.fast.cpu_epochs.compiled import CompiledTraining

__version__ = "0.1.0"

__all__ = [
    "DRTP",
    "FOTON",
    "PEPITA",
    "RULES",
    "AdaptiveFeedbackAlignment",
    "AuditReport",
    "Backprop",
    "BatchSignSymmetry",
    "CompiledTraining",
    "Credit",
    "Dataset",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "ErrorBroadcast",
    "Exported",
    "FeedbackAlignment",
    "Fit",
    "FixedSignSymmetry",
    "ForwardForward",
    "HebbianPEPITA",
    "KolenPollack",
    "LocalErrors",
    "LocalSGD",
    "MemPEPITA",
    "MonoForward",
    "Network",
    "NodePerturbation",
    "Normalise",
    "Paper",
    "ReadoutOnly",
    "Rule",
    "SignPEPITA",
    "Split",
    "TimeLocalPEPITA",
    "UniformSignSymmetry",
    "WeightPerturbation",
    "audit",
    "data",
    "distributed",
    "evaluate",
    "export",
    "feedback",
    "fit",
    "fit_seeds",
    "load",
    "loggers",
    "metrics",
    "save",
    "sklearn",
    "testing",
]


def __getattr__(name: str) -> Any:
    """What is slow to import, when it is first asked for: numba, scikit-learn,
    torch's collectives."""
    if name == "CompiledTraining":
        from forwardly.fast.cpu_epochs.compiled import CompiledTraining

        return CompiledTraining
    if name in ("distributed", "sklearn"):
        return import_module(f"forwardly.{name}")
    raise AttributeError(f"module 'forwardly' has no attribute {name!r}")
