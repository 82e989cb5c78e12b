"""Runs at once of models that are no chains are the single runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.errors import UsageError
from graphs import ANY_MODEL, Attention, ConvBlock, Dense, Recurrent, ResidualMLP, Scaled, UNet

Make = Callable[[], nn.Module]
RATES = 0.05, 0.1, 0.02


class Encoder(nn.Module):
    """Torch's own, with dropout in its attention and in what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.3, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


MODELS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "batch norms that learn": (partial(ConvBlock, nn.BatchNorm2d), (2, 4, 4)),
    "attention": (Attention, (4, 3)),
    "encoder": (Encoder, (4, 3)),
    "dropout called twice": (Dense, (5,)),
    "recurrent": (Recurrent, (4, 3)),
    "scales and positions": (Scaled, (1, 3, 3)),
    "u-net": (UNet, (1, 4, 4)),
}


def _built(
    name: str, make: Make, shape: tuple[int, ...]
) -> tuple[list[fw.Rule], list[fw.LocalSGD]]:
    rules: list[fw.Rule] = []
    for seed in range(3):
        torch.manual_seed(seed)
        given = {"learning_rate": 0.1} if fw.RULES[name].needs_learning_rate else {}
        rule = fw.RULES[name](
            make().double(),
            nn.CrossEntropyLoss(),
            input_shape=shape,
            generator=torch.Generator().manual_seed(seed),
            **given,
        )
        rules.append(rule)
    rates = (0.1, 0.1, 0.1) if fw.RULES[name].needs_learning_rate else RATES
    return rules, [fw.LocalSGD(r, lr, momentum=0.9) for r, lr in zip(rules, rates, strict=True)]


def _data(shape: tuple[int, ...]) -> fw.Dataset:
    x = torch.rand(26, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return fw.Dataset.from_arrays(x, torch.arange(26) % 3, validation=6)


def check(name: str, make: Make, shape: tuple[int, ...]) -> None:
    """Two epochs, with a last batch of four samples."""
    data = _data(shape)
    alone, one_by_one = _built(name, make, shape)
    expected = [
        fw.fit(rule, data, optimizer, epochs=2, batch=8, seed=seed)
        for seed, (rule, optimizer) in enumerate(zip(alone, one_by_one, strict=True))
    ]
    before = [rule.state_dict() for rule in _built(name, make, shape)[0]]
    rules, optimizers = _built(name, make, shape)
    found = fw.fit_seeds(rules, data, optimizers, epochs=2, batch=8, seeds=range(3))
    for rule, single, first in zip(rules, alone, before, strict=True):
        assert rule.network.graph is not None
        state = rule.state_dict()
        assert_close(state, single.state_dict())
        assert any(not torch.equal(state[n], value) for n, value in first.items() if "model" in n)
    for ours, theirs in zip(found, expected, strict=True):
        for row, expected_row in zip(ours.rows, theirs.rows, strict=True):
            figures = {name: value for name, value in expected_row.items() if "second" not in name}
            assert {n: row[n] for n in figures} == pytest.approx(figures, rel=1e-8)


@pytest.mark.parametrize("name", ANY_MODEL)
def test_all_rules_on_a_residual_network(name: str) -> None:
    check(name, ResidualMLP, (6,))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["pepita", "feedback-alignment", "adaptive-feedback-alignment"])
def test_networks_of_all_kinds(name: str, model: str) -> None:
    check(name, *MODELS[model])


class Factor(nn.Module):
    """A number, and a tensor that is no buffer, within the forward pass."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.factor, self.shift = factor, torch.full((3,), shift)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x)) * self.factor
        return self.c(h + torch.tanh(self.b(h) + self.shift))


def _fit(models: list[nn.Module]) -> None:
    rules = [fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(4,)) for model in models]
    optimizers = [fw.LocalSGD(rule, 0.1) for rule in rules]
    data = fw.Dataset.from_arrays(torch.rand(9, 4), torch.arange(9) % 2)
    fw.fit_seeds(rules, data, optimizers, epochs=1, seeds=range(len(rules)))


def test_what_is_a_constant_of_the_pass_must_be_alike() -> None:
    _fit([Factor(1.5, 0.5), Factor(1.5, 0.5)])
    with pytest.raises(UsageError, match=r"alike.*operation \d+.*mul.*1\.5.* and .*mul.*2\.5"):
        _fit([Factor(1.5, 0.5), Factor(2.5, 0.5)])
    with pytest.raises(UsageError, match=r"operation \d+: a constant of \[0\.5.* and .*\[0\.75"):
        _fit([Factor(1.5, 0.5), Factor(1.5, 0.75)])


def test_hooks_would_be_those_of_one_run() -> None:
    first, second = Factor(1.5, 0.5), Factor(1.5, 0.5)
    second.b.register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match="hooks, or methods of its own"):
        _fit([first, second])
