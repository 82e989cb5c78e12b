"""Figures: what is in them, odd data, and the files that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from forwardly.experiments import figures
from forwardly.experiments.figures import Curve, Drawing

EPOCHS = np.arange(100, 1100, 100)


def curve(rule: str, seeds: int = 1, factor: float = 1.0, left_out: int = 0) -> Curve:
    generator = np.random.default_rng(0)
    train = factor * np.exp(-EPOCHS / 500) * generator.uniform(0.9, 1.1, (seeds, len(EPOCHS)))
    return Curve(rule, EPOCHS, train, 1.1 * train, left_out)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_lines_are_the_means() -> None:
    curves = [curve("pepita", 3), curve("backprop", 3, 0.1)]
    figure = figures.mae_figure(curves)
    axes = figure.axes[0]
    assert len(axes.lines) == 4
    for line, rule, values, dashed in zip(
        axes.lines,
        ("pepita", "pepita", "backprop", "backprop"),
        (curves[0].train, curves[0].validation, curves[1].train, curves[1].validation),
        (False, True, False, True),
        strict=True,
    ):
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        np.testing.assert_allclose(line.get_xdata(), EPOCHS)
        assert to_hex(line.get_color()) == figures.rule_colour(rule).lower()
        assert (line.get_linestyle() == "--") == dashed
    assert axes.get_xlabel() == "Epoch (full-batch updates)"
    assert axes.get_ylabel() == "Mean absolute error"
    assert axes.get_yscale() == "log"
    assert legend(figure) == [
        "pepita",
        "backprop",
        "training",
        "validation",
        "mean ± sd of 3 seeds",
    ]


def test_bands_are_a_standard_deviation_of_the_validation_error() -> None:
    shown = curve("pepita", 2)
    (band,) = [
        artist
        for artist in figures.mae_figure([shown]).axes[0].collections
        if isinstance(artist, PolyCollection)
    ]
    heights = band.get_paths()[0].vertices[:, 1]
    mean, sd = shown.validation.mean(0), shown.validation.std(0, ddof=1)
    assert heights.max() == pytest.approx((mean + sd).max())
    assert heights.min() == pytest.approx((mean - sd).min())


def test_seeds_left_out_are_told() -> None:
    figure = figures.mae_figure([curve("pepita", 3, left_out=2), curve("backprop", 5)])
    assert legend(figure)[0] == "pepita (3 of 5 seeds)"
    assert legend(figure)[1] == "backprop"


def test_no_seeds_no_spread() -> None:
    figure = figures.mae_figure([curve("pepita")])
    assert not figure.axes[0].collections
    assert legend(figure) == ["pepita", "training", "validation"]


@pytest.mark.parametrize(
    "odd",
    [
        Curve("pepita", EPOCHS[:1], np.ones((1, 1)), np.ones((1, 1))),
        Curve("new-rule", EPOCHS, np.full((2, 10), np.nan), np.full((2, 10), np.inf)),
        Curve("flat", EPOCHS, np.zeros((1, 10)), np.zeros((1, 10))),
        Curve("exploding", EPOCHS, 10.0 ** (30 * np.arange(10))[None], np.ones((1, 10))),
    ],
)
def test_odd_curves(odd: Curve, tmp_path: Path) -> None:
    """None of them raises or warns."""
    figures.save(figures.mae_figure([odd]), tmp_path / "a.png")
    figures.save(figures.mae_figure([curve("backprop"), odd]), tmp_path / "b.svg")


def test_rules_that_share_a_colour_are_told_apart() -> None:
    rules = ["dfa", "feedback-alignment", "forward-forward", "pepita"]
    figure = figures.mae_figure([curve(rule) for rule in rules])
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
        figures.save(figures.mae_figure([curve("pepita", 3)]), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2
