"""The rules that PEPITA is compared with, against NumPy loops and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from described import ERRORS, array, describe
from forwardly.testing import CASES, Case, build, without_dropout
from reference import foton as foton_reference
from reference import perturbation, relatives
from reference.pepita import Update, pepita
from test_pepita import NETWORKS, dense

Make = Callable[..., fw.Rule]
LARGE = fw.feedback.normal(0.7)
DENSE = [case for case in NETWORKS if not case.name.startswith(("conv", "norms"))]
NO_NORMS = [case for case in NETWORKS if case.name != "norms"]
PREDICTIONS = {
    nn.CrossEntropyLoss: lambda y: np.exp(y) / np.exp(y).sum(),
    nn.BCEWithLogitsLoss: lambda y: 1 / (1 + np.exp(-y)),
    nn.MSELoss: lambda y: y,
}


def made(make: Make, case: Case, **options: Any) -> fw.Rule:
    generator = torch.Generator().manual_seed(2)
    return make(
        case.model(), case.loss(), input_shape=case.input_shape, generator=generator, **options
    )


def batch(case: Case, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x, target = case.batch(n=4, seed=seed)
    return x, target - 3 if case.loss is nn.MSELoss else target


def assert_updates(rule: fw.Rule, credit: fw.Credit, expected: list[Update]) -> None:
    close = {"rtol": 0, "atol": 1e-10}
    assert len(expected) == len(rule.network.stages)
    for stage, (dW, db) in zip(rule.network.stages, expected, strict=True):
        assert np.abs(dW).max() > 1e-7, "an update of zero shows nothing"
        np.testing.assert_allclose(credit.updates[f"{stage.name}.weight"], dW, **close)
        if db is not None:
            np.testing.assert_allclose(credit.updates[f"{stage.name}.bias"], db, **close)


def sign_pepita(make: Make, case: Case) -> None:
    for sign in (1, -1):
        rule = made(make, case, projection=LARGE, sign=sign)
        x, t = batch(case)
        layers, error = describe(rule, x), ERRORS[case.loss]
        expected = relatives.sign_pepita(
            layers, array(x), t.numpy(), array(rule.F), error=error, sign=sign
        )
        assert_updates(rule, rule(x, t), expected.updates)


def hebbian_pepita(make: Make, case: Case) -> None:
    for sign in (1, -1):
        rule = made(make, case, projection=LARGE, sign=sign)
        x, t = batch(case)
        expected = relatives.hebbian_pepita(
            describe(rule, x),
            *(array(x), t.numpy(), array(rule.F)),
            error=ERRORS[case.loss],
            predict=PREDICTIONS[case.loss],
            sign=sign,
        )
        assert_updates(rule, rule(x, t), expected)


def time_local_pepita(make: Make, case: Case) -> None:
    for sign in (1, -1):
        rule = made(make, case, projection=LARGE, sign=sign, learning_rate=0.3)
        x, t = batch(case)
        expected = relatives.time_local_pepita(
            describe(rule, x),
            *(array(x), t.numpy(), array(rule.F)),
            error=ERRORS[case.loss],
            predict=PREDICTIONS[case.loss],
            learning_rate=0.3,
            sign=sign,
        )
        assert_updates(rule, rule(x, t), expected)


def adaptive_feedback_alignment(make: Make, case: Case) -> None:
    if case not in DENSE:
        return
    for sign in (1, -1):
        rule = made(make, case, projection=LARGE, sign=sign)
        x, t = batch(case)
        expected = relatives.adaptive_feedback(
            describe(rule, x),
            *(array(x), t.numpy(), array(rule.F)),
            error=ERRORS[case.loss],
            sign=sign,
        )
        assert_updates(rule, rule(x, t), expected)


def mem_pepita(make: Make, case: Case) -> None:
    for options in ({}, {"sign": -1}, {"presynaptic": "clean"}):
        rule = made(make, case, projection=LARGE, **options)
        x, t = batch(case)
        expected = pepita(
            describe(rule, x),
            *(array(x), t.numpy(), array(rule.F)),
            error=ERRORS[case.loss],
            **options,
        )
        assert_updates(rule, rule(x, t), expected.updates)


def feedback_alignment(make: Make, case: Case) -> None:
    if case not in DENSE:
        return
    rule = made(make, case)
    x, t = batch(case)
    B = [array(rule.get_buffer(f"B_{l}")) for l in range(2, len(rule.network.stages) + 1)]
    expected = relatives.feedback_alignment(
        describe(rule, x), array(x), t.numpy(), B, error=ERRORS[case.loss]
    )
    assert_updates(rule, rule(x, t), expected)


def sign_symmetry(make: Make, case: Case, magnitudes: Callable[[fw.Rule, int, Any], Any]) -> None:
    if case not in DENSE:
        return
    for scale in (None, 0.8):
        rule = made(make, case, scale=scale)
        x, t = batch(case)
        B = []
        for l, stage in enumerate(rule.network.stages[1:], start=2):
            W = stage.synapse.weight.detach().numpy()
            s = np.sqrt(2 / W.shape[1]) if scale is None else scale
            B.append(s * np.sign(W) * magnitudes(rule, l, W.shape))
        expected = relatives.feedback_alignment(
            describe(rule, x), array(x), t.numpy(), B, error=ERRORS[case.loss]
        )
        assert_updates(rule, rule(x, t), expected)


def uniform_magnitudes(make: Make, case: Case) -> None:
    sign_symmetry(make, case, lambda *_: 1.0)


def fixed_magnitudes(make: Make, case: Case) -> None:
    sign_symmetry(make, case, lambda rule, l, _: array(rule.get_buffer(f"R_{l}")))


def batch_magnitudes(make: Make, case: Case) -> None:
    def drawn(rule: fw.Rule, l: int, shape: tuple[int, ...]) -> Any:
        step = rule.network.step(rule.noise)
        return array(step.uniform(l - 1, shape, torch.float64))

    sign_symmetry(make, case, drawn)


def direct(make: Make, case: Case, target: bool = False) -> None:
    rule = made(make, case)
    x, t = batch(case)
    B = [array(getattr(rule, f"B_{l}")) for l in range(1, len(rule.network.stages))]
    expected = relatives.broadcast(
        describe(rule, x), array(x), t.numpy(), B, error=ERRORS[case.loss], target=target
    )
    assert_updates(rule, rule(x, t), expected)


def kolen_pollack(make: Make, case: Case) -> None:
    if case not in DENSE:
        return
    rule = made(make, case)
    x, t = batch(case)
    numbers = range(2, len(rule.network.stages) + 1)
    B = [rule.get_parameter(f"B_{l}").detach().numpy().T for l in numbers]
    expected, learned = relatives.kolen_pollack(
        describe(rule, x), array(x), t.numpy(), B, error=ERRORS[case.loss]
    )
    credit = rule(x, t)
    assert_updates(rule, credit, expected)
    for l, dB in zip(numbers, learned, strict=True):
        assert_learned(credit, f"rule.B_{l}", dB.T)


def direct_kolen_pollack(make: Make, case: Case) -> None:
    direct(make, case)
    rule = made(make, case)
    x, t = batch(case)
    learned = relatives.learned_directly(
        describe(rule, x), array(x), t.numpy(), error=ERRORS[case.loss]
    )
    for l, dB in enumerate(learned, start=1):
        assert_learned(rule(x, t), f"rule.B_{l}", dB)


def assert_learned(credit: fw.Credit, name: str, expected: Any) -> None:
    assert np.abs(expected).max() > 1e-7, "an update of zero shows nothing"
    np.testing.assert_allclose(credit.updates[name], expected, rtol=0, atol=1e-10)


def drtp(make: Make, case: Case) -> None:
    direct(make, case, target=True)


def error_broadcast(make: Make, case: Case) -> None:
    """Over three steps, in which its correlations and the weights move."""
    rule = made(make, case, forgetting=0.6)
    names = [f"R_{l}" for l in range(1, len(rule.network.stages))]
    R = [rule.get_buffer(name).numpy().copy() for name in names]
    optimizer = torch.optim.SGD(rule.model.parameters(), lr=0.1)
    for seed in range(3):
        x, t = batch(case, seed)
        expected, R = relatives.error_broadcast(
            describe(rule, x), array(x), t.numpy(), R, error=ERRORS[case.loss], forgetting=0.6
        )
        optimizer.zero_grad()
        assert_updates(rule, rule.accumulate(x, t), expected)
        optimizer.step()
        for name, moved in zip(names, R, strict=True):
            np.testing.assert_allclose(rule.get_buffer(name), moved, rtol=0, atol=1e-10)


def local_errors(make: Make, case: Case) -> None:
    rule = made(make, case)
    x, t = batch(case)
    M = [array(getattr(rule, f"M_{l}")) for l in range(1, len(rule.network.stages))]
    expected, of_heads = relatives.local_errors(
        describe(rule, x), array(x), t.numpy(), M, error=ERRORS[case.loss]
    )
    credit = rule(x, t)
    assert credit.updates.keys() == rule.trained | rule.learned.keys()
    assert_updates(rule, credit, expected)
    for l, dM in enumerate(of_heads if rule.learned else [], start=1):
        assert np.abs(dM).max() > 1e-7
        np.testing.assert_allclose(credit.updates[f"rule.M_{l}"], dM, rtol=0, atol=1e-10)


def forward_forward(make: Make, case: Case) -> None:
    if case.loss is not nn.CrossEntropyLoss or math.prod(case.input_shape) <= case.outputs:
        return
    for negatives in ("uniform", "likely"):
        rule = made(make, case, threshold=0.4, label_scale=0.7, negatives=negatives)
        x, t = batch(case)
        k = case.outputs
        step = rule.network.step(rule.noise)
        expected, loss, wrong = relatives.forward_forward(
            describe(rule, x),
            *(array(x), t.numpy(), k),
            uniform=step.uniform(0, (len(x), k), torch.float64).numpy(),
            away=1 + step.below(0, (len(x),), k - 1).numpy() if negatives == "uniform" else None,
            threshold=0.4,
            scale=0.7,
        )
        assert (wrong != t.numpy()).all()
        credit = rule(x, t)
        assert_updates(rule, credit, expected)
        assert float(credit.loss) == pytest.approx(loss, abs=1e-10)


def normal(step: Any, which: int, sizes: list[int]) -> list[Any]:
    """Box–Muller, of the step's uniform numbers, in parts of those sizes."""
    u, v = step.uniform(which, (2, sum(sizes)), torch.float64).numpy()
    return np.split(np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v), np.cumsum(sizes)[:-1])


