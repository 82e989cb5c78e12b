"""Masks: the sequence, their distribution, and that all passes of a step share them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

import forwardly as fw
from forwardly import noise
from forwardly.fast.cpu_step import masks


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


LAST = 2**24 - 1
"""The last step whose place in the sequence is told by the step alone."""


def numbers_of(seed: int, step: int, which: int, count: int) -> list[int]:
    """The module docstring of ``noise``, in integers that do not wrap around by themselves."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    start = seed + mix(step // 2**24)
    first = step % 2**24 * 2**40 + which * 2**32
    return [mix((start + (first + i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(count)]


STEPS = (0, 1, 2**23, LAST, LAST + 1, LAST + 2, 2**25 + 12345, 2**40, 2**62)


@pytest.mark.parametrize("step", STEPS)
def test_numbers_are_those_of_the_sequence(step: int) -> None:
    """From the first step to steps that no training will reach."""
    seed = 2**62 - 12345
    expected = numbers_of(seed, step, 200, 50)
    found = noise._integers(torch.tensor([seed, step]), 200, (50,))
    assert [number % 2**64 for number in found.tolist()] == expected
    uniform = noise.uniform(torch.tensor([seed, step]), 200, (50,), torch.float64)
    assert uniform.tolist() == [(number >> 11) / 2**53 for number in expected]


def test_masks_do_not_come_again() -> None:
    """After 2²⁴ steps, or twice as many."""
    like = torch.zeros(1)
    drawn = [
        noise.mask(torch.tensor([7, step]), 0, (1000,), 0.5, like) != 0
        for step in (3, 2**24 + 3, 2**25 + 3, 2**40 + 3)
    ]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert abs((a == b).double().mean().item() - 0.5) < 5 * 0.5 / 1000**0.5


def test_late_steps_are_traced_batched_and_exported() -> None:
    """As the early ones are; the graph of one step serves all."""
    rule, (x, target) = _rule(), (torch.randn(3, 5), torch.randn(3, 2))
    assert rule.noise is not None
    program = torch.export.export(rule, (x, target)).module()
    states = [{"noise": torch.tensor([9, step])} for step in STEPS]
    alone = [functional_call(rule, state, (x, target)).output for state in states]
    stacked = {"noise": torch.stack([state["noise"] for state in states])}
    together = torch.vmap(lambda state: functional_call(rule, state, (x, target)).output)(stacked)
    for i, state in enumerate(states):
        program.load_state_dict(state, strict=False)
        assert_close(program(x, target).output, alone[i])
        assert_close(together[i], alone[i])
        assert i == 0 or not torch.equal(alone[i], alone[i - 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_numbers_are_below_one_in_every_type(dtype: torch.dtype) -> None:
    """Rounding to the nearest would give a one now and then, and in half precision often."""
    n = 200_000
    found = noise.uniform(torch.tensor([5, 2]), 1, (n,), dtype)
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() < 1
    exact = found.double()
    assert torch.equal(exact / torch.finfo(dtype).eps * 2 % 1, torch.zeros(n, dtype=torch.float64))
    # five standard deviations, and half of a step, by which rounding down takes from the mean
    assert abs(exact.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5 + torch.finfo(dtype).eps / 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normal_numbers_have_their_moments(dtype: torch.dtype) -> None:
    n = 200_000
    found = noise.normal(torch.tensor([5, 2]), 1, (n,), dtype).double()
    rounding = torch.finfo(dtype).eps
    for power, (moment, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
        away = float((found**power).mean()) - moment
        assert abs(away) < 5 * (variance / n) ** 0.5 + 10 * rounding, power


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_normal_numbers_are_finite(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the smallest and the largest uniform number."""
    ends = torch.tensor([[0.0, 1 - torch.finfo(dtype).eps / 2] for _ in range(2)], dtype=dtype)
    assert ends.max() < 1
    monkeypatch.setattr(noise, "uniform", lambda *_: ends)
    low, high = noise.normal(torch.tensor([5, 2]), 1, (2,), dtype).tolist()
    assert low == 0
    assert 2 < high < 9


def test_integers_below_are_all_as_likely() -> None:
    n, end = 90_000, 9
    found = noise.below(torch.tensor([5, 2]), 130, (n,), end)
    counts = torch.bincount(found, minlength=end)
    assert len(counts) == end
    assert (counts - n / end).abs().max() < 5 * (n / end) ** 0.5


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
    for seed_and_step in ([0, 0], [5, 2], [2**62 - 1, 10**6], *([-3, step] for step in STEPS)):
        for shape in ((64, 1024), (100, 83, 1), (3, 5)):
            given = torch.tensor(seed_and_step), 3, shape, p, like
            ours, theirs = masks.mask(*given), noise.mask(*given)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
