"""Every law, for every rule that takes any model, on networks that are no chains."""

from __future__ import annotations

import pytest

import forwardly as fw
from forwardly.testing import LAWS, check_rule
from graphs import ANY_MODEL, BY_SAMPLE, GRAPHS, takes
from test_laws import EXEMPT, FACTORIES


def test_what_takes_any_model() -> None:
    assert len(GRAPHS) == 15
    assert fw.RULES.keys() - ANY_MODEL == {
        *("error-broadcast", "forward-forward", "foton", "local-errors", "mono-forward"),
    }
    assert {*ANY_MODEL} > BY_SAMPLE


@pytest.mark.unchecked
@pytest.mark.parametrize("rule", ANY_MODEL)
def test_laws_on_graphs(rule: str) -> None:
    checked: list[str] = []
    exempt = EXEMPT.get(rule, set())
    cases = [case for case in GRAPHS if takes(rule, case)]
    check_rule(FACTORIES[rule], exempt=exempt, report=checked.append, cases=cases)
    assert len(checked) == (len(LAWS) - len(exempt)) * len(cases)
