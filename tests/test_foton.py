"""Theory: where weights are orthogonal, FOTON is backprop; and it makes them so."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.network import transposed
from forwardly.testing import CASES, Case


def orthogonal(*layers: nn.Module) -> nn.Sequential:
    """Weights with orthonormal rows (or columns); those of a convolution are its kernels."""
    model = nn.Sequential(*layers).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in (p for p in model.parameters() if p.dim() > 1):
            nn.init.orthogonal_(weight)
    return model


def linear(*sizes: int) -> nn.Sequential:
    return orthogonal(*(nn.Linear(before, after) for before, after in pairwise(sizes)))


def patches() -> nn.Sequential:
    """Convolutions whose windows do not overlap, so that they are orthogonal maps."""
    first = nn.Conv2d(2, 8, 2, stride=2), nn.Conv2d(8, 6, (1, 2), stride=(1, 2), groups=2)
    return orthogonal(*first, nn.Flatten(), nn.Linear(24, 3))


def both(model: nn.Sequential, x: torch.Tensor, **options: object) -> list[dict]:
    target = torch.rand(len(x), model(x).shape[1], dtype=x.dtype)
    rules = fw.FOTON(model, nn.MSELoss(), **options), fw.Backprop(model, nn.MSELoss())
    return [rule(x, target).updates for rule in rules]


@pytest.mark.parametrize("sizes", [(9, 4), (9, 9, 5), (20, 16, 16, 12, 7, 7, 3)])
def test_in_a_linear_network_of_orthogonal_weights_it_is_backprop(sizes: tuple[int, ...]) -> None:
    """At any depth; the Björck iteration has nothing to do."""
    x = torch.randn(5, sizes[0], dtype=torch.float64)
    ours, theirs = both(linear(*sizes), x)
    assert_close(ours, theirs)


def test_with_a_temperature_it_is_backprop_of_warmer_outputs() -> None:
    """Of the cross-entropy of T y, divided by T."""
    model, x, target = linear(9, 9, 5), torch.randn(6, 9).double(), torch.arange(6) % 5
    ours = fw.FOTON(model, nn.CrossEntropyLoss(), temperature=4.0)(x, target)
    loss = nn.functional.cross_entropy(4 * model(x), target) / 4
    names, parameters = zip(*model.named_parameters(), strict=True)
    theirs = torch.autograd.grad(loss, parameters)
    assert_close(ours.updates, dict(zip(names, theirs, strict=True)))
    assert_close(ours.loss, nn.functional.cross_entropy(model(x), target))


def test_so_it_is_in_convolutions_that_are_orthogonal_maps() -> None:
    ours, theirs = both(patches(), torch.randn(5, 2, 4, 8, dtype=torch.float64))
    assert_close(ours, theirs)


def test_where_weights_are_not_orthogonal_or_layers_widen_it_is_not() -> None:
    """The theorem needs orthonormal rows: W Wᵀ = 1."""
    x = torch.randn(5, 6, dtype=torch.float64)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)).double()
    for model in (plain, linear(6, 12, 3)):
        ours, theirs = both(model, x, orthogonalise=False)
        assert (ours["0.weight"] - theirs["0.weight"]).norm() > 0.1 * theirs["0.weight"].norm()


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_steps_make_weights_orthogonal(scale: float) -> None:
    """From short and from long weights, in tall and wide layers, while the network learns."""
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() > 1):
            weight *= scale
    rule = fw.FOTON(model, nn.CrossEntropyLoss(), learning_rate=0.05)
    optimizer = fw.LocalSGD(rule, 0.05)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        optimizer.step(x, x[:, :3].argmax(1))
    for weight in (p for p in model.parameters() if p.dim() > 1):
        values = torch.linalg.svdvals(weight.detach())
        assert_close(values, torch.ones_like(values), rtol=0, atol=0.05)


@pytest.mark.parametrize("case", [case for case in CASES if "conv" in case.name], ids=str)
def test_transposes_are_those_of_what_is_linear(case: Case) -> None:
    """⟨u, W a⟩ = ⟨Wᵀ u, a⟩ for synapses and average pooling, whatever their padding."""
    rule = fw.ReadoutOnly(case.model(), case.loss())
    x, _ = case.batch()
    step = rule.network.step()
    for stage, layer in zip(rule.network.stages, step.activities(step.prepare(x)), strict=True):
        u = torch.randn(layer.z.shape, dtype=x.dtype)
        back = transposed.of_synapse(stage, u, tuple(layer.pre.shape[1:]))
        assert_close((stage.weigh(layer.pre) * u).sum(), (back * layer.pre).sum())
        a = layer.h
        for part in stage.reshaping:
            if isinstance(part.module, nn.Tanh | nn.Dropout1d | nn.Dropout2d):
                continue
            pooled = part.module(a)
            u = torch.randn(pooled.shape, dtype=x.dtype)
            back = transposed.of_reshaping(part, u, tuple(a.shape[1:]))
            assert back.shape == a.shape
            if "Max" in type(part.module).__name__:
                assert_close(back.sum(), u.sum())
            else:
                assert_close((pooled * u).sum(), (back * a).sum())
            a = pooled


def test_what_is_elementwise_behind_a_pooling_is_passed_over() -> None:
    """It draws no random numbers, and the feedback is that of the network without it."""
    plain, dressed = patches(), patches()
    for more in (nn.Dropout2d(0.5), nn.Tanh(), nn.AvgPool2d(1)):
        dressed.insert(1, more)
    rules = [fw.FOTON(model, nn.MSELoss()) for model in (plain, dressed)]
    random, found = torch.random.get_rng_state(), []
    for rule in rules:
        step = rule.begin_step()
        clean = list(step.activities(torch.ones(2, 2, 4, 8, dtype=torch.float64)))
        found.append(rule._feedback(step, clean))
    assert_close(*found)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_altered_pooling_is_refused() -> None:
    model = copy.deepcopy(patches())
    model.insert(1, nn.AvgPool2d(1))
    model[1].register_forward_hook(lambda *args: args[-1] + 1)
    rule = fw.FOTON(model, nn.MSELoss())
    with pytest.raises(TypeError, match="no transpose is known of '1', which has"):
        rule(torch.randn(5, 2, 4, 8, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64))
