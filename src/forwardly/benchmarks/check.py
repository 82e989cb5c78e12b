"""Whether rules compute on a device what they compute on the processor.

In float64 and on small networks, so that nothing but rounding may differ: the updates of one batch,
steps that a device captures, epochs of ``fit``, and several runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardly.data import Dataset
from forwardly.experiments.recipe import Prepared, Recipe, fit_at_once, prepare_on
from forwardly.fast.cuda import arithmetic
from forwardly.fast.sgd import Descent, descend
from forwardly.rules import RULES
from forwardly.training.local_sgd import LocalSGD

SMALL = Recipe(
    hidden=(12, 10),
    epochs=2,
    batch=32,
    milestones=(1,),
    dtype="float64",
    dropout=0.2,
    flip=True,
    shift=1,
)
_BOUNDS = {"update": 1e-8, "steps": 1e-6, "weights": 1e-4, "loss": 1e-3}
"""The most that may differ. Rules that divide small differences multiply rounding, step by step."""

MOST_OF_KERNEL = 1e-5
"""The same of the kernel, in float32."""

_STEPS = 8
_SETTINGS = (
    Descent(momentum=0.0, weight_decay=0.1, lr=0.1, nesterov=False),
    Descent(momentum=0.9, weight_decay=0.0, lr=0.1, nesterov=False),
    Descent(momentum=0.9, weight_decay=0.1, lr=0.1, nesterov=True),
)


class Differences(NamedTuple):
    """How far a device is from the processor.

    Attributes:
        update: of a batch, relative to the largest number.
        steps: of all state after some steps of ``LocalSGD``, likewise.
        weights: of all state after epochs of ``fit`` and of runs at once.
        loss: of the last epoch.
        path: which engine took the last step.
    """

    update: float
    steps: float
    weights: float
    loss: float
    path: str

    def wrong(self) -> list[str]:
        """What is further away than rounding explains."""
        found = self._asdict()
        return [name for name, most in _BOUNDS.items() if not found[name] <= most]


def images(count: int, shape: tuple[int, ...], classes: int, validation: int) -> Dataset:
    """Random ones, whose class has nothing to do with them."""
    drawn = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return Dataset.from_arrays(drawn, torch.arange(count) % classes, validation=validation)


def small_images() -> Dataset:
    """Ten whole batches and a shorter one."""
    return images(372, (1, 6, 6), 3, validation=42)


def differences(rule: str, data: Dataset, device: str) -> Differences:
    """Of a rule on a device from what it does on the processor."""
    here, there, beside = (_prepared(rule, data, where) for where in ("cpu", device, device))
    alone, fitted = ([run.fit() for run in runs] for runs in (here, there))
    together = fit_at_once(beside)
    pairs = [*zip(here, there, strict=True), *zip(here, beside, strict=True)]
    losses = [fit.rows[-1]["loss"] for fit in alone]
    found = zip(losses * 2, [*fitted, *together], strict=True)
    steps, path = _of_steps(rule, data, device)
    return Differences(
        update=_of_update(rule, data, device),
        steps=steps,
        weights=max(_distance(one.rule, other.rule) for one, other in pairs),
        loss=max(abs(loss - fit.rows[-1]["loss"]) for loss, fit in found),
        path=path,
    )


def of_kernel(device: str) -> float:
    """Of a weight's step by the kernel from its definition, in float32; 0 where there is none.

    Raises:
        RuntimeError: what Triton says, if it does not compile it.
    """
    if arithmetic.no_triton():
        return 0.0
    from forwardly.fast.cuda import kernel  # loads Triton

    worst = 0.0
    draws = torch.Generator().manual_seed(0)
    for settings in _SETTINGS:
        shapes = (3, 100, 300), (3, 70, 100), (3, 70, 300)
        weight, post, pre = (torch.randn(shape, generator=draws) for shape in shapes)
        update = post.double().mT @ pre.double() / 70
        momentum = torch.zeros_like(weight) if settings.momentum else None
        expected, _ = descend(weight.double(), None, update, settings)
        momentum = None if momentum is None else momentum.to(device)
        found, post, pre = (tensor.to(device) for tensor in (weight, post, pre))
        rates = torch.full((3,), settings.lr, device=device)
        kernel.descend(found, momentum, post, pre, settings, rates, scale=1 / 70, is_new=True)
        worst = max(worst, _relative(found.cpu().double(), expected))
    return worst


def _prepared(rule: str, data: Dataset, device: str) -> list[Prepared]:
    own = RULES[rule].needs_learning_rate  # then the rates of runs at once are equal
    rates = (0.05, 0.05) if own else (0.05, 0.02)
    recipes = [replace(SMALL, rule=rule, learning_rate=rate) for rate in rates]
    return [prepare_on(data, recipe, seed).to(device) for seed, recipe in enumerate(recipes)]


def _of_update(rule: str, data: Dataset, device: str) -> float:
    x, target = data.train.batch(slice(SMALL.batch), torch.float64)
    here, there = (_prepared(rule, data, where)[0].rule for where in ("cpu", device))
    expected, found = here(x, target).updates, there(x.to(device), target.to(device)).updates
    return max(_relative(found[name].cpu(), update) for name, update in expected.items())


def _of_steps(rule: str, data: Dataset, device: str) -> tuple[float, str]:
    """Enough steps for a graph, and the engine that took the last."""
    here, there = (_prepared(rule, data, where)[0] for where in ("cpu", device))
    path = ""
    for run, where in ((here, "cpu"), (there, device)):
        optimizer = LocalSGD(run.rule, lr=run.recipe.learning_rate, momentum=0.9)
        for start in range(0, _STEPS * SMALL.batch, SMALL.batch):
            batch = data.train.batch(slice(start, start + SMALL.batch), torch.float64)
            optimizer.step(*(tensor.to(where) for tensor in batch))
        optimizer.settle()
        path = str(optimizer.path)
    return max(_relative(other.cpu(), one) for one, other in _pairs(here.rule, there.rule)), path


def _distance(here: Any, there: Any) -> float:
    return max(float((one - other.cpu()).abs().max()) for one, other in _pairs(here, there))


def _pairs(here: Any, there: Any) -> Iterator[tuple[Tensor, Tensor]]:
    states = here.state_dict(), there.state_dict()
    for one, other in zip(*(state.values() for state in states), strict=True):
        if one.is_floating_point():
            yield one, other


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
