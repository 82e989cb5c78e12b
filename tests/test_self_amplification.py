"""PEPITA's W₁F grows as docs/self-amplification.md says, and with the clean term not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import self_amplification as page
import torch
from torch import nn

import forwardly as fw
from forwardly import models
from real_data import real_data

D, HIDDEN, K, BATCH, STEPS = 200, 256, 10, 64, 300


def trained(scale: float, momentum: float = 0.9, **options: Any) -> tuple[float, float]:
    """Predicted and measured growth on inputs orthogonal to F, whose own term changes no W₁F."""
    numbers = torch.Generator().manual_seed(0)
    model = models.mlp(D, (HIDDEN,), K, generator=numbers)
    projection = fw.feedback.uniform(scale)
    rule = fw.PEPITA(
        model, nn.CrossEntropyLoss(), projection=projection, generator=numbers, **options
    )
    basis = torch.linalg.qr(rule.F)[0]

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(BATCH, D, generator=numbers)
        return x - x @ basis @ basis.T, torch.randint(K, (BATCH,), generator=numbers)

    rate = 0.01 * (1 - momentum) / 0.1
    batches = (batch() for _ in range(STEPS))
    return page.growth(batches, rule, learning_rate=rate, momentum=momentum)[-1]


@pytest.mark.parametrize(
    ("scale", "options"),
    [(0.1, {}), (0.2, {}), (0.4, {}), (0.4, {"sign": -1}), (0.1, {"momentum": 0.0})],
)
def test_the_modulated_term_makes_it_grow(scale: float, options: dict[str, Any]) -> None:
    predicted, measured = trained(scale, **options)
    assert predicted > 1.02
    assert measured - 1 == pytest.approx(predicted - 1, rel=0.2)


@pytest.mark.parametrize("scale", [0.1, 0.4])
def test_the_clean_term_does_not(scale: float) -> None:
    predicted, measured = trained(scale, presynaptic="clean")
    assert predicted > 1.02
    assert measured == pytest.approx(1, abs=1e-4)


def test_on_cifar10() -> None:
    dataset = fw.data.load("cifar10", real_data("cifar10"), centre=True)
    predicted, measured = page.on_cifar10(dataset, "modulated", 0.4, 0, 60)[-1]
    assert predicted > 1.05
    assert measured - 1 == pytest.approx(predicted - 1, rel=0.2)
    _, clean = page.on_cifar10(dataset, "clean", 0.4, 0, 60)[-1]
    assert abs(clean - 1) < 0.05 * (predicted - 1)


def test_the_record_is_of_these_settings_and_says_so() -> None:
    record = json.loads(page.RECORD.read_text("utf-8"))
    assert record["settings"]["learning_rate"] == page.RATE
    assert record["uncommitted_changes"] is False
    assert len(record["curves"]) == 2 * len(page.SCALES)
    for curve in record["curves"]:
        predicted, measured = curve["predicted"][-1], curve["measured"][-1]
        if curve["term"] == "clean":
            assert abs(measured - 1) < 0.15 * (predicted - 1)
        else:
            assert measured - 1 == pytest.approx(predicted - 1, rel=0.2)
