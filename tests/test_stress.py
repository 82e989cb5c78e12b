"""Conditions of stress: what they change, what they leave, and how commands tell."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import forwardly as fw
from forwardly.data import Dataset, Split
from forwardly.data.stress import with_noise, with_samples, with_shift
from forwardly.experiments import comparison, stress
from forwardly.experiments.comparison import KNOWN_FOR, LEARNING_RATES, Comparison, Run
from forwardly.experiments.comparison_figure import comparison_figure
from forwardly.experiments.comparison_table import ACCURACY, Row
from forwardly.experiments.recipe import Recipe, load_data, prepare
from test_cli import Command

N = 600


def made(x: Tensor, target: Tensor, outputs: int = 4) -> Dataset:
    train, validation, test = (Split(x[i::3], target[i::3]) for i in range(3))
    return Dataset("made", outputs, train, validation, test)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def classes() -> Dataset:
    """Unequal ones: 30, 60 and 110 of 200 to train on, and a fourth that none is of."""
    label = torch.tensor([0] * 90 + [1] * 180 + [2] * 330)
    order = torch.randperm(N // 3, generator=torch.Generator().manual_seed(1))
    order = torch.stack([3 * order, 3 * order + 1, 3 * order + 2], 1).flatten()
    return made(numbers(N, 5), label[order])


def regression() -> Dataset:
    return made(numbers(N, 5), numbers(N, 2) * torch.tensor([1.0, 100.0]) + 7)


def images() -> Dataset:
    x = torch.randint(1, 256, (N, 2, 5, 8), generator=torch.Generator().manual_seed(0))
    return made(x.to(torch.uint8), torch.arange(N) % 4)


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.target, other.target)


def test_noise_of_classes() -> None:
    data = classes()
    before = data.train.target.clone()
    noisy = with_noise(data, 0.3, 0)
    wrong = noisy.train.target != before
    assert int(wrong.sum()) == 60  # exactly the share, and none replaced by itself
    assert torch.equal(data.train.target, before)
    assert torch.equal(noisy.train.x, data.train.x)
    assert noisy.validation is data.validation
    assert noisy.test is data.test
    fewer = with_noise(data, 0.1, 0).train.target
    assert torch.equal(fewer[fewer != before], noisy.train.target[fewer != before])
    assert same(with_noise(data, 0.3, 0).train, noisy.train)
    assert not torch.equal(with_noise(data, 0.3, 1).train.target != before, wrong)
    everywhere = with_noise(made(torch.zeros(9000, 1), torch.zeros(9000).long()), 1.0, 0)
    counts = torch.bincount(everywhere.train.target, minlength=4).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for count in counts[1:])


def test_noise_of_numbers_is_in_each_ones_own_standard_deviations() -> None:
    data = regression()
    noisy = with_noise(data, 0.5, 0)
    scale = data.train.target.std(0, correction=0)
    added = (noisy.train.target - data.train.target) / scale
    assert added.std(0).tolist() == pytest.approx([0.5, 0.5], abs=5 * 0.5 / 400**0.5)
    assert added.mean(0).abs().max() < 5 * 0.5 / 200**0.5
    assert noisy.train.target.dtype == data.train.target.dtype
    assert same(noisy.test, data.test)
    assert same(noisy.validation, data.validation)


@pytest.mark.parametrize("count", [1, 3, 7, 50, 199, 200])
def test_few_samples_have_the_classes_shares(count: int) -> None:
    data = classes()
    few = with_samples(data, count, 0)
    assert len(few.train) == count
    found = torch.bincount(few.train.target, minlength=4)
    shares = torch.tensor([30, 60, 110, 0]) / 200 * count
    assert (found - shares).abs().max() < 0.5001  # as near as whole numbers come
    rows = {tuple(x.tolist()): i for i, x in enumerate(data.train.x)}
    places = [rows[tuple(x.tolist())] for x in few.train.x]
    assert places == sorted(set(places))
    assert torch.equal(few.train.target, data.train.target[places])
    assert few.test is data.test
    assert few.validation is data.validation


def test_few_samples_are_the_seeds_and_among_the_more() -> None:
    for data in (classes(), regression()):
        few, more, other = (
            {tuple(x.tolist()) for x in with_samples(data, count, seed).train.x}
            for count, seed in ((20, 0), (60, 0), (20, 1))
        )
        assert len(few) == 20
        assert few < more
        assert few != other
        first = {tuple(x.tolist()) for x in data.train.x[:60]}
        assert more != first


def test_images_are_moved_and_zeros_come_in() -> None:
    data, by = images(), 2
    shifted = with_shift(data, float(by), 0)
    assert shifted.train is data.train
    assert shifted.validation is data.validation
    counts = [0] * 4
    for image, moved in zip(data.test.x.numpy(), shifted.test.x.numpy(), strict=True):
        candidates: list[np.ndarray[Any, Any]] = []
        for down, right in ((by, 0), (-by, 0), (0, by), (0, -by)):
            candidate = np.zeros_like(image)
            for i in range(5):
                for j in range(8):
                    if 0 <= i - down < 5 and 0 <= j - right < 8:
                        candidate[:, i, j] = image[:, i - down, j - right]
            candidates.append(candidate)
        (which,) = [i for i, one in enumerate(candidates) if np.array_equal(one, moved)]
        counts[which] += 1
    assert all(abs(count - 50) < 5 * (200 * 3 / 16) ** 0.5 for count in counts)
    far = with_shift(data, 6.0, 0).test.x
    assert 0 < int((far.flatten(1) > 0).any(1).sum()) < 200  # to the sides two columns are left
    assert not with_shift(data, 1e9, 0).test.x.any()


def test_other_samples_are_shifted_by_standard_deviations_of_each_number() -> None:
    x = numbers(N, 3) * torch.tensor([1.0, 100.0, 0.0]) + 5
    data = made(x, torch.arange(N) % 4)
    shifted = with_shift(data, 2.0, 0)
    scale = data.train.x.std(0, correction=0)
    assert torch.allclose(shifted.test.x, data.test.x + 2 * scale)
    assert torch.equal(shifted.test.x[:, 2], data.test.x[:, 2])
    assert same(shifted.train, data.train)
    assert same(shifted.validation, data.validation)
    shades = made((x.abs() % 256).to(torch.uint8), torch.arange(N) % 4)
    shifted = with_shift(shades, 1.0, 0)
    assert shifted.of_bytes
    numbers_of = fw.data.as_numbers(shades.test.x)
    scale = fw.data.as_numbers(shades.train.x).std(0, correction=0)
    assert torch.allclose(shifted.test.x, numbers_of + scale)


def test_one_way_to_write_a_condition() -> None:
    recipe = Recipe("pepita", "digits", stress="shift:2+noise:0.30+samples:5e2")
    assert recipe.stress == "samples:500+noise:0.3+shift:2"
    assert Recipe.from_data(json.loads(json.dumps(recipe.as_data()))) == recipe
    old = Recipe().as_data()
    del old["stress"]
    assert Recipe.from_data(old) == Recipe()
    assert stress.of_training("shift:2+noise:0.3") == "noise:0.3"
    assert stress.of_training("shift:2") is None


def test_rules_pair_under_stress_and_statistics_are_of_what_is_learned_from() -> None:
    recipe = Recipe("pepita", "digits", stress="noise:0.2+samples:200", hidden=(8,))
    recipe = replace(recipe, preprocessing="centre")
    one, other = (
        prepare(replace(recipe, rule=rule), 3).dataset for rule in ("pepita", "forward-forward")
    )
    assert same(one.train, other.train)
    assert one.train.x.mean(0).abs().max() < 1e-6
    raw = load_data(replace(recipe, stress=None, preprocessing=None), 3)
    known = {tuple(x.tolist()): int(t) for x, t in zip(raw.train.x, raw.train.target, strict=True)}
    few = load_data(replace(recipe, preprocessing=None), 3).train
    wrong = [known[tuple(x.tolist())] != int(t) for x, t in zip(few.x, few.target, strict=True)]
    assert (len(wrong), sum(wrong)) == (200, 40)  # of the samples that are left


CHANGES: dict[str, dict[str, Any]] = {
    "hidden": {"hidden": (16,)},
    "deeper": {"hidden": (128, 128)},
    "activation": {"activation": "tanh"},
    "epochs": {"epochs": 31},
    "batch": {"batch": 16},
    "momentum": {"momentum": 0.0},
    "validation": {"validation": 100},
    "preprocessing": {"preprocessing": "centre"},
    "data": {"data": "mnist1d"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_known_learning_rates_are_for_their_very_settings(change: dict[str, Any]) -> None:
    known = Comparison(seeds=2, seed=7, validation=200).chosen("pepita")
    assert known is not None
    assert (known.learning_rate, known.source) == (LEARNING_RATES["pepita"], "known")
    assert replace(Comparison(), **change).chosen("pepita") is None
    given = replace(Comparison(learning_rate=0.5), **change).chosen("pepita")
    assert given is not None
    assert (given.learning_rate, given.source) == (0.5, "given")


def test_what_is_known_is_known_of_the_defaults() -> None:
    defaults = comparison.recipe(KNOWN_FOR.rule, Comparison(), KNOWN_FOR.learning_rate)
    assert replace(defaults, validation=200) == KNOWN_FOR
    assert LEARNING_RATES.keys() == fw.RULES.keys()


def test_conditions_that_differ_in_the_test_alone_share_trainings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int, tuple[str | None, ...]]] = []

    def train(
        rule: str, settings: Comparison, seed: int, rate: float, *others: Any
    ) -> tuple[float, ...]:
        under: Sequence[str | None] = others[-2]
        calls.append((seed, settings.epochs, tuple(under)))
        # The best rate is another one where targets are wrong.
        best = 0.3 if under[0] is None else 0.01
        tests = (0.5 + seed / 100 - 0.1 * ("shift" in (name or "")) for name in under)
        return 1 - abs(math.log(rate / best)), *tests

    monkeypatch.setattr(comparison, "train", train)
    stressed = ("shift:1", "noise:0.3", "noise:0.3+shift:2")
    settings = Comparison(rules=("pepita", "readout-only"), seeds=2, stress=stressed)
    run = Run(settings, ACCURACY)
    left = [run.left, *(run.left for _ in run.advance())]
    assert (left[0], left[-1]) == (2 * (2 + 7 + 2), 0)
    assert sorted(left, reverse=True) == left
    searches = [(0, 15, ("noise:0.3",))] * 14
    trainings = [(seed, 30, under) for seed in (0, 1) for under in [(None, "shift:1")] * 2]
    noisy = [(seed, 30, stressed[1:]) for seed in (0, 1) for _ in range(2)]
    assert calls == [*trainings, *searches, *noisy]
    found = {name: run.results[name]["pepita"] for name in settings.conditions}
    assert {name: one.learning_rate for name, one in found.items()} == {
        None: 0.3,
        "shift:1": 0.3,
        "noise:0.3": 0.01,
        "noise:0.3+shift:2": 0.01,
    }
    assert found["shift:1"].test == pytest.approx({0: 0.4, 1: 0.41})
    data = run.as_data()
    assert data["learning_rates_from"]["pepita"] == "known"
    assert data["stress"].keys() == {*stressed}
    assert data["stress"]["noise:0.3"]["learning_rates_from"]["pepita"] == "searched"


def test_options_are_chosen_with_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the validation part: the test part says the opposite here."""
    tried: list[dict[str, Any]] = []

    def train(
        rule: str, settings: Comparison, seed: int, rate: float, root: None, options: Any, *_: Any
    ) -> tuple[float, float]:
        tried.append(options)
        near = options.get("label_scale") == 2 and rate == 0.1
        return 0.5 + 0.1 * near, 0.5 - 0.1 * near

    three = ({"threshold": 1.0}, {"threshold": 1.0, "label_scale": 2.0}, {})
    monkeypatch.setattr(comparison, "OPTIONS", {"forward-forward": three})
    monkeypatch.setattr(comparison, "train", train)
    run = Run(Comparison(rules=("forward-forward",), seeds=1, hidden=(16,)), ACCURACY)
    assert len([*run.advance()]) == len(tried)
    chosen = {"threshold": 1.0, "label_scale": 2.0}
    assert tried[-1] == chosen
    assert {} in tried  # the rule's own defaults are among them
    data = run.as_data()
    assert data["options"] == {"forward-forward": chosen}
    assert data["learning_rates"] == {"forward-forward": 0.1}
    assert data["searches"]["forward-forward"]["0.1 threshold=1.0 label_scale=2.0"] == 0.6
    known = Comparison().chosen("forward-forward")
    assert known is not None
    assert known.options == {"threshold": 1.0}
    given = Comparison(learning_rate=0.03).chosen("forward-forward")
    assert given is not None
    assert given.options == {}  # as forwardly train would have it


