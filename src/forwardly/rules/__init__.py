"""The rules: one file, one rule, one paper.

May import ``feedback`` and what is below it.
"""

from __future__ import annotations

from forwardly.rule import Rule
from forwardly.rules.adaptive_feedback_alignment import AdaptiveFeedbackAlignment
from forwardly.rules.backprop import Backprop
from forwardly.rules.direct_feedback_alignment import DirectFeedbackAlignment
from forwardly.rules.direct_kolen_pollack import DirectKolenPollack
from forwardly.rules.drtp import DRTP
from forwardly.rules.error_broadcast import ErrorBroadcast
from forwardly.rules.feedback_alignment import FeedbackAlignment
from forwardly.rules.forward_forward import ForwardForward
from forwardly.rules.foton import FOTON
from forwardly.rules.hebbian_pepita import HebbianPEPITA
from forwardly.rules.kolen_pollack import KolenPollack
from forwardly.rules.local_errors import LocalErrors
from forwardly.rules.mem_pepita import MemPEPITA
from forwardly.rules.mono_forward import MonoForward
from forwardly.rules.node_perturbation import NodePerturbation
from forwardly.rules.pepita import PEPITA
from forwardly.rules.readout_only import ReadoutOnly
from forwardly.rules.sign_pepita import SignPEPITA
from forwardly.rules.sign_symmetry import BatchSignSymmetry, FixedSignSymmetry, UniformSignSymmetry
from forwardly.rules.time_local_pepita import TimeLocalPEPITA
from forwardly.rules.weight_perturbation import WeightPerturbation

RULES: dict[str, type[Rule]] = {
    "adaptive-feedback-alignment": AdaptiveFeedbackAlignment,
    "backprop": Backprop,
    "direct-feedback-alignment": DirectFeedbackAlignment,
    "direct-kolen-pollack": DirectKolenPollack,
    "drtp": DRTP,
    "error-broadcast": ErrorBroadcast,
    "feedback-alignment": FeedbackAlignment,
    "forward-forward": ForwardForward,
    "foton": FOTON,
    "hebbian-pepita": HebbianPEPITA,
    "kolen-pollack": KolenPollack,
    "local-errors": LocalErrors,
    "mem-pepita": MemPEPITA,
    "mono-forward": MonoForward,
    "node-perturbation": NodePerturbation,
    "pepita": PEPITA,
    "readout-only": ReadoutOnly,
    "sign-pepita": SignPEPITA,
    "sign-symmetry-batch": BatchSignSymmetry,
    "sign-symmetry-fixed": FixedSignSymmetry,
    "sign-symmetry-uniform": UniformSignSymmetry,
    "time-local-pepita": TimeLocalPEPITA,
    "weight-perturbation": WeightPerturbation,
}
"""Every rule by its name on the command line, sorted."""

__all__ = [
    "DRTP",
    "FOTON",
    "PEPITA",
    "RULES",
    "AdaptiveFeedbackAlignment",
    "Backprop",
    "BatchSignSymmetry",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "ErrorBroadcast",
    "FeedbackAlignment",
    "FixedSignSymmetry",
    "ForwardForward",
    "HebbianPEPITA",
    "KolenPollack",
    "LocalErrors",
    "MemPEPITA",
    "MonoForward",
    "NodePerturbation",
    "ReadoutOnly",
    "SignPEPITA",
    "TimeLocalPEPITA",
    "UniformSignSymmetry",
    "WeightPerturbation",
]
