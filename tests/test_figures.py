"""The figures that training and evaluation report, for every rule, loss and shape of targets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import forwardly as fw
from forwardly.cli import app
from forwardly.data import Dataset, Split
from forwardly.errors import UsageError
from forwardly.experiments.comparison import Comparison, recipe
from forwardly.experiments.recipe import Recipe, prepare

pytestmark = pytest.mark.unchecked

X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(1))
T = torch.rand(50, 3, generator=torch.Generator().manual_seed(2))


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, outputs))


def data(target: Tensor, outputs: int = 3) -> Dataset:
    part = Split(X, target)
    return Dataset("mine", outputs, part, part, part)


LOSSES: list[tuple[type[nn.Module], Tensor]] = [
    (nn.CrossEntropyLoss, Y),
    (nn.CrossEntropyLoss, T.softmax(1)),
    (nn.MSELoss, T),
    (nn.BCEWithLogitsLoss, T),
    (nn.BCEWithLogitsLoss, (T > 0.5).long()),
    (nn.MSELoss, (10 * T).long()),
]


@pytest.mark.parametrize(("kind", "target"), LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_means_whatever_the_reduction(kind: Any, target: Tensor, reduction: str) -> None:
    model = net()
    rule = fw.PEPITA(model, kind(reduction=reduction))
    numbers = target if kind is nn.CrossEntropyLoss else target.float()
    expected = float(kind()(model(X), numbers).detach())
    for credit in (rule(X, target), fw.LocalSGD(rule, 0.0).step(X, target)):
        assert float(credit.loss) == pytest.approx(expected)
    assert fw.evaluate(rule, Split(X, target))["loss"] == pytest.approx(expected)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    (row,) = fw.fit(rule, data(target), optimizer, epochs=1, batch=20).rows
    assert row["loss"] == pytest.approx(expected)
    assert row["validation_loss"] == pytest.approx(expected)
    assert ("accuracy" in row) == ("validation_accuracy" in row) == (target is Y)
    assert rule.loss.reduction == reduction


def test_notebooks_show_a_few_epochs() -> None:
    """The first and the last, and no name of a measure's is anything but text."""
    rows = [{"epoch": float(e), "seconds": 0.5, "<b>x</b>": e / 7} for e in range(1, 31)]
    shown = fw.training.Fit(rows, diverged=30)._repr_html_()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
    assert cells[::3] == ["1", "…", *map(str, range(23, 31))]
    assert cells[-1] == "4.286"
    assert "&lt;b&gt;x&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "30 epochs, 15.0 s of training; diverged in epoch 30" in shown
    few = fw.training.Fit(rows[:10])._repr_html_()
    assert re.findall(r"<td[^>]*>(.*?)</td>", few)[::3] == [str(e) for e in range(1, 11)]
    assert "0 epochs, 0.0 s" in fw.training.Fit()._repr_html_()


def test_targets_of_float64_are_numbers_too() -> None:
    for kind, target in LOSSES[1:4]:
        rule = fw.PEPITA(net(), kind())
        assert_close(rule(X, target.double()), rule(X, target))


@pytest.mark.parametrize("name", fw.RULES)
def test_figures_of_training_are_what_evaluation_says(name: str) -> None:
    """At a rate of zero the two see the same network, so there is nothing else to say."""
    dataset = data(Y)
    kind: Any = fw.RULES[name]
    rule = kind(net(), nn.CrossEntropyLoss())
    row = fw.fit(rule, dataset, fw.LocalSGD(rule, 0.0), epochs=1, batch=20).rows[0]
    measured = fw.evaluate(rule, dataset.train)
    for figure in ("loss", "accuracy"):
        assert row[figure] == pytest.approx(measured[figure])
        assert row[f"validation_{figure}"] == pytest.approx(measured[figure])
    assert ("rule_loss" in row) == (name == "forward-forward")


def test_forward_forwards_training_accuracy_is_of_its_predictions() -> None:
    prepared = prepare(recipe("forward-forward", Comparison(epochs=3), 0.3), 0)
    rows = fw.fit(prepared.rule, prepared.dataset, prepared.optimizer, epochs=3, batch=32).rows
    measured = fw.evaluate(prepared.rule, prepared.dataset.train)
    assert rows[-1]["accuracy"] == measured["accuracy"] > 0.6
    assert rows[-1]["loss"] == measured["loss"]
    assert rows[-1]["rule_loss"] != rows[-1]["loss"]


def test_only_some_samples_are_predicted_of_a_large_training_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from forwardly.training import run

    monkeypatch.setattr(run, "_SAMPLES_TO_PREDICT", 20)
    some = run._some(Split(torch.arange(50)[:, None], torch.arange(50)))
    assert some.target.tolist() == list(range(0, 50, 3))  # of every part, if they are sorted


