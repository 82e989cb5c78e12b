"""Runs at once are the single runs, and nothing in their step waits for values."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import forwardly as fw
from cuda_graphs import waits
from forwardly import RULES
from forwardly.errors import UsageError
from forwardly.experiments.recipe import Prepared, Recipe, fit_at_once, prepare_on
from forwardly.network.share import Share
from forwardly.training.measures import MEASURES

RATES = 0.05, 0.1, 0.02


def images(seed: int, count: int = 52) -> fw.data.Dataset:
    drawn = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return fw.data.Dataset.from_arrays(drawn, torch.arange(count) % 3, validation=10)


DATA, OTHER = images(0), images(1)
PLAIN = Recipe(hidden=(5,), epochs=2, batch=16, milestones=(1,), dtype="float64", dropout=0.2)


def runs(recipe: Recipe, *, same: bool = False) -> list[Prepared]:
    """Three seeds; with samples of their own, unless they are to be the same."""
    rates = [recipe.learning_rate] * 3 if RULES[recipe.rule].needs_learning_rate else RATES
    return [
        prepare_on(
            DATA if same or seed == 1 else OTHER, replace(recipe, learning_rate=rate), seed=seed
        )
        for seed, rate in enumerate(rates)
    ]


def figures(fit: fw.Fit) -> list[dict[str, float]]:
    return [{n: v for n, v in row.items() if "second" not in n} for row in fit.rows]


CHANGES: dict[str, dict[str, Any]] = {
    "changed images": {"flip": True, "shift": 1, "crop": 0.8},
    "the same samples": {},
    "two layers, biases": {"hidden": (5, 4), "initial": "torch"},
    "convolution": {"model": "conv", "hidden": (2,), "conv_rate": 0.5},
    "plain descent with decay": {"momentum": 0.0, "weight_decay": 0.01},
}


@pytest.mark.parametrize(
    "recipe",
    [
        *(pytest.param(replace(PLAIN, rule=rule), id=rule) for rule in RULES),
        *(pytest.param(replace(PLAIN, **changes), id=name) for name, changes in CHANGES.items()),
    ],
)
def test_they_are_the_single_runs(recipe: Recipe, request: pytest.FixtureRequest) -> None:
    """Rows, weights, buffers and momenta, with a last batch of ten samples."""
    same = request.node.callspec.id == "the same samples"
    alone, together = (runs(recipe, same=same) for _ in range(2))
    measures = tuple(MEASURES.values())
    expected = [run.fit(measures=measures) for run in alone]
    found = fit_at_once(together, measures=measures)
    for one, other in zip(expected, found, strict=True):
        assert len(one.rows) == 2
        for ours, theirs in zip(figures(one), figures(other), strict=True):
            assert list(ours) == list(theirs)
            assert theirs == pytest.approx(ours, rel=1e-8, abs=1e-10)
        assert other.best == one.best
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.rule.state_dict(), one.rule.state_dict())
        momenta = [run.optimizer.state_dict()["state"] for run in (other, one)]
        torch.testing.assert_close(*momenta)
        assert other.scheduler.get_last_lr() == one.scheduler.get_last_lr()


@pytest.mark.parametrize("settings", [{}, {"nesterov": True}, {"maximize": True}], ids=str)
def test_of_torchs_sgd_too(settings: dict[str, bool]) -> None:
    def built() -> tuple[list[fw.Rule], list[torch.optim.Optimizer]]:
        rules, optimizers = list[fw.Rule](), list[torch.optim.Optimizer]()
        for seed in range(2):
            draws = torch.Generator().manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), fw.models.mlp(36, (5,), 3, generator=draws))
            rules.append(fw.PEPITA(model, nn.CrossEntropyLoss(), generator=draws))
            optimizers.append(torch.optim.SGD(model.parameters(), 0.1, 0.9, **settings))
        return rules, optimizers

    (alone, one_by_one), (rules, optimizers) = built(), built()
    for seed, (rule, optimizer) in enumerate(zip(alone, one_by_one, strict=True)):
        fw.fit(rule, DATA, optimizer, epochs=2, batch=16, seed=seed)
    fits = fw.fit_seeds(rules, DATA, optimizers, epochs=2, batch=16, seeds=(0, 1))
    assert [len(fit.rows) for fit in fits] == [2, 2]
    for rule, expected in zip(rules, alone, strict=True):
        torch.testing.assert_close(rule.state_dict(), expected.state_dict())


def test_one_that_diverges_leaves_the_others_alone() -> None:
    def built() -> list[Prepared]:
        rates = 0.05, 1e30, 0.02
        plain = replace(PLAIN, dtype="float32", epochs=3)
        return [prepare_on(DATA, replace(plain, learning_rate=r), i) for i, r in enumerate(rates)]

    expected = [run.fit() for run in built()]
    assert expected[1].diverged is not None
    ours = built()
    rows: list[int] = []
    weights: list[Tensor] = []

    def on_epoch(news: list[dict[str, float]]) -> None:
        rows.append(len(news))
        weights.append(next(ours[1].rule.parameters()).detach().clone())

    began = time.perf_counter()
    found = fit_at_once(ours, on_epoch=on_epoch)
    assert sum(fit.seconds for fit in found) <= time.perf_counter() - began
    diverged = (found[1].diverged or 0) - 1
    assert len(weights) == 3
    for later in weights[diverged:]:  # it stays as it was then
        torch.testing.assert_close(later, weights[diverged], equal_nan=True)
    assert [fit.diverged for fit in found] == [fit.diverged for fit in expected]
    assert [len(fit.rows) for fit in found] == [len(fit.rows) for fit in expected]
    assert rows[0] == 3
    assert rows[-1] == 2
    for i in (0, 2):
        assert found[i].rows[-1]["loss"] == pytest.approx(expected[i].rows[-1]["loss"], rel=1e-4)


class Waits(TorchDispatchMode):
    """Names the operations for which a device's stream would be waited for, or left."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add(waits(func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_in_a_step_waits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a step could not be captured as a graph, and would wait for the device."""
    found: set[str] = set()
    steps = 0

    def watched(self: Any) -> None:
        nonlocal steps
        with Waits() as seen:
            self._work()
        found.update(seen.found - {""})
        steps += 1

    monkeypatch.setattr("forwardly.fast.cuda.captured.Captured.__call__", watched)
    changes = {"flip": True, "shift": 1, "crop": 0.8} if rule == "pepita" else {}
    fit_at_once(runs(replace(PLAIN, rule=rule, epochs=1, milestones=(), **changes)))
    assert steps == 2
    assert not found


