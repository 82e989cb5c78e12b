"""Recipes: plain data that decides all of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import forwardly as fw
from forwardly import models
from forwardly.errors import UsageError
from forwardly.experiments.comparison import Comparison
from forwardly.experiments.recipe import Mirroring, Prepared, Recipe, prepare
from forwardly.experiments.teacher_student import TeacherStudent

SMALL = Recipe("pepita", "digits", {}, hidden=(12, 7), epochs=1)


def first_weights(prepared: Prepared) -> list[torch.Tensor]:
    return [p.detach().clone() for p in prepared.rule.model.parameters()]


def test_plain_data_and_back() -> None:
    recipe = replace(
        SMALL,
        options={"sign": -1, "output_error": "second", "projection": 0.1},
        mirroring=Mirroring(0.1, 0.01),
    )
    assert Recipe.from_data(json.loads(json.dumps(recipe.as_data()))) == recipe
    assert Recipe.from_data(json.loads(json.dumps(SMALL.as_data()))) != recipe


@pytest.mark.unchecked  # to see the library's own word
@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (TeacherStudent, {"dtype": "half"}, "dtype must be float64 or float32; given 'half'"),
        (TeacherStudent, {"seeds": 0}, "seeds must be at least 1; given 0"),
        (Comparison, {"activation": "gelu"}, "activation must be one of relu, tanh, sigmoid"),
    ],
)
def test_other_settings_are_checked_too(kind: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**change)


def test_plain_data_must_be_complete() -> None:
    content = SMALL.as_data()
    with pytest.raises(UsageError, match="missing or unknown: lr"):
        Recipe.from_data(content | {"lr": 1})
    del content["batch"]
    with pytest.raises(UsageError, match="missing or unknown: batch"):
        Recipe.from_data(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "pepito"}, "unknown rule 'pepito'"),
        ({"data": "minst"}, "data must be one of mnist, .* given 'minst'"),
        ({"model": "resnet"}, "model must be one of mlp, conv, .*; given 'resnet'"),
        ({"activation": "gelu"}, "activation must be one of relu, tanh, sigmoid"),
        ({"initial": "zeros"}, "initial must be one of he, torch"),
        ({"normalise": "layer"}, "normalise must be one of sample, batch"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, bf16"),
        ({"batch": 0}, "batch must be at least 1; given 0"),
        ({"epochs": -1}, "epochs must be at least 1; given -1"),
        ({"validation": 0}, "validation must be at least 1; given 0"),
        ({"milestones": (3, -1)}, r"milestones must be numbers of epochs .* given \[3, -1\]"),
        (
            {"learning_rate": -0.1},
            "learning_rate must be at least 0 and at most 1e[+]30; given -0.1",
        ),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0 and at most 1e[+]30"),
        ({"momentum": float("inf")}, "momentum must be at least 0 and at most 1e[+]30"),
        ({"dropout": 1.0}, "dropout must be below 1"),
        ({"hidden": (4, 0)}, r"hidden must be sizes of at least 1.* given \[4, 0\]"),
        ({"model": "conv", "hidden": (4, 4)}, "for the model conv one, its channels"),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"colour": 1}}, "pepita has no option 'colour'; the options of pepita are"),
        ({"options": {"sign": 2}}, r"sign must be 1 or -1; given 2; the options of"),
        ({"model": "conv", "hidden": (4,)}, "needs images .* of this data set are"),
        ({"rule": "backprop", "mirroring": Mirroring(0.1, 0.1)}, "backprop on digits"),
    ],
)
@pytest.mark.unchecked
def test_what_does_not_go_together(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(replace(SMALL, **change), 0)


def test_rules_pair_by_seed() -> None:
    """The same weights, split, order and dropout masks, whatever else a rule draws."""
    made = [prepare(replace(SMALL, rule=name, dropout=0.1), 3) for name in fw.RULES]
    for prepared in made[1:]:
        for one, other in zip(first_weights(made[0]), first_weights(prepared), strict=True):
            assert torch.equal(one, other)
        assert prepared.order_seed == made[0].order_seed
        assert torch.equal(prepared.dataset.train.x, made[0].dataset.train.x)
    noises = [p.rule.noise for p in made]
    assert all(n is not None and torch.equal(n, noises[0]) for n in noises)  # type: ignore[arg-type]


def test_seeds_differ_in_all_that_is_random() -> None:
    one, other = prepare(SMALL, 0), prepare(SMALL, 1)
    assert not torch.equal(first_weights(one)[0], first_weights(other)[0])
    assert not torch.equal(one.rule.get_buffer("F"), other.rule.get_buffer("F"))
    assert one.order_seed != other.order_seed
    assert not torch.equal(one.dataset.train.x, other.dataset.train.x)


def test_nothing_is_drawn_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    prepare(replace(SMALL, mirroring=Mirroring(0.1, 0.1)), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_options_reach_rule_optimizer_and_scheduler() -> None:
    recipe = replace(
        SMALL,
        options={"sign": -1, "output_error": "second", "projection": 0.0},
        weight_decay=0.25,
        momentum=0.5,
        learning_rate=0.125,
        milestones=(2,),
        gamma=0.5,
        dropout=0.25,
        normalise="batch",
        dtype="float64",
    )
    prepared = prepare(recipe, 0)
    rule = prepared.rule
    assert isinstance(rule, fw.PEPITA)
    assert (rule.sign, rule.output_error) == (-1, "second")
    assert not rule.F.any()
    (group,) = prepared.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.125, 0.5, 0.25)
    assert prepared.scheduler.state_dict()["milestones"] == {2: 1}
    kinds = [type(module).__name__ for module in rule.model.children()]
    hidden = ["Linear", "ReLU", "Normalise", "Dropout"]
    assert kinds == ["Flatten", *hidden, *hidden, "Linear"]
    assert {p.dtype for p in rule.model.parameters()} == {torch.float64}
    assert prepared.mirror is None


def test_mirroring_factors_the_feedback() -> None:
    prepared = prepare(replace(SMALL, mirroring=Mirroring(0.5, 0.25, 0.75)), 0)
    assert prepared.mirror is not None
    assert prepared.rule.get_buffer("F_3").shape == (7, 10)
    mirror = prepared.mirror
    assert (mirror.learning_rate, mirror.decay, mirror.noise) == (0.5, 0.25, 0.75)


def test_the_time_local_rule_knows_the_learning_rate() -> None:
    rule = prepare(replace(SMALL, rule="time-local-pepita", learning_rate=0.5), 0).rule
    assert isinstance(rule, fw.TimeLocalPEPITA)
    assert rule.learning_rate == 0.5


@pytest.mark.parametrize(("initial", "factor"), [("he", 6.0), ("torch", 1.0)])
def test_initial_weights(initial: str, factor: float) -> None:
    model = models.mlp(400, (300,), 10, initial=initial, generator=torch.Generator().manual_seed(0))
    bound = (factor / 400) ** 0.5
    largest = float(model[1].weight.detach().abs().max())
    assert 0.999 * bound < largest <= bound
    assert float(model[1].weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.01)


def test_torch_initials_are_torchs() -> None:
    ours = models.conv((3, 12, 12), 10, channels=200, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.Conv2d(3, 200, 5, bias=False)
    assert float(ours[0].weight.detach().std()) == pytest.approx(
        float(theirs.weight.detach().std()), rel=0.02
    )


def test_the_convolutional_model_is_the_papers() -> None:
    model = models.conv((3, 32, 32), 10)
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"]
    assert model[0].weight.shape == (32, 3, 5, 5)
    assert model[-1].weight.shape == (10, 32 * 14 * 14)
    assert model[0].bias is None
    assert model[-1].bias is None
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_convolutions_may_learn_at_another_rate(tmp_path: Any) -> None:
    from forwardly.data import npz
    from test_data import arrays

    npz.write(tmp_path / "mnist.npz", arrays(shape=(12, 12)))
    recipe = Recipe(
        "pepita", "mnist", {}, model="conv", hidden=(4,), conv_rate=0.01, validation=3, epochs=1
    )
    prepared = prepare(recipe, 0, tmp_path)
    rates = {
        tuple(p.shape): group["lr"]
        for group in prepared.optimizer.param_groups
        for p in group["params"]
    }
    assert rates == {(10, 64): 0.1, (4, 1, 5, 5): pytest.approx(0.001)}
