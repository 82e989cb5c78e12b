"""MemPEPITA holds the activities of two layers, however deep; others no more than backprop does."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import forwardly as fw
from forwardly.audit.costs import peak_bytes as audit_peak
from forwardly.rules import RULES

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


@pytest.mark.parametrize("rule", [fw.Backprop, fw.PEPITA])
def test_others_do_and_so_the_count_counts(rule: type[fw.Rule]) -> None:
    shallow, deep = (peak_bytes(rule, depth, False) for depth in (3, 30))
    assert deep - shallow >= 27 * SAMPLES * 64 * 4


ONE_LAYER = 64 * 64 * 4
"""Bytes of the activity of a layer of 64 units, of 64 samples, and of a weight."""


def peak_of_a_step(step: Any) -> float:
    """In layers' activities; a step ends with momenta in place."""
    step()

    def taken() -> list[torch.Tensor]:
        step()
        return []

    return audit_peak(taken) / ONE_LAYER


def of_backprop(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> float:
    """PyTorch's own, gradients there already."""
    optimizer, loss = torch.optim.SGD(model.parameters(), 0.01, 0.9), nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss(model(x), target).backward()
        optimizer.step()

    return peak_of_a_step(step)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(
    ("name", "most"),
    [
        *((name, 1.1) for name in ("pepita", "sign-pepita", "hebbian-pepita")),
        ("direct-feedback-alignment", 1.1),
        ("adaptive-feedback-alignment", 1.15),
        *((name, 0.3) for name in ("mem-pepita", "drtp", "readout-only", "local-errors")),
    ],
)
def test_local_sgd_needs_no_more_than_backprop(
    name: str, most: float, activation: type[nn.Module]
) -> None:
    """Of 32 hidden layers, all that a step makes: activities, signals, products, updates."""
    layers = [part for _ in range(32) for part in (nn.Linear(64, 64), activation())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    x, target = torch.rand(64, 64), torch.randint(10, (64,))
    backprops = of_backprop(model, x, target)
    assert 32 <= backprops < 36
    optimizer = fw.LocalSGD(RULES[name](model, nn.CrossEntropyLoss()), 0.01, 0.9)
    assert peak_of_a_step(lambda: optimizer.step(x, target)) <= most * backprops
