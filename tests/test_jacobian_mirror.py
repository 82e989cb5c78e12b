"""F that learns the network's mean Jacobian: against autograd's, and what PEPITA does with it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.feedback import JacobianMirror, product, uniform
from test_pepita import dense


def convolution() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )


MODELS = {
    "dense": (lambda: nn.Sequential(*dense(12, 10, 8, 4)), (12,)),
    "convolution": (convolution, (1, 6, 6)),
    "dropout and batch norm": (
        lambda: nn.Sequential(
            nn.Linear(12, 9),
            nn.BatchNorm1d(9, affine=False),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(9, 4),
        ),
        (12,),
    ),
}


def made(model: nn.Module, shape: tuple[int, ...], **options: Any) -> fw.PEPITA:
    generator = torch.Generator().manual_seed(1)
    return fw.PEPITA(
        model.double(),
        nn.CrossEntropyLoss(),
        projection=uniform(0.1),
        input_shape=shape,
        generator=generator,
        **options,
    )


def mean_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """By autograd, (d, k), in evaluation mode."""
    model.eval()
    each = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x)
    model.train()
    return each.mean(0).flatten(1).T.detach()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", MODELS)
def test_F_turns_to_the_mean_jacobian(name: str, sign: int) -> None:
    """To its transpose, with the sign with which PEPITA descends, and no longer than it was."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    rule = made(make(), shape, sign=sign)
    x = torch.randn(256, *shape, dtype=torch.float64)
    before = float(rule.F.norm())
    generator = torch.Generator().manual_seed(2)
    mirror = JacobianMirror(rule, rate=0.02, noise=1e-3, generator=generator)
    for _ in range(300):
        mirror.step(x)
    expected = -sign * mean_jacobian(rule.model, x)
    # 2 / rate steps of 256 samples each, of up to 36 inputs, and J differs from sample to sample
    assert float(nn.functional.cosine_similarity(rule.F.ravel(), expected.ravel(), 0)) > 0.99
    assert float(rule.F.norm()) == pytest.approx(before)


def test_one_step_by_hand() -> None:
    """M ← ρ mean of ξ rᵀ / σ² at first, then moves by ρ towards the next."""
    torch.manual_seed(0)
    rule = made(nn.Sequential(*dense(5, 4, 3)), (5,))
    norm = float(rule.F.norm())
    x = torch.randn(6, 5, dtype=torch.float64)
    mirror = JacobianMirror(rule, rate=0.25, noise=0.5, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    mean = torch.zeros(5, 3, dtype=torch.float64)
    for _ in range(2):
        mirror.step(x)
        seen = torch.zeros(5, 3, dtype=torch.float64)
        noise = 0.5 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
        for sample, xi in zip(x, noise, strict=True):
            response = (rule.model(sample + xi) - rule.model(sample - xi)).detach() / 2
            seen += torch.outer(xi, response) / 0.5**2 / 6
        mean = mean + 0.25 * (seen - mean)
        torch.testing.assert_close(mirror.mean, mean)
        torch.testing.assert_close(rule.F, -norm * mean / mean.norm())


@pytest.mark.parametrize("layers", [2, 4])
def test_updates_are_backprops_times_a_positive_matrix(layers: int) -> None:
    """J_l J_lᵀ, exactly so in a linear network, whose Jacobian is the product of its weights."""
    torch.manual_seed(0)
    sizes = (6, 5, 7, 4, 3)[-layers - 1 :]
    model = nn.Sequential(*dense(*sizes, bias=False, activation=nn.Identity))
    rule = made(model, sizes[:1], presynaptic="clean")
    weights = [stage.synapse.weight.detach() for stage in rule.network.stages]
    whole = weights[0]
    for W in weights[1:]:
        whole = W @ whole
    rule.F.copy_(-1e-4 * whole.T)
    x, target = torch.randn(9, sizes[0], dtype=torch.float64), torch.arange(9) % 3
    ours = rule(x, target).updates
    backprop = fw.Backprop(model, nn.CrossEntropyLoss())(x, target).updates
    reached = torch.eye(sizes[0], dtype=torch.float64)  # J_l
    for W, (name, update) in zip(weights[:-1], ours.items(), strict=False):
        reached = W @ reached
        torch.testing.assert_close(update, 1e-4 * reached @ reached.T @ backprop[name])
        assert float((update * backprop[name]).sum()) > 0


ADD_F_E = sorted(
    name for name, kind in fw.RULES.items() if "projection" in inspect.signature(kind).parameters
)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ADD_F_E)
def test_no_layer_opposes_backprop(name: str, sign: int) -> None:
    """Of every rule that adds F e to the input, whichever its sign."""
    torch.manual_seed(0)
    model = nn.Sequential(*dense(12, 10, 8, 4, bias=False, activation=nn.Tanh)).double()
    options: dict[str, Any] = {"projection": uniform(1e-3), "sign": sign}
    generator = torch.Generator().manual_seed(1)
    rule = fw.RULES[name](model, nn.CrossEntropyLoss(), generator=generator, **options)
    x, target = 0.3 * torch.randn(256, 12, dtype=torch.float64), torch.arange(256) % 4
    mirror = JacobianMirror(rule, rate=0.02, noise=0.01, generator=generator)
    for _ in range(200):
        mirror.step(x)
    after = fw.metrics.update_alignment(rule, x, target)
    # Time-local PEPITA's two parts are of different steps.
    assert min(after.values()) > (0.04 if name == "time-local-pepita" else 0.5)


