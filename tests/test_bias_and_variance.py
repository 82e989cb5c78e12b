"""Bias and variance of updates, where both are known; and docs/bias-and-variance.md."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.metrics import BiasVariance, bias_and_variance
from forwardly.network import Step
from test_learned import built

pytestmark = pytest.mark.unchecked  # thousands of draws

NUMBERS = torch.Generator().manual_seed(0)
X = torch.randn(9, 6, dtype=torch.float64, generator=NUMBERS)
Y = torch.randint(3, (9,), generator=NUMBERS)
LOSS = nn.CrossEntropyLoss()
PAGE = (Path(__file__).parent.parent / "docs" / "bias-and-variance.md").read_text("utf-8")


def net(*behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), *behind, nn.Linear(5, 3)).double()


def flat(update: Tensor) -> np.ndarray:
    return update.detach().numpy().ravel()


@pytest.mark.parametrize("behind", [(), (nn.Dropout(0.5),)], ids=["plain", "dropout"])
def test_backprop_has_neither(behind: tuple[nn.Module, ...]) -> None:
    model = net(*behind)
    found = bias_and_variance(fw.Backprop(model, LOSS), X, Y, draws=5)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for one in found.values():
        assert (one.bias, one.variance, one.draws) == (0, 0, 5)
        assert one.gradient > 0


def test_a_rule_without_random_numbers_has_a_bias_alone() -> None:
    rule = fw.PEPITA(net(), LOSS)
    ours, gradient = (one(X, Y).updates for one in (rule, fw.Backprop(rule.model, LOSS)))
    for name, one in bias_and_variance(rule, X, Y, draws=4).items():
        g = flat(gradient[name])
        assert one.variance < 1e-30
        assert one.gradient == pytest.approx(np.linalg.norm(g))
        assert one.bias == pytest.approx(np.linalg.norm(flat(ours[name]) - g), abs=1e-15)


def test_three_draws_by_hand() -> None:
    """n − 1 in the variance, no square in the bias, and what is relative to what."""
    model = net()
    rules = [fw.DirectFeedbackAlignment(model, LOSS) for _ in range(3)]
    queue = iter(rules)
    found = bias_and_variance(lambda _: next(queue), X, Y, draws=3)["0.weight"]
    g = flat(fw.Backprop(model, LOSS)(X, Y).updates["0.weight"])
    u = np.stack([flat(rule(X, Y).updates["0.weight"]) for rule in rules])
    bias, variance = np.linalg.norm(u.mean(0) - g), u.var(0, ddof=1).sum()
    assert found == pytest.approx(BiasVariance(bias, variance, np.linalg.norm(g), 3))
    assert found.standard_error == pytest.approx(math.sqrt(variance / 3))
    assert found.relative_squared_bias == pytest.approx(bias**2 / (g @ g))
    assert found.relative_variance == pytest.approx(variance / (g @ g))
    # Off by both, in the mean over the draws, for which the variance is that of n.
    off = ((u - g) ** 2).sum(1).mean() / (g @ g)
    assert found.relative_squared_bias + found.relative_variance * 2 / 3 == pytest.approx(off)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_feedback_around_a_share_of_the_weights(share: float) -> None:
    """B = share · W₂ᵀ + s ξ: u is linear in it, so its mean is share · g, its covariance known."""
    model, s, draws = net(), 0.4, 400
    W_2 = model[2].weight.detach()

    def around(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor]:
        assert tuple(sizes) == (5, 3)
        return (share * W_2.T + s * torch.randn(5, 3, dtype=W_2.dtype, generator=generator),)

    def build(generator: torch.Generator) -> fw.Rule:
        return fw.DirectFeedbackAlignment(model, LOSS, backward=around, generator=generator)

    found = bias_and_variance(build, X, Y, draws=draws)["0.weight"]
    credit = fw.Backprop(model, LOSS)(X, Y)
    slope = 1 - model[:2](X).detach() ** 2
    # u_ij = Σ_k B_ik A_ijk
    A = torch.einsum("nk,ni,nj->ijk", credit.error, slope, X) / len(X)
    covariance = s**2 * torch.einsum("ijk,imk->ijm", A, A)  # of row i with itself
    variance = float(covariance.diagonal(dim1=1, dim2=2).sum())
    spread = math.sqrt(2 * float(covariance.square().sum()) / (draws - 1))
    assert found.variance == pytest.approx(variance, abs=4 * spread)
    g = float(credit.updates["0.weight"].norm())
    assert found.gradient == pytest.approx(g)
    expected = ((1 - share) * g) ** 2 + variance / draws
    # of a squared distance: of its Gaussian part, and of its mixed term with the true bias
    error = math.sqrt(2 * float(covariance.square().sum())) / draws
    error += 2 * (1 - share) * g * found.standard_error
    assert found.bias**2 == pytest.approx(expected, abs=4 * error)
    if share == 1:
        assert found.bias < 2 * found.standard_error < 0.2 * g
    readout = bias_and_variance(build, X, Y, draws=3)["2.weight"]  # gets its gradient
    assert (readout.bias, readout.variance) == (0, 0)


class Perturbing(fw.Rule):
    """u = (g · ξ) ξ with signs ξ: E[u] = g, E‖u − g‖² = (D − 1)‖g‖² for D weights."""

    paper = fw.Backprop.paper
    uses_autograd = False
    forward_passes = 2
    feedback_path = ""
    teacher = "error"
    trains = "synapses"
    draws = True

    def assign(self, x: Tensor, target: Tensor, step: Step) -> fw.Credit:
        (layer,) = step.activities(step.prepare(x))
        e = self.error(layer.a, target)
        ((name, g),) = self.network.stages[0].synapse_update(e, layer.pre).items()
        xi = torch.sign(step.uniform(0, tuple(g.shape), g.dtype) - 0.5)
        return fw.Credit({name: (g * xi).sum() * xi}, layer.a, self.loss_value(layer.a, target), e)


def test_random_numbers_of_a_rule() -> None:
    """They are drawn anew, from nowhere else, and come back."""
    rule = Perturbing(nn.Sequential(nn.Linear(6, 3, bias=False)).double(), LOSS)
    rule.accumulate(X, Y)
    before, random = rule.noise, torch.get_rng_state()
    assert before is not None
    kept = before.clone()
    found = bias_and_variance(rule, X, Y, draws=400)["0.weight"]
    assert rule.noise is before
    assert torch.equal(before, kept)
    assert torch.equal(torch.get_rng_state(), random)
    # (g · ξ)² has a standard deviation of √2 ‖g‖² at most
    assert found.relative_variance == pytest.approx(17, abs=4 * 18 * math.sqrt(2 / 400))
    assert 0.5 * found.standard_error < found.bias < 1.5 * found.standard_error
    few = [bias_and_variance(rule, X, Y, draws=3, seed=seed)["0.weight"] for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    with pytest.raises(ValueError, match="class indices must be 0 to 2"):
        bias_and_variance(rule, X, Y + 3)
    assert rule.noise is before


def test_no_gradient_no_ratio() -> None:
    rule = fw.Backprop(net(), nn.MSELoss())
    found = bias_and_variance(rule, X, rule.model(X).detach(), draws=2)["0.weight"]
    assert found[:3] == (0, 0, 0)
    assert math.isnan(found.relative_variance)
    assert math.isnan(found.relative_squared_bias)


def test_what_a_rule_learns_of_its_own_has_no_gradient() -> None:
    rule = built()
    own = dict(rule.model.named_parameters())
    assert bias_and_variance(rule, X, Y, draws=2).keys() == own.keys()


def test_mistakes() -> None:
    rule: Any = fw.PEPITA(net(), LOSS)
    with pytest.raises(ValueError, match="two draws or more; given draws=1"):
        bias_and_variance(rule, X, Y, draws=1)
    with pytest.raises(ValueError, match=r"of one model.*make the model once"):
        bias_and_variance(lambda _: fw.PEPITA(net(), LOSS), X, Y)
    wrong: Any
    for wrong in (rule.model, 3, lambda _: rule.model):
        with pytest.raises(TypeError, match="rule must be of class Rule; given"):
            bias_and_variance(wrong, X, Y)


def test_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to how processors round, which ten epochs make more of."""
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    exec(snippet, {})
    head, *lines = capsys.readouterr().out.splitlines()
    expected_head, *expected = shown.splitlines()
    assert head == expected_head
    for line, other in zip(lines, expected, strict=True):
        name, *figures = line.split()
        assert name == other.split()[0]
        assert [*map(float, figures)] == pytest.approx(
            [*map(float, other.split()[1:])], rel=0.3, abs=0.15
        )
