"""Which of the models that are traced are chains after all.

``F.relu(self.fc(x))`` is what ``nn.Sequential(fc, nn.ReLU())`` is, and takes all of its ways.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from forwardly.network.graph import Operation, Value, name_of
from forwardly.network.kinds import BATCH_NORMS, SUPPORTED, SYNAPSES
from forwardly.network.operations import Borrowed
from forwardly.network.stage import Part, Stage
from forwardly.network.trace import SAMPLES


def chain_of(
    operations: list[Operation], output: int, examples: list[tuple[Any, Any]]
) -> list[Part] | None:
    """The modules of a chain, in order; None if the operations are none.

    Args:
        operations: those that the output needs, in order.
        output: number of the output.
        examples: of every value.
    """
    parts: list[Part] = []
    last = 0
    for op in operations:
        if not isinstance(examples[op.number][0], Tensor):
            continue  # a shape: of use only to what is recognised as a flattening below
        part = _part(op, last, examples)
        if part is None:
            return None
        parts.append(part)
        last = op.number
    weights = [n for p in parts if isinstance(p.module, SYNAPSES) for _, n in p.parameters]
    if len({*weights}) < len(weights):
        return None
    once = {part.module for part in parts if part.call == 0}
    again = [part for part in parts if part.call > 0]
    if len(once) + len(again) != len(parts) or last != output:
        return None
    if any(isinstance(part.module, (*SYNAPSES, *BATCH_NORMS)) for part in again):
        return None
    return parts


def _part(op: Operation, last: int, examples: list[tuple[Any, Any]]) -> Part | None:
    call = op.call
    if isinstance(call, Stage):
        call = call.part
        if not isinstance(call.module, SYNAPSES) or isinstance(call.module, Borrowed):
            return None
    if op.arguments[:1] != (Value(last),):
        return None
    if isinstance(call, Part):
        alone = len(op.arguments) == 1 and not op.options
        return call if alone and isinstance(call.module, SUPPORTED) else None
    name = name_of(call)
    if name in {"flatten", "view", "reshape"}:
        return Part(f"{name} {op.number}", nn.Flatten()) if _flattens(op, last, examples) else None
    return None


def _flattens(op: Operation, last: int, examples: list[tuple[Any, Any]]) -> bool:
    """Whether it makes one dimension of all but the first, which counts samples."""
    return all(
        before.dim() > 1 and before.shape[0] == n and after.shape == (n, before.numel() // n)
        for before, after, n in zip(examples[last], examples[op.number], SAMPLES, strict=True)
    )
