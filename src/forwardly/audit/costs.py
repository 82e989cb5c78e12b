"""What a training step costs, counted while it runs: products, memory, feedback."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from typing import Any, cast

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
        peak_bytes: most bytes alive at one time that the step made: activities, signals, masks;
            without the updates that it returns.
        feedback_parameters: numbers in feedback matrices.
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
        for _ in step.activities(step.prepare(x)):
            pass
    names = {name for name, _ in rule.model.named_buffers(prefix="model")}
    feedback = sum(
        buffer.numel()
        for name, buffer in rule.named_buffers()
        if name not in names and buffer.is_floating_point() and not _is_factor(name, rule)
    )
    return Costs(
        macs,
        forward.get_total_flops() // 2,
        peak_bytes(lambda: list(rule(x, target).updates.values())),
        feedback,
    )


def checkpointed_backprop(rule: Rule, x: Tensor, target: Tensor) -> tuple[int, int]:
    """The least memory that backprop needs with activation checkpointing, and its MACs.

    The same model and loss, by torch's own backward pass, the stages in the number of segments that
    needs the least memory.

    Returns:
        (peak bytes, MACs), as ``Costs`` counts them.
    """
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
    """The most bytes alive at one time of all storages made by ``step``, but those it returns."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked through after every operation
    try:
        with _Storages() as storages:
            results = step()
    finally:
        gc.unfreeze()
    kept = {storages.number(result) for result in results}
    changes = [size for key, size in storages.events if key not in kept]
    del results
    return max(accumulate(changes), default=0)


class _Storages(TorchDispatchMode):
    """Notes when a storage is made and when it is freed, as (its number, ± bytes)."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.events: list[tuple[int, int]] = []
        self._made = 0
        self._living: dict[int, int] = {}  # identity, which the next one may have again, → number

    def number(self, tensor: Tensor) -> int | None:
        """That of a tensor's storage; None if it was there before."""
        return self._living.get(id(tensor.untyped_storage()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tree_leaves((args, kwargs))
        given = [one.untyped_storage() for one in inputs if isinstance(one, Tensor)]
        known = {id(storage) for storage in given}
        del inputs
        result = func(*args, **(kwargs or {}))
        gc.collect()  # what only refers to itself is not alive
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = id(storage)  # lives as long as the storage does
            if key in self._living or key in known:
                continue
            self._made += 1
            self._living[key] = self._made
            self.events.append((self._made, storage.nbytes()))
            weakref.finalize(storage, self._free, key, self._made, storage.nbytes())
        return result

    def _free(self, key: int, number: int, size: int) -> None:
        if self._living.get(key) == number:
            del self._living[key]
        self.events.append((number, -size))


def _blocks(rule: Rule) -> list[nn.Module]:
    """The model's modules, from one synapse to the next."""
    blocks: list[list[nn.Module]] = [[]]
    for module in rule.model.modules():
        if isinstance(module, nn.Sequential):
            continue
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and blocks[-1]:
            blocks.append([])
        blocks[-1].append(module)
    return [nn.Sequential(*block) for block in blocks]


def _is_factor(name: str, rule: Rule) -> bool:
    """F_1 … F_L are counted as F is not, where F is their product."""
    return name == "F" and "F_1" in dict(rule.named_buffers())
