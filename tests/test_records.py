"""Records: whole or not at all, and true to their experiments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwardly.experiments import records
from forwardly.experiments.published import EXPERIMENTS, experiment
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.records import Record
from forwardly.models import conv

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "records"

ROWS = [
    {"epoch": 1.0, "validation_accuracy": 0.5, "loss": 0.12345678},
    {"epoch": 2.0, "validation_accuracy": 0.6, "loss": 0.5, "late": 1e-9},
]
RESULT = {"test_accuracy": 0.5, "diverged": None, "epochs": 2}
ENVIRONMENT = {
    "versions": {"torch": "2.13.0"},
    "revision": "abc",
    "uncommitted_changes": False,
    "platform": "Linux",
}


def record(**changes: object) -> Record:
    content: dict[str, object] = {
        "experiment": "toy",
        "cell": "a/b",
        "seed": 3,
        "recipe": Recipe("pepita", "digits", {}).as_data(),
        "result": RESULT,
        "environment": ENVIRONMENT,
        "rows": ROWS,
    }
    return Record(**(content | changes))


def test_written_and_read(tmp_path: Path) -> None:
    place = records.write(tmp_path, record())
    assert place == tmp_path / "toy" / "a/b" / "seed-3"
    found = records.read(place)
    assert found.rows == [
        {"epoch": 1.0, "validation_accuracy": 0.5, "loss": 0.123457},
        {"epoch": 2.0, "validation_accuracy": 0.6, "loss": 0.5, "late": 1e-9},
    ]
    assert Recipe.from_data(found.recipe) == Recipe("pepita", "digits", {})
    assert records.read_all(tmp_path) == [found]


def test_a_record_is_not_overwritten(tmp_path: Path) -> None:
    """Two that have run the same may both end: the first is kept, and neither fails."""
    place = records.write(tmp_path, record())
    assert records.write(tmp_path, record(result=RESULT | {"test_accuracy": 0.9})) == place
    assert records.read(place).result == RESULT
    assert [path.name for path in place.parent.iterdir()] == ["seed-3"]


def test_a_record_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "table", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        records.write(tmp_path, record())
    assert not list(tmp_path.rglob("*.json"))
    assert records.read_all(tmp_path) == []


HARMLESS = {"8c2f9e2", "dd74362", "c3962e1", "5627971"}
"""Revisions of which the uncommitted changes were records alone, which counted then; or of the last
one, the trials that unbound_mnist has."""


def test_committed_records_are_of_the_experiments() -> None:
    found = records.read_all(COMMITTED)
    assert found
    for one in found:
        where = (one.experiment, one.cell, one.seed)
        cell = experiment(one.experiment).cells[one.cell]
        assert Recipe.from_data(one.recipe) == cell.recipe, where
        assert cell.shared is None, where
        assert one.environment["revision"], where
        revisions = [one.environment["revision"], *one.environment.get("earlier_revisions", [])]
        clean = not one.environment["uncommitted_changes"]
        assert clean or HARMLESS & {revision[:7] for revision in revisions}, where
        if one.result["diverged"] is None:
            assert len(one.rows) == one.result["epochs"] == cell.recipe.epochs, where
            assert 0 < one.result["test_accuracy"] < 1, where


def test_recipes_survive_a_record() -> None:
    checked = 0
    for made in EXPERIMENTS.values():
        for cell in made.cells.values():
            content = json.loads(json.dumps(cell.recipe.as_data()))
            assert Recipe.from_data(content) == cell.recipe
            checked += 1
    assert checked > 70


def test_shared_cells_are_the_same() -> None:
    shared = 0
    for made in EXPERIMENTS.values():
        for name, cell in made.cells.items():
            if cell.shared is not None:
                other, place = cell.shared
                assert EXPERIMENTS[other].cells[place].recipe == cell.recipe
                assert made.place(name) == (other, place)
                shared += 1
            else:
                assert made.place(name) == (made.name, name)
    assert shared == 7


def test_forward_forward_and_its_controls_are_treated_alike() -> None:
    """But for what is a rule's own: its options and its learning rate."""
    cells = EXPERIMENTS["hinton2022"].cells
    alike = [
        {**cell.recipe.as_data(), "rule": None, "options": None, "learning_rate": None}
        for cell in cells.values()
    ]
    assert {cell.recipe.rule for cell in cells.values()} >= {"backprop", "readout-only"}
    assert alike == [alike[0]] * 3
    published = cells["fc-mnist/forward-forward"].published
    assert published is not None
    assert published.mean == 100 - 1.36


def test_table_1_is_the_papers() -> None:
    """Published means, row by row, typed a second time from the paper."""
    published = {
        "backprop": (98.63, 55.27, 27.58, 98.86, 64.99, 34.20),
        "feedback-alignment": (98.42, 53.82, 24.61, 98.50, 57.51, 27.15),
        "drtp": (95.10, 45.89, 18.32, 97.32, 50.53, 20.14),
        "pepita": (98.01, 52.57, 24.91, 98.29, 56.33, 27.56),
    }
    table = EXPERIMENTS["dellaferrera2022_table1"]
    columns = [
        f"{kind}-{data}" for kind in ("fc", "conv") for data in ("mnist", "cifar10", "cifar100")
    ]
    for rule, means in published.items():
        for column, mean in zip(columns, means, strict=True):
            found = table.cells[f"{column}/{rule}"].published
            assert found is not None
            assert found.mean == mean
    sds = [
        (0.03, 0.32, 0.09, 0.04, 0.32, 0.20),
        (0.07, 0.24, 0.28, 0.06, 0.57, 0.53),
        (0.10, 0.16, 0.18, 0.25, 0.81, 0.68),
        (0.09, 0.36, 0.22, 0.13, 1.35, 0.60),
    ]
    for rule, row in zip(published, sds, strict=True):
        for column, sd in zip(columns, row, strict=True):
            found = table.cells[f"{column}/{rule}"].published
            assert found is not None
            assert found.sd == sd
    for column in columns:
        assert f"{column}/readout-only" in table.cells
        assert f"{column}/direct-feedback-alignment" in table.cells


@pytest.mark.parametrize(("data", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_convolutions_rate_is_the_authors(data: str, shape: tuple[int, ...]) -> None:
    """Their update is divided by the output's positions and once more by the batch size."""
    import torch

    z = conv(shape, 10)[0](torch.zeros(1, *shape))
    positions = z.shape[2] * z.shape[3]
    cells = EXPERIMENTS["dellaferrera2022_table1"].cells
    recipe = cells[f"conv-{data}/pepita"].recipe
    assert recipe.conv_rate == 1 / (positions * recipe.batch)
    assert cells[f"conv-{data}/pepita-positions"].recipe.conv_rate == 1 / positions


def test_names_and_patterns() -> None:
    table = experiment("dellaferrera2022-table1")
    chosen = table.choose(("fc-mnist/*", "conv-?nist/pepita", "fc-mnist/pepita"))
    assert len(chosen) == 8
    assert next(reversed(chosen)) == "conv-mnist/pepita"
    assert table.choose(()) == dict(table.cells)
