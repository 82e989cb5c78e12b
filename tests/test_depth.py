"""The page on depth: what its record says, and how it is measured and drawn."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import depth
import pytest

import forwardly as fw
from forwardly.experiments import records
from real_data import real_data


def test_the_record_is_of_these_settings_and_says_what_the_page_says() -> None:
    record = json.loads(depth.RECORD.read_text("utf-8"))
    assert record["uncommitted_changes"] is False
    assert record["layers"] == depth.LAYERS[-1]
    aligned = record["alignment"]["normalised"]
    for rule in ("pepita", "direct-feedback-alignment"):
        assert len(aligned[rule]) == depth.EPOCHS
        assert {len(cosines) for cosines in aligned[rule]} == {depth.LAYERS[-1] + 1}
        assert all(cosines[-1] == pytest.approx(1, abs=1e-3) for cosines in aligned[rule])
    pepita, direct = (aligned[rule][-1] for rule in ("pepita", "direct-feedback-alignment"))
    assert all(0.1 < one < other for one, other in zip(pepita[:-1], direct[:-1], strict=True))
    assert record["alignment"]["plain"]["pepita"][-1] == [], "it diverges"

    slopes = {float(s): steps for s, steps in record["first_steps"]["slopes"].items()}
    assert tuple(slopes) == depth.SLOPES
    exploded = [
        steps[-1]["step"] for steps in slopes.values() if not steps[-1]["loss"] < depth.EXPLODED
    ]
    assert len(exploded) == 3
    assert exploded == sorted(exploded), "the larger the mean, the sooner"
    assert slopes[0.5][-1]["step"] == depth.STEPS - 1
    assert min(slopes[0.5][-1]["cosines"]) > 0


def test_first_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    real_data("cifar10")
    made: list[fw.PEPITA] = []

    def pepita(*arguments: Any, **options: Any) -> fw.PEPITA:
        made.append(fw.PEPITA(*arguments, **options))
        return made[-1]

    with monkeypatch.context() as patched:
        patched.setattr(depth, "fw", SimpleNamespace(**vars(fw) | {"PEPITA": pepita}))
        found = depth.first_steps(0.5, steps=52)
    (rule,) = made
    assert rule.presynaptic == "clean"
    assert float(rule.F.abs().max()) == pytest.approx(0.4 * (6 / 3072) ** 0.5, rel=1e-3)
    kinds = [type(module).__name__ for module in rule.model.children()]
    assert kinds.count("LeakyReLU") == depth.LAYERS[-1]
    assert [row["step"] for row in found] == [0, 50, 51]
    for row in found:
        assert len(row["cosines"]) == depth.LAYERS[-1] + 1
        assert row["cosines"][-1] == pytest.approx(1, abs=1e-3)  # the readout's is exact
        assert all(abs(cosine) < 0.4 for cosine in row["cosines"][:-1])


def test_the_figure_shows_what_is_recorded() -> None:
    found = depth.accuracies(records.read_all(depth.ROOT / "records"))
    record = json.loads(depth.RECORD.read_text("utf-8"))
    figure = depth.draw(found, record["alignment"])
    above, below = figure.axes[:2], figure.axes[2:]
    for column, upper, lower in zip(depth.COLUMNS, above, below, strict=True):
        rules = [rule for rule, reached in found[column].items() if any(reached.values())]
        drawn = {container.get_label() for container in upper.containers}
        assert drawn == set(rules)
        full = [
            rule
            for rule, epochs in record["alignment"][column].items()
            if len(epochs[-1]) > depth.LAYERS[-1] and rule in found[column]
        ]
        assert len(lower.get_lines()) == 1 + len(full) > 1
    assert depth.FIGURE.exists()
