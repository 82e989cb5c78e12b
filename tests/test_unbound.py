"""Learning rates of the unbound experiments are chosen as they say, and trials are no results."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from forwardly.data.sources import SOURCES
from forwardly.experiments import records
from forwardly.experiments.published import unbound_cifar10, unbound_mnist
from forwardly.experiments.published.unbound import OPTIONS, RATES
from forwardly.experiments.report import columns, trials

RECORDS = Path(__file__).parent.parent / "records"
CHOSEN = {module.EXPERIMENT.name: module.CHOSEN for module in (unbound_cifar10, unbound_mnist)}
EXPERIMENTS = {m.EXPERIMENT.name: m.EXPERIMENT for m in (unbound_cifar10, unbound_mnist)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rates_are_the_smallest_near_the_best(name: str) -> None:
    """Within a standard error of the best on validation images."""
    experiment = EXPERIMENTS[name]
    images = SOURCES[experiment.cells["rates/pepita-0.01"].recipe.data].validation
    found = trials(experiment, records.read_all(RECORDS))
    for rule, chosen in CHOSEN[name].items():
        tried = {
            rate: found[f"rates/{rule}-{rate:g}"]
            for rate in RATES
            if f"rates/{rule}-{rate:g}" in found
        }
        assert len(tried) >= 3, rule
        best = max(tried.values())
        near = best - math.sqrt(best * (1 - best) / images)
        assert chosen == min(rate for rate, accuracy in tried.items() if accuracy >= near), rule
        # Those that were not tried are further from the best than ones that did worse.
        at = RATES.index(max(tried, key=lambda rate: tried[rate]))
        assert at == len(RATES) - 1 or RATES[at + 1] in tried


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trials_are_no_results(name: str) -> None:
    experiment = EXPERIMENTS[name]
    names = [cell for cell, made in experiment.cells.items() if made.trial]
    assert len(names) == len(OPTIONS) * len(RATES)
    made = columns(experiment, records.read_all(RECORDS))
    assert not any(column.name == "rates" for column in made)
    for record in records.read_all(RECORDS):
        if record.experiment == name:
            is_trial = experiment.cells[record.cell].trial
            assert (record.seed == 100) == is_trial, "trials are of a seed that no result is of"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_rules_are_treated_alike(name: str) -> None:
    """But for the rule, its own options and its rate, recipes of a row are the same."""
    for column in {cell.partition("/")[0] for cell in EXPERIMENTS[name].cells}:
        for suffix in ("", "-dropout-0", "-dropout-0.5"):
            made = [
                EXPERIMENTS[name].cells[f"{column}/{rule}{suffix}"].recipe.as_data()
                for rule in OPTIONS
                if f"{column}/{rule}{suffix}" in EXPERIMENTS[name].cells
            ]
            own = {"rule", "options", "learning_rate"}
            same = [{n: v for n, v in recipe.items() if n not in own} for recipe in made]
            assert all(recipe == same[0] for recipe in same)
