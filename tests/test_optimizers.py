"""Every optimizer of torch's does with ``accumulate`` what it does with ``loss.backward()``."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils
from torch.testing import assert_close
from torch.torch_version import TorchVersion

import forwardly as fw

pytestmark = pytest.mark.unchecked

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

KINDS: dict[str, Any] = {
    name: kind
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
OPTIONS: dict[str, dict[str, Any]] = {
    "Adam": {"amsgrad": True},
    "LBFGS": {"lr": 0.1, "max_iter": 3},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}
X = torch.randn(3, 32, 6, generator=torch.Generator().manual_seed(0)).double()
Y = torch.randint(0, 3, (3, 32), generator=torch.Generator().manual_seed(1))
Between = Callable[[nn.Module, torch.optim.Optimizer, int], None]
"""What else is done after a step (of this number) with model and optimizer."""


def test_all_of_torchs_optimizers_are_here() -> None:
    """And those that a newer torch brings. SparseAdam has a test of its own."""
    known = {
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "NAdam"),
        *("RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam"),
    }
    if TorchVersion(torch.__version__) >= "2.9":
        known.add("Muon")
    assert known <= KINDS.keys()
    assert len(known) == 14 + ("Muon" in KINDS)


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    # Without biases: Muon is for matrices only.
    layers = nn.Linear(6, 20, bias=False), nn.Tanh(), nn.Linear(20, 3, bias=False)
    return nn.Sequential(*layers).double()


def compare(make: Make, between: Between = lambda *_: None, clip: float | None = None) -> None:
    """Two models of equal weights, with backprop as a rule and as torch has it, step by step."""
    ours, theirs = model_of(), model_of()
    rule = fw.Backprop(ours, nn.CrossEntropyLoss())
    optimizers = [make(list(model.parameters())) for model in (ours, theirs)]
    before = copy.deepcopy(ours.state_dict())
    for number, (x, target) in enumerate(zip(X, Y, strict=True)):

        def accumulate(x: Tensor = x, target: Tensor = target) -> Tensor:
            optimizers[0].zero_grad()
            loss = rule.accumulate(x, target).loss
            if clip is not None:
                nn.utils.clip_grad_norm_(ours.parameters(), clip)
            return loss

        def backward(x: Tensor = x, target: Tensor = target) -> Tensor:
            optimizers[1].zero_grad()
            loss = nn.functional.cross_entropy(theirs(x), target)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            return loss.detach()  # torch 2.8's LBFGS warns of one with a graph

        losses = [
            optimizer.step(closure)
            for optimizer, closure in zip(optimizers, (accumulate, backward), strict=True)
        ]
        assert_close(losses[0], losses[1])
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            between(model, optimizer, number)
        assert_close(ours.state_dict(), theirs.state_dict())
        assert not any(torch.equal(before[name], value) for name, value in ours.named_parameters())


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"SparseAdam"}))
def test_optimizers_do_as_with_backward(name: str) -> None:
    compare(lambda parameters: KINDS[name](parameters, **OPTIONS.get(name, {})))


def test_sparse_adam_wants_gradients_that_no_rule_makes() -> None:
    """They come of nn.Embedding(sparse=True), which is no synapse."""
    with pytest.raises(TypeError, match="Embedding"):
        fw.Backprop(nn.Sequential(nn.Embedding(5, 3, sparse=True)), nn.CrossEntropyLoss())
    model = model_of()
    fw.Backprop(model, nn.CrossEntropyLoss()).accumulate(X[0], Y[0])
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients"):
        torch.optim.SparseAdam(list(model.parameters())).step()


def test_lbfgs_lowers_what_a_closure_measures() -> None:
    """Where a rule's updates are a gradient; the document's own lines."""
    page = (Path(__file__).parent.parent / "docs" / "from-backward.md").read_text("utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "LBFGS" in c)
    model = model_of().float()
    x, target = X[0].float(), Y[0]
    rule = fw.Backprop(model, nn.CrossEntropyLoss())
    before = rule(x, target).loss
    names = {"torch": torch, "model": model, "rule": rule, "x": x, "target": target}
    exec(code, {**names, "fw": fw, "nn": nn})
    assert rule(x, target).loss < before / 4


def test_fit_says_what_a_closure_needs() -> None:
    rule = fw.Backprop(model_of(), nn.CrossEntropyLoss())
    part = fw.data.Split(X[0], Y[0])
    dataset = fw.data.Dataset("mine", 3, part, part, part)
    optimizer = torch.optim.LBFGS(rule.model.parameters())
    with pytest.raises(ValueError, match="LBFGS needs a closure"):
        fw.fit(rule, dataset, optimizer, epochs=1)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=4),
    ],
)
def test_schedulers(schedule: Callable[[torch.optim.Optimizer], Any]) -> None:
    found: dict[torch.optim.Optimizer, Any] = {}

    def between(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        found[optimizer].step()

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        found[optimizer] = schedule(optimizer)
        return optimizer

    compare(make, between)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_gradients_are_clipped(clip: float) -> None:
    compare(lambda parameters: torch.optim.SGD(parameters, 0.1), clip=clip)


@pytest.mark.parametrize("multi", [None, swa_utils.get_ema_multi_avg_fn(0.9)])
def test_averages_of_weights(multi: Any) -> None:
    """SWA and EMA; the average is a plain model, which another rule can be built on."""
    averages: dict[nn.Module, swa_utils.AveragedModel] = {}

    def between(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        if model not in averages:
            averages[model] = swa_utils.AveragedModel(model, multi_avg_fn=multi)
        averages[model].update_parameters(model)

    compare(lambda parameters: torch.optim.SGD(parameters, 0.5), between)
    ours, theirs = averages.values()
    assert_close(ours.state_dict(), theirs.state_dict())
    last = next(iter(averages))
    assert not torch.equal(ours.module[0].weight, last[0].weight)
    fw.PEPITA(ours.module, nn.CrossEntropyLoss()).accumulate(X[0], Y[0])


def test_schedule_free() -> None:
    schedulefree = pytest.importorskip("schedulefree", reason="schedulefree is not installed")

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = schedulefree.AdamWScheduleFree(parameters, lr=0.01, warmup_steps=2)
        optimizer.train()
        return optimizer

    def between(model: nn.Module, optimizer: Any, number: int) -> None:
        if number == 1:  # as one does to evaluate: weights are the average meanwhile
            optimizer.eval()
            optimizer.train()

    compare(make, between)
