"""PEPITA on models that are no chains, against loops over single samples in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from graphs import Recurrent
from reference import graphs as reference


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 5, bias=False)
        self.third = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = h + torch.relu(self.second(h))
        h += torch.relu(self.third(h))
        return self.head(h)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.q, self.k, self.v = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.out = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.embed(x)
        s = torch.softmax(self.q(u) @ self.k(u).transpose(1, 2) / 2, dim=-1)
        return self.head((u + self.out(s @ self.v(u))).mean(1))


def pepita_equals(
    kind: Callable[..., fw.Rule],
    make: type[nn.Module],
    run: Callable[..., reference.Pass],
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    model = make().double()
    d = int(np.prod(shape))
    rule = kind(
        model,
        nn.CrossEntropyLoss(),
        projection=torch.rand(d, 3, generator=torch.Generator().manual_seed(1)) - 0.5,
        input_shape=shape,
    )
    x, target = torch.randn(4, *shape, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    found = rule(x, target).updates
    P = {name: p.detach().numpy() for name, p in model.named_parameters()}
    F = rule.get_buffer("F").numpy()
    expected = reference.pepita(run, P, F, x.numpy(), target.tolist())
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        assert np.abs(update).max() > 1e-6
        np.testing.assert_allclose(found[name], update, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "run", "shape"),
    [
        (Residual, reference.residual, (6,)),
        (Recurrent, reference.recurrent, (4, 3)),
        (Attention, reference.attention, (5, 3)),
    ],
    ids=["residual", "recurrent", "attention"],
)
def test_pepita(
    make: type[nn.Module], run: Callable[..., reference.Pass], shape: tuple[int, ...]
) -> None:
    pepita_equals(fw.PEPITA, make, run, shape)