def test_the_table_says_what_a_condition_takes() -> None:
    clean = {0: 0.9, 1: 0.95, 2: 0.8}
    row = Row.of("a", {0: 0.8, 1: 0.9, 2: float("nan")}, {}, ACCURACY, clean)
    assert row.from_clean_text() == "-7.50"
    assert row.as_data()["from_clean"]["mean"] == pytest.approx(-0.075)
    assert "from_clean" not in Row.of("a", clean, {}, ACCURACY).as_data()


def test_figure_has_a_panel_for_each_condition() -> None:
    clean = [Row("backprop", [0.9, 0.8], None), Row("pepita", [0.95, 0.9], None)]
    noisy = [Row("backprop", [0.7, 0.6], None), Row("pepita", [0.5, 0.4], None)]
    panels = {"clean": clean, "noise:0.3": noisy, "samples:5": noisy, "shift:1": noisy}
    figure = comparison_figure(panels, ACCURACY, title="digits")
    assert [axes.get_title() for axes in figure.axes] == [*panels]
    first, second = figure.axes[:2]
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels == ["pepita", "backprop"]  # in all panels the order of the clean one
    dots = [list(np.asarray(s.get_xdata())) for s in second.lines if s.get_marker() == "o"]
    assert dots == [pytest.approx([50, 40]), pytest.approx([70, 60])]
    crosses = [float(np.asarray(s.get_xdata())[0]) for s in second.lines if s.get_marker() == "x"]
    assert crosses == pytest.approx([92.5, 85])
    assert not [s for s in first.lines if s.get_marker() == "x"]


