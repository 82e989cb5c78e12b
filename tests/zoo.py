"""Networks for the laws: small, odd-sized, in float64, one for each thing that a stage may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network with the shape of its inputs and a loss."""

    name: str
    layers: Callable[[], list[nn.Module]]
    input_shape: tuple[int, ...]
    outputs: int
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    per_sample: bool = True  # a sample's activity does not depend on the others'

    def model(self, seed: int = 0) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(*self.layers()).double()
            for norm in model.modules():
                if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                    assert norm.running_mean is not None
                    norm.running_mean.uniform_(-1, 1)
        return model

    def batch(self, n: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((n, *self.input_shape), generator=generator, dtype=torch.float64)
        if self.loss is nn.CrossEntropyLoss:
            return x, torch.randint(self.outputs, (n,), generator=generator)
        return x, torch.rand((n, self.outputs), generator=generator, dtype=torch.float64)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("one-layer", lambda: [nn.Linear(5, 3)], (5,), 3),
    Case(
        "dense",
        lambda: [
            nn.Linear(7, 5),
            nn.Tanh(),
            nn.Linear(5, 4, bias=False),
            nn.ReLU(),
            nn.Linear(4, 3),
        ],
        (7,),
        3,
    ),
    Case(
        "regression",
        lambda: [nn.Linear(6, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 2)],
        (6,),
        2,
        nn.MSELoss,
    ),
    Case(
        "probabilities",
        lambda: [nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)],
        (2, 3),
        2,
        nn.BCEWithLogitsLoss,
    ),
    Case(
        "activated-output",
        lambda: [nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 2), nn.Sigmoid()],
        (6,),
        2,
        nn.MSELoss,
    ),
    Case(
        "dropout",
        lambda: [
            *(nn.Dropout(0.2), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(0.5)),
            nn.Sequential(nn.Linear(8, 7), nn.Sequential(nn.Dropout(0.3), nn.ELU())),
            nn.Linear(7, 3),
        ],
        (9,),
        3,
    ),
    Case(
        "conv2d",
        lambda: [
            *(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, (1, 2), groups=2, bias=False), nn.Tanh(), nn.Dropout2d(0.3)),
            *(nn.Flatten(), nn.Linear(6 * 2 * 1, 3)),
        ],
        (2, 9, 8),
        3,
    ),
    Case(
        "conv2d-padding",
        lambda: [
            *(nn.Unflatten(1, (1, 6, 5)), nn.Conv2d(1, 3, (2, 3), padding="same"), nn.SiLU()),
            *(nn.Conv2d(3, 2, 3, padding=(2, 1), padding_mode="reflect"), nn.ReLU()),
            nn.Conv2d(2, 2, 2, padding=1, padding_mode="circular", dilation=(2, 1)),
            *(nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(8, 2)),
        ],
        (30,),
        2,
    ),
    Case(
        "conv1d",
        lambda: [
            *(nn.Conv1d(3, 4, 3, stride=2, dilation=2), nn.Softplus(), nn.Dropout1d(0.4)),
            *(nn.AvgPool1d(2, padding=1), nn.Conv1d(4, 2, 2), nn.Flatten(), nn.Linear(4, 3)),
        ],
        (3, 13),
        3,
    ),
    Case(
        "conv-readout",
        lambda: [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 4, (3, 2)), nn.Flatten()],
        (1, 4, 3),
        4,
    ),
    Case(
        "layer-norm",
        lambda: [
            *(nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False), nn.ReLU()),
            nn.Linear(5, 3),
        ],
        (6,),
        3,
    ),
    Case(
        "batch-norm",
        lambda: [
            *(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(12, 5), nn.BatchNorm1d(5, affine=False, momentum=None), nn.ReLU()),
            nn.Linear(5, 3),
        ],
        (2, 3, 3),
        3,
        per_sample=False,
    ),
]
