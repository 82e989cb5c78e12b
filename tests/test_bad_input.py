"""A user's mistakes: each is refused with what was given, what was expected and what to do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw

pytestmark = pytest.mark.unchecked


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def _conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))


X = torch.ones(5, 4)
T = torch.zeros(5, dtype=torch.int64)
NAN = X.clone()
NAN[3, 1] = math.nan


@pytest.mark.parametrize(
    ("x", "target", "message"),
    [
        (X[:0], T[:0], r"not empty; given is \(0, 4\)"),
        (X[0], T[0], r"a batch of samples.*given is \(4,\)"),
        (X, T[:4], r"x has 5 samples.*given is \(4,\)"),
        (X, T[0], r"x has 5 samples.*given is \(\)"),
        (X, T + 2, "0 to 1, as the model has 2 outputs; the target has 2"),
        (X, T - 1, "the target has -1"),
        (NAN, T, "x has a NaN or an infinity, first in sample 3: clean"),
        (NAN.log(), T, "x has a NaN"),
        (-X.log().reciprocal(), T, "x has a NaN or an infinity, first in sample 0"),
        (X[:, :3], T, r"'0', Linear.*\(samples, 4\); what reaches it is \(5, 3\)"),
        (
            X.double(),
            T,
            r"input is torch.float64.*weights are torch.float32.*x.to\(torch.float32\)",
        ),
        (T[:, None].expand(5, 4), T, "input is torch.int64"),
    ],
)
@pytest.mark.parametrize("rule", fw.RULES)
def test_bad_batches(rule: str, x: Tensor, target: Tensor, message: str) -> None:
    made = fw.RULES[rule](_model(), nn.CrossEntropyLoss())
    with pytest.raises((ValueError, TypeError), match=message):
        made.accumulate(x, target)
    assert all(p.grad is None for p in made.parameters())


def test_large_finite_numbers_are_not_infinite() -> None:
    """Their sum overflows, which is how infinities are looked for."""
    fw.ReadoutOnly(_model(), nn.CrossEntropyLoss())(X * 3e38, T)


def test_nan_in_a_real_target() -> None:
    rule = fw.PEPITA(_model(), nn.MSELoss())
    with pytest.raises(ValueError, match="the target has a NaN or an infinity, first in sample 1"):
        rule(X, torch.tensor([[0.0, 1], [2, math.inf], [0, 0], [0, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection": torch.ones(2, 4)}, r"\(d, k\) = \(4, 2\), for 4 inputs.*of shape \(2, 4\)"),
        ({"projection": torch.ones(4, 2).int()}, "torch.int32 of shape"),
        ({"projection": "abc"}, r"such as feedback\.uniform\(0\.05\).* given is 'abc'"),
        ({"projection": [[0.1] * 2] * 4}, r"may be a tensor; given is \[\["),
        ({"projection": torch.full((4, 2), math.nan)}, "F must be finite"),
        ({"projection": torch.full((4, 2), -math.inf)}, "F must be finite"),
        ({"projection": torch.full((4, 2), 1e39, dtype=torch.float64)}, "infinity in torch.float3"),
        ({"projection": lambda *_: (torch.ones(4, 3),)}, r"\(d, k\) = \(4, 2\).*\(4, 3\)"),
        ({"input_shape": 4}, r"must be the shape of x without the batch.*; given 4"),
        ({"input_shape": "4"}, r"whole numbers above 0 such as \(3, 32, 32\); given '4'"),
        ({"input_shape": (4.0,)}, r"input_shape must be .* given \(4\.0,\)"),
        ({"input_shape": (-1, 4)}, r"input_shape must be .* given \(-1, 4\)"),
        ({"input_shape": ()}, r"input_shape must be .* given \(\)"),
        ({"output_error": "third"}, "output_error must be one of 'first', 'second'; given 'third'"),
        ({"presynaptic": 1}, "presynaptic must be one of 'modulated', 'clean'; given 1"),
        ({"sign": 2}, "sign must be one of 1, -1; given 2"),
        ({"input_shape": (5,)}, r"needs an input of shape \(samples, 4\); .* is \(2, 5\)"),
        ({"loss": nn.L1Loss()}, "no output error is known for the loss L1Loss"),
        ({"loss": nn.MSELoss}, "the loss must be a module such as"),
        (
            {"error": lambda y, t: (y - t).mean()},
            r"one error an output, \(5, 2\); it returned \(\)",
        ),
        ({"error": lambda *_: None}, r"an output, \(5, 2\); it returned None"),
        ({"error": "mse"}, "error= must be a function .* given 'mse'"),
        ({"generator": 0}, r"must be a torch\.Generator; given 0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    loss = options.pop("loss", nn.MSELoss())
    with pytest.raises((ValueError, TypeError), match=message):
        fw.PEPITA(_model(), loss, **options)(X, torch.zeros(5, 2))


@pytest.mark.parametrize("name", ["direct-feedback-alignment", "drtp", "feedback-alignment"])
def test_feedback_of_other_rules_is_drawn_by_functions(name: str) -> None:
    with pytest.raises(TypeError, match=r"such as feedback\.uniform\(0\.05\).* given is 0\.1"):
        fw.RULES[name](_model(), nn.MSELoss(), backward=0.1)
    wrong = lambda sizes, _: (torch.full(tuple(sizes), math.nan),)  # noqa: E731
    with pytest.raises(ValueError, match="must be finite"):
        fw.RULES[name](_model(), nn.MSELoss(), backward=wrong)


@pytest.mark.parametrize("name", fw.RULES)
def test_feedback_is_for_inputs_of_one_size(name: str) -> None:
    """Convolutions take any size, which rules without feedback matrices train on rightly."""
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    model = nn.Sequential(*layers)
    rule = fw.RULES[name](model, nn.CrossEntropyLoss(), input_shape=(1, 6, 6))
    local, x = fw.LocalSGD(rule, 0.1), torch.rand(5, 1, 6, 6)
    has_matrix = rule.state_dict().keys() & {"F", "B_1", "R_1"}
    for wrong in (torch.rand(5, 1, 7, 7), torch.rand(5, 1, 3, 3)):  # 3 · 3 divides F's 6 · 6
        for step in (rule, rule.accumulate, local.step):
            if has_matrix:
                with pytest.raises(ValueError, match=r"is \((36|32), 2\), for (inputs|maps) of"):
                    step(wrong, T)
            else:
                step(wrong, T)
    model[0].padding = (1, 1)
    if has_matrix - {"F"}:
        with pytest.raises(ValueError, match=r"[BR]_1 is \(32, 2\).*leads to is \(5, 2, 6, 6\)"):
            local.step(x, T)
    else:
        local.step(x, T)


def test_feedback_that_is_replaced_by_another_of_other_sizes() -> None:
    rule = fw.PEPITA(_model(), nn.CrossEntropyLoss())
    for wrong in (torch.ones(2, 4), torch.ones(5, 2), torch.ones(4, 3)):
        rule.F = wrong
        for step in (rule, fw.LocalSGD(rule, 0.1).step):
            with pytest.raises(ValueError, match=rf"F is \({len(wrong)}, .* \(5, 4\)"):
                step(X, T)


def test_feedback_is_for_outputs_of_one_number() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 1, 3), nn.Flatten())
    for kind in (fw.PEPITA, fw.DirectFeedbackAlignment):
        rule = kind(model, nn.MSELoss(), input_shape=(1, 8))
        model[2].padding = (1,)
        with pytest.raises(ValueError, match=r"is \(\d+, 4\).* 4 outputs; with 6 outputs"):
            fw.LocalSGD(rule, 0.1).step(torch.rand(5, 1, 8), torch.rand(5, 6))
        model[2].padding = (0,)


def test_convolution_needs_the_input_shape() -> None:
    with pytest.raises(ValueError, match=r"Conv2d\(1, 2.*pass input_shape.*\(3, 32, 32\)"):
        fw.PEPITA(_conv(), nn.CrossEntropyLoss())
    rule = fw.PEPITA(_conv(), nn.CrossEntropyLoss(), input_shape=(1, 6, 6))
    assert rule.F.shape == (36, 2)
    with pytest.raises(ValueError, match=r"needs an input of shape \(samples, 1, h, w\).*\(5, 4\)"):
        rule(X, T)
    with pytest.raises(ValueError, match=r"'3', Linear.*what reaches it is \(5, 50\)"):
        fw.ReadoutOnly(_conv(), nn.CrossEntropyLoss())(torch.ones(5, 1, 7, 7), T)


def test_inputs_with_positions_need_the_input_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r"needs an input of shape \(samples, 6\)"):
        fw.PEPITA(model, nn.CrossEntropyLoss())
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(2, 4))
    assert rule.F.shape == (8, 2)


def test_inputs_of_another_size_than_that_of_F() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(1, 8))
    with pytest.raises(ValueError, match=r"F is \(8, 2\), for inputs of 8 .* is \(5, 1, 9\)"):
        rule(torch.ones(5, 1, 9), T)


@pytest.mark.parametrize("rule", fw.RULES)
def test_inputs_that_wait_for_a_gradient(rule: str) -> None:
    """As features of a backbone that is trained too: it would stand still without a word."""
    made = fw.RULES[rule](_model(), nn.CrossEntropyLoss())
    features = nn.Linear(4, 4)(X)
    for step in (made, made.accumulate, fw.LocalSGD(made, 0.1).step):
        with pytest.raises(ValueError, match=r"x requires a gradient.*pass it \.detach\(\)ed"):
            step(features, T)
        step(features.detach(), T)
    soft = torch.rand(5, 2).requires_grad_()
    with pytest.raises(ValueError, match="the target requires a gradient"):
        fw.PEPITA(_model(), nn.MSELoss())(X, soft)


def test_an_error_that_writes_over_the_output_or_is_of_another_type() -> None:
    expected = fw.PEPITA(_model(), nn.MSELoss(), generator=torch.Generator())
    own = fw.PEPITA(
        expected.model,
        nn.MSELoss(),
        error=lambda y, t: y.sub_(t).double(),
        generator=torch.Generator(),
    )
    torch.testing.assert_close(own(X, torch.ones(5, 2)), expected(X, torch.ones(5, 2)))


def test_another_loss_with_its_error() -> None:
    rule = fw.PEPITA(_model(), nn.L1Loss(), error=lambda y, t: (y - t).sign())
    credit = rule(X, torch.zeros(5, 2))
    assert set(credit.error.unique().tolist()) <= {-1.0, 0.0, 1.0}