@pytest.mark.unchecked  # whole commands
def test_compare_under_stress(command: Command) -> None:
    done = command(
        *("compare", "--rules", "pepita", "readout-only", "--seeds", "2", "--epochs", "1"),
        *("--learning-rate", "0.3", "--stress", "shift:3", "samples:40+noise:0.5", "--out", "c"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    conditions = ["clean", "shift:3", "samples:40+noise:0.5"]
    assert [line for line in lines if line in conditions] == conditions
    assert done.stdout.count("from clean") == 2
    with Path("c/results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["condition"] for row in rows] == [name for name in conditions for _ in range(4)]
    mean = {
        name: np.mean([float(row["test_accuracy"]) for row in rows if row["condition"] == name])
        for name in conditions
    }
    assert max(mean["shift:3"], mean["samples:40+noise:0.5"]) < mean["clean"] - 0.1
    summary = json.loads(Path("c/summary.json").read_text("utf-8"))
    assert summary["settings"]["stress"] == conditions[1:]
    ours = summary["stress"]["shift:3"]["rules"]["pepita"]
    assert ours["accuracies"] == [float(row["test_accuracy"]) for row in rows[4:6]]
    assert ours["from_clean"]["mean"] < 0


@pytest.mark.unchecked
def test_train_under_stress(command: Command) -> None:
    given = ("train", "--data", "digits", "--hidden", "8", "--epochs", "1")
    assert command(*given, "--out", "clean").returncode == 0
    done = command(*given, "--stress", "shift:2", "--out", "shifted")
    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads(Path("shifted/config.json").read_text("utf-8"))
    assert config["recipe"]["stress"] == "shift:2"
    clean, shifted = (
        json.loads(Path(name, "result.json").read_text("utf-8")) for name in ("clean", "shifted")
    )
    assert shifted["test_accuracy"] < clean["test_accuracy"]
    assert command("evaluate", "shifted").returncode == 0