def test_accuracy_takes_what_it_can_compare() -> None:
    accuracy = fw.metrics.Accuracy()
    for output, target in (
        (torch.randn(50, 3), torch.randint(0, 3, (50, 1))),
        (torch.randn(50, 3), torch.randint(0, 3, (49,))),
        (torch.randn(50), torch.randint(0, 3, (50,))),
        (torch.randn(50, 3, 2), torch.randint(0, 3, (50,))),
        (torch.randn(50, 3), torch.rand(50)),
        (torch.randn(50, 1), torch.randint(0, 1, (50,))),
    ):
        with pytest.raises(ValueError, match=r"accuracy is of outputs \(n, k\) and class indices"):
            accuracy.update(output, target)
    assert accuracy.compute() != accuracy.compute()  # still NaN: nothing was counted


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (nn.CrossEntropyLoss(), Y[:, None], "needs a target of 50 class indices"),
        (nn.CrossEntropyLoss(), Y.float(), "needs a target of 50 class indices"),
        (nn.CrossEntropyLoss(), Y.int(), "needs a target of 50 class indices"),
        (nn.MSELoss(), T[:, :1], r"numbers of the output's shape \(50, 3\)"),
        (nn.BCEWithLogitsLoss(), Y, r"numbers of the output's shape \(50, 3\)"),
    ],
)
def test_targets_that_do_not_fit_the_loss(loss: nn.Module, target: Tensor, message: str) -> None:
    rule = fw.Backprop(net(), loss)
    if target.dtype != torch.int32:  # which a split makes int64
        with pytest.raises(ValueError, match=message):
            fw.evaluate(rule, Split(X, target))
    with pytest.raises(ValueError, match=message):
        rule(X, target)


def test_outputs_of_one_dimension() -> None:
    """A model that ends in a flattening to (n,) learns as one that ends in (n, 1)."""
    flat, plain = nn.Sequential(*net(1), nn.Flatten(0, 1)), net(1)
    flat.load_state_dict(plain.state_dict())
    target = T[:, 0]
    for name in sorted({*fw.RULES} - {"forward-forward"}):
        kind: Any = fw.RULES[name]
        one = kind(flat, nn.MSELoss(), generator=torch.Generator())(X, target)
        other = kind(plain, nn.MSELoss(), generator=torch.Generator())(X, target[:, None])
        assert one.output.shape == (50,)
        assert one.error.shape == (50, 1)
        assert_close(one.updates, other.updates)
    rule = fw.PEPITA(flat, nn.MSELoss())
    fitted = fw.fit(rule, data(target, 1), torch.optim.SGD(flat.parameters(), 0.1), epochs=2)
    assert fitted.rows[-1]["validation_loss"] == pytest.approx(
        float(functional.mse_loss(flat(X), target).detach())
    )


def test_outputs_that_belong_to_no_sample() -> None:
    rule = fw.PEPITA(nn.Sequential(*net(), nn.Flatten(0, 1)), nn.MSELoss())
    with pytest.raises(ValueError, match=r"makes \(150,\) of 50 samples.*begins before"):
        rule(X, T)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            (Split(X, Y), Split(X[:, :5], Y), Split(X, Y)),
            r"validation torch.float32 \(50, 5\) with torch.int64",
        ),
        (
            (Split(X, Y), Split(X, Y), Split(X, T)),
            r"of one kind.*test torch.float32 \(50, 6\) with torch.fl",
        ),
        ((Split(X, Y), Split(X, Y + 1), Split(X, Y)), "0 to 2, .* the validation part has 3"),
        ((Split(X, Y), Split(X, Y), Split(X, Y - 1)), "the test part has -1"),
    ],
)
def test_parts_of_a_data_set_go_together(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset("mine", 3, *parts)


@pytest.mark.parametrize(
    ("x", "target", "message"),
    [
        (X, Y[:49], "50 samples and 49 targets"),
        (X.numpy(), Y, "x of a Split must be a tensor; given is a ndarray"),
        (X, Y.tolist(), "target of a Split must be a tensor; given is a list"),
        (X, Y[0], "target of a Split must have a first dimension"),
    ],
)
def test_splits_have_a_target_for_each_sample(x: Any, target: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Split(x, target)


def test_data_sets_are_shown_without_their_numbers() -> None:
    shown = repr(data(Y))
    assert "Split(50 samples of (6,) torch.float32, targets of () torch.int64)" in shown
    assert "tensor" not in shown


@pytest.mark.parametrize("normalise", [None, "sample"])
def test_what_a_recipe_says_is_built(normalise: str | None) -> None:
    settings = Recipe("pepita", "digits", {}, dropout=0.5, normalise=normalise, hidden=(7,))
    kinds = [type(module) for module in prepare(settings, 0).rule.model.modules()]
    assert kinds.count(nn.Dropout) == 1
    assert kinds.count(fw.Normalise) == (normalise is not None)
    model = fw_conv(dropout=0.5, normalise=normalise)
    assert [type(module) for module in model.children()][1:-3] == [
        nn.ReLU,
        *([fw.Normalise] if normalise else []),
        nn.Dropout,
    ]


def fw_conv(**options: Any) -> nn.Sequential:
    from forwardly.models import conv

    return conv((1, 8, 8), 3, channels=2, **options)


def test_settings_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="conv_rate is of convolutions, and the model mlp"):
        Recipe("pepita", "digits", {}, conv_rate=0.1)


def test_the_commands_figures_are_of_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--rule forward-forward --data digits --hidden 60 --epochs 3 --learning-rate 0.03"
    with pytest.raises(SystemExit, match="0"):
        app(["train", *options.split(), "--batch", "32", "--out", "run"])
    shown = capsys.readouterr().out
    rows = (tmp_path / "run" / "epochs.csv").read_text("utf-8").splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    tested = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["test_accuracy"]
    assert f"{100 * float(last['accuracy']):.2f}" in shown
    assert abs(float(last["accuracy"]) - tested) < 0.15
