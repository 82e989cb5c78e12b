"""Masks: the sequence, their distribution, and that all passes of a step share them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly.fast import masks
from forwardly.network import noise


def test_splitmix64_against_its_published_sequence() -> None:
    """The first numbers from seed 1234567, as in the generator's well-known test vector."""
    numbers = noise.splitmix64(torch.tensor(1234567), torch.arange(5))
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [number % 2**64 for number in numbers.tolist()] == expected


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_masks_are_inverted_dropout(p: float) -> None:
    n = 200_000
    mask = noise.mask(torch.tensor([5, 2]), 1, (n,), p, torch.zeros(1, dtype=torch.float64))
    kept = mask != 0
    assert torch.equal(mask[kept], torch.full_like(mask[kept], 1 / (1 - p) if p < 1 else 0))
    # five standard deviations of a binomial
    assert abs(kept.double().mean().item() - (1 - p)) <= 5 * (p * (1 - p) / n) ** 0.5


def test_masks_differ_between_seeds_steps_and_modules() -> None:
    like = torch.zeros(1)
    drawn = [
        noise.mask(torch.tensor([seed, step]), which, (1000,), 0.5, like) != 0
        for seed in (0, 1)
        for step in (0, 1)
        for which in (0, 1)
    ]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            # independent fair coins agree in half of the cases; five standard deviations
            assert abs((a == b).double().mean().item() - 0.5) < 5 * 0.5 / 1000**0.5


def _rule(seed: int = 0) -> fw.PEPITA:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 400), nn.Dropout(0.5), nn.Linear(400, 2))
    return fw.PEPITA(model, nn.MSELoss(), generator=torch.Generator().manual_seed(seed))


def test_one_mask_for_all_passes() -> None:
    """A dropped unit is dropped in both passes, so that it has no hidden update at all."""
    rule = _rule()
    updates = rule(torch.randn(1, 5), torch.randn(1, 2)).updates
    silent = (updates["0.weight"] == 0).all(1)
    assert torch.equal(silent, (updates["2.weight"] == 0).all(0))
    assert 100 < int(silent.sum()) < 300


def test_masks_move_on_with_accumulate_only() -> None:
    rule, x, target = _rule(), torch.randn(3, 5), torch.randn(3, 2)
    first, again = rule(x, target).output, rule.accumulate(x, target).output
    assert torch.equal(first, again)
    assert not torch.equal(rule(x, target).output, first)


def test_masks_follow_the_generator() -> None:
    x, target = torch.randn(3, 5), torch.randn(3, 2)
    assert torch.equal(_rule(1)(x, target).output, _rule(1)(x, target).output)
    assert not torch.equal(_rule(1)(x, target).output, _rule(2)(x, target).output)


def test_rules_of_one_seed_share_their_masks() -> None:
    """So that a comparison of rules pairs them."""
    x, target = torch.randn(3, 5), torch.randn(3, 2)
    pepita = _rule()
    backprop = fw.Backprop(pepita.model, nn.MSELoss(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(pepita(x, target).output, backprop(x, target).output)


def test_channel_dropout_drops_whole_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(256, 2))
    rule = fw.ReadoutOnly(model, nn.MSELoss())
    update = rule(torch.ones(1, 1, 2, 2), torch.randn(1, 2)).updates["3.weight"]
    silent = (update == 0).reshape(2, 64, 4)
    assert torch.equal(silent.any(2), silent.all(2))
    assert silent.any()
    assert not silent.all()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_masks_are_the_same_bit_for_bit(p: float, dtype: torch.dtype) -> None:
    """Of enough elements to be compiled, and of few; from seeds and steps large and small."""
    like = torch.zeros(1, dtype=dtype)
    for seed_and_step in ([0, 0], [5, 2], [2**62 - 1, 10**6]):
        for shape in ((64, 1024), (100, 83, 1), (3, 5)):
            given = torch.tensor(seed_and_step), 3, shape, p, like
            ours, theirs = masks.mask(*given), noise.mask(*given)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
