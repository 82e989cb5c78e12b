"""What is exported in tests, and for the record of them: every rule's step of three networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from forwardly.rule import Rule
from forwardly.rules.plugins import RULES

Net = Callable[[], list[nn.Module]]
NETS: dict[str, tuple[Net, tuple[int, ...], Callable[[], nn.Module]]] = {
    "dense": (
        lambda: [
            *(nn.Dropout(0.1), nn.Linear(7, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh()),
            *(nn.Dropout(0.3), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)),
        ],
        (7,),
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    ),
    "convolution": (
        lambda: [
            *(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 2, groups=2, padding="same", bias=False), nn.SiLU()),
            *(nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(4, 3)),
        ],
        (2, 9, 8),
        nn.CrossEntropyLoss,
    ),
    "numbers": (
        lambda: [nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)],
        (2, 3),
        nn.MSELoss,
    ),
}


def made(name: str, net: str, **options: Any) -> Rule:
    layers, shape, loss = NETS[net]
    torch.manual_seed(3)
    model = nn.Sequential(*layers())
    if RULES[name].needs_learning_rate:
        options["learning_rate"] = 0.1
    numbers = torch.Generator().manual_seed(1)
    return RULES[name](model, loss(), input_shape=shape, generator=numbers, **options)


def batch(net: str, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    _, shape, loss = NETS[net]
    numbers = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=numbers)
    if loss is nn.MSELoss:
        return x, torch.randn(n, 2, generator=numbers)
    return x, torch.randint(3, (n,), generator=numbers)


def sgd(rule: Rule, **options: Any) -> torch.optim.SGD:
    given = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, **options}
    return torch.optim.SGD(rule.parameters(), **given)


def takes(name: str, net: str) -> bool:
    return not (RULES[name].teacher == "label" and net == "numbers")


CASES = [(name, net) for net in NETS for name in RULES if takes(name, net)]
