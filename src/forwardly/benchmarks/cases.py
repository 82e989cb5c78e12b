"""The cases: which two are compared, and what the ratio must be and is hoped to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from forwardly.benchmarks import steps
from forwardly.fast import processors
from forwardly.fast.algebra.products import has_bfloat16
from forwardly.fast.compiling import no_numba


@dataclass(frozen=True)
class Case:
    """A comparison.

    Attributes:
        name: on the command line.
        what: in a line.
        over: the subject, or group of subjects, whose time is divided,
        under: by the time of this one.
        must: the goal.
        hope: a better one.
        lower: whether a smaller ratio is better.
        make: builds the subjects.
        of: whether times are compared, or the most bytes of activities alive at a time.
        call: what one call of a subject does.
        why_not: says why this machine cannot run it, if it cannot.
    """

    name: str
    what: str
    over: str
    under: str
    must: float
    hope: float | None
    lower: bool
    make: Callable[[], steps.Subjects]
    of: Literal["time", "bytes"] = "time"
    call: str = "a step"
    why_not: Callable[[], str | None] = lambda: None


def _processors() -> int:
    return min(2, processors.count())


def _no_numba() -> str | None:
    return no_numba() or None


_CIFAR, _MNIST = (3072, 1024, 10), (784, 1024, 10)
_DEEP = (3072, 1024, 1024, 1024, 1024, 10)

CASES: tuple[Case, ...] = (
    Case(
        *("fc-cifar10", "PEPITA step / backprop step, 3072-1024-10, batch 64"),
        *("pepita", "backprop", 1.05, 0.85, True, lambda: steps.dense(_CIFAR, 64)),
    ),
    Case(
        *("fc-mnist", "PEPITA step / backprop step, 784-1024-10, batch 64"),
        *("pepita", "backprop", 1.05, 0.85, True, lambda: steps.dense(_MNIST, 64)),
    ),
    Case(
        *("fc-deep", "PEPITA step / backprop step, 3072-1024×4-10, batch 64"),
        *("pepita", "backprop", 1.0, 0.85, True, lambda: steps.dense(_DEEP, 64)),
    ),
    Case(
        *("conv", "PEPITA step / backprop step, 32@5×5 on 3×32×32, batch 50"),
        *("pepita", "backprop", 1.35, 1.0, True, steps.convolutional),
    ),
    Case(
        *("as-published", "PEPITA as published / ours, 3072-1024-10, batch 64"),
        *("as published", "pepita", 2.5, 4.0, False, lambda: steps.as_published(_CIFAR, 64)),
    ),
    Case(
        *("limit", "the two large products alone / PEPITA step, 3072-1024-10, batch 64"),
        *("products", "pepita", 0.55, 0.8, False, lambda: steps.limit(_CIFAR, 64)),
    ),
    Case(
        *("bf16", "PEPITA step with products in bfloat16 / in float32, 3072-1024-10, batch 64"),
        *("bf16", "float32", 0.8, 0.57, True, lambda: steps.precisions(_CIFAR, 64)),
        why_not=lambda: None if has_bfloat16() else "this processor has no bfloat16",
    ),
    Case(
        *("teacher-student", "the blog's loop in NumPy / ours, float64, MAE every epoch"),
        *("literal NumPy", "pepita", 2.5, 7.0, False, lambda: steps.teacher_student("float64")),
        call="100 epochs",
        why_not=_no_numba,
    ),
    Case(
        *("teacher-student-f32", "the blog's loop in NumPy (float64) / ours in float32"),
        *("literal NumPy", "pepita", 5.0, 12.0, False, lambda: steps.teacher_student("float32")),
        call="100 epochs",
        why_not=_no_numba,
    ),
    Case(
        *("online-small", "one sample a step, 16-8-1: the eager rule / compiled"),
        *("eager", "pepita", 50.0, None, False, lambda: steps.online((16, 8, 1), 100)),
        call="100 samples",
        why_not=_no_numba,
    ),
    Case(
        *("online-mnist", "one sample a step, 784-256-10: the eager rule / compiled"),
        *("eager", "pepita", 3.0, None, False, lambda: steps.online((784, 256, 10), 100)),
        call="100 samples",
        why_not=_no_numba,
    ),
    Case(
        *("seeds", "32 seeds of teacher–student, one after another / on two processors"),
        *("one after another", "together", 1.8, None, False),
        lambda: steps.seeds(32, _processors()),
        call="200 epochs of 32 networks",
        why_not=_no_numba,
    ),
    Case(
        *("mem-pepita", "MemPEPITA step / PEPITA step, 32 hidden layers of 512, batch 512"),
        *("mem-pepita", "pepita", 1.5, None, True, steps.deep),
    ),
    Case(
        *("mem-pepita-bytes", "bytes of activities of MemPEPITA / of backprop, the same network"),
        *("mem-pepita", "backprop", 0.15, None, True, steps.deep, "bytes"),
    ),
)
"""In the order in which they run."""
