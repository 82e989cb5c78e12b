"""Rules of another package in the commands: their options, compare, teacher-student."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forwardly as fw
from forwardly.experiments import comparison, comparison_table
from forwardly.experiments.comparison import Comparison
from forwardly.experiments.comparison_figure import comparison_figure
from forwardly.experiments.comparison_table import ACCURACY, LOSS, Row
from forwardly.experiments.recipe import Recipe, prepare
from forwardly.rules.options import help_of, options_of
from test_cli import Command

pytestmark = pytest.mark.unchecked  # whole commands

PACKAGE = '''
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
import torch
import forwardly as fw
if TYPE_CHECKING:
    from nowhere import Unknown

class Readout(fw.Rule):
    """The readout learns.

    Args:
        model: see ``Rule``.
        gain: what updates are
            multiplied by.
        doubled: whether they are doubled.
        how: in which way.
        matrix: a matrix.
    """

    paper = fw.Paper("Of readouts", ("Ada Mayer", "Bo Li"), 2026, "Journal", "https://x.org", "")
    uses_autograd, forward_passes, feedback_path = False, 1, ""
    teacher, trains = "error", "readout"

    def __init__(self, model, loss, *, gain: float | None = None, doubled: bool = True,
                 how: Literal["slow", 2] = 2,
                 matrix: fw.feedback.Initialiser = fw.feedback.normal(),
                 input_shape=None, generator=None) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        self.factor = (1 if gain is None else gain) * (2 if doubled else 1)

    def assign(self, x, target, step):
        *_, last = step.activities(step.prepare(x))
        e = self.error(last.a, target)
        updates = step.update(self.network.stages[-1], self.factor * self.seen(e), last.pre)
        return fw.Credit(updates, last.a, self.loss_value(last.a, target), e)

    def seen(self, e):
        return e

class Asking(Readout):
    """Asks for a value, which torch.vmap refuses."""

    def __init__(self, model, loss, *, much: Unknown = 3, generator=None, input_shape=None):
        super().__init__(model, loss, doubled=False, generator=generator)

    def seen(self, e):
        return e if e.abs().max() >= 0 else -e

class Failing(Readout):
    def __init__(self, model, loss, *, generator=None, input_shape=None):
        super().__init__(model, loss, generator=generator)
        weight = next(model.parameters())
        self.register_buffer("steps", torch.zeros((), dtype=weight.dtype))

    def moved_buffers(self, step):
        return {**super().moved_buffers(step), "steps": self.steps + 1}

    def seen(self, e):  # the inverse of nothing from the 35th step on
        matrix = (self.steps < 34).to(e.dtype) * torch.eye(2, dtype=e.dtype)
        return e + 0 * torch.linalg.inv(matrix).sum()

class Refusing(Readout):
    def __init__(self, model, loss, **options):
        raise ZeroDivisionError("nothing to divide\\nby")

class Exploding(Readout):
    def seen(self, e):
        return e * float("nan")
'''
NAMES = ("readout", "asking", "failing", "refusing", "exploding")


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_rules.py").write_text(PACKAGE, "utf-8")
    info = tmp_path / "foreign_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-rules\nVersion: 1.0\n")
    lines = "".join(f"my-{name} = foreign_rules:{name.title()}\n" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[forwardly.rules]\n{lines}my-lost = nowhere:Rule\n")
    monkeypatch.syspath_prepend(tmp_path)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def summary(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((path / "summary.json").read_text("utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("rule", fw.RULES.values(), ids=lambda rule: rule.__name__)
def test_every_option_of_ours_is_explained(rule: type[fw.Rule]) -> None:
    assert [option.name for option in options_of(rule) if not help_of(rule).get(option.name)] == []


def test_rules_describes_a_rule(command: Command) -> None:
    done = command("rules", "my-readout", "my-asking")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["my-readout", "The readout learns."]
    for expected in (
        ["paper", "Ada Mayer, Bo Li: Of readouts. Journal, 2026"],
        ["gain", "a number or none", "none", "what updates are multiplied by."],
        ["doubled", "true or false", "true", "whether they are doubled."],
        ["how", "slow or 2", "2", "in which way."],
        ["matrix", "the scale of feedback.uniform", "feedback.normal(0.05)", "a matrix."],
        ["much", "Unknown", "3"],
    ):
        found = [[cell for cell in line.split("  ") if cell] for line in lines]
        assert expected in [[cell.strip() for cell in cells] for cells in found]
    assert any(line.startswith("equations") and "foreign_rules.py" in line for line in lines)
    assert "generator" not in done.stdout
    assert command("rules", "nobody").stderr.startswith("error: unknown rule 'nobody'; the known")
    assert command("rules", "my-lost").stderr.startswith("error: my-lost (nowhere:Rule) does not")


def test_rules_in_a_pipe(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a rule, however narrow; or data, and nothing else."""
    monkeypatch.setenv("COLUMNS", "20")
    names = sorted([*fw.RULES, *(f"my-{name}" for name in NAMES)])
    done = command("rules")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["rule", *names]
    assert "my-lost" in done.stderr
    found = json.loads(command("rules", "--json").stdout)
    assert [rule["name"] for rule in found] == names
    (ours,) = json.loads(command("rules", "pepita", "--json").stdout)
    assert ours == next(rule for rule in found if rule["name"] == "pepita")
    assert ours["options"][1] == {
        "name": "output_error",
        "takes": "first or second",
        "default": "first",
        "help": "whether the output layer learns from the error of the first (clean) or the second "
        "(modulated) pass.",
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("foo=1", "my-readout has no option 'foo'; "),
        ("gain=much", "gain must be a number or none; given 'much'; "),
        ("gain=nan", "gain must be a number or none; given nan; "),
        ("doubled=1", "doubled must be true or false; given 1; "),
        ("how=fast", "how must be slow or 2; given 'fast'; "),
        ("matrix=-1", "the scale of a feedback matrix must be finite and ≥ 0; given -1; "),
    ],
)
def test_wrong_options(option: str, message: str, command: Command) -> None:
    done = command("train", "--data", "digits", "--rule", "my-readout", "--rule-options", option)
    listed = (
        "the options of my-readout are gain (a number or none; default none); doubled (true or "
        "false; default true); how (slow or 2; default 2); matrix (the scale of feedback.uniform; "
        "default feedback.normal(0.05))"
    )
    assert (done.returncode, done.stderr) == (2, f"error: {message}{listed}\n")


