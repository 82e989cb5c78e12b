"""The training loop: what it computes, what it leaves alone, and that nothing is lost."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

import forwardly as fw
from forwardly import data
from forwardly.errors import UsageError
from forwardly.rule import Rule
from forwardly.training import Fit, Row, checkpoint, evaluate, fit
from forwardly.training.measures import MEASURES


def small(samples: int = 200) -> data.Dataset:
    whole = data.load("digits", validation=50)
    train = data.Split(whole.train.x[:samples], whole.train.target[:samples])
    return data.Dataset("digits", 10, train, whole.validation, whole.test)


def rule(name: str = "pepita", **options: Any) -> Rule:
    torch.manual_seed(0)
    layers = nn.Linear(64, 20, bias=False), nn.ReLU(), nn.Dropout(0.2)
    model = nn.Sequential(*layers, nn.Linear(20, 10, bias=False))
    kind: Any = fw.RULES[name]
    generator = torch.Generator().manual_seed(1)
    return kind(model, nn.CrossEntropyLoss(), generator=generator, **options)


def test_equals_a_loop_written_out() -> None:
    dataset = small()
    ours, expected = rule(), rule()
    optimizer = torch.optim.Adam(ours.model.parameters(), 0.01)
    fitted = fit(ours, dataset, optimizer, epochs=2, batch=64, seed=5)

    adam = torch.optim.Adam(expected.model.parameters(), 0.01)
    order = torch.Generator().manual_seed(5)
    for epoch in range(2):
        total, right = 0.0, 0
        shuffled = torch.randperm(200, generator=order)
        for start in (0, 64, 128, 192):
            chosen = shuffled[start : start + 64]
            adam.zero_grad()
            credit = expected.accumulate(dataset.train.x[chosen], dataset.train.target[chosen])
            adam.step()
            total += float(credit.loss) * len(chosen)
            right += int((credit.output.argmax(1) == dataset.train.target[chosen]).sum())
        expected.eval()
        output = expected.model(dataset.validation.x)
        expected.train()
        row = fitted.rows[epoch]
        assert row["loss"] == pytest.approx(total / 200)
        assert row["accuracy"] == right / 200
        loss = nn.functional.cross_entropy(output, dataset.validation.target)
        assert row["validation_loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
        correct = (output.argmax(1) == dataset.validation.target).float().mean()
        assert row["validation_accuracy"] == pytest.approx(float(correct))
        assert row["epoch"] == epoch + 1
        assert row["samples_per_second"] == pytest.approx(200 / row["seconds"])
    for name, value in expected.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_the_test_set_is_not_looked_at() -> None:
    dataset = small()
    nothing = data.Split(torch.empty(0), torch.empty(0))
    blind = data.Dataset("digits", 10, dataset.train, dataset.validation, nothing)
    ours = rule()
    fit(ours, blind, torch.optim.SGD(ours.model.parameters(), 0.1), epochs=1)
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(ours, blind.test)


def test_evaluation_is_without_dropout_and_restores_the_mode() -> None:
    ours = rule()
    split = data.load("digits").train  # more than one part
    row = evaluate(ours, split)
    assert ours.training
    ours.eval()
    output = ours.predict(split.x)
    expected = nn.functional.cross_entropy(output, split.target)
    assert row["loss"] == pytest.approx(float(expected), rel=1e-5)
    correct = (output.argmax(1) == split.target).float().mean()
    assert row["accuracy"] == pytest.approx(float(correct))
    evaluate(ours, split)
    assert not ours.training


def test_numbers_as_targets() -> None:
    dataset = data.load("teacher-student")
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    ours = fw.PEPITA(model, nn.MSELoss())
    rows = fit(ours, dataset, torch.optim.SGD(model.parameters(), 0.01), epochs=3).rows
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert "accuracy" not in rows[0]
    assert "validation_accuracy" not in rows[0]


def test_measures_join_the_row_and_change_nothing() -> None:
    plain, measured = rule(), rule()
    for ours, measures in ((plain, ()), (measured, tuple(MEASURES.values()))):
        optimizer = torch.optim.SGD(ours.model.parameters(), 0.1)
        fitted = fit(ours, small(), optimizer, epochs=2, measures=measures)
    row = fitted.rows[0]
    names = {"norm/0.weight", "norm/3.weight", "alignment/0.weight", "alignment/3.weight"}
    assert names | {"angle/F"} <= row.keys()
    assert 0 < row["angle/F"] < 180
    for name, value in plain.state_dict().items():
        assert torch.equal(value, measured.state_dict()[name])


def test_angles_of_factors_and_of_feedback_weights() -> None:
    batch = torch.rand(8, 64), torch.randint(10, (8,))
    factored = MEASURES["angles"](rule(projection=fw.feedback.product()), *batch)
    assert factored.keys() == {"angle/F", "angle/0", "angle/3"}
    assert MEASURES["angles"](rule("feedback-alignment"), *batch).keys() == {"angle/3"}
    assert MEASURES["angles"](rule("backprop"), *batch) == {}


def test_norms_are_of_the_updates() -> None:
    ours = rule().eval()
    x, target = torch.rand(8, 64), torch.randint(10, (8,))
    measured = MEASURES["norms"](ours, x, target)
    update = ours(x, target).updates["0.weight"]
    assert measured["norm/0.weight"] == pytest.approx(float(update.square().sum().sqrt()))


def test_divergence_ends_training_at_its_epoch() -> None:
    ours = rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 1e30)
    fitted = fit(ours, small(), optimizer, epochs=5, batch=2)
    assert fitted.diverged == 1
    assert len(fitted.rows) == 1


def test_plateaus_are_of_the_validation_loss() -> None:
    ours = rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.0)  # learns nothing
    scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.5, eps=0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-30
    rows = fit(ours, small(), optimizer, epochs=3, scheduler=scheduler).rows
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-30, 1e-30, 5e-31], rel=1e-6)


def test_progress_is_reported() -> None:
    ours = rule()
    batches: list[tuple[int, int]] = []
    epochs: list[Row] = []
    fitted = fit(
        ours,
        small(),
        torch.optim.SGD(ours.model.parameters(), 0.1),
        epochs=2,
        batch=90,
        on_batch=lambda done, of: batches.append((done, of)),
        on_epoch=epochs.append,
    )
    assert batches == [(1, 3), (2, 3), (3, 3)] * 2
    assert epochs == fitted.rows
    assert fitted.seconds == sum(row["seconds"] for row in epochs)
    assert fitted.curve("epoch") == [1, 2]


class InterruptedHereError(Exception):
    """Stands for a kill in the middle of an epoch."""


def sgd(ours: Rule) -> tuple[Any, Any, Any]:
    optimizer = fw.LocalSGD(ours, 0.1, 0.9)
    return optimizer, MultiStepLR(optimizer, [2], 0.1), None


def adam(ours: Rule) -> tuple[Any, Any, Any]:
    optimizer = torch.optim.AdamW(ours.model.parameters(), 0.01, amsgrad=True)
    return optimizer, CosineAnnealingLR(optimizer, 4), None


def plateau(ours: Rule) -> tuple[Any, Any, Any]:
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1, nesterov=True, momentum=0.5)
    return optimizer, ReduceLROnPlateau(optimizer, patience=0), None


def mirrored(ours: Rule) -> tuple[Any, Any, Any]:
    optimizer = fw.LocalSGD(ours, 0.1, 0.9)
    mirror = fw.feedback.Mirror(ours, generator=torch.Generator().manual_seed(9))
    return optimizer, None, mirror


def mirrored_from_end_to_end(ours: Rule) -> tuple[Any, Any, Any]:
    optimizer = fw.LocalSGD(ours, 0.1, 0.9)
    mirror = fw.feedback.JacobianMirror(ours, generator=torch.Generator().manual_seed(9))
    return optimizer, None, mirror


def test_a_mirror_gets_every_nth_batch() -> None:
    trained, mirrored = list[Tensor](), list[Tensor]()

    class Optimizer(fw.LocalSGD):
        def step(self, x: Tensor, target: Tensor) -> fw.Credit:  # pyright: ignore
            trained.append(x)
            return super().step(x, target)

    class Mirror(fw.feedback.JacobianMirror):
        def step(self, x: Tensor) -> None:
            mirrored.append(x)
            super().step(x)

    ours = rule("pepita")
    fit(
        ours, small(), Optimizer(ours, 0.1), epochs=2, batch=50, mirror=Mirror(ours), mirror_every=2
    )
    per_epoch = len(trained) // 2
    expected = [x for epoch in (trained[:per_epoch], trained[per_epoch:]) for x in epoch[1::2]]
    assert len(mirrored) == len(expected) > 2
    assert all(x is other for x, other in zip(mirrored, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("pepita", {}, sgd),
        ("backprop", {}, adam),
        ("feedback-alignment", {}, plateau),
        ("forward-forward", {}, sgd),
        ("error-broadcast", {"forgetting": 0.9}, sgd),  # its own buffers move
        ("pepita", {"projection": fw.feedback.product()}, mirrored),
        ("pepita", {}, mirrored_from_end_to_end),
    ],
)
def test_a_resumed_run_ends_as_one_left_alone(
    name: str, options: dict[str, Any], make: Callable[[Rule], Any], tmp_path: Path
) -> None:
    def start(path: Path | None, resume: bool, stop_at: int | None) -> tuple[Rule, Fit | None]:
        ours = rule(name, **options)
        optimizer, scheduler, mirror = make(ours)
        seen = [0]

        def on_batch(done: int, of: int) -> None:
            seen[0] += 1
            if seen[0] == stop_at:
                raise InterruptedHereError

        try:
            fitted = fit(
                ours,
                small(),
                optimizer,
                epochs=4,
                batch=50,
                scheduler=scheduler,
                seed=3,
                mirror=mirror,
                mirror_every=2,
                checkpoint=path,
                resume=resume,
                on_batch=on_batch,
            )
        except InterruptedHereError:
            return ours, None
        return ours, fitted

    alone, expected = start(None, False, None)
    assert expected is not None
    for stop_at in (1, 7, 9, 16):
        path = tmp_path / f"{stop_at}.pt"
        _, stopped = start(path, False, stop_at)
        assert stopped is None
        torch.rand(5)  # what happens meanwhile must not matter
        resumed, fitted = start(path, True, None)
        assert fitted is not None
        for key, value in alone.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), (stop_at, key)
        times = ("seconds", "samples_per_second")
        for one, other in zip(expected.rows, fitted.rows, strict=True):
            assert {k: v for k, v in one.items() if k not in times} == {
                k: v for k, v in other.items() if k not in times
            }


def one_epoch(path: Path, resume: bool = False, **changes: Any) -> Fit:
    ours = changes.pop("rule", None) or rule()
    optimizer = changes.pop("optimizer", None) or torch.optim.SGD(ours.model.parameters(), 0.1)
    arguments: dict[str, Any] = {"epochs": 1, "batch": 50, "seed": 3} | changes
    return fit(ours, small(), optimizer, checkpoint=path, resume=resume, **arguments)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    first = one_epoch(path)
    again = one_epoch(path, resume=True)
    assert again.rows == first.rows
    assert len(one_epoch(path, resume=True, epochs=3).rows) == 3


def test_without_resume_a_run_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    one_epoch(path)
    assert [row["epoch"] for row in one_epoch(path).rows] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 20}, "other settings: batch 50 there, 20 here"),
        ({"seed": 4}, "seed 3 there, 4 here"),
        ({"settings": {"data": "x"}}, "data None there, 'x' here"),
        ({"rule": "backprop"}, "rule 'PEPITA' there, 'Backprop' here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    one_epoch(tmp_path / "c.pt")
    if "rule" in change:
        change = {"rule": rule(change["rule"])}
    with pytest.raises(UsageError, match=message):
        one_epoch(tmp_path / "c.pt", resume=True, **change)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    one_epoch(tmp_path / "c.pt")
    other = fw.PEPITA(nn.Sequential(nn.Linear(64, 10)), nn.CrossEntropyLoss())
    with pytest.raises(UsageError, match="of another model"):
        one_epoch(tmp_path / "c.pt", resume=True, rule=other)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    one_epoch(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text", whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"c\.pt is not a checkpoint"):
            one_epoch(path, resume=True)
    torch.save({"version": 99}, path)
    with pytest.raises(UsageError, match="of this version"):
        one_epoch(path, resume=True)
    torch.save({"version": checkpoint.VERSION}, path)
    with pytest.raises(UsageError, match=r"c\.pt is damaged.*KeyError: 'settings'"):
        one_epoch(path, resume=True)
    path.write_bytes(whole)
    state = torch.load(path, weights_only=True)
    names = ("version", "settings", "rule", "optimizer", "batches", "global_random_state")
    for name in (*names, "best", "best_epoch"):
        for wrong in (None, 3, "x", [{}], torch.ones(2))[name == "best" :]:
            torch.save({**state, name: wrong}, path)
            with pytest.raises(UsageError, match=r"c\.pt is "):
                one_epoch(path, resume=True)
    with pytest.raises(UsageError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_no_code_runs_on_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"version": 1, "rule": Bomb()}, "c.pt")
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # it is one
    Path("exploded").unlink()
    with pytest.raises(UsageError, match=r"not a checkpoint of forwardly: there is a \S+$"):
        checkpoint.load(Path("c.pt"))  # and torch's advice to run it all the same is not quoted
    assert not Path("exploded").exists()


def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"rows": [1]})

    def fail(_: object, content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"rows": [2]})
    assert checkpoint.load(path)["rows"] == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_half_written_file_beside_is_not_picked_up(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    (tmp_path / ".c.pt.abc.part").write_bytes(b"half")
    assert len(one_epoch(path, resume=True).rows) == 1


@pytest.mark.parametrize("name", ["epochs", "batch", "mirror_every"])
def test_counts_must_be_positive(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least 1; given 0"):
        one_epoch(tmp_path / "c.pt", **{name: 0})


def nothing(_: Any) -> Any:
    raise AssertionError("the first epoch has begun")


def unit(**changes: Any) -> dict[str, Any]:
    """Arguments of ``fit`` that are as they should be, but for ``changes``."""
    ours = changes.pop("rule", None) or rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1)
    given = {"rule": ours, "data": small(), "optimizer": optimizer, "epochs": 1}
    return given | changes


def of_other() -> Any:
    return torch.optim.SGD(rule().model.parameters(), 0.1)


def with_validation(x: torch.Tensor, target: torch.Tensor) -> data.Dataset:
    whole = small()
    return data.Dataset("digits", 10, whole.train, data.Split(x, target), whole.test)


X, Y = torch.rand(20, 64), torch.arange(20) % 10
NAN = torch.full((20, 64), math.nan)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.5}, r"epochs must be a whole number; given 1\.5"),
        ({"batch": "64"}, "batch must be a whole number; given '64'"),
        ({"validation": data.Split(X[:0], Y[:0])}, "the validation part of the data set is empty"),
        ({"data": with_validation(NAN, Y)}, "NaN or an infinity in the samples of the validation"),
        ({"patience": 0}, "patience must be at least 1; given 0"),
        ({"keep": "first"}, "keep must be one of 'last', 'best'; given 'first'"),
        ({"optimizer": torch.optim.SGD}, "of class Optimizer; given is the class SGD"),
        ({"scheduler": MultiStepLR}, "of class LRScheduler; given is the class MultiStepLR"),
        ({"mirror": 3}, "mirror must be of class Mirror; given is int"),
        ({"settings": ["a"]}, "settings must be of class Mapping; given is list"),
        ({"measures": ["norms"]}, r"measures must be functions; given \['norms'\]"),
        ({"measures": [lambda *_: 0.5]}, r"must return named figures.* returned 0\.5"),
        ({"measures": [lambda *_: {"a": Path("x")}]}, r"must return named figures.* PosixPath"),
        ({"measures": [lambda *_: {"a": torch.ones(2)}]}, r"must return named figures.*tensor"),
        ({"measures": print}, "measures must be of class Sequence; given is builtin_function"),
        ({"on_epoch": 1}, "on_batch and on_epoch must be functions"),
        ({"resume": True}, "resume needs checkpoint"),
        ({"optimizer": of_other()}, "holds no parameter that the rule trains"),
        ({"optimizer": fw.LocalSGD(rule(), 0.1)}, "trains another rule's model"),
        ({"optimizer": torch.optim.LBFGS(rule().model.parameters())}, "LBFGS needs a closure"),
        ({"scheduler": MultiStepLR(of_other(), [1])}, "the scheduler is of another optimizer"),
        (
            {"mirror": fw.feedback.Mirror(rule(projection=fw.feedback.product()))},
            "the mirror is of another rule",
        ),
        ({"checkpoint": "nowhere/c.pt"}, "cannot write a checkpoint to nowhere"),
        ({"checkpoint": "."}, "cannot write a checkpoint to"),
        (
            {"checkpoint": "c.pt", "settings": {"where": Path("x")}},
            r"hold something else than tensors and plain data.*: there is a pathlib.\S*Path$",
        ),
        ({"batch": 500, "drop_last": True}, "drop_last leaves nothing of 200 samples"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_epoch(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    given = unit(**changes)
    weights = copy.deepcopy(given["rule"].state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        fit(**given, on_batch=lambda *_: nothing(0))
    for name, value in weights.items():
        assert torch.equal(given["rule"].state_dict()[name], value)
    if "checkpoint" not in changes:
        assert torch.equal(torch.get_rng_state(), before) or "rule" not in changes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unchecked
def test_what_is_no_rule_or_split_is_refused() -> None:
    optimizer = torch.optim.SGD(rule().model.parameters(), 0.1)
    with pytest.raises(TypeError, match="rule must be of class Rule; given is Sequential"):
        fit(rule().model, small(), optimizer, epochs=1)
    with pytest.raises(TypeError, match="rule must be of class Rule; given is the class PEPITA"):
        fit(fw.PEPITA, small(), optimizer, epochs=1)
    with pytest.raises(TypeError, match=r"say which, as in evaluate\(rule, dataset.test\)"):
        evaluate(rule(), small())
    with pytest.raises(TypeError, match=r"data must be a Dataset, .* given is a list of Split"):
        evaluate(rule(), [small().test])
    with pytest.raises(TypeError, match="rule must be of class Rule; given is Sequential"):
        evaluate(rule().model, small().test)


@pytest.mark.parametrize(
    ("model", "loss", "target", "message"),
    [
        ([nn.Linear(64, 9)], nn.CrossEntropyLoss, Y, "class indices must be 0 to 8"),
        ([nn.Linear(63, 10)], nn.CrossEntropyLoss, Y, r"needs an input of shape \(samples, 63\)"),
        ([nn.Linear(64, 10)], nn.BCEWithLogitsLoss, Y, "needs a target of numbers"),
        ([nn.Linear(64, 10)], nn.MSELoss, torch.rand(20, 9), "needs a target of numbers"),
        (
            [nn.Linear(64, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 10)],
            nn.CrossEntropyLoss,
            Y,
            r"batch normalisation '1' needs more than one sample in training.*drop_last=True",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_first_epoch(
    model: list[nn.Module], loss: Any, target: torch.Tensor, message: str
) -> None:
    ours = fw.PEPITA(nn.Sequential(*copy.deepcopy(model)), loss())
    part = data.Split(X[:17], target[:17])
    dataset = data.Dataset("mine", 10, part, part, part)
    with pytest.raises(ValueError, match=message):
        fit(**unit(rule=ours, data=dataset, batch=4), on_batch=lambda *_: nothing(0))


def test_the_last_samples_may_be_dropped(tmp_path: Path) -> None:
    layers = nn.Linear(64, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.ReLU()
    ours = fw.PEPITA(nn.Sequential(*layers, nn.Linear(5, 10)), nn.CrossEntropyLoss())
    batches: list[tuple[int, int]] = []
    arguments = unit(rule=ours, batch=199, drop_last=True)
    (row,) = fit(**arguments, on_batch=lambda *done: batches.append(done)).rows
    assert batches == [(1, 1)]
    assert 0 <= row["accuracy"] <= 1
    assert row["samples_per_second"] == pytest.approx(199 / row["seconds"])
    path = tmp_path / "c.pt"
    one_epoch(path, drop_last=True)
    with pytest.raises(UsageError, match="drop_last True there, None here"):
        one_epoch(path, resume=True)


def test_a_name_of_a_file_will_do(tmp_path: Path) -> None:
    path = str(tmp_path / "c.pt")
    assert len(fit(**unit(checkpoint=path)).rows) == 1
    assert len(fit(**unit(checkpoint=path, epochs=2), resume=True).rows) == 2


@pytest.mark.unchecked
def test_numbers_of_numpy_do_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    rate = np.logspace(-1, 0, 3)[0]
    for make_optimizer in (
        lambda ours: torch.optim.SGD(ours.model.parameters(), rate, momentum=np.float32(0.5)),
        lambda ours: fw.LocalSGD(ours, rate, np.float64(0.5)),
    ):
        path = tmp_path / "c.pt"
        path.unlink(missing_ok=True)
        for epochs in (1, 2):
            ours = rule()
            optimizer = make_optimizer(ours)
            scheduler = MultiStepLR(optimizer, np.array([1, 2]).tolist(), np.float64(0.1))
            given = {"rule": ours, "optimizer": optimizer, "scheduler": scheduler}
            settings = {"rate": rate, "many": (np.int64(3),)}
            fitted = fit(**unit(**given, epochs=np.int64(epochs)), checkpoint=path,
                         settings=settings, resume=epochs > 1, seed=np.int64(2))  # fmt: skip
        assert [row["epoch"] for row in fitted.rows] == [1, 2]
        assert fitted.rows[1]["learning_rate"] == pytest.approx(0.1 * rate)


def test_float64_models_see_float64() -> None:
    ours = copy.deepcopy(rule()).double()
    fitted = fit(ours, small(), torch.optim.SGD(ours.model.parameters(), 0.1), epochs=1)
    assert math.isfinite(fitted.rows[0]["loss"])


def scripted(accuracies: list[float], **options: Any) -> tuple[fw.Rule, list[Any], Fit]:
    """A run whose validation accuracies are these, by predictions that are made up."""
    ours = rule()
    states: list[Any] = []
    epoch = [0]

    def predict(x: torch.Tensor) -> torch.Tensor:
        right = round(accuracies[epoch[0]] * len(x))
        target = data_of_20.validation.target[: len(x)]
        output = nn.functional.one_hot((target + (torch.arange(len(x)) >= right)) % 10, 10)
        return output.float() * losses.get(epoch[0], 1)

    losses = options.pop("confidence", {})
    data_of_20 = with_validation(X, Y)
    ours.predict = predict

    def note(_: Any) -> None:
        states.append(copy.deepcopy(ours.state_dict()))
        epoch[0] += 1

    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1)
    given = {"epochs": len(accuracies), "on_epoch": note, **options}
    return ours, states, fit(ours, data_of_20, optimizer, **given)


def is_state(ours: fw.Rule, state: Any) -> bool:
    return all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("accuracies", "options", "epochs", "best"),
    [
        ([0.2, 0.5, 0.4, 0.3, 0.9], {}, 5, 5),
        ([0.2, 0.5, 0.4, 0.3, 0.9], {"patience": 2}, 4, 2),
        ([0.2, 0.5, 0.4, 0.3, 0.9], {"patience": 3}, 5, 5),
        ([0.5, 0.5, 0.5], {"patience": 2}, 3, 1),
        ([0.5, 0.5, 0.4], {"confidence": {1: 1.5}}, 3, 2),  # as often right, and surer
    ],
)
def test_patience_and_the_best(
    accuracies: list[float], options: dict[str, Any], epochs: int, best: int
) -> None:
    for keep in ("last", "best"):
        ours, states, fitted = scripted(accuracies, keep=keep, **dict(options))
        assert (len(fitted.rows), fitted.best) == (epochs, best)
        assert fitted.stopped == (epochs < len(accuracies))
        assert is_state(ours, states[-1 if keep == "last" else best - 1])


def test_a_run_that_kept_its_best_goes_on_from_its_last(tmp_path: Path) -> None:
    def run(epochs: int, path: Path | None = None, **options: Any) -> tuple[fw.Rule, Fit]:
        ours = rule()
        optimizer = torch.optim.SGD(ours.model.parameters(), 0.3, momentum=0.9)
        more = {"keep": "best", "checkpoint": path, "resume": path is not None, **options}
        return ours, fit(ours, small(), optimizer, epochs=epochs, **more)

    alone, expected = run(6)
    path = tmp_path / "c.pt"
    run(2, path)
    run(3, path, patience=100)  # how long it may go on is not of the run
    resumed, fitted = run(6, path)
    assert is_state(resumed, alone.state_dict())
    assert fitted.best == expected.best
    assert [row["loss"] for row in fitted.rows] == [row["loss"] for row in expected.rows]
    again, fitted = run(6, path)  # nothing is left to do
    assert is_state(again, alone.state_dict())
    assert len(fitted.rows) == 6
    with pytest.raises(UsageError, match=r"other settings: keep 'best' there, None here"):
        run(7, path, keep="last")


class Notebook(ModuleType):
    """What a notebook's kernel would show."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[str] = []

    def HTML(self, content: str) -> str:
        return content

    def display(self, content: str, **_: bool) -> Any:
        self.shown.append(content)
        return SimpleNamespace(update=self.shown.append)


def test_notebooks_have_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook()
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    fitted = fit(**unit(epochs=2))
    first, second = notebook.shown[1:]
    accuracy = 100 * fitted.rows[1]["validation_accuracy"]
    assert '<progress value="1" max="2"' in first
    assert f"epoch 2 of 2, validation accuracy {accuracy:.2f} %, 0 s left" in second
    fit(**unit(epochs=1, progress=False))
    assert len(notebook.shown) == 3
    ipython.get_ipython = lambda: None  # a script that imports IPython
    fit(**unit(epochs=1))
    assert capsys.readouterr() == ("", "")
    fit(**unit(epochs=1, progress=True))
    assert "epoch 1 of 1, validation accuracy" in capsys.readouterr().err
