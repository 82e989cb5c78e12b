"""Max pooling without a backward pass: what torch gives, number by number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly import models
from forwardly.fast.algebra.pooling import max_pool

MAPS = (4, 3, 12, 13)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3},
        {"kernel_size": (2, 3)},
        {"kernel_size": (4, 1)},
        {"kernel_size": 1},
        {"kernel_size": 12},
        # left to torch: overlapping, padded, dilated, rounded up
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": 5, "ceil_mode": True},
    ],
    ids=str,
)
def test_equal_to_torch(options: dict[str, Any], channels_last: bool) -> None:
    a = torch.randn(MAPS)
    a[0, 0, 3, 4], a[1, 2, 0, 0], a[2, 1, 5, 5] = torch.nan, torch.inf, -torch.inf
    if channels_last:
        a = a.contiguous(memory_format=torch.channels_last)
    module = nn.MaxPool2d(**options)
    with torch.no_grad():
        pooled = max_pool(module, a)
    torch.testing.assert_close(pooled, module(a), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kernel", [2, (2, 1), (1, 3)])
def test_the_module_is_not_called_where_it_need_not(kernel: Any) -> None:
    called: list[int] = []

    class Counted(nn.MaxPool2d):
        def forward(self, input: torch.Tensor) -> Any:  # noqa: A002
            called.append(1)
            return super().forward(input)

    a = torch.randn(MAPS)
    with torch.no_grad():
        max_pool(Counted(kernel), a)
    assert not called
    max_pool(Counted(kernel), a)  # has a graph
    assert called


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["pepita", "readout-only"])
def test_training_ends_at_the_same_weights(name: str, channels: int) -> None:
    torch.manual_seed(0)
    shape = (channels, 10, 10)
    x, target = torch.randn(16, *shape), torch.arange(16) % 4
    ends: list[nn.Module] = []
    for fast in (True, False):
        generator = torch.Generator().manual_seed(1)
        model = models.conv(shape, 4, channels=6, generator=generator).double()
        rule = fw.RULES[name](model, nn.CrossEntropyLoss(), input_shape=shape, generator=generator)
        optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9, fast=fast)
        for _ in range(5):
            optimizer.step(x.double(), target)
        ends.append(model)
    for ours, theirs in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
