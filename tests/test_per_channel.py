"""Direct feedback with one row a channel: a full matrix whose rows are equal within a channel."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly import feedback
from forwardly.errors import UsageError
from forwardly.rules.options import take_options
from forwardly.testing import CASES, Case, build, check_rule
from graphs import GRAPHS
from test_laws import EXEMPT

DIRECT: dict[str, Any] = {
    "direct-feedback-alignment": fw.DirectFeedbackAlignment,
    "direct-kolen-pollack": fw.DirectKolenPollack,
    "drtp": fw.DRTP,
}
WITH_MAPS = {"conv2d", "conv1d", "conv-block", "batch-norm-affine", "attention", "scaled", "u-net"}
MAPS = [case for case in (*CASES, *GRAPHS) if case.name in WITH_MAPS]


def test_the_cases_are_there() -> None:
    assert {case.name for case in MAPS} == WITH_MAPS


def _full(rule: fw.Rule, case: Case) -> dict[str, Tensor]:
    """The rule's matrices with a row for each unit, from the shapes of z alone."""
    layers = rule.network.probe(case.input_shape)
    found: dict[str, Tensor] = {}
    for name, B in (*rule.named_buffers(recurse=False), *rule.named_parameters(recurse=False)):
        if name.startswith("B_"):
            z = layers[int(name[2:]) - 1].z
            k = B.shape[-1]
            found[name] = B.detach().expand(*z.shape[1:], k).reshape(-1, k)
    return found


@pytest.mark.parametrize("case", MAPS, ids=str)
@pytest.mark.parametrize("name", DIRECT)
def test_updates_are_those_of_equal_rows(name: str, case: Case) -> None:
    rule = build(partial(DIRECT[name], backward=feedback.per_channel()), case)
    other = build(DIRECT[name], case)
    rows = _full(rule, case)
    assert any(B.numel() < rows[n].numel() for n, B in rule.state_dict().items() if n in rows)
    for matrix, B in rows.items():
        other.state_dict()[matrix].copy_(B)
    ours, theirs = rule(*case.batch()).updates, other(*case.batch()).updates
    for update, value in ours.items():
        expected = theirs[update]
        if update.startswith("rule."):  # a row's is the sum over its places
            B = rule.get_parameter(update.removeprefix("rule."))
            layer = rule.network.probe(case.input_shape)[int(update[7:]) - 1].z
            expected = expected.reshape(*layer.shape[1:], -1).sum_to_size(B.shape)
        assert_close(value, expected)


@pytest.mark.unchecked
@pytest.mark.parametrize("name", DIRECT)
def test_laws(name: str) -> None:
    make = partial(DIRECT[name], backward=feedback.per_channel())
    check_rule(make, exempt=EXEMPT[name], cases=MAPS)


def test_which_dimension_counts_channels() -> None:
    """That of a convolution's channels, or of features of tokens, norms and positions."""
    shapes: dict[str, tuple[int, ...]] = {}
    for case in MAPS:
        rule = build(partial(fw.DRTP, backward=feedback.per_channel()), case)
        buffers = dict(rule.named_buffers(recurse=False))
        for stage in rule.network.stages:
            if (B := buffers.get(f"B_{stage.l}")) is not None:
                shapes[f"{case.name}: {stage.name}"] = tuple(B.shape)
    expected = {
        "attention: 0.qkv": (1, 12, 3),
        "batch-norm-affine: 0.conv1": (4, 1, 1, 3),
        "scaled: 0.position": (1, 4, 3),
        "scaled: 0.root": (4, 3),
    }
    assert shapes.items() >= expected.items()


def test_numbers_have_the_variance_of_a_full_matrix() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 300, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(300 * 36, 40), nn.ReLU(), nn.Linear(40, 10)),
    )
    rule = fw.DirectFeedbackAlignment(
        model,
        nn.CrossEntropyLoss(),
        backward=feedback.per_channel(0.5),
        input_shape=(1, 8, 8),
    )
    of_maps, of_units = rule.get_buffer("B_1"), rule.get_buffer("B_2")
    assert of_maps.shape == (300, 1, 1, 10)
    assert of_units.shape == (40, 10)
    for B, units in ((of_maps, 300 * 36), (of_units, 40)):
        bound = 0.5 * math.sqrt(6 / units)
        assert 0.9 * bound < B.abs().max() <= bound
        assert B.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_maps_of_any_size() -> None:
    """The matrix does not depend on how many places there are."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    rule = fw.DirectFeedbackAlignment(
        model, nn.CrossEntropyLoss(), backward=feedback.per_channel(), input_shape=(1, 8, 8)
    )
    assert rule(torch.randn(2, 1, 5, 6), torch.tensor([0, 1])).updates["0.weight"].any()
    full = fw.DirectFeedbackAlignment(model, nn.CrossEntropyLoss(), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"B_1 is \(144, 3\).*Pass input_shape"):
        full(torch.randn(2, 1, 5, 6), torch.tensor([0, 1]))
    model[4] = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="build the rule anew"):
        rule(torch.randn(2, 1, 5, 6), torch.tensor([0, 1]))


def test_it_is_offered_where_a_full_matrix_would_be_too_large() -> None:
    """ResNet-18's first convolution at 224 pixels, and its first layer of 1,000 classes."""
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.ReLU(), nn.Flatten(), nn.Linear(1, 1)
        )
        model[3] = nn.Linear(64 * 112 * 112, 1000)
        build = partial(
            fw.DirectFeedbackAlignment, model, nn.CrossEntropyLoss(), input_shape=(3, 224, 224)
        )
        with pytest.raises(
            ValueError,
            match=r"802,816 × 1,000 = 802,816,000 numbers.*per_channel\(\), which has 64 × 1,000",
        ):
            build()
        assert build(backward=feedback.per_channel()).get_buffer("B_1").shape == (64, 1, 1, 1000)


def test_saved_and_loaded(tmp_path: Path) -> None:
    for name, kind in DIRECT.items():
        case = next(case for case in CASES if case.name == "conv2d")
        rule = build(partial(kind, backward=feedback.per_channel()), case)
        fw.save(rule, tmp_path / name)
        loaded = fw.load(tmp_path / name)
        assert_close(loaded(*case.batch()).updates, rule(*case.batch()).updates)


def test_as_an_option() -> None:
    kind = fw.DirectFeedbackAlignment
    for written, scale in (("per_channel", 1.0), ("per_channel(0.25)", 0.25)):
        taken = take_options("direct-feedback-alignment", kind, {"backward": written})
        assert taken == {"backward": feedback.per_channel(scale)}
    for wrong in ("per_channel(x)", "per_channel(-1)", "per-channel", "per_channel()()"):
        with pytest.raises(UsageError, match=r"per_channel or per_channel\(SCALE\); given"):
            take_options("direct-feedback-alignment", kind, {"backward": wrong})
    with pytest.raises(UsageError, match="given 'per_channel'"):
        take_options("pepita", fw.PEPITA, {"projection": "per_channel"})


@pytest.mark.unchecked
def test_rules_that_have_no_maps_to_reach() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    wrong: Any = feedback.per_channel()
    with pytest.raises(TypeError, match=r"given is feedback\.per_channel\(1\)"):
        fw.PEPITA(model, nn.CrossEntropyLoss(), projection=wrong)
    with pytest.raises(TypeError, match=r"given is feedback\.per_channel\(1\)"):
        fw.FeedbackAlignment(model, nn.CrossEntropyLoss(), backward=wrong)
    with pytest.raises(ValueError, match="given -1"):
        feedback.per_channel(-1)