def test_options_reach_a_rule_as_it_takes_them() -> None:
    """The text "false" is true, and no rule can calculate with a scale's text."""
    options = {"doubled": "false", "gain": "none", "matrix": 0.1, "how": "slow"}
    for given, factor in ((options, 1), ({}, 2), ({"gain": 3}, 6)):
        recipe = Recipe("my-readout", "digits", given, hidden=(4,))
        rule = prepare(recipe, 0).rule
        assert getattr(rule, "factor") == factor  # noqa: B009
        assert Recipe.from_data(json.loads(json.dumps(recipe.as_data()))) == recipe


def test_compare(command: Command) -> None:
    """What fails or diverges is told, and does not end the others."""
    rules = ("my-refusing", "my-failing", "my-exploding", "my-asking", "readout-only")
    done = command(
        *("compare", "--rules", *rules, "--hidden", "4", "--epochs", "1", "--seeds", "2"),
        *("--learning-rate", "0.1", "--rates", "readout-only=0.05", "--out", "c"),
    )
    assert (done.returncode, done.stderr) == (1, "")
    for line in (
        "my-refusing failed with seed 0: ZeroDivisionError: nothing to divide",
        "my-exploding diverged (NaN or infinity) with learning rate 0.1, seeds 0, 1.",
    ):
        assert line in done.stdout.splitlines()
    assert "my-failing failed with seed 0: _LinAlgError: linalg.inv" in done.stdout
    assert {path.name for path in Path("c").iterdir()} == {
        *("results.csv", "summary.json", "compare.png"),
    }
    rows = read_csv(Path("c/results.csv"))
    assert [(row["rule"], row["seed"], row["learning_rate"], row["ended"]) for row in rows] == [
        ("my-refusing", "0", "0.1", "failed"),
        ("my-failing", "0", "0.1", "failed"),
        *(("my-exploding", seed, "0.1", "diverged") for seed in "01"),
        *(("my-asking", seed, "0.1", "finished") for seed in "01"),
        *(("readout-only", seed, "0.05", "finished") for seed in "01"),
    ]
    found = summary(Path("c"))
    accuracies = [float(row["test_accuracy"]) for row in rows if row["rule"] == "my-asking"]
    assert found["rules"]["my-asking"]["accuracies"] == accuracies
    assert found["rules"]["my-exploding"] == {
        "accuracies": [None, None],
        "over_readout_only": None,
        "diverged": [0, 1],
    }
    assert found["rules"]["my-refusing"]["failed"]["seed"] == 0
    assert set(found["learning_rates_from"].values()) == {"given"}