def node_perturbation(make: Make, case: Case) -> None:
    for samples in (1, 2):
        rule = made(make, case, sigma=0.3, samples=samples)
        x, t = batch(case)
        step = rule.network.step(rule.noise)
        shapes = [layer.z.shape for layer in step.activities(step.prepare(x))]
        sizes = [shape.numel() for shape in shapes]
        draws = [
            [xi.reshape(shape) for xi, shape in zip(normal(step, s, sizes), shapes, strict=True)]
            for s in range(samples)
        ]
        expected = perturbation.node_perturbation(
            describe(rule, x),
            *(array(x), t.numpy(), draws),
            sigma=0.3,
            error=ERRORS[case.loss],
        )
        assert_updates(rule, rule(x, t), expected)


def weight_perturbation(make: Make, case: Case) -> None:
    for samples, two_sided in ((1, False), (2, True)):
        rule = made(make, case, sigma=0.3, samples=samples, two_sided=two_sided)
        x, t = batch(case)
        step = rule.network.step(rule.noise)
        parameters = list(rule.model.named_parameters())
        draws = []
        for s in range(samples):
            parts = normal(step, s, [p.numel() for _, p in parameters])
            psi = {
                name: part.reshape(p.shape)
                for (name, p), part in zip(parameters, parts, strict=True)
            }
            names = [stage.name for stage in rule.network.stages]
            draws.append([(psi[f"{name}.weight"], psi.get(f"{name}.bias")) for name in names])
        expected = perturbation.weight_perturbation(
            describe(rule, x),
            *(array(x), t.numpy(), draws),
            sigma=0.3,
            error=ERRORS[case.loss],
            two_sided=two_sided,
        )
        assert_updates(rule, rule(x, t), expected)


