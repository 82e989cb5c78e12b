"""Angles, alignment, slowness and accuracy, where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly import feedback, metrics
from forwardly.testing import CASES, build
from test_pepita import dense


@pytest.mark.parametrize(
    ("a", "b", "degrees"),
    [
        ([1.0, 0.0], [5.0, 0.0], 0),
        ([1.0, 0.0], [0.0, 2.0], 90),
        ([1.0, 0.0], [-1.0, 0.0], 180),
        ([1.0, 0.0], [1.0, 1.0], 45),
        ([1.0, 0.0], [1.0, -math.sqrt(3)], 60),
    ],
)
def test_angle(a: list[float], b: list[float], degrees: float) -> None:
    assert metrics.angle(torch.tensor(a), torch.tensor(b)) == pytest.approx(degrees, abs=1e-4)
    assert metrics.cosine(torch.tensor(a), torch.tensor(b)) == pytest.approx(
        math.cos(math.radians(degrees)), abs=1e-6
    )


def test_angle_with_nothing() -> None:
    assert math.isnan(metrics.angle(torch.ones(2), torch.zeros(2)))
    with pytest.raises(ValueError, match=r"as many elements; given \(2,\), \(3,\)"):
        metrics.angle(torch.ones(2), torch.ones(3))


def test_feedback_angle_follows_the_chained_weights() -> None:
    model = nn.Sequential(*dense(6, 5, 4, 3))
    chained = feedback.chain([model[l].weight.T for l in (0, 2, 4)])
    for F, degrees in ((chained, 0), (-2 * chained, 180)):
        rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=F.detach())
        assert metrics.feedback_angle(rule) == pytest.approx(degrees, abs=0.1)
    with pytest.raises(TypeError, match="Backprop has no feedback matrix F"):
        metrics.feedback_angle(fw.Backprop(model, nn.CrossEntropyLoss()))


@pytest.mark.parametrize(("sign", "side"), [(1, 1), (-1, -1)])
def test_pepita_drifts_as_the_papers_say(sign: int, side: int) -> None:
    """x + F e: towards anti-alignment, beyond 90 degrees; x − F e: towards alignment."""
    torch.manual_seed(0)
    x = torch.randn(400, 20)
    target = (x @ torch.randn(20, 3)).argmax(1)
    model = nn.Sequential(*dense(20, 40, 3, bias=False))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=feedback.uniform(0.5), sign=sign)
    before = metrics.feedback_angle(rule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        rule.accumulate(x, target)
        optimizer.step()
    assert side * (metrics.feedback_angle(rule) - before) > 5


def test_layer_angles() -> None:
    model = nn.Sequential(*dense(6, 5, 4, 3))
    rule = fw.FeedbackAlignment(model, nn.CrossEntropyLoss())
    rule.get_buffer("B_2").copy_(model[2].weight.detach())
    rule.get_buffer("B_3").copy_(-model[4].weight.detach())
    angles = metrics.layer_angles(rule)
    assert angles == {"2": pytest.approx(0, abs=0.1), "4": pytest.approx(180, abs=0.1)}

    factored = fw.PEPITA(model, nn.CrossEntropyLoss(), projection=feedback.product())
    factored.get_buffer("F_2").copy_(model[2].weight.detach().T)
    angles = metrics.layer_angles(factored)
    assert angles.keys() == {"0", "2", "4"}
    assert angles["2"] == pytest.approx(0, abs=0.1)
    learned = fw.KolenPollack(model, nn.CrossEntropyLoss())
    learned.state_dict()["B_2"].copy_(model[2].weight.detach())
    assert metrics.layer_angles(learned).keys() == {"2", "4"}
    assert metrics.layer_angles(learned)["2"] == pytest.approx(0, abs=0.1)
    for kind in (fw.DirectFeedbackAlignment, fw.DirectKolenPollack):
        direct = kind(model, nn.CrossEntropyLoss())
        W_2, W_3 = model[2].weight.detach(), model[4].weight.detach()
        direct.state_dict()["B_1"].copy_(W_2.T @ W_3.T)
        direct.state_dict()["B_2"].copy_(-W_3.T)
        angles = metrics.layer_angles(direct)
        assert angles == {"0": pytest.approx(0, abs=0.1), "2": pytest.approx(180, abs=0.1)}
    with pytest.raises(TypeError, match="no feedback matrix a layer"):
        metrics.layer_angles(fw.PEPITA(model, nn.CrossEntropyLoss()))


@pytest.mark.parametrize("name", fw.RULES)
def test_update_alignment_of_every_rule(name: str) -> None:
    case = next(case for case in CASES if case.name == "dropout")
    rule, (x, target) = build(fw.RULES[name], case), case.batch()
    alignment = metrics.update_alignment(rule, x, target)
    assert alignment.keys() == rule.trained
    assert all(-1.0001 <= value <= 1.0001 for value in alignment.values())
    if name == "backprop":
        assert all(value == pytest.approx(1) for value in alignment.values())
    if name in ("readout-only", "direct-feedback-alignment", "drtp", "feedback-alignment"):
        # these give the readout its gradient
        last = rule.network.stages[-1].name
        assert alignment[f"{last}.weight"] == pytest.approx(1)


def test_update_alignment_accumulates() -> None:
    case = next(case for case in CASES if case.name == "dense")
    rule = build(fw.PEPITA, case)
    meter = metrics.UpdateAlignment()
    singles = []
    for seed in (1, 2, 3):
        batch = case.batch(seed=seed)
        singles.append(metrics.update_alignment(rule, *batch)["0.weight"])
        meter.update(rule, *batch)
    assert meter.compute()["0.weight"] == pytest.approx(np.mean(singles))
    meter.reset()
    assert meter.compute() == {}


@pytest.mark.parametrize("a", [0.3, 0.9285, 5.0])
def test_slowness_of_a_known_curve(a: float) -> None:
    """A curve of the fitted form, its maximum reached by the last epoch."""
    epochs = np.arange(1, 20_000)
    curve = 0.5 * epochs / (a + epochs)
    assert metrics.slowness(list(curve)) == pytest.approx(a, rel=0.02)
    assert metrics.slowness(list(100 * curve)) == pytest.approx(a, rel=0.02)


# Test accuracy (%) after each of the 60 epochs before the learning rate drops, as printed in the
# authors' CIFAR-10 tutorial (github.com/GiorgiaD/PEPITA).
TUTORIAL = [
    35.12,
    38.07,
    40.9,
    40.41,
    41.4,
    39.76,
    43.73,
    45.08,
    45.28,
    45.05,
    44.66,
    45.89,
    47.39,
    46.95,
    47.41,
    47.9,
    48.52,
    48.53,
    46.39,
    48.61,
    47.27,
    49.05,
    49.2,
    49.39,
    48.68,
    49.64,
    49.09,
    50.06,
    49.31,
    49.77,
    49.89,
    50.07,
    49.84,
    49.66,
    50.19,
    50.32,
    50.61,
    49.24,
    50.55,
    51.68,
    50.78,
    50.49,
    51.47,
    50.79,
    50.73,
    51.77,
    51.32,
    51.41,
    51.31,
    51.36,
    51.31,
    51.79,
    51.32,
    51.53,
    51.2,
    51.77,
    50.74,
    51.12,
    51.42,
    50.92,
]


def test_slowness_of_the_published_curve() -> None:
    assert len(TUTORIAL) == 60
    assert max(TUTORIAL) == 51.79
    assert metrics.slowness(TUTORIAL, chance=10.0) == pytest.approx(0.9285, abs=1e-4)


def test_slowness_takes_the_epochs_before_the_drop() -> None:
    curve = [0.3, 0.4, 0.45, 0.48, 0.5]
    assert metrics.slowness([*curve, 0.9, 0.95], chance=0.1, epochs=5) == pytest.approx(
        metrics.slowness(curve, chance=0.1)
    )


@pytest.mark.parametrize("curve", [[], [0.5], [0.5, math.nan]])
def test_slowness_of_no_curve(curve: list[float]) -> None:
    with pytest.raises(ValueError, match="finite accuracies of two epochs or more"):
        metrics.slowness(curve)


def test_slowness_of_no_epochs() -> None:
    for epochs in (1, 0, -1):  # which would leave out the last one
        with pytest.raises(ValueError, match="two epochs or more"):
            metrics.slowness([0.1, 0.2, 0.3], epochs=epochs)


@pytest.mark.unchecked
def test_what_is_no_rule() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    x, y = torch.rand(4, 3), torch.zeros(4).long()
    for ask in (metrics.feedback_angle, metrics.layer_angles):
        with pytest.raises(TypeError, match="rule must be of class Rule; given is Sequential"):
            ask(model)
    with pytest.raises(TypeError, match="rule must be of class Rule; given is Sequential"):
        metrics.update_alignment(model, x, y)


@pytest.mark.parametrize(("curve", "chance"), [([0.0, 0.0], 0.0), ([0.1, 0.05, 0.1], 0.1)])
def test_slowness_where_nothing_is_gained(curve: list[float], chance: float) -> None:
    assert math.isnan(metrics.slowness(curve, chance=chance))


@pytest.mark.parametrize("size", [1e200, 1e-200, 5e-324])
def test_cosines_of_huge_and_tiny_vectors(size: float) -> None:
    a = torch.tensor([size, 0, 0], dtype=torch.float64)
    b = torch.tensor([size, size, 0], dtype=torch.float64)
    assert metrics.cosine(a, b) == pytest.approx(math.sqrt(0.5))
    assert metrics.cosine(a, -a) == -1
    assert metrics.angle(a, b.flip(0)) == pytest.approx(90)


def test_a_nan_is_never_right() -> None:
    """torch takes it for the largest output."""
    accuracy = metrics.Accuracy()
    output = torch.tensor([[math.nan, 1.0], [1.0, math.nan], [2.0, 1.0], [math.inf, 1.0]])
    accuracy.update(output, torch.tensor([0, 1, 0, 0]))
    assert accuracy.compute() == 0.5


def test_accuracy() -> None:
    accuracy = metrics.Accuracy()
    assert math.isnan(accuracy.compute())
    accuracy.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    accuracy.update(torch.tensor([[0.1, 0.9]]), torch.tensor([1]))
    assert accuracy.compute() == pytest.approx(2 / 3)
    accuracy.reset()
    assert math.isnan(accuracy.compute())


def _mirrored(sign: int, **options: Any) -> tuple[fw.PEPITA, feedback.Mirror]:
    torch.manual_seed(0)
    model = nn.Sequential(*dense(12, 10, 8, 5)).double()
    generator = torch.Generator().manual_seed(1)
    rule = fw.PEPITA(
        model,
        nn.CrossEntropyLoss(),
        projection=feedback.product(),
        sign=sign,
        generator=generator,
    )
    return rule, feedback.Mirror(rule, generator=generator, **options)


@pytest.mark.parametrize("sign", [1, -1])
def test_mirrors_expected_update_is_the_transposed_weight(sign: int) -> None:
    """E[ξ (Wξ)ᵀ] = σ² Wᵀ, by simulation of 40,000 noise vectors in many steps."""
    rule, mirror = _mirrored(sign, learning_rate=1.0, decay=0.0, noise=0.5, samples=200)
    before = [rule.get_buffer(f"F_{l}").clone() for l in (1, 2, 3)]
    for _ in range(200):
        mirror.step()
    for l, (stage, start) in enumerate(zip(rule.network.stages, before, strict=True), 1):
        mean = (rule.get_buffer(f"F_{l}") - start) / 200
        weight = stage.synapse.weight.detach()
        expected = 0.25 * weight.T * (-sign if l == 1 else 1)
        # five standard errors of a mean of products of normal variables
        bound = 5 * 0.25 * float(weight.norm(dim=1).max()) * (2 / 40_000) ** 0.5
        assert float((mean - expected).abs().max()) < bound
    product = rule.get_buffer("F_1") @ rule.get_buffer("F_2") @ rule.get_buffer("F_3")
    torch.testing.assert_close(rule.F, product)


@pytest.mark.parametrize(("sign", "degrees"), [(1, 180), (-1, 0)])
def test_mirroring_turns_f_to_where_pepita_drifts(sign: int, degrees: float) -> None:
    rule, mirror = _mirrored(sign, learning_rate=0.5, decay=0.01, noise=1.0, samples=256)
    for _ in range(400):
        mirror.step()
    assert metrics.feedback_angle(rule) == pytest.approx(degrees, abs=15)


def test_decay_alone_shrinks_the_factors() -> None:
    rule, mirror = _mirrored(1, learning_rate=0.0, decay=0.1)
    before = rule.F.clone()
    mirror.step()
    torch.testing.assert_close(rule.F, 0.9**3 * before)


def test_F_may_keep_its_length() -> None:
    """Then mirroring turns factors as it would, but never lets F grow; also when it is resumed."""
    options: dict[str, Any] = {"learning_rate": 0.5, "decay": 0.01, "noise": 1.0}
    rule, mirror = _mirrored(-1, **options, keep_norm=True)
    free, other = _mirrored(-1, **options)
    length = float(rule.F.norm())
    mirror.step()
    other.step()
    assert float(free.F.norm()) > 1.01 * length
    scales: list[float] = []
    for l in (1, 2, 3):
        ours, theirs = (one.get_buffer(f"F_{l}") for one in (rule, free))
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm())
        scales.append(float(ours.norm() / theirs.norm()))
    assert scales == pytest.approx([scales[0]] * 3)
    resumed = feedback.Mirror(rule, **options, keep_norm=True, generator=torch.Generator())
    rule.get_buffer("F_1").mul_(3)  # as another state of the buffers would be
    resumed.load_state_dict(mirror.state_dict())
    for _ in range(300):
        resumed.step()
    assert float(rule.F.norm()) == pytest.approx(length)
    product = feedback.chain([rule.get_buffer(f"F_{l}") for l in (1, 2, 3)])
    torch.testing.assert_close(product, rule.F)
    assert metrics.feedback_angle(rule) < 30


def test_an_F_of_zero_stays_finite() -> None:
    rule, _ = _mirrored(-1, learning_rate=0.0, keep_norm=True)
    for l in (1, 2, 3):
        rule.get_buffer(f"F_{l}").zero_()
    rule.F.zero_()
    feedback.Mirror(rule, learning_rate=0.0, keep_norm=True).step()
    assert not rule.F.any()


def test_what_cannot_be_mirrored() -> None:
    model = nn.Sequential(*dense(4, 3, 2))
    with pytest.raises(TypeError, match=r"no factors of F.*projection=feedback\.product\(\)"):
        feedback.Mirror(fw.PEPITA(model, nn.MSELoss()))
    rule = fw.PEPITA(model, nn.MSELoss(), projection=feedback.product())
    with pytest.raises(ValueError, match=r"noise above 0.*given 0\.01, 0\.0001, 0\.0, 64"):
        feedback.Mirror(rule, noise=0.0)
    conv = nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
    product = fw.PEPITA(conv, nn.MSELoss(), projection=feedback.product(), input_shape=(1, 4))
    with pytest.raises(TypeError, match="only linear layers are mirrored; '0' is Conv1d"):
        feedback.Mirror(product)