def test_compare_a_rule_with_itself(command: Command) -> None:
    """With other options, which --rates names too; and a rate of another package's rule."""
    clean = "pepita:presynaptic=clean,projection=4"  # far too long an F
    done = command(
        *("compare", "--rules", "pepita", clean, "my-asking", "--seeds", "1", "--epochs", "2"),
        *("--rates", "pepita=0.1", f"{clean}=0.05", "my-asking=0.1", "--hidden", "8", "--out", "c"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = summary(Path("c"))
    assert found["learning_rates"] == {"pepita": 0.1, clean: 0.05, "my-asking": 0.1}
    settings = Comparison(rules=("pepita",), hidden=(8,), epochs=2, seeds=1)
    for rule, options, rate in (
        ("pepita", {}, 0.1),
        (clean, {"presynaptic": "clean", "projection": 4}, 0.05),
    ):
        _, accuracy = comparison.train("pepita", settings, 0, rate, options=options)
        assert found["rules"][rule]["accuracies"] == [accuracy]
    _, plain = comparison.train("pepita", settings, 0, 0.05)
    assert found["rules"][clean]["accuracies"] != [plain]


def test_compare_a_regression(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, of which the smaller is the better; rules that need classes are left out."""
    options = ("--data", "teacher-student", "--hidden", "4", "--epochs", "1", "--seeds", "1")
    done = command("compare", *options, "--rules", "my-asking", "backprop", "--out", "c")
    assert (done.returncode, done.stderr) == (0, "")
    assert "test loss" in done.stdout
    assert "Learning rates of all rules: searched for, the best of 1," in done.stdout
    assert "with seed 0 and 1 epochs" in done.stdout
    found = summary(Path("c"))
    for name in ("my-asking", "backprop"):
        tried = {rate: loss for rate, loss in found["searches"][name].items() if loss is not None}
        assert found["learning_rates"][name] == float(min(tried, key=lambda rate: tried[rate]))
        assert len(found["rules"][name]["losses"]) == 1
    (row, _) = read_csv(Path("c/results.csv"))
    assert float(row["test_loss"]) == found["rules"]["my-asking"]["losses"][0]
    rate = ("--learning-rate", "0.01")
    monkeypatch.setattr(comparison, "train", lambda *_: (0.5, 0.5))
    assert command("compare", *options, *rate, "--out", "all").returncode == 0
    assert summary(Path("all"))["rules"].keys() == fw.RULES.keys() - {"forward-forward"}


def test_compare_takes_convolutions(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    arrays = {
        f"{what}_{part}": numbers.integers(10, size=(n, *shape), dtype=np.uint8)
        for part, n in (("train", 60), ("test", 20))
        for what, shape in (("x", (28, 28)), ("y", ()))
    }
    Path("data").mkdir()
    np.savez("data/mnist.npz", **arrays)
    quick = ("--epochs", "1", "--seeds", "1", "--learning-rate", "0.1", "--validation", "20")
    place = ("--data", "mnist", "--data-root", "data", "--model", "conv", "--out", "c")
    done = command("compare", *place, *quick, "--rules", "pepita", "readout-only")
    assert (done.returncode, done.stderr) == (0, "")
    assert summary(Path("c"))["settings"]["hidden"] == [32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rules my-lost", "my-lost (nowhere:Rule) does not load: ModuleNotFoundError"),
        ("--rules pepita pepita", "a rule is named twice: pepita, pepita"),
        ("--rates pepita", "a rule's learning rate is given as NAME=0.1; given 'pepita'"),
        ("--rates pepita=x", "a rule's learning rate is given as NAME=0.1; given 'pepita=x'"),
        ("--rates pepita=-1", "the learning rate of pepita must be at least 0 and at most 1e+30"),
        ("--rates my-readout=1", "rates has 'my-readout', which is none of the rules compared"),
        ("--model conv", "the convolutional model needs images"),
        ("--learning-rate nan", "--learning-rate must be a finite number; given"),
    ],
)
def test_mistakes(arguments: str, message: str, command: Command) -> None:
    done = command("compare", *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("best", "metric", "expected", "trainings"),
    [
        (0.1, ACCURACY, 0.1, 7),
        (0.03, LOSS, 0.03, 7),
        (0.001, ACCURACY, 0.001, 8),  # whether a smaller one is better must be seen
        (0.0001, LOSS, 0.0001, 10),
        (1.0, ACCURACY, 1.0, 8),
        (10.0, LOSS, 10.0, 10),
        (math.nan, ACCURACY, None, 7),
    ],
)
def test_search(
    best: float,
    metric: comparison_table.Metric,
    expected: float | None,
    trainings: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the validation part alone, with the first seed and half the epochs."""
    calls: list[tuple[int, int]] = []

    def train(rule: str, settings: Comparison, seed: int, rate: float, *_: Any) -> Any:
        calls.append((seed, settings.epochs))
        distance = abs(math.log(rate / best))
        validation = -distance if metric is ACCURACY else distance
        return (math.nan if rate == 1 and best < 1 else validation), 1 / rate

    monkeypatch.setattr(comparison, "train", train)
    settings = Comparison(rules=("my-readout",), seed=3, seeds=2, epochs=5)
    run = comparison.Run(settings, metric)
    left = [run.left, *(run.left for _ in run.advance())]
    result = run.results[None]["my-readout"]
    assert result.learning_rate == expected
    seeds = [] if expected is None else [(3, 5), (4, 5)]
    assert calls == [*[(3, 3)] * trainings, *seeds]
    assert left[0] == 9
    assert left[-1] == 0
    assert sorted(left, reverse=True) == left
    assert bool(result.lost) == (expected is None)


def test_seeds_that_diverged_have_no_pair() -> None:
    test = {0: 0.5, 1: math.nan, 2: 0.7, 3: 0.8}
    control = {0: 0.4, 1: 0.9, 2: 0.5, 3: math.nan}
    row = Row.of("a", test, control, ACCURACY)
    assert row.over_control is not None
    assert row.over_control.mean == pytest.approx(0.15)
    assert row.text() == "66.67 ± 15.28 (3 of 4)"
    losses = Row.of("a", {0: 0.000012, 1: 0.000034}, {0: 0.00001, 1: 0.00002}, LOSS)
    assert losses.text() == "0.0000230 ± 0.0000156"
    assert losses.difference_text()[0].startswith("+0.0000080 [")


def test_figure_has_all_seeds_and_marks_the_controls() -> None:
    rows = [
        Row("backprop", [0.9, 0.95], None),
        Row("my-readout", [0.99, math.nan], None),
        Row("readout-only", [0.5, 0.6], None),
        Row("_lost", [], None),
    ]
    figure = comparison_figure({"clean": rows}, ACCURACY)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["my-readout", "backprop", "readout-only", " _lost"]  # the best is on top
    assert axes.yaxis_inverted()
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [list(np.asarray(x)) for x in dots] == [[99.0], [90.0, 95.0], [50.0, 60.0]]
    across = [line for line in axes.lines if line.get_linestyle() in ("--", ":")]
    assert [float(np.asarray(line.get_xdata())[0]) for line in across] == pytest.approx([92.5, 55])
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["a seed", "mean over seeds", "backprop's mean", "readout-only's mean"]


EARLY = ("1", "2", "4", "8")
"""Epochs that are measured before the first ``--log-every``."""


def test_teacher_student(command: Command) -> None:
    """One fails at once, one in the middle; one cannot be batched. The others come to their end."""
    rules = ("my-refusing", "my-failing", "my-asking", "readout-only")
    quick = ("--epochs", "60", "--log-every", "10", "--seeds", "2", "--engine", "readable")
    done = command("teacher-student", "--rules", *rules, *quick, "--out", "t")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert "my-refusing failed after 0 epochs: ZeroDivisionError: nothing to divide" in lines
    assert "my-failing failed after 34 epochs: _LinAlgError: linalg.inv" in done.stdout
    rows: dict[str, list[dict[str, str]]] = {name: [] for name in rules}
    for row in read_csv(Path("t/metrics.csv")):
        rows[row.pop("rule")].append(row)
    assert rows["my-refusing"] == []
    assert [row["epoch"] for row in rows["my-failing"]] == 2 * [*EARLY, "10", "20", "30"]
    assert [row["epoch"] for row in rows["my-asking"]] == 2 * [
        *EARLY,
        *(str(e) for e in range(10, 61, 10)),
    ]
    for ours, theirs in zip(rows["my-asking"], rows["readout-only"], strict=True):
        for name in ("train_mae", "val_mae"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-9)
    found = summary(Path("t"))["rules"]
    assert found["my-failing"]["failed"].startswith("_LinAlgError")
    assert found["my-failing"]["epochs"] == 30
    assert found["my-refusing"]["failed"] == "ZeroDivisionError: nothing to divide"
    assert "failed" not in found["readout-only"]
    assert {"mae.png", "network.svg"} <= {path.name for path in Path("t").iterdir()}


def test_teacher_student_of_nothing_but_failures(command: Command) -> None:
    done = command("teacher-student", "--rules", "my-refusing", "--epochs", "10", "--out", "t")
    assert (done.returncode, done.stderr) == (1, "")
    assert "my-refusing failed after 0 epochs" in done.stdout