def test_it_goes_on_where_it_was() -> None:
    """From its state and the rule's, bit for bit; modes and other random numbers stay alone."""
    torch.manual_seed(0)
    make, shape = MODELS["dropout and batch norm"]
    x = torch.randn(8, *shape, dtype=torch.float64)
    rule = made(make(), shape)
    rule.model[3].eval()
    modes = [module.training for module in rule.modules()]
    mirror = JacobianMirror(rule, generator=torch.Generator().manual_seed(2))
    state = torch.get_rng_state()
    mirror.step(x)
    assert modes == [module.training for module in rule.modules()]
    assert torch.equal(state, torch.get_rng_state())
    saved = {name: value.clone() for name, value in mirror.state_dict().items()}
    rules = {name: value.clone() for name, value in rule.state_dict().items()}
    mirror.step(x)
    expected = rule.F.clone()
    rule.load_state_dict(rules)
    other = JacobianMirror(rule, generator=torch.Generator())
    other.load_state_dict(saved)
    other.step(x)
    assert torch.equal(rule.F, expected)


def test_what_cannot_be_mirrored_from_end_to_end() -> None:
    model = nn.Sequential(*dense(4, 3, 2))
    with pytest.raises(TypeError, match=r"Backprop cannot be mirrored .* as it has no F"):
        JacobianMirror(fw.Backprop(model, nn.MSELoss()))
    with pytest.raises(TypeError, match=r"its F is a product: take a rule .* feedback.uniform"):
        JacobianMirror(fw.PEPITA(model, nn.MSELoss(), projection=product()))
    for options in ({"rate": 0.0}, {"rate": 1.1}, {"noise": 0.0}, {"noise": float("nan")}):
        with pytest.raises(ValueError, match=r"rate must be above 0 and at most 1, noise above 0"):
            JacobianMirror(fw.PEPITA(model, nn.MSELoss()), **options)


def test_samples_that_it_cannot_learn_from_are_refused() -> None:
    torch.manual_seed(0)
    rule = made(nn.Sequential(*dense(4, 9, 2)), (4,))
    mirror = JacobianMirror(rule)
    before = rule.F.clone()
    numbers = torch.rand(8, 4, dtype=torch.float64) + 0.1
    for x, kind, message in (
        (numbers.long(), TypeError, "x must be of floating-point numbers, to add noise"),
        (numbers[:0], ValueError, "x must be a batch of samples, .* and not empty"),
        (numbers[0], ValueError, "x must be a batch of samples"),
        (numbers.log() * float("nan"), ValueError, "x has a NaN or an infinity, first in sample 0"),
    ):
        with pytest.raises(kind, match=message):
            mirror.step(x)
    rule.model[0] = nn.Linear(4, 9).double()  # as users replace layers
    mirror.step(numbers)
    rule.model[0] = nn.Linear(4, 9)
    with pytest.raises((TypeError, ValueError)):
        mirror.step(numbers)
    assert not torch.equal(rule.F, before)
    assert rule.F.isfinite().all()


@pytest.mark.unchecked  # whole trainings
@pytest.mark.parametrize("seed", [0, 1])
def test_kernels_learn_with_a_mirrored_F_alone(seed: int) -> None:
    """On the digits: with F as drawn they end worse than they were drawn, mirrored much better."""
    digits = fw.data.load("digits", centre=True)

    def reached(rule: type[fw.Rule], *, mirrored: bool = False, **options: Any) -> float:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, bias=False), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10, bias=False)),
        )
        loss = nn.CrossEntropyLoss()
        learner = rule(model, loss, generator=generator, input_shape=(64,), **options)
        mirror = JacobianMirror(learner, generator=generator) if mirrored else None
        optimizer = fw.LocalSGD(learner, lr=0.05, momentum=0.9)
        fw.fit(learner, digits.train, optimizer, epochs=8, batch=32, mirror=mirror, seed=seed)
        return fw.evaluate(learner, digits.test)["accuracy"]

    control = reached(fw.ReadoutOnly)
    options: dict[str, Any] = {"presynaptic": "clean", "projection": uniform(0.1)}
    assert reached(fw.PEPITA, mirrored=True, **options) > control + 0.04
    assert reached(fw.PEPITA, **options) < control + 0.01