def foton(make: Make, case: Case) -> None:
    for rate in (None, 0.2):
        options = {"orthogonalise": False} if rate is None else {"learning_rate": rate}
        rule = made(make, case, **options)
        x, t = batch(case)
        expected = foton_reference.foton(
            describe(rule, x),
            *(array(x), t.numpy()),
            error=ERRORS[case.loss],
            learning_rate=rate,
        )
        assert_updates(rule, rule(x, t), expected)
    if case.loss is nn.CrossEntropyLoss:
        warmer = made(make, case, orthogonalise=False, temperature=3.0)
        expected = foton_reference.foton(
            describe(warmer, x),
            *(array(x), t.numpy()),
            error=lambda y, of: ERRORS[case.loss](3 * y, of),
            learning_rate=None,
        )
        assert_updates(warmer, warmer(x, t), expected)


REFERENCES: dict[str, tuple[Make, Callable[[Make, Case], None]]] = {
    "adaptive-feedback-alignment": (fw.AdaptiveFeedbackAlignment, adaptive_feedback_alignment),
    "direct-feedback-alignment": (fw.DirectFeedbackAlignment, direct),
    "direct-kolen-pollack": (fw.DirectKolenPollack, direct_kolen_pollack),
    "drtp": (fw.DRTP, drtp),
    "error-broadcast": (fw.ErrorBroadcast, error_broadcast),
    "feedback-alignment": (fw.FeedbackAlignment, feedback_alignment),
    "forward-forward": (fw.ForwardForward, forward_forward),
    "foton": (fw.FOTON, foton),
    "hebbian-pepita": (fw.HebbianPEPITA, hebbian_pepita),
    "kolen-pollack": (fw.KolenPollack, kolen_pollack),
    "local-errors": (fw.LocalErrors, local_errors),
    "mem-pepita": (fw.MemPEPITA, mem_pepita),
    "mono-forward": (fw.MonoForward, local_errors),
    "node-perturbation": (fw.NodePerturbation, node_perturbation),
    "sign-pepita": (fw.SignPEPITA, sign_pepita),
    "sign-symmetry-batch": (fw.BatchSignSymmetry, batch_magnitudes),
    "sign-symmetry-fixed": (fw.FixedSignSymmetry, fixed_magnitudes),
    "sign-symmetry-uniform": (fw.UniformSignSymmetry, uniform_magnitudes),
    "time-local-pepita": (fw.TimeLocalPEPITA, time_local_pepita),
    "weight-perturbation": (fw.WeightPerturbation, weight_perturbation),
}


