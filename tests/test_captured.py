"""Captured steps end where those end that are not, whatever happens between them.

CUDA's graphs are played by the processor, see ``graphs``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from graphs import Graphs, graphs
from test_laws import FACTORIES
from test_local_sgd import DESCENTS

__all__ = ["graphs"]

CLASSES, SAMPLES, PIXELS = 3, 8, (2, 4, 4)


def dense() -> nn.Sequential:
    layers = nn.Flatten(), nn.Linear(32, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 5), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(5, CLASSES))


def convolutional() -> nn.Sequential:
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, CLASSES))


def batches(count: int, samples: int = SAMPLES, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(samples, *PIXELS, dtype=torch.float64, generator=numbers),
            torch.randint(CLASSES, (samples,), generator=numbers),
        )
        for _ in range(count)
    ]


def made(
    name: str = "pepita", model: Callable[[], nn.Sequential] = dense, **descent: Any
) -> tuple[fw.Rule, fw.LocalSGD]:
    """A rule of a name; the same one for the same arguments."""
    torch.manual_seed(0)
    kind: Any = FACTORIES[name]
    network = model().double()
    own = torch.Generator().manual_seed(1)
    loss = nn.CrossEntropyLoss()
    rule = kind(network, loss, input_shape=PIXELS, generator=own)
    lr = 0.1
    return rule, fw.LocalSGD(rule, lr, **{"momentum": 0.9, **descent})


def state(rule: fw.Rule, optimizer: fw.LocalSGD) -> list[Tensor]:
    momenta = [optimizer.state[p].get("momentum_buffer") for p in rule.parameters()]
    return [v.clone() for v in (*rule.state_dict().values(), *momenta) if v is not None]


def eager(optimizer: fw.LocalSGD) -> fw.LocalSGD:
    """The same optimizer without graphs."""
    optimizer._engines.graphs.failed = "not here"
    return optimizer


def both(
    graphs: Graphs,
    change: Callable[[int, fw.Rule, fw.LocalSGD], Any] = lambda *_: None,
    steps: list[tuple[Tensor, Tensor]] | None = None,
    **options: Any,
) -> None:
    """Train with and without graphs; before each step there may be a change. Ends are equal."""
    steps = batches(8) if steps is None else steps
    ends = list[Any]()
    for captures in (False, True):
        rule, optimizer = made(**options)
        if not captures:
            eager(optimizer)
        credits = list[Any]()
        for number, (x, target) in enumerate(steps):
            change(number, rule, optimizer)
            if not captures:  # a state that was loaded has new engines
                eager(optimizer)
            credits.append(optimizer.step(x, target)[1:])
        assert str(optimizer.path).startswith("cuda_graph" if captures else "algebra")
        ends.append([credits, state(rule, optimizer)])
    assert_close(*ends, rtol=1e-12, atol=1e-14)
    assert graphs.replays


@pytest.mark.parametrize("model", [dense, convolutional])
@pytest.mark.parametrize("name", fw.RULES)
def test_every_rule(name: str, model: Any, graphs: Graphs) -> None:
    both(graphs, name=name, model=model)
    assert len(graphs) == 1
    assert graphs.replays == 8 - 3  # the first has no momentum yet, two more set libraries up


@pytest.mark.parametrize("descent", [*DESCENTS, {"momentum": 0.5, "dampening": 0.2}], ids=str)
@pytest.mark.parametrize("model", [dense, convolutional])
def test_every_descent(descent: dict[str, Any], model: Any, graphs: Graphs) -> None:
    dampening = descent.get("dampening", 0.0)
    settings = {n: v for n, v in descent.items() if n != "dampening"}

    def dampened(_: int, rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
        optimizer.param_groups[0] |= {"dampening": dampening, "maximize": dampening > 0}

    both(graphs, dampened, model=model, **{"momentum": 0.0, **settings})
