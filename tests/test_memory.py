"""MemPEPITA holds the activities of about two layers, however deep the network."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import forwardly as fw

SAMPLES = 173  # a size that no weight has


class Activities(TorchDispatchMode):
    """Counts the bytes of living storages that hold something of every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and len(tensor) == SAMPLES:
                storage = tensor.untyped_storage()
                key = storage.data_ptr()
                if key not in self.living:
                    self.living[key] = storage.nbytes()
                    weakref.finalize(storage, self.living.pop, key, None)
                self.peak = max(self.peak, sum(self.living.values()))
        return result


def peak_bytes(rule: type[fw.Rule], depth: int, dropout: bool) -> int:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
    made = rule(nn.Sequential(*layers, nn.Linear(64, 64)), nn.MSELoss())
    x, target = torch.randn(SAMPLES, 64), torch.randn(SAMPLES, 64)
    with torch.no_grad(), Activities() as count:
        made(x, target)
    return count.peak


@pytest.mark.parametrize("dropout", [False, True])
def test_mem_pepita_does_not_grow_with_depth(dropout: bool) -> None:
    shallow, deep = (peak_bytes(fw.MemPEPITA, depth, dropout) for depth in (3, 30))
    assert deep == shallow
    layer = SAMPLES * 64 * 4
    # error, input and perturbed input; of either pass what enters a layer and what it makes of it
    assert deep <= 16 * layer


def test_pepita_does_and_so_the_count_counts() -> None:
    shallow, deep = (peak_bytes(fw.PEPITA, depth, False) for depth in (3, 30))
    assert deep > 5 * shallow
