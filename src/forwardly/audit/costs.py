"""What a training step costs, counted while it runs: products, memory, feedback."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, count
from typing import Any, cast
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import (
    checkpoint_sequential,  # pyright: ignore[reportUnknownVariableType]
)
from torch.utils.flop_counter import FlopCounterMode

from forwardly.rule import Rule


@dataclass(frozen=True)
class Costs:
    """Of one call of a rule.

    Attributes:
        macs: multiply–accumulate operations of matrix products and convolutions.
        forward_macs: of the model's forward pass alone.
        peak_bytes: peak memory of what the step allocates (activities, signals, masks), without
            the updates that it returns.
        feedback_parameters: numbers in feedback matrices, and in what else the rule has to learn.
    """

    macs: int
    forward_macs: int
    peak_bytes: int
    feedback_parameters: int

    def as_data(self) -> dict[str, Any]:
        """Plain data, for audit.json."""
        return asdict(self)


def costs(rule: Rule, x: Tensor, target: Tensor, macs: int) -> Costs:
    """Count one call of ``rule(x, target)``, whose products are ``macs``; it changes nothing."""
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        step = rule.network.step(rule.noise)
        list(step.activities(step.prepare(x)))
    feedback = {name: b for name, b in rule.named_buffers() if not name.startswith("model.")}
    feedback |= rule.learned
    if "F_1" in feedback:  # F is the product of its factors, which are counted
        del feedback["F"]
    return Costs(
        macs,
        forward.get_total_flops() // 2,
        peak_bytes(lambda: list(rule(x, target).updates.values())),
        sum(b.numel() for b in feedback.values() if b.is_floating_point()),
    )


def checkpointed_backprop(rule: Rule, x: Tensor, target: Tensor) -> tuple[int, int]:
    """The least memory that backprop needs with activation checkpointing, and its MACs.

    The same model and loss, by torch's own backward pass, the stages in the number of segments that
    needs the least memory.

    Returns:
        (peak bytes, MACs), as ``Costs`` counts them.

    Raises:
        TypeError: if the model is no chain of layers, which could be cut between any two.
    """
    if rule.network.graph is not None:
        raise TypeError(
            f"{type(rule.model).__name__} is no chain of layers, and where to cut others is not "
            "known here: take torch.utils.checkpoint on its blocks"
        )
    parameters = [p for p in rule.model.parameters() if p.requires_grad]
    blocks = _blocks(rule)

    def step(segments: int) -> list[Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = cast(
                Tensor,
                checkpoint_sequential(  # pyright: ignore[reportUnknownMemberType]
                    blocks, segments, leaf, use_reentrant=False, preserve_rng_state=False
                ),
            )
            e = rule.error(output.detach(), target) / len(x)
            return list(torch.autograd.grad(output.flatten(1), parameters, e))

    used = {n: peak_bytes(partial(step, n)) for n in range(1, len(blocks) + 1)}
    best = min(used, key=used.__getitem__)
    with FlopCounterMode(display=False) as counter:
        step(best)
    return used[best], counter.get_total_flops() // 2


def peak_bytes(step: Callable[[], list[Tensor]]) -> int:
    """The peak memory of all storages that ``step`` allocates, but those that it returns."""
    gc.freeze()  # so that collecting after every operation does not scan what is there already
    try:
        with _Storages() as storages:
            results = step()
    finally:
        gc.unfreeze()
    returned = {storages.numbers.get(result.untyped_storage()) for result in results}
    changes = [size for number, size in storages.events if number not in returned]
    del results
    return max(accumulate(changes), default=0)


class _Storages(TorchDispatchMode):
    """Notes when a storage is made and when it is freed, as (its number, ± bytes)."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.events: list[tuple[int, int]] = []
        self.numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._made = count()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _storages((args, kwargs))
        result = func(*args, **(kwargs or {}))
        gc.collect()  # frees what is only in reference cycles
        for storage in _storages(result) - given:
            if storage not in self.numbers:
                number = self.numbers[storage] = next(self._made)
                self.events.append((number, storage.nbytes()))
                finalize(storage, self.events.append, (number, -storage.nbytes()))
        return result


def _storages(tree: Any) -> set[Any]:
    return {leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _blocks(rule: Rule) -> list[nn.Module]:
    """The model's modules, from one synapse to the next."""
    network = rule.network
    stages = [(stage.part, *stage.elementwise, *stage.reshaping) for stage in network.stages]
    blocks = [network.preparation, *stages] if network.preparation else stages
    return [nn.Sequential(*(part.module for part in block)) for block in blocks]
