"""The experiments on networks that are no chain: what they are, and that all of their cells run."""

from __future__ import annotations

from dataclasses import replace

import any_module as document
import pytest
import torch

import forwardly as fw
from forwardly import models
from forwardly.data.dataset import Dataset, Split
from forwardly.experiments.estimate import from_timing
from forwardly.experiments.experiment import Cell
from forwardly.experiments.published import any_module, sanfiz2021
from forwardly.experiments.recipe import Recipe, prepare_on
from forwardly.experiments.records import Record
from forwardly.experiments.report import Line
from test_device_option import gpu as gpu

pytestmark = pytest.mark.unchecked  # checked forward methods cannot be traced

CELLS = {
    **{
        f"{column}/{row}": any_module.recipe(column, row, 1e-4)
        for column in any_module.COLUMNS
        for row in any_module.rows(column)
    },
    **{name: cell.recipe for name, cell in sanfiz2021.EXPERIMENT.cells.items()},
}


def made(recipe: Recipe, batches: int = 2) -> tuple[Dataset, Recipe]:
    """Images drawn at random, few enough for so many batches of four, and the recipe for them."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 28, 28) if recipe.data == "mnist" else (3, 32, 32)

    def part(n: int) -> Split:
        x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
        return Split(x, torch.randint(10, (n,), generator=generator))

    dataset = Dataset(recipe.data, 10, part(4 * batches), part(4), part(4))
    if recipe.preprocessing is not None:
        dataset = dataset.prepared("centre")
    short = replace(recipe, epochs=1, batch=4, milestones=(), stress=None, validation=None)
    return dataset, short


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_starts(name: str) -> None:
    dataset, recipe = made(CELLS[name])
    prepared = prepare_on(dataset, recipe, 0)
    before = {n: p.clone() for n, p in prepared.rule.model.named_parameters()}
    trained = prepared.fit()
    assert trained.diverged is None
    moved = {n for n, p in prepared.rule.model.named_parameters() if not p.equal(before[n])}
    readout = {"head.weight", "head.bias", "fc.weight", "fc.bias"} & before.keys()
    assert moved >= readout
    if recipe.rule == "readout-only":
        assert moved == readout
    else:
        assert "weight" in " ".join(moved - readout)


def test_how_long_it_takes_is_of_the_samples_that_are_left() -> None:
    few, all_of_them = (
        from_timing(Recipe(hidden=(8,), stress=stress, epochs=1), 1)
        for stress in ("samples:580", None)
    )
    assert few is not None
    assert all_of_them == pytest.approx(100 * few)


def test_all_rules_that_run_are_there() -> None:
    """But for MemPEPITA, whose updates are PEPITA's."""
    run = {name for name, rule in fw.RULES.items() if not rule.needs_chain} - {"mem-pepita"}
    for column, of_column in any_module.COLUMNS.items():
        rules = {any_module.recipe(column, row, 0.1).rule for row in any_module.rows(column)}
        left_out = {"node-perturbation", "weight-perturbation"}
        assert rules == (run if of_column["data"] == "mnist" else run - left_out)
        assert {*any_module.CHOSEN[column]} <= {*any_module.rows(column)}


def test_all_rules_are_treated_alike() -> None:
    """But for the rule, its options and rate; and the inputs of what is as published."""
    own = {"rule", "options", "learning_rate"}
    for column in any_module.COLUMNS:
        alike = [
            {n: v for n, v in any_module.recipe(column, row, 0.1).as_data().items() if n not in own}
            for row in any_module.rows(column)
        ]
        differ = [recipe for recipe in alike if recipe != {**alike[0], "preprocessing": None}]
        assert len(alike) - len(differ) == 2
        assert differ == [alike[0]] * len(differ)


def test_biotorchs_errors() -> None:
    cells = sanfiz2021.EXPERIMENT.cells
    published = {
        name.partition("/")[2]: cell.published.mean
        for name, cell in cells.items()
        if cell.published is not None
    }
    errors = {name: round(100 - accuracy, 1) for name, accuracy in published.items()}
    assert errors["backprop"] == 8.6
    assert errors["feedback-alignment"] == 32.2
    assert errors["direct-feedback-alignment"] == 45.9
    assert published.keys() == {n.partition("/")[2] for n in cells} - {"readout-only"}
    assert round(errors["sign-symmetry-uniform"]) == 10
    assert sum(p.numel() for p in models.ResNet(20).parameters()) == pytest.approx(
        270_000, rel=0.01
    )


def test_whose_cosines_the_table_has() -> None:
    """Weights of layers, of no norm or bias; in whatever order a rule lists them."""
    measured = {"fc": 1.0, "blocks.0.conv1": 0.2, "blocks.0.norm1": 9, "conv": 0.5, "norm": 9}
    row = {f"alignment/{name}.weight": float(value) for name, value in measured.items()}
    row |= {"alignment/fc.bias": 9.0, "norm/conv.weight": 9.0, "epoch": 9.0}
    row["alignment/blocks.1.conv1.weight"] = 0.4
    result = {"diverged": None, "test_accuracy": 0.5}
    recipe = any_module.recipe("resnet8-cifar10", "pepita", 0.1)
    run = Record("any_module", "c", 0, recipe.as_data(), result, {}, [row])
    line = Line("pepita", Cell(recipe), {0: run}, {0: 50.0}, None, ())
    assert document.cosines(line, "resnet8-cifar10") == pytest.approx((0.5, 0.3))
    models_of = {"resmlp": models.ResidualMLP(4), "resnet8": models.ResNet(8)}
    models_of["vit8"] = models.VisionTransformer(8)
    for column, ends in document._ENDS.items():  # pyright: ignore[reportPrivateUsage]
        names = dict(models_of[column.partition("-")[0]].named_modules())
        assert {*ends} <= names.keys()