REFUSED: dict[str, tuple[Callable[[list[Prepared]], dict[str, Any]], str]] = {}


def case(says: str) -> Callable[..., Any]:
    def kept(change: Callable[[list[Prepared]], dict[str, Any]]) -> Any:
        REFUSED[change.__name__] = change, says
        return change

    return kept


@case("shares out its batches over processes")
def shared_out(given: list[Prepared]) -> dict[str, Any]:
    given[1].rule.parallel = Mock()
    given[1].rule.parallel.run = lambda rule, x, target: rule.run_share(
        x, target, Share(0, len(x), len(x))
    )
    return {}


@case("as many seeds")
def too_few_seeds(_: list[Prepared]) -> dict[str, Any]:
    return {"seeds": [0]}


@case("their module '2': Tanh.. and ReLU")
def other_activations(given: list[Prepared]) -> dict[str, Any]:
    tanh = prepare_on(DATA, replace(PLAIN, activation="tanh"), 0)
    return {"rules": [tanh.rule, given[1].rule], "optimizers": [tanh.optimizer, given[1].optimizer]}


@case("their rule: Backprop and")
def other_rules(given: list[Prepared]) -> dict[str, Any]:
    other = prepare_on(DATA, replace(PLAIN, rule="backprop"), 0)
    pair = [other, given[1]]
    return {"rules": [run.rule for run in pair], "optimizers": [run.optimizer for run in pair]}


@case("optimizer's settings of ")
def other_momentum(given: list[Prepared]) -> dict[str, Any]:
    given[0].optimizer.param_groups[0]["momentum"] = 0.5
    return {}


@case("samples in memory and 42")
def fewer_samples(given: list[Prepared]) -> dict[str, Any]:
    fewer = fw.data.Dataset.from_arrays(DATA.train.x[:20], DATA.train.target[:20], validation=10)
    return {"data": [fewer, given[1].dataset]}


@case("an optimizer of its own")
def one_rule_twice(given: list[Prepared]) -> dict[str, Any]:
    return {"rules": [given[0].rule] * 2, "optimizers": [given[0].optimizer] * 2}


@case("given Adam")
def adam(given: list[Prepared]) -> dict[str, Any]:
    return {"optimizers": [torch.optim.Adam(run.rule.parameters()) for run in given]}


@case("a loader")
def loader(_: list[Prepared]) -> dict[str, Any]:
    pairs = torch.utils.data.TensorDataset(DATA.train.x.double(), DATA.train.target)
    return {"data": torch.utils.data.DataLoader(pairs, batch_size=16)}


@case("has hooks")
def hooks(given: list[Prepared]) -> dict[str, Any]:
    for run in given:
        run.rule.model[1].register_forward_hook(lambda *_: None)
    return {}


class Asking(fw.ReadoutOnly):  # pyright: ignore[reportGeneralTypeIssues]
    """A user's own rule, whose step hangs on a value."""

    def assign(self, x: Tensor, target: Tensor, step: fw.network.Step) -> fw.Credit:
        credit = super().assign(x, target, step)
        return credit if credit.loss > 0 else credit._replace(updates={})


@case("Asking cannot be batched, .*train one run after the other")
def a_rule_that_asks(given: list[Prepared]) -> dict[str, Any]:
    rules = [Asking(run.rule.model, nn.CrossEntropyLoss()) for run in given]
    return {"rules": rules, "optimizers": [fw.LocalSGD(rule, lr=0.1) for rule in rules]}


@case("no dampening")
def dampening(given: list[Prepared]) -> dict[str, Any]:
    for run in given:
        run.optimizer.param_groups[0]["dampening"] = 0.5
    return {}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_is_refused(name: str) -> None:
    given = [prepare_on(DATA, PLAIN, seed) for seed in range(2)]
    options: dict[str, Any] = {
        "rules": [run.rule for run in given],
        "data": [run.dataset for run in given],
        "optimizers": [run.optimizer for run in given],
        "seeds": [0, 1],
    }
    change, says = REFUSED[name]
    before = [value.clone() for run in given for value in run.rule.model.state_dict().values()]
    with pytest.raises(UsageError, match=says):
        fw.fit_seeds(**(options | change(given)), epochs=1, batch=16)
    after = [value for run in given for value in run.rule.model.state_dict().values()]
    torch.testing.assert_close(after, before)
