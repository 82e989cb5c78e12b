"""PEPITA against the reference, loop by loop, and against its theory."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from described import ERRORS, array, describe
from forwardly.testing import Case
from reference.pepita import adaptive_feedback, pepita

MakePepita = Callable[..., fw.Rule]


def dense(*sizes: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return layers[:-1]


NETWORKS = [
    Case("perceptron", lambda: dense(5, 3), (5,), 3),
    Case("1-hidden", lambda: dense(7, 5, 3), (7,), 3),
    Case("2-hidden", lambda: dense(7, 5, 9, 2, bias=False), (7,), 2, nn.MSELoss),
    Case("3-hidden", lambda: dense(3, 8, 5, 6, 4, activation=nn.Tanh), (3,), 4),
    Case("4-hidden", lambda: dense(6, 7, 5, 3, 4, 1, activation=nn.LeakyReLU), (6,), 1, nn.MSELoss),
    Case(
        "dropout",
        lambda: [
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4)),
            *(nn.Linear(8, 7), nn.Dropout(0.3), nn.Softplus(), nn.Linear(7, 2)),
        ],
        (2, 3),
        2,
        nn.BCEWithLogitsLoss,
    ),
    Case(
        "norms",
        lambda: [
            *(nn.Linear(5, 6), nn.LayerNorm(6, elementwise_affine=False), nn.ReLU()),
            *(nn.Linear(6, 7), nn.BatchNorm1d(7, affine=False).eval(), nn.Tanh(), nn.Linear(7, 3)),
        ],
        (5,),
        3,
    ),
    Case("activated-output", lambda: [*dense(5, 4, 2), nn.Sigmoid()], (5,), 2, nn.MSELoss),
    Case(
        "conv2d",
        lambda: [
            *(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU()),
            *(nn.MaxPool2d(2, stride=1), nn.Conv2d(4, 2, 2, dilation=(1, 2), groups=2, bias=False)),
            *(nn.BatchNorm2d(2, affine=False).eval(), nn.Tanh()),
            *(nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(4, 3)),
        ],
        (2, 6, 7),
        3,
    ),
    Case(
        "conv1d",
        lambda: [
            *(nn.Conv1d(3, 6, 3, stride=2, padding=2, groups=3), nn.ReLU(), nn.MaxPool1d(3, 2, 1)),
            *(nn.Conv1d(6, 4, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 2)),
        ],
        (3, 8),
        2,
        nn.MSELoss,
    ),
    Case(
        "conv-readout",
        lambda: [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 4, (3, 2)), nn.Flatten()],
        (1, 4, 3),
        4,
    ),
]

OPTIONS = [
    {"output_error": first, "presynaptic": pre, "sign": sign}
    for first in ("first", "second")
    for pre in ("modulated", "clean")
    for sign in (1, -1)
]


def equals_the_reference(make: MakePepita, case: Case, options: dict[str, object]) -> None:
    """Updates, output and error to 1e-10; raises AssertionError."""
    generator = torch.Generator().manual_seed(2)
    rule = make(
        case.model(),
        case.loss(),
        projection=fw.feedback.normal(0.7),  # large, so that wrong terms show
        input_shape=case.input_shape,
        generator=generator,
        **options,
    )
    x, target = case.batch(n=4)
    if case.loss is nn.MSELoss:
        target = target - 3  # large errors
    credit = rule(x, target)
    expected = pepita(
        describe(rule, x),
        array(x),
        target.numpy(),
        array(rule.F),
        error=ERRORS[case.loss],
        **options,
    )
    close = {"rtol": 0, "atol": 1e-10}
    np.testing.assert_allclose(credit.output, expected.output, **close)
    np.testing.assert_allclose(credit.error, expected.error, **close)
    assert len(expected.updates) == len(rule.network.stages)
    for stage, (dW, db) in zip(rule.network.stages, expected.updates, strict=True):
        assert np.abs(dW).max() > 1e-6, "an update of zero shows nothing"
        np.testing.assert_allclose(credit.updates[f"{stage.name}.weight"], dW, **close)
        if db is not None:
            np.testing.assert_allclose(credit.updates[f"{stage.name}.bias"], db, **close)
        else:
            assert f"{stage.name}.bias" not in credit.updates


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_reference(case: Case, options: dict[str, object]) -> None:
    equals_the_reference(fw.PEPITA, case, options)


def test_defaults_are_the_papers() -> None:
    case = NETWORKS[1]
    F = torch.randn(7, 3, dtype=torch.float64)
    x, target = case.batch()
    plain = fw.PEPITA(case.model(), case.loss(), projection=F)
    spelt = fw.PEPITA(
        case.model(),
        case.loss(),
        projection=F,
        output_error="first",
        presynaptic="modulated",
        sign=1,
    )
    assert_close(plain(x, target), spelt(x, target), rtol=0, atol=0)


def test_default_projection_is_the_papers() -> None:
    rule = fw.PEPITA(
        nn.Sequential(nn.Linear(600, 500), nn.ReLU(), nn.Linear(500, 10)), nn.MSELoss()
    )
    assert rule.F.shape == (600, 10)
    bound = 0.05 * (6 / 600) ** 0.5
    assert 0.99 * bound < rule.F.abs().max().item() <= bound


def test_a_tensor_of_ones_own_is_copied() -> None:
    F = torch.randn(7, 3)
    rule = fw.PEPITA(NETWORKS[1].model().float(), nn.CrossEntropyLoss(), projection=F)
    rule.F.zero_()
    assert F.any()


def test_product_projection() -> None:
    model = nn.Sequential(*dense(7, 5, 4, 3)).double()
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=fw.feedback.product(0.3))
    factors = [rule.get_buffer(f"F_{layer}") for layer in (1, 2, 3)]
    assert [tuple(f.shape) for f in factors] == [(7, 5), (5, 4), (4, 3)]
    assert_close(rule.F, factors[0] @ factors[1] @ factors[2])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("sign", [1, -1])
def test_small_feedback_is_adaptive_feedback_alignment(
    activation: type[nn.Module], sign: int
) -> None:
    """Theory: the hidden update divided by the scale of F tends to that of its linearisation.

    The difference is of the order of the scale, so ten times smaller feedback is ten times closer.
    """
    torch.manual_seed(3)
    model = nn.Sequential(*dense(6, 9, 4, activation=activation)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 0])
    F = torch.randn(6, 4, dtype=torch.float64)

    def difference(scale: float) -> float:
        rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=scale * F, sign=sign)
        limit = adaptive_feedback(
            describe(rule, x),
            array(x),
            target.numpy(),
            array(F),
            error=ERRORS[nn.CrossEntropyLoss],
            sign=sign,
        )
        ours = rule(x, target).updates["0.weight"] / scale
        return float((ours - torch.as_tensor(limit)).abs().max() / np.abs(limit).max())

    far, near, nearer = difference(1e-2), difference(1e-3), difference(1e-4)
    assert nearer < 1e-3
    assert near == pytest.approx(far / 10, rel=0.5)
    assert nearer == pytest.approx(near / 10, rel=0.5)


def _update_of(rule: fw.Rule, x: Tensor, target: Tensor) -> Tensor:
    return torch.cat([update.flatten() for update in rule(x, target).updates.values()])


def test_pepita_is_not_the_gradient() -> None:
    """If it were, the comparison with backprop would compare nothing."""
    case = NETWORKS[3]
    x, target = case.batch()
    model = case.model()
    ours = _update_of(fw.PEPITA(model, case.loss()), x, target)
    gradient = _update_of(fw.Backprop(model, case.loss()), x, target)
    assert not torch.allclose(ours, gradient, rtol=0.1)
