"""The one door to the fast paths: which engine takes a training step, or why only a slower one.

    whole_step   PEPITA with one hidden layer on the CPU, compiled as a whole by numba
    cpu_step     as algebra, with dropout masks and the steps of large weights compiled
    cuda_graph   as algebra, captured as a CUDA graph, weights moved by a kernel
    algebra      any rule on any device, by quicker operations of torch's, updates applied in place
    readable     the rule as it is written, for models with hooks or forward methods of their own

Whole epochs of small networks are compiled too: ``why_no_epochs``.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from forwardly.fast.algebra import ASSIGN
from forwardly.fast.algebra.engine import Algebra, Precision
from forwardly.fast.cpu_step.engine import CompiledParts
from forwardly.fast.cpu_step.whole_step import WholeStep
from forwardly.fast.cuda.engine import Graphs
from forwardly.fast.engine import Engine, Readable
from forwardly.fast.sgd import Trained
from forwardly.rule import Rule


class Path(NamedTuple):
    """Which engine takes steps; as text its name, and why no quicker one does.

    Attributes:
        engine: its name.
        why_not: of each quicker engine, why it does not; and of a kernel that it does without.
    """

    engine: str
    why_not: dict[str, str]

    def __str__(self) -> str:
        """Name and reasons."""
        reasons = "; ".join(f"not {name}: {why}" for name, why in self.why_not.items())
        return f"{self.engine} ({reasons})" if reasons else self.engine


class Engines:
    """Those that may take a rule's steps, the quickest first.

    Attributes:
        graphs: the one that launches graphs; None where only the readable one may take steps.

    Args:
        rule: what trains.
        fast: whether any but the readable one may.
        precision: see ``LocalSGD``.

    Raises:
        ValueError: if there is no engine of that precision for the rule.
    """

    def __init__(self, rule: Rule, *, fast: bool, precision: Precision) -> None:
        if precision == "bf16":
            _check_bfloat16(rule, fast)
        self._precision = precision
        self._readable = Readable(rule)
        self.graphs: Graphs | None = None
        self._quicker: list[Engine] = []
        if fast and precision == "full":
            self._quicker.append(WholeStep(rule))
        if fast:
            self.graphs = Graphs(rule, precision)
            self._quicker += CompiledParts(rule, precision), self.graphs, Algebra(rule, precision)

    def find(self, x: Tensor, target: Tensor, trained: Trained) -> tuple[Engine, Path]:
        """The quickest engine that can take this step."""
        if self._readable.rule.parallel is not None:
            if self._precision == "bf16":
                raise ValueError(
                    'precision="bf16" is a fast path, and a rule whose batches are shared out over '
                    "processes takes none: leave it out"
                )
            why = "batches are shared out over processes"
            return self._readable, Path(
                self._readable.name, dict.fromkeys((engine.name for engine in self._quicker), why)
            )
        why_not: dict[str, str] = {}
        for engine in self._quicker:
            why = engine.why_not(x, target, trained)
            if not why:
                return engine, Path(engine.name, why_not | engine.without())
            why_not[engine.name] = why
        return self._readable, Path(self._readable.name, why_not)

    def prepare(self, trained: Trained) -> None:
        """Have compiled what steps need: some seconds, once a machine, as it is cached."""
        if self._readable.rule.parallel is not None:
            return
        for engine in self._quicker:
            engine.prepare(trained)


def why_no_epochs(rule: Rule) -> str:
    """Why ``CompiledTraining`` cannot train a rule's network; empty if it can. Loads numba."""
    from forwardly.fast.cpu_epochs.compiled import why_not_compiled

    return why_not_compiled(rule)


def _check_bfloat16(rule: Rule, fast: bool) -> None:
    if not fast:
        raise ValueError('precision="bf16" is a fast path; given fast=False')
    if rule.uses_autograd:
        raise ValueError("bf16 is for rules that need no graph, as pepita; use float32")
    assign = ASSIGN.get(type(rule))
    if rule.compares_passes and not (assign and assign.weighs_differences):
        raise ValueError(
            f"{type(rule).__name__} compares two passes, and rounded to bfloat16 one by one "
            'they differ by their rounding; "bf16" is for PEPITA and rules of one pass'
        )
