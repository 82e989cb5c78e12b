"""Learning rates of the unbound experiments are chosen as they say, and trials are no results."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from forwardly.data.sources import SOURCES
from forwardly.experiments import records
from forwardly.experiments.published import (
    any_module,
    unbound_cifar10,
    unbound_convolution,
    unbound_depth,
    unbound_mnist,
    unbound_rules,
)
from forwardly.experiments.published.unbound import OPTIONS
from forwardly.experiments.report import columns, trials

RECORDS = Path(__file__).parent.parent / "records"
TABLES = {m.EXPERIMENT.name: m.EXPERIMENT for m in (unbound_cifar10, unbound_mnist, unbound_rules)}
OTHERS = {m.EXPERIMENT.name: m.EXPERIMENT for m in (unbound_depth, unbound_convolution, any_module)}
EXPERIMENTS = {**TABLES, **OTHERS}
CHOSEN: dict[str, dict[str, float]] = {
    module.EXPERIMENT.name: {f"rates/{rule}": rate for rule, rate in module.CHOSEN.items()}
    for module in (unbound_cifar10, unbound_mnist, unbound_convolution, unbound_rules)
}
CHOSEN["unbound_cifar10"][f"rates/{unbound_cifar10.MIRRORED}"] = unbound_cifar10.CHOSEN_MIRRORED
CHOSEN["unbound_depth"] = {
    f"rates-{column}/{rule}-{layers}": rate
    for column, of_rules in unbound_depth.CHOSEN.items()
    for rule, rates in of_rules.items()
    for layers, rate in zip((1, 5), rates, strict=True)
}
CHOSEN["any_module"] = {
    f"rates-{column}/{row}": rate
    for column, of_rows in any_module.CHOSEN.items()
    for row, rate in of_rows.items()
}
"""By experiment, then by the trials that it was chosen by: a rule's learning rate."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rates_are_the_smallest_near_the_best(name: str) -> None:
    """Within a standard error of the best on validation images."""
    experiment = EXPERIMENTS[name]
    found: dict[str, dict[float, float]] = {}
    for cell, accuracy in trials(experiment, records.read_all(RECORDS)).items():
        rule, _, rate = cell.rpartition("-")
        found.setdefault(rule, {})[float(rate)] = accuracy
    for rule, chosen in CHOSEN[name].items():
        mine = [cell for cell in experiment.cells if cell.rpartition("-")[0] == rule]
        grid = [float(cell.rpartition("-")[2]) for cell in mine]
        images = SOURCES[experiment.cells[mine[0]].recipe.data].validation
        tried = found[rule]
        assert len(tried) >= 3, rule
        best = max(tried.values())
        near = best - math.sqrt(best * (1 - best) / images)
        assert chosen == min(rate for rate, accuracy in tried.items() if accuracy >= near), rule
        # Those that were not tried are further from the best than ones that did worse.
        at = grid.index(max(tried, key=lambda rate: tried[rate]))
        assert at == len(grid) - 1 or grid[at + 1] in tried


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trials_are_no_results(name: str) -> None:
    experiment = EXPERIMENTS[name]
    made = columns(experiment, records.read_all(RECORDS))
    assert not any(column.name.startswith("rates") for column in made)
    for cell, described in experiment.cells.items():
        assert described.trial == cell.startswith("rates"), cell
    for record in records.read_all(RECORDS):
        if record.experiment == name:
            is_trial = experiment.cells[record.cell].trial
            assert (record.seed == 100) == is_trial, "trials are of a seed that no result is of"


@pytest.mark.parametrize("name", TABLES)
def test_all_rules_are_treated_alike(name: str) -> None:
    """But for the rule, its own options and its rate, recipes of a column are the same."""
    cells = TABLES[name].cells
    for column in {cell.partition("/")[0] for cell in cells}:
        made = [
            cells[f"{column}/{rule}"].recipe.as_data()
            for rule in {*OPTIONS, *unbound_rules.RULES, *unbound_rules.FREED}
            if f"{column}/{rule}" in cells
        ]
        own = {"rule", "options", "learning_rate"}
        same = [{n: v for n, v in recipe.items() if n not in own} for recipe in made]
        assert all(recipe == same[0] for recipe in same)


def test_mirroring_differs_from_pepita_in_f_alone() -> None:
    cells = unbound_cifar10.EXPERIMENT.cells
    mirrored = cells[f"fc-cifar10-flips/{unbound_cifar10.MIRRORED}"].recipe.as_data()
    plain = cells["fc-cifar10-flips/pepita"].recipe.as_data()
    differs = {name for name, value in plain.items() if mirrored[name] != value}
    assert differs == {"options", "mirroring"}
    assert {**plain["options"], "projection": 0.14} == mirrored["options"]


def test_depths_differ_in_layers_alone() -> None:
    """And the rules of a column in themselves, their options and rates."""
    cells = unbound_depth.EXPERIMENT.cells
    for column in unbound_depth.CHOSEN:
        made = [
            cell.recipe.as_data() for name, cell in cells.items() if name.startswith(f"{column}/")
        ]
        own = {"rule", "options", "learning_rate", "hidden"}
        same = [{n: v for n, v in recipe.items() if n not in own} for recipe in made]
        assert all(recipe == same[0] for recipe in same)