def test_every_rule_has_a_reference() -> None:
    elsewhere = {"pepita", "backprop", "readout-only"}
    assert REFERENCES.keys() | elsewhere == fw.RULES.keys()


@pytest.mark.parametrize("case", NO_NORMS, ids=str)
@pytest.mark.parametrize("rule", REFERENCES)
def test_reference(rule: str, case: Case) -> None:
    make, check = REFERENCES[rule]
    check(make, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_feedback_alignment_through_the_weights_is_backprop(case: Case) -> None:
    """At any depth, convolutions, pooling, norms and dropout included."""
    rule = build(fw.FeedbackAlignment, case)
    for l, stage in enumerate(rule.network.stages[1:], start=2):
        rule.get_buffer(f"B_{l}").copy_(stage.synapse.weight.detach())
    x, target = case.batch()
    backprop = fw.Backprop(rule.model, rule.loss)
    backprop.noise = rule.noise
    expected = backprop(x, target).updates
    for name, update in rule(x, target).updates.items():
        assert_close(update, expected[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mem_pepita_is_pepita_to_the_bit(case: Case) -> None:
    x, target = case.batch()
    for term in ("modulated", "clean"):
        pepita, mem = (
            build(partial(kind, presynaptic=term), case) for kind in (fw.PEPITA, fw.MemPEPITA)
        )
        assert_close(mem(x, target), pepita(x, target), rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pepita_tends_to_adaptive_feedback_alignment(case: Case) -> None:
    """At any depth and through pooling and norms: ten times smaller F, ten times closer."""
    rules = [
        without_dropout(build(kind, case)) for kind in (fw.PEPITA, fw.AdaptiveFeedbackAlignment)
    ]
    pepita, limit = rules
    if len(pepita.network.stages) < 2:
        return
    x, target = case.batch()
    F = torch.randn(pepita.F.shape, generator=torch.Generator().manual_seed(3)).double()
    name = f"{pepita.network.stages[0].name}.weight"

    def difference(scale: float) -> float:
        for rule in rules:
            rule.F.copy_(scale * F)
        ours, theirs = (rule(x, target).updates[name] for rule in (pepita, limit))
        return float((ours - theirs).norm() / theirs.norm())

    far, near = difference(1e-4), difference(1e-5)
    assert far < 0.05
    assert near < 0.3 * far


def test_forward_forward_is_the_derivative_of_its_own_loss() -> None:
    """Of each layer's loss by its own weights alone, by torch's differentiation."""
    case = next(case for case in CASES if case.name == "dense")
    rule = build(fw.ForwardForward, case)
    x, target = case.batch()
    credit = rule(x, target)
    step = rule.network.step(rule.noise)
    away = 1 + step.below(0, (len(x),), 2)
    *hidden, last = rule.network.stages
    total = torch.zeros((), dtype=torch.float64)
    for labels, sign in ((target, -1), ((target + away) % 3, 1), (None, 0)):
        p = torch.full((6, 3), 1 / 3) if labels is None else nn.functional.one_hot(labels, 3)
        label = 0.5 * x[:, 3:].norm(dim=1, keepdim=True) * p.double()
        a = torch.cat([label, x[:, 3:]], dim=1)
        for stage in hidden:
            a = a / a.square().mean(1, keepdim=True).sqrt()
            h = stage.synapse(a.detach())
            for part in stage.elementwise:
                h = part.module(h)
            g = (h.square() - 1).sum(1)
            total = total + abs(sign) * nn.functional.softplus(sign * g).mean() / h.shape[1]
            a = h
        if labels is None:
            a = a / a.norm(dim=1, keepdim=True)
            total = total + rule.loss(last.synapse(a.detach()), target)
    total.backward()
    assert_close(credit.loss, total.detach())
    for name, parameter in rule.model.named_parameters():
        assert_close(credit.updates[name], parameter.grad)


def test_likely_negatives_are_the_networks_own_guesses() -> None:
    """Each wrong label as often as its probability, the true one's left out."""
    torch.manual_seed(0)
    model = nn.Sequential(*dense(8, 6, 4)).double()
    rule = fw.ForwardForward(model, nn.CrossEntropyLoss(), negatives="likely")
    x = torch.randn(1, 8, dtype=torch.float64).expand(4000, 8)
    target = torch.full((4000,), 2)
    y = rule(x, target).output
    drawn = rule._wrong(y, target, rule.begin_step())
    p = y[0].exp() * torch.tensor([1, 1, 0, 1])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert_close(shares.double(), p / p.sum(), rtol=0, atol=0.03)
    assert (p / p.sum() - 1 / 3).abs().max() > 0.1  # far from uniform
    assert shares[2] == 0


@pytest.mark.parametrize("case", [case for case in CASES if "norm" not in case.name], ids=str)
def test_mono_forward_is_the_derivative_of_each_layers_own_loss(case: Case) -> None:
    """By torch's differentiation, activity detached between layers; all kinds of pooling."""
    rule = without_dropout(build(fw.MonoForward, case))
    x, target = case.batch()
    updates = rule(x, target).updates
    step, a = rule.network.step(), x
    for part in rule.network.preparation:
        a = part.module(a)
    scale = 1 if case.loss is nn.CrossEntropyLoss else case.outputs
    scale = scale / 2 if case.loss is nn.MSELoss else scale  # e is of half the sum of squares
    losses = []
    for l, stage in enumerate(rule.network.stages[:-1], start=1):
        a = step.after_synapse(stage, stage.synapse(a.detach()))
        losses.append(scale * rule.loss(a.flatten(1) @ getattr(rule, f"M_{l}").T, target))
    if not losses:
        return
    torch.stack(losses).sum().backward()
    found = 0
    last = rule.network.stages[-1].name
    for name, update in updates.items():
        if not name.startswith(f"{last}."):
            assert_close(update, rule.parameter(name).grad)
            found += 1
    assert found > len(losses)


def test_mono_forward_predicts_by_its_readout_or_by_all_layers() -> None:
    case = next(case for case in CASES if case.name == "conv2d")
    x, _ = case.batch()
    rule = build(fw.MonoForward, case).eval()
    assert torch.equal(rule.predict(x), rule.model(x))
    assert rule.output_predicts
    mean = fw.MonoForward(rule.model, rule.loss, prediction="all", input_shape=case.input_shape)
    mean.load_state_dict(rule.state_dict())
    one = rule.model[:3](x)
    two = rule.model[3:6](one)
    goodness = one.flatten(1) @ rule.M_1.T + two.flatten(1) @ rule.M_2.T
    assert_close(mean.predict(x), (goodness + rule.model(x)) / 3)
    assert not mean.output_predicts


def test_with_heads_of_zeros_only_the_readout_learns() -> None:
    """And as the control's does; the heads themselves begin to learn."""
    case = next(case for case in CASES if case.name == "conv2d")
    x, target = case.batch()
    rules = [
        build(partial(kind, heads=fw.feedback.uniform(0.0)), case)
        for kind in (fw.LocalErrors, fw.MonoForward)
    ]
    control = build(fw.ReadoutOnly, case)
    for rule in rules:
        control.noise = rule.noise
        expected = control(x, target).updates
        for name, update in rule(x, target).updates.items():
            if name in expected:
                assert_close(update, expected[name])
            else:
                assert bool(update.any()) == name.startswith("rule.")


def test_forward_forward_learns_and_predicts_labels() -> None:
    torch.manual_seed(0)
    x = torch.rand(300, 12)
    target = (x[:, 3:6].sum(1) > x[:, 6:9].sum(1)).long()
    model = nn.Sequential(*dense(12, 64, 32, 2))
    rule = fw.ForwardForward(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        rule.accumulate(x, target)
        optimizer.step()
    scores = rule.predict(x)
    assert scores.shape == (300, 2)
    assert (scores.argmax(1) == target).double().mean() > 0.85


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: fw.ForwardForward(m, nn.MSELoss()), "its loss must be nn.CrossEntropyLoss"),
        (
            lambda m: fw.ForwardForward(m, nn.CrossEntropyLoss(), negatives="hard"),
            "negatives must be one of 'uniform', 'likely'; given 'hard'",
        ),
        (lambda m: fw.TimeLocalPEPITA(m, nn.MSELoss(), learning_rate=-1.0), "at least 0; given -1"),
        (lambda m: fw.HebbianPEPITA(m, nn.MSELoss(), sign=0), "sign must be one of 1, -1; given 0"),
        (lambda m: fw.SignPEPITA(m, nn.MSELoss(), projection=torch.ones(2, 2)), r"\(4, 2\)"),
        (lambda m: fw.MonoForward(m, nn.MSELoss(), prediction="sum"), "prediction must be one of"),
        (lambda m: fw.FOTON(m, nn.MSELoss(), learning_rate=0.0), "learning_rate must be .* above"),
        (lambda m: fw.FOTON(m, nn.MSELoss(), temperature=2.0), "of the softmax .* given MSELoss"),
        (
            lambda m: fw.FOTON(m, nn.CrossEntropyLoss(), temperature=0.0),
            "temperature must be a number above 0",
        ),
        (lambda m: fw.NodePerturbation(m, nn.MSELoss(), sigma=0.0), "sigma must be .* above 0"),
        (lambda m: fw.WeightPerturbation(m, nn.MSELoss(), samples=200), "samples must be 1 to 128"),
        (lambda m: fw.DRTP(m, nn.L1Loss()), "no output error is known for the loss L1Loss"),
    ],
)
@pytest.mark.unchecked
def test_mistakes(build: Callable[[nn.Module], fw.Rule], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build(nn.Sequential(*dense(4, 3, 2)))


def test_forward_forward_needs_room_for_the_label() -> None:
    model = nn.Sequential(*dense(3, 4, 3))
    with pytest.raises(ValueError, match=r"first 3 numbers of a sample, .* given .* of 3"):
        fw.ForwardForward(model, nn.CrossEntropyLoss())(torch.ones(5, 3), torch.zeros(5).long())


def test_forward_forward_needs_classes() -> None:
    model = nn.Sequential(*dense(4, 4, 3))
    with pytest.raises(ValueError, match=r"class indices, \(n,\); given is \(5, 3\)"):
        fw.ForwardForward(model, nn.CrossEntropyLoss())(torch.ones(5, 4), torch.ones(5, 3) / 3)
    with pytest.raises(ValueError, match="must have two outputs or more; it has 1"):
        fw.ForwardForward(nn.Sequential(*dense(4, 4, 1)), nn.CrossEntropyLoss())


@pytest.mark.parametrize("rule", ["feedback-alignment", "kolen-pollack", "sign-symmetry-uniform"])
def test_rules_that_differentiate_cannot_be_exported(rule: str) -> None:
    made = fw.RULES[rule](nn.Sequential(*dense(4, 3, 2)), nn.MSELoss())
    with pytest.raises(NotImplementedError, match="not even one through a single layer"):
        torch.export.export(made, (torch.ones(5, 4), torch.ones(5, 2)))


@pytest.mark.parametrize(
    "options",
    [
        {"label_scale": 0.0},
        {"label_scale": -1.0},
        {"label_scale": math.nan},
        {"threshold": math.nan},
        {"threshold": math.inf},
    ],
    ids=str,
)
def test_forward_forwards_label_must_show(options: dict[str, float]) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="label_scale must be a length above 0"):
        fw.ForwardForward(model, nn.CrossEntropyLoss(), **options)
