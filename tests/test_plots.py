"""Figures: what is in them, odd data, and the files that they become."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text

from forwardly.experiments import figures
from forwardly.experiments.curves import spread_figure
from forwardly.experiments.figures import Drawing
from forwardly.experiments.history import History
from forwardly.experiments.statistics import Array

EPOCHS = [1, *range(100, 1000, 100)]


def history(
    rule: str, seeds: int = 1, factor: float = 1.0, diverged: dict[int, int] | None = None
) -> History:
    """Errors that fall, of seeds from 7 on; those that diverge climb before, and go on after."""
    made = History(rule, tuple(range(7, 7 + seeds)), diverged=diverged or {})
    generator = np.random.default_rng(0)
    scale = factor * generator.uniform(0.5, 2, seeds)
    for epoch in EPOCHS:
        errors = scale * np.exp(-epoch / 500)
        ends = np.array([made.diverged.get(seed, np.inf) for seed in made.seeds])
        errors = np.where(epoch > ends - 150, 1e3, errors)
        made.log(epoch, errors, 1.1 * errors)
    return made


def of_values(rule: str, train: Array, validation: Array) -> History:
    """(seeds, E) each."""
    made = History(rule, tuple(range(len(train))))
    for epoch, *errors in zip(EPOCHS, train.T, validation.T, strict=False):
        made.log(epoch, *errors)
    return made


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def end_labels(figure: Figure) -> list[Annotation]:
    found = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    return sorted(found, key=lambda text: text.xyann[1])


def data(line: Line2D) -> Array:
    """Epochs and errors, (2, E)."""
    return np.array(line.get_data(), dtype=float)


def thin(lines: list[Line2D]) -> list[Line2D]:
    return [line for line in lines if line.get_linewidth() == 0.8]


def test_lines_of_one_seed() -> None:
    shown = [history("pepita"), history("backprop", factor=0.1)]
    figure = figures.mae_figure(shown)
    axes = figure.axes[0]
    assert len(axes.lines) == 4
    for line, (rule, which) in zip(
        axes.lines,
        [(rule, which) for rule in (0, 1) for which in ("train", "validation")],
        strict=True,
    ):
        np.testing.assert_array_equal(line.get_ydata(), np.ravel(getattr(shown[rule], which)))
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
        assert to_hex(line.get_color()) == figures.rule_colour(shown[rule].rule).lower()
        assert (line.get_linestyle() == "--") == (which == "validation")
    assert axes.get_xlabel() == "Epoch (full-batch updates), log scale"
    assert axes.get_ylabel() == "Mean absolute error, log scale"
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim() == (1, 900)
    assert legend(figure) == ["training", "validation"]


def test_linear_scales_are_not_said_to_be_logarithmic() -> None:
    flat = of_values("flat", np.full((1, 1), 0.5), np.full((1, 1), 0.6))
    axes = figures.mae_figure([flat]).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "linear"
    assert "log" not in axes.get_xlabel() + axes.get_ylabel()


def test_names_stand_where_lines_end_and_clear_of_each_other() -> None:
    """Those of lines that end together too; and those that coincide are named beneath."""
    rules = ["pepita", "sign-pepita", "backprop", "direct-feedback-alignment", "drtp"]
    shown = [
        history(rule, factor=f) for rule, f in zip(rules, (1, 1, 0.1, 1.05, 0.96), strict=True)
    ]
    figure = figures.mae_figure(shown)
    figure.draw_without_rendering()
    labels = end_labels(figure)
    texts = [label.get_text() for label in labels]
    assert texts[0] == "backprop"
    assert texts[1] == "drtp"
    assert set(texts[2:4]) == {"pepita", "sign-pepita"}
    assert texts[4] == "direct-feedback-\nalignment"
    boxes = [Text.get_window_extent(label) for label in labels]  # less what leads there
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert figure.get_supxlabel() == "Lines that coincide: pepita and sign-pepita."
    apart = figures.mae_figure([history("pepita"), history("backprop", factor=0.1)])
    assert apart.get_supxlabel() == ""


def test_lines_of_a_report_are_told_apart_without_colours() -> None:
    curves = {"a": [[1.0, 2.0, 4.0]], "b": [[1.0, 2.0, 4.0]], "c": [[2.0, 3.0], [2.0, 3.0]]}
    figure = spread_figure(curves, "Accuracy")
    a, b, c = figure.axes[0].lines
    assert len({str(line._dash_pattern) for line in (a, b, c)}) == 3  # pyright: ignore
    assert end_labels(figure)[0].get_text() == "c"
    assert figure.get_supxlabel() == "Lines that coincide: a and b."


def test_every_seed_has_a_line_and_their_median_is_bold() -> None:
    shown = history("pepita", 5, diverged={8: 400, 10: 20})
    axes = figures.mae_figure([shown, history("backprop", 5)]).axes[0]
    living = np.stack(shown.validation, axis=1)[[0, 2, 4]]
    lines = thin(list(axes.lines))
    assert len(lines) == 5
    for line, values in zip((lines[0], lines[2], lines[4]), living, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    (bold,) = [line for line in axes.lines if line.get_linewidth() > 2]
    np.testing.assert_allclose(data(bold)[1], np.median(living, axis=0))
    assert [text.get_text() for text in axes.texts] == [f"{np.median(living[:, -1]):.3f}"]


def test_seeds_that_diverged_are_seen() -> None:
    """Their lines leave at the epoch where they did, at a cross; the others set the limits."""
    shown = [history("pepita", 5, diverged={8: 400, 10: 20}), history("backprop", 5)]
    figure = figures.mae_figure(shown)
    axes = figure.axes[0]
    epochs, errors = data(thin(list(axes.lines))[1])
    assert epochs[-2:].tolist() == [300, 400]
    low, high = axes.get_ylim()
    assert errors[-1] > high
    assert 0.05 < low < high < 5
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [data(line).ravel().tolist() for line in crosses] == [[400, high], [20, high]]
    assert axes.get_title() == "pepita\nseeds 8 and 10 diverged"
    assert figure.axes[1].get_title() == "backprop\nno seed diverged"
    assert legend(figure) == ["one seed", "diverged", "median of the others"]
    assert legend(figures.mae_figure([history("pepita", 2)])) == ["one seed", "median"]


def test_options_are_broken_into_lines() -> None:
    """Of a rule's name, in titles as at lines' ends; another text with a colon is left as it is."""
    rule, other = "pepita:projection=0.5,presynaptic=clean", "javascript:look(1,b)"
    figure = figures.mae_figure([history(rule, 2), history(other, 2)])
    assert [axes.get_title().rpartition("\n")[0] for axes in figure.axes] == [
        "pepita: projection=0.5,\npresynaptic=clean",
        other,
    ]
    labels = [label.get_text() for label in end_labels(figures.mae_figure([history(rule)]))]
    assert labels == ["pepita:\nprojection=0.5,\npresynaptic=clean"]


def test_one_seed_that_diverged_is_named_so() -> None:
    figure = figures.mae_figure([history("pepita", diverged={7: 250}), history("backprop")])
    assert {label.get_text() for label in end_labels(figure)} == {"pepita (diverged)", "backprop"}
    assert legend(figure) == ["training", "validation", "diverged"]
    assert figure.axes[0].get_ylim()[1] < 5


@pytest.mark.parametrize(
    "odd",
    [
        of_values("pepita", np.ones((1, 1)), np.ones((1, 1))),
        of_values("new-rule", np.full((2, 10), np.nan), np.full((2, 10), np.inf)),
        of_values("one-nan", np.full((1, 10), np.nan), np.full((1, 10), np.inf)),
        of_values("flat", np.zeros((1, 10)), np.zeros((1, 10))),
        of_values("exploding", 10.0 ** (30 * np.arange(10))[None], np.ones((1, 10))),
        history("all-dead", 2, diverged={7: 1, 8: 50}),
    ],
)
def test_odd_curves(odd: History, tmp_path: Path) -> None:
    """None of them raises or warns."""
    figures.save(figures.mae_figure([odd]), tmp_path / "a.png")
    figures.save(figures.mae_figure([history("backprop"), odd]), tmp_path / "b.svg")


def test_rules_that_share_a_colour_are_told_apart() -> None:
    rules = ["dfa", "feedback-alignment", "forward-forward", "pepita"]
    figure = figures.mae_figure([history(rule) for rule in rules])
    assert len({to_hex(line.get_color()) for line in figure.axes[0].lines}) == 4


def test_a_rule_keeps_its_colour() -> None:
    known = [figures.rule_colour(rule) for rule in ("pepita", "backprop", "readout-only")]
    assert len(set(known)) == 3
    assert figures.rule_colour("something") == figures.rule_colour("something")


def test_network_shows_weights() -> None:
    weights = [np.array([[1.0, -2.0], [0.5, np.nan], [0, 0]]), np.array([[4.0, -1, 1]])]
    figure = figures.network_figure([Drawing("before", weights), Drawing("after", weights[:1])])
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["before", "after"]
    hidden, output = [c for c in first.collections if isinstance(c, LineCollection)]
    # widths follow |w| on one scale for the whole figure; colours follow the sign
    widths = np.array(sorted(hidden.get_linewidths()))
    np.testing.assert_allclose(widths / widths[-1], [0, 0, 0, 0.25, 0.5, 1])
    widest = max(output.get_linewidths())
    assert widths[-1] == pytest.approx(widest / 2)
    (alone,) = [c for c in second.collections if isinstance(c, LineCollection)]
    assert max(alone.get_linewidths()) == pytest.approx(widths[-1])
    colours = {to_hex(colour) for colour in output.get_colors()}
    assert len(colours) == 2
    texts = [text.get_text() for text in first.texts]
    assert texts == ["2 inputs", "3 hidden", "1 output"]


def test_wide_layers_are_cut() -> None:
    figure = figures.network_figure([Drawing("wide", [np.ones((300, 5)), np.ones((2, 300))])])
    assert "300 hidden\n(24 shown)" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files_are_whole_and_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        figures.save(figures.mae_figure([history("pepita", 3)]), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2
