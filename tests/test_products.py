"""Products by oneDNN: the same numbers as the module's, and only where nothing else is expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.fast import products


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that went to oneDNN."""
    shapes: list[tuple[int, ...]] = []
    original = products._onednn()
    if original is None:
        pytest.skip("this build of torch has no oneDNN")

    def counted(a: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(weight.shape))
        return original(a, weight, *rest)

    monkeypatch.setattr(products, "_onednn", lambda: counted)
    return shapes


@pytest.mark.parametrize("shape", [(1, 300), (7, 300), (64, 300), (5, 6, 300)])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_the_definition(
    shape: tuple[int, ...], bias: bool, calls: list[tuple[int, ...]]
) -> None:
    synapse = nn.Linear(300, 256, bias=bias).requires_grad_(False)
    a = torch.randn(shape)
    expected = torch.einsum("...i,ui->...u", a.double(), synapse.weight.double())
    if bias:
        expected += synapse.bias.double()
    with torch.no_grad():
        z = products.linear(a, synapse.weight, synapse.bias)
    assert calls == [(256, 300)]
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), expected, rtol=1e-4, atol=1e-4)


def test_inputs_that_lie_otherwise_in_memory(calls: list[tuple[int, ...]]) -> None:
    synapse = nn.Linear(300, 256).requires_grad_(False)
    for a in (
        torch.randn(300, 9).T,
        torch.randn(9, 600)[:, ::2],
        torch.randn(1, 300).expand(9, -1),
    ):
        with torch.no_grad():
            z = products.linear(a, synapse.weight, synapse.bias)
        torch.testing.assert_close(z, synapse(a), rtol=1e-4, atol=1e-4)
    assert len(calls) == 3


def test_what_it_is_not_for_goes_to_torch(calls: list[tuple[int, ...]]) -> None:
    """Small weights, other types, no samples, and where a graph is wanted."""
    wide = nn.Linear(300, 256).requires_grad_(False)
    small = nn.Linear(30, 20).requires_grad_(False)
    double = nn.Linear(300, 256).double().requires_grad_(False)
    for synapse, a in (
        (small, torch.randn(4, 30)),
        (double, torch.randn(4, 300).double()),
        (wide, torch.randn(0, 300)),
    ):
        with torch.no_grad():
            assert torch.equal(products.linear(a, synapse.weight, synapse.bias), synapse(a))
    a = torch.randn(4, 300)
    assert torch.equal(products.linear(a, wide.weight, wide.bias), wide(a))  # has a graph
    assert calls == []


@pytest.mark.filterwarnings("ignore:TF32")  # torch's own words about its own default
def test_torchs_switch_of_onednn_is_obeyed() -> None:
    with torch.backends.mkldnn.flags(enabled=False):  # pyright: ignore
        assert products._onednn() is None


def _wide() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(300, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)
    )


@pytest.mark.parametrize("name", ["pepita", "mem-pepita", "feedback-alignment", "drtp"])
def test_training_takes_it_and_ends_at_the_same_weights(
    name: str, calls: list[tuple[int, ...]]
) -> None:
    """Both wide layers go through it, unless fast paths are switched off."""
    x, target = torch.randn(16, 300), torch.arange(16) % 4
    ends: list[nn.Sequential] = []
    for fast in (True, False):
        calls.clear()
        model = _wide()
        rule = fw.RULES[name](
            model, nn.CrossEntropyLoss(), generator=torch.Generator().manual_seed(1)
        )
        optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9, fast=fast)
        for _ in range(5):
            optimizer.step(x, target)
        assert ({(256, 300), (256, 256)} <= set(calls)) is fast
        assert fast or not calls
        ends.append(model)
    for ours, theirs in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hooks_are_called(calls: list[tuple[int, ...]]) -> None:
    """A module that is listened to is asked itself."""
    x, target = torch.randn(16, 300), torch.arange(16) % 4
    seen: list[tuple[int, ...]] = []
    model = _wide()
    model[0].register_forward_hook(lambda *given: seen.append(given[2].shape))  # pyright: ignore
    fw.LocalSGD(fw.PEPITA(model, nn.CrossEntropyLoss()), lr=0.0).step(x, target)
    assert seen
    assert calls == [(256, 256), (256, 256)]
