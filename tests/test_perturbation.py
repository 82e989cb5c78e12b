"""Theory: what node and weight perturbation give on average is backprop's gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.testing import assert_close

import forwardly as fw
from forwardly.network import Step
from forwardly.rules.node_perturbation import rise
from forwardly.testing import CASES, Case, build
from forwardly.training.functional import State, descents_of, step_of

Make = Callable[..., fw.Rule]
RULES: dict[str, Make] = {
    "node": fw.NodePerturbation,
    "weight": fw.WeightPerturbation,
    "weight, two-sided": partial(fw.WeightPerturbation, two_sided=True),
}


# A sample's loss tells nothing of what its noise does to others, by way of batch statistics.
PAIRS = [
    pytest.param(name, case, id=f"{name}-{case}")
    for name in RULES
    for case in CASES
    if (name, case.name) != ("node", "batch-norm")
]


def gradient(rule: fw.Rule, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    backprop = fw.Backprop(rule.model, rule.loss)
    backprop.noise = rule.noise  # the same dropout masks
    return backprop(x, target).updates


@pytest.mark.unchecked
@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_small_noise_in_all_directions_gives_the_gradient(
    name: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one unit vector of N after the other times √N for the noise, which has the same mean
    square: at any depth, through convolutions, pooling, norms and dropout, at the same scale."""
    rule = build(partial(RULES[name], sigma=1e-6), case)
    x, target = case.batch(n=2)
    count: list[int] = []

    def unit(_: Step, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        del which
        (n,) = shape
        count[:] = [n]
        xi = torch.zeros(n, dtype=dtype)
        xi[direction % n] = n**0.5
        return xi

    monkeypatch.setattr(Step, "normal", unit)
    expected = gradient(rule, x, target)
    total = {name: torch.zeros_like(update) for name, update in expected.items()}
    direction = 0
    while not count or direction < count[0]:
        for name, update in rule(x, target).updates.items():
            total[name] += update
        direction += 1
    for name, update in expected.items():
        assert_close(total[name] / count[0], update, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_the_mean_over_draws_is_the_gradient(name: str) -> None:
    """Within five standard errors, which are small enough to see a twentieth of it."""
    case = next(case for case in CASES if case.name == "dense")
    rule = build(partial(RULES[name], sigma=1e-5, samples=5), case)
    x, target = case.batch()
    seeds = torch.stack([torch.full((4000,), 17), torch.arange(4000)], dim=1)

    def call(noise: Tensor) -> dict[str, Tensor]:
        return functional_call(rule, {"noise": noise}, (x, target)).updates

    draws = vmap(call)(seeds)
    expected = gradient(rule, x, target)
    length = sum(float(update.square().sum()) for update in expected.values())
    along = sum((draws[n] * expected[n]).flatten(1).sum(1) for n in expected) / length
    standard_error = float(along.std()) / len(along) ** 0.5
    assert standard_error < 0.01
    assert abs(float(along.mean()) - 1) < 5 * standard_error


def test_more_draws_are_less_noise() -> None:
    """The variance falls as one over their number."""
    case = next(case for case in CASES if case.name == "dense")
    x, target = case.batch()
    seeds = torch.stack([torch.full((2000,), 5), torch.arange(2000)], dim=1)

    def variance(make: Make) -> float:
        rule = build(make, case)

        def call(noise: Tensor) -> Tensor:
            return functional_call(rule, {"noise": noise}, (x, target)).updates["0.weight"]

        return float(vmap(call)(seeds).var(0).sum())

    one, four = (variance(partial(fw.NodePerturbation, samples=s)) for s in (1, 4))
    assert 3.5 < one / four < 4.5


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (nn.MSELoss(), lambda y, t: (y - t).square().sum(1) / 2),
        (nn.CrossEntropyLoss(), partial(nn.functional.cross_entropy, reduction="none")),
        (
            nn.BCEWithLogitsLoss(),
            lambda y, t: nn.functional.binary_cross_entropy_with_logits(y, t, reduction="none").sum(
                1
            ),
        ),
    ],
    ids=["squared", "cross-entropy", "logits"],
)
def test_the_rise_is_that_of_the_loss(
    loss: nn.Module, value: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Exact for the squared error; of the others what is left falls with the third power."""
    generator = torch.Generator().manual_seed(0)
    y, away = torch.randn((2, 7, 4), generator=generator, dtype=torch.float64)
    if isinstance(loss, nn.CrossEntropyLoss):
        target = torch.randint(4, (7,), generator=generator)
    else:
        target = torch.rand((7, 4), generator=generator, dtype=torch.float64)
    rule = fw.NodePerturbation(nn.Sequential(nn.Linear(4, 4)).double(), loss)
    left = []
    for sigma in (0.1, 0.01):
        noisy = y + sigma * away
        found = rise(y, rule.error(y, target), noisy, rule.error(noisy, target))
        left.append(float((found - value(noisy, target) + value(y, target)).abs().max()))
    if isinstance(loss, nn.MSELoss):
        assert max(left) < 1e-14
    else:
        assert 0 < left[1] < 2e-3 * left[0]


def mean_ratio(numerators: Tensor, denominators: Tensor) -> float:
    return float(numerators.sum() / denominators.sum())


N, M = 5, 3
"""Inputs and outputs of the linear network whose learning curves are known."""


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "noise_factor"),
    [
        pytest.param(fw.Backprop, 1, id="gradient"),
        pytest.param(partial(fw.NodePerturbation, sigma=1e-4), M + 2, id="node"),
        pytest.param(partial(fw.WeightPerturbation, sigma=1e-4), M * N + 2, id="weight"),
    ],
)
def test_learning_curves_of_a_linear_network(make: Make, noise_factor: int) -> None:
    """Those of Werfel et al. (2003): the loss shrinks by 1 − 2η + c η² a step.

    A student y = W x learns a teacher from one sample a step, x ~ N(0, 1). With D the distance of
    their weights, the squared error's gradient is D x xᵀ and E‖D x xᵀ‖² = (N + 2) ‖D‖². Node noise
    makes its square M + 2 times as long, weight noise M N + 2 times. So c = (N + 2) · that, and at
    the best rate, 1 / c, a step takes 1 / c of the loss away.
    """
    c = (N + 2) * noise_factor
    rate, steps, runs = 1 / c, 8, 10_000
    rule = make(nn.Sequential(nn.Linear(N, M, bias=False)).double(), nn.MSELoss())
    step = step_of(rule, descents_of(rule, fw.LocalSGD(rule, lr=rate)))
    ((name, _),) = rule.named_parameters()
    (update_of,) = (n for n, _ in rule.model.named_parameters())

    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(runs, M, N, generator=generator, dtype=torch.float64)
    values = {name: torch.zeros_like(teacher)}
    if rule.noise is not None:
        values["noise"] = torch.stack([torch.arange(runs), torch.zeros(runs).long()], dim=1)
    away = lengths = teacher.square().sum((1, 2))
    squares: list[float] = []
    for _ in range(steps):
        x = torch.randn(runs, 1, N, generator=generator, dtype=torch.float64)
        state, credit = vmap(step)(State(values, {}), x, x @ teacher.mT)
        squares.append(mean_ratio(credit.updates[update_of].square().sum((1, 2)), lengths) / c)
        values = state.values
        lengths = (values[name] - teacher).square().sum((1, 2))
    assert abs(sum(squares) / steps - 1) < 0.07
    standard_error = float((lengths / away).std()) / runs**0.5
    left = mean_ratio(lengths, away)
    assert abs(left - (1 - 1 / c) ** steps) < 4 * standard_error
    # Within what the noise allows: no other power of the number of nodes or weights would do.
    assert standard_error < 0.3 * (1 - left)
