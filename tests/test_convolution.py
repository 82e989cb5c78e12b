"""The page on one convolution: what its records say, and how they are drawn."""

from __future__ import annotations

from statistics import mean, stdev

import convolution

from forwardly.experiments import records
from forwardly.experiments.published import unbound_convolution

ROWS = {row.name: row for row in convolution.rows(records.read_all(convolution.ROOT / "records"))}


def test_the_page_says_what_is_recorded() -> None:
    mirrored, control = (ROWS[name].accuracies for name in ("pepita-mirrored", "readout-only"))
    assert len(mirrored) == len(control) >= 3
    assert mean(mirrored) - mean(control) > 2 * max(stdev(mirrored), stdev(control))
    assert not ROWS["readout-only"].cosines, "its kernels stay as they were drawn"
    assert all(abs(cosine - 1) < 1e-3 for cosine in ROWS["backprop"].cosines)
    drawn, turned = (mean(ROWS[name].cosines) for name in ("pepita", "pepita-mirrored"))
    assert drawn < 0.05 < turned


def test_the_figure_shows_it() -> None:
    figure = convolution.draw(list(ROWS.values()))
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(ROWS)
    assert [len(line.get_xdata()) for line in left.get_lines()] == [
        len(row.accuracies) for row in ROWS.values()
    ]
    learned = [row for row in ROWS.values() if row.cosines]
    assert len(right.get_lines()) == len(learned) + 1  # and the line at zero
    assert convolution.FIGURE.exists()


def test_rows_differ_in_the_rule_alone() -> None:
    """In their own options and rates, and in how fast kernels learn where F is as drawn."""
    own = {"rule", "options", "learning_rate", "mirroring", "conv_rate"}
    made = [unbound_convolution.recipe(row, 0.1).as_data() for row in unbound_convolution.ROWS]
    same = [{n: v for n, v in recipe.items() if n not in own} for recipe in made]
    assert all(recipe == same[0] for recipe in same)
    assert unbound_convolution.recipe("backprop", 0.1).conv_rate == 1
