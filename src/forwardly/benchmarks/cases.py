"""The cases: which two are compared, and what the ratio must be and is hoped to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
        why_not: says why this machine cannot run it; empty if it can.
        tf32: whether a GPU's products of float32 round to TF32.
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
    why_not: Callable[[], str] = str
    tf32: bool = False


def _processors() -> int:
    return min(2, processors.count())


_CIFAR, _MNIST, _DEEP = (3072, 1024, 10), (784, 1024, 10), (3072, *(1024,) * 4, 10)


def _step(
    name: str, network: str, must: float, hope: float, make: Callable[[], steps.Subjects]
) -> Case:
    what = f"PEPITA step / backprop step, {network}"
    return Case(name, what, "pepita", "backprop", must, hope, True, make)


def _student(
    name: str, what: str, must: float, hope: float, dtype: Literal["float64", "float32"]
) -> Case:
    return Case(
        *(name, f"the blog's loop in NumPy{what}", "literal NumPy", "pepita", must, hope, False),
        lambda: steps.teacher_student(dtype),
        call="100 epochs",
        why_not=no_numba,
    )


def _online(name: str, sizes: tuple[int, ...], must: float) -> Case:
    what = f"one sample a step, {'-'.join(map(str, sizes))}: the eager rule / compiled"
    return Case(
        *(name, what, "eager", "pepita", must, None, False, lambda: steps.online(sizes, 100)),
        call="100 samples",
        why_not=no_numba,
    )


CASES: tuple[Case, ...] = (
    _step("fc-cifar10", "3072-1024-10, batch 64", 1.05, 0.85, partial(steps.dense, _CIFAR, 64)),
    _step("fc-mnist", "784-1024-10, batch 64", 1.05, 0.85, partial(steps.dense, _MNIST, 64)),
    _step("fc-deep", "3072-1024×4-10, batch 64", 1.0, 0.85, partial(steps.dense, _DEEP, 64)),
    _step("conv", "32@5×5 on 3×32×32, batch 50", 1.35, 1.0, steps.convolutional),
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
        why_not=lambda: "" if has_bfloat16() else "this processor has no bfloat16",
    ),
    Case(
        *("clean", "PEPITA step, presynaptic term clean / modulated, 3072-1024-10, batch 64"),
        *("clean", "modulated", 1.05, 1.0, True, lambda: steps.terms(_CIFAR, 64)),
    ),
    _student("teacher-student", " / ours, float64, MAE every epoch", 2.5, 7.0, "float64"),
    _student("teacher-student-f32", " (float64) / ours in float32", 5.0, 12.0, "float32"),
    _online("online-small", (16, 8, 1), 50.0),
    _online("online-mnist", (784, 256, 10), 3.0),
    Case(
        *("seeds", "32 seeds of teacher–student, one after another / on two processors"),
        *("one after another", "together", 1.8, None, False),
        lambda: steps.seeds(32, _processors()),
        call="200 epochs of 32 networks",
        why_not=no_numba,
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
