"""Products by oneDNN: the same numbers as the module's, and only where nothing else is expected."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.fast.algebra import products

PRODUCTS = products.InFloat32()


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
        z = PRODUCTS.linear(a, synapse.weight, synapse.bias)
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
            z = PRODUCTS.linear(a, synapse.weight, synapse.bias)
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
            assert torch.equal(PRODUCTS.linear(a, synapse.weight, synapse.bias), synapse(a))
    a = torch.randn(4, 300)
    assert torch.equal(PRODUCTS.linear(a, wide.weight, wide.bias), wide(a))  # has a graph
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
    optimizer = fw.LocalSGD(fw.PEPITA(model, nn.CrossEntropyLoss()), lr=0.0)
    seen.clear()
    optimizer.step(x, target)
    assert optimizer.path is not None
    assert optimizer.path.engine == "readable"
    assert len(seen) == 2
    assert calls == []


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [256, 10])
def test_an_update_is_added_whatever_the_threads(
    threads: int, dtype: torch.dtype, units: int
) -> None:
    """Rows that cannot be shared out evenly too; and what it is made of need not lie in order."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for post in (torch.randn(16, units), torch.randn(units, 16).T):
            pre = torch.randn(300, 16).T
            to = torch.randn(units, 300)
            expected = 0.9 * to.double() + 0.1 * torch.einsum(
                "nu,ni->ui", post.double(), pre.double()
            )
            to, post, pre = to.to(dtype), post.to(dtype), pre.to(dtype)
            PRODUCTS.add_outer(to, post, pre, 0.9, 0.1)
            torch.testing.assert_close(to.double(), expected, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_weights_may_lie_transposed_in_memory() -> None:
    to, post, pre = torch.randn(300, 256).T, torch.randn(16, 256), torch.randn(16, 300)
    expected = 0.9 * to + 0.1 * (post.T @ pre)
    PRODUCTS.add_outer(to, post, pre, 0.9, 0.1)
    torch.testing.assert_close(to, expected, rtol=1e-4, atol=1e-4)


needs_bfloat16 = pytest.mark.skipif(
    not products.has_bfloat16(), reason="this processor has no instructions for bfloat16"
)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_rounds_operands_and_sums_and_nothing_else(bias: bool) -> None:
    synapse = nn.Linear(300, 256, bias=bias).requires_grad_(False)
    a = torch.randn(64, 300)
    exact = a.bfloat16().double() @ synapse.weight.bfloat16().double().T
    z = products.InBFloat16().linear(a, synapse.weight, synapse.bias)
    assert z.dtype == torch.float32
    error = z.double() - exact - (synapse.bias.double() if bias else 0)
    assert (error.abs() <= exact.abs() / 256 + 1e-4).all()
    assert error.abs().max() > 1e-4  # it is not float32


@needs_bfloat16
def test_updates_are_not_rounded() -> None:
    """Each a hundredth of what bfloat16 can tell from 1."""
    to = torch.ones(50, 300)
    for _ in range(100):
        products.InBFloat16().add_outer(to, torch.ones(1, 50), torch.ones(1, 300), 1.0, 1e-4)
    torch.testing.assert_close(to, torch.full_like(to, 1.01), rtol=1e-5, atol=0)


@needs_bfloat16
def test_other_types_are_left_alone() -> None:
    weight, a = torch.randn(256, 300).double(), torch.randn(8, 300).double()
    assert torch.equal(products.InBFloat16().linear(a, weight, None), a @ weight.T)


@needs_bfloat16
@pytest.mark.parametrize("output_error", ["first", "second"])
def test_small_differences_of_activity_survive_bfloat16(output_error: Any) -> None:
    """Two passes that are rounded apart differ by four times what the error makes them differ."""
    torch.manual_seed(0)
    sizes = (300, 256, 256, 256, 10)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    rule = fw.PEPITA(
        model,
        nn.CrossEntropyLoss(),
        projection=fw.feedback.uniform(0.01),
        output_error=output_error,
    )
    x, target = torch.randn(64, 300), torch.arange(64) % 10
    exact = rule.double()(x.double(), target).updates
    rule.float()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fw.LocalSGD(rule, lr=1.0, precision="bf16").step(x, target)
    for name, p in model.named_parameters():
        update = (before[name] - p).double()
        assert p.dtype == torch.float32
        assert (update - exact[name]).norm() < 0.15 * exact[name].norm(), name


@needs_bfloat16
def test_bfloat16_learns_as_float32_does() -> None:
    accuracies: list[float] = []
    for precision in ("full", "bf16"):
        torch.manual_seed(0)
        x = torch.randn(512, 64)
        target = x[:, :4].argmax(1)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 4))
        rule = fw.PEPITA(model, nn.CrossEntropyLoss())
        optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9, precision=precision)
        outputs = [optimizer.step(x, target).output for _ in range(100)]
        accuracies.append(float((outputs[-1].argmax(1) == target).float().mean()))
    assert accuracies[0] > 0.8
    assert abs(accuracies[1] - accuracies[0]) < 0.02


@needs_bfloat16
@pytest.mark.parametrize("name", fw.RULES)
def test_every_rule_is_near_its_updates_in_bfloat16_or_refused(name: str) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(64, 300), torch.arange(64) % 4
    options = {"learning_rate": 0.1} if name == "time-local-pepita" else {}
    rule = fw.RULES[name](_wide(), nn.CrossEntropyLoss(), **options)
    exact = rule(x, target).updates
    why_not = "they differ by their rounding" if rule.compares_passes else None
    why_not = "rules that need no graph" if rule.uses_autograd else why_not
    if why_not is not None and name != "pepita":
        with pytest.raises(ValueError, match=why_not):
            fw.LocalSGD(rule, lr=1.0, precision="bf16")
        return
    optimizer = fw.LocalSGD(rule, lr=1.0, precision="bf16")
    before = {key: p.detach().clone() for key, p in rule.model.named_parameters()}
    optimizer.step(x, target)
    for key, p in rule.model.named_parameters():
        if key in exact:
            update = before[key] - p.detach()
            assert (update - exact[key]).norm() < 0.15 * exact[key].norm(), key


def test_bfloat16_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = fw.PEPITA(nn.Sequential(nn.Linear(3, 2)), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"bf16.* is a fast path; given fast=False"):
        fw.LocalSGD(rule, lr=0.1, precision="bf16", fast=False)
    monkeypatch.setattr(products, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="no instructions for bfloat16; use float32"):
        fw.LocalSGD(rule, lr=0.1, precision="bf16")
