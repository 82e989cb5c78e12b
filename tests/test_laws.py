"""Every law, for every rule, on every network that it takes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly.testing import CASES, LAWS, Factory, build, cases_for, check_rule

# Large feedback, so that a wrong term shows.
LARGE = fw.feedback.uniform(0.5)

FACTORIES: dict[str, Factory] = {
    **fw.RULES,
    "adaptive-feedback-alignment": partial(fw.AdaptiveFeedbackAlignment, projection=LARGE),
    "error-broadcast": partial(fw.ErrorBroadcast, forgetting=0.6),  # so that the batch shows
    "forward-forward": partial(fw.ForwardForward, negatives="likely"),  # by the neutral pass
    "hebbian-pepita": partial(fw.HebbianPEPITA, projection=LARGE),
    "mem-pepita": partial(fw.MemPEPITA, projection=LARGE),
    "pepita": partial(fw.PEPITA, projection=LARGE),
    "sign-pepita": partial(fw.SignPEPITA, projection=LARGE),
    "time-local-pepita": partial(fw.TimeLocalPEPITA, projection=LARGE),
}

# Laws that a rule need not keep, by its definition.
OWN_FEEDBACK = "hidden_units_have_no_order"  # feedback of its own tells hidden units apart
EXEMPT: dict[str, set[str]] = {
    "direct-feedback-alignment": {OWN_FEEDBACK},
    "direct-kolen-pollack": {OWN_FEEDBACK},
    "drtp": {OWN_FEEDBACK},
    # a sample's error reaches it by the whole batch's correlation
    "error-broadcast": {OWN_FEEDBACK, "batch_is_the_mean_of_its_samples"},
    "feedback-alignment": {OWN_FEEDBACK},
    "kolen-pollack": {OWN_FEEDBACK},
    "local-errors": {OWN_FEEDBACK},
    "mono-forward": {OWN_FEEDBACK},
    "sign-symmetry-batch": {OWN_FEEDBACK},
    "sign-symmetry-fixed": {OWN_FEEDBACK},
    # which wrong label a sample gets depends on its place in the batch
    "forward-forward": {"batch_is_the_mean_of_its_samples"},
    # weights are drawn towards orthogonal ones, error or not
    "foton": {"no_error_no_update"},
    # noise has its place in the batch and the layer, and makes a loss of nothing larger
    "node-perturbation": {
        *("batch_is_the_mean_of_its_samples", "no_error_no_update", OWN_FEEDBACK),
    },
    "weight-perturbation": {"no_error_no_update", OWN_FEEDBACK},
    # the second half depends on the step that the whole batch has made in the first
    "time-local-pepita": {
        *("batch_is_the_mean_of_its_samples", "no_error_no_update", "no_feedback_no_hidden_update"),
    },
}


def test_every_rule_is_put_to_the_laws() -> None:
    assert FACTORIES.keys() == fw.RULES.keys()
    assert list(fw.RULES) == sorted(fw.RULES)
    assert len(LAWS) == 13
    assert len(CASES) == 13


@pytest.mark.unchecked  # annotations are checked on these cases below and in test_relatives
@pytest.mark.parametrize("rule", FACTORIES)
def test_laws(rule: str) -> None:
    checked: list[str] = []
    exempt = EXEMPT.get(rule, set())
    check_rule(FACTORIES[rule], exempt=exempt, report=checked.append)
    cases = len(CASES) - (3 if rule == "forward-forward" else 0)  # which do not classify
    assert len(checked) == (len(LAWS) - len(exempt)) * cases


@pytest.mark.checked
@pytest.mark.parametrize("rule", [name for name, r in fw.RULES.items() if not r.uses_autograd])
def test_no_autograd(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a graph nor the engine: under inference mode, and with the engine's door shut."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the autograd engine was called")

    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refuse)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", refuse)
    for case in cases_for(FACTORIES[rule]):
        x, target = case.batch()
        with torch.inference_mode():
            build(FACTORIES[rule], case)(x, target)
        credit = build(FACTORIES[rule], case).accumulate(x, target)
        assert all(value.grad_fn is None for value in (*credit.updates.values(), *credit[1:]))


@pytest.mark.parametrize("rule", [name for name, r in fw.RULES.items() if r.uses_autograd])
def test_the_autograd_guard_bites(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="engine was called"):
        test_no_autograd(rule, monkeypatch)


def test_the_kit_reports_what_it_checks() -> None:
    checked: list[str] = []
    check_rule(fw.ReadoutOnly, exempt=[law.__name__ for law in LAWS[1:]], report=checked.append)
    assert checked == [f"{LAWS[0].__name__}, {case}" for case in CASES]


def test_the_kit_names_the_law_that_a_rule_breaks() -> None:
    def wrong(model: nn.Module, loss: nn.Module, **options: object) -> fw.Rule:
        return fw.ReadoutOnly(model, loss, error=lambda y, _: torch.ones_like(y), **options)

    with pytest.raises(AssertionError, match="no_error_no_update, network one-layer"):
        check_rule(wrong, exempt=["credit_has_the_contracts_form"])


def test_the_kit_knows_its_laws() -> None:
    with pytest.raises(ValueError, match="no law is called gravity; the laws are local_updates"):
        check_rule(fw.ReadoutOnly, exempt=["gravity"])
