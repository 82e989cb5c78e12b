"""Every law, for every rule, on every network of the zoo."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import forwardly as fw
from laws import LAWS, Factory, build
from zoo import CASES, Case


def pepita_factory(rule: Callable[..., fw.Rule]) -> Factory:
    return lambda model, loss, generator, input_shape: rule(
        model,
        loss,
        projection=fw.feedback.uniform(0.5),
        input_shape=input_shape,
        generator=generator,
    )


def plain(rule: Callable[..., fw.Rule]) -> Factory:
    return lambda model, loss, generator, _: rule(model, loss, generator=generator)


FACTORIES: dict[str, Factory] = {
    "backprop": plain(fw.Backprop),
    "pepita": pepita_factory(fw.PEPITA),
    "readout-only": plain(fw.ReadoutOnly),
}


def test_every_rule_is_put_to_the_laws() -> None:
    assert FACTORIES.keys() == fw.RULES.keys()
    assert list(fw.RULES) == sorted(fw.RULES)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("rule", FACTORIES)
def test_law(rule: str, law: Callable[[Factory, Case], None], case: Case) -> None:
    law(FACTORIES[rule], case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rule", [name for name, r in fw.RULES.items() if not r.uses_autograd])
def test_no_autograd(rule: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a graph nor the engine: under inference mode, and with the engine's door shut."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the autograd engine was called")

    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refuse)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", refuse)
    x, target = case.batch()
    with torch.inference_mode():
        build(FACTORIES[rule], case)(x, target)
    made = build(FACTORIES[rule], case)
    credit = made.accumulate(x, target)
    assert all(value.grad_fn is None for value in (*credit.updates.values(), *credit[1:]))


def test_the_autograd_guard_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="engine was called"):
        test_no_autograd("backprop", CASES[0], monkeypatch)
