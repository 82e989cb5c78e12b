"""The audit of models that are no chains: layers by the longest way from the input."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import forwardly as fw
from forwardly.audit import Answers, AuditReport, checkpointed_backprop
from forwardly.network import Network
from graphs import (
    ANY_MODEL,
    ConvBlock,
    Encoder,
    Gated,
    Recurrent,
    ResidualMLP,
    Tied,
    TwoReadouts,
    UNet,
)
from test_audit import EXPECTED, LOCKED, SHAPES, convolutional, dense, dressed
from test_cli import Command
from test_graph import Wrapped

PASSES = {"adaptive-feedback-alignment": 3}
"""Of a graph, whose values are computed anew beside their tangents; in a chain two."""


def audited(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> AuditReport:
    torch.manual_seed(0)
    rule = fw.RULES[name](make(), nn.CrossEntropyLoss(), input_shape=shape)
    return fw.audit(rule, torch.rand(7, *shape), torch.randint(3, (7,)))


def in_short(answers: Answers) -> tuple[object, ...]:
    """All but the evidence, and how many passes there are."""
    k = answers.locking
    timetable = {l: times.update for l, times in k.layers.items()}
    return (
        *(answers.transport.answer, answers.transport.layers, answers.both_ways),
        *(answers.locality, answers.frozen.answer, answers.frozen.layers, timetable),
        *(k.update_locked, k.backward_locked, k.next_sample),
    )


@pytest.mark.parametrize("name", ANY_MODEL)
def test_a_residual_network_has_the_answers_of_a_chain(name: str) -> None:
    """Shortcuts change no answer: the longest way is that of a chain of as many layers."""
    answers = audited(name, ResidualMLP, (6,)).answers
    transport, layers, locality, frozen, updates = EXPECTED[name]
    assert (answers.transport.answer, answers.transport.layers) == (transport, layers)
    assert (answers.locality.answer, answers.frozen.answer) == (locality, frozen)
    k = answers.locking
    assert [k.layers[l].update for l in (1, 2, 3, 4)] == [*updates]
    *expected, passes = LOCKED[name]
    assert [k.update_locked, k.backward_locked, k.next_sample] == expected
    assert k.passes == PASSES.get(name, passes)


@pytest.mark.parametrize("make", [dense, convolutional, dressed])
@pytest.mark.parametrize("name", ANY_MODEL)
def test_a_chain_that_is_read_as_a_graph(
    name: str, make: Callable[[], nn.Sequential], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapped() -> nn.Module:
        return Wrapped(make())

    chain = audited(name, make, SHAPES[make])
    monkeypatch.setattr(Network, "as_graph", True)
    graph = audited(name, wrapped, SHAPES[make])
    assert in_short(graph.answers) == in_short(chain.answers)
    assert graph.layers == {l: f"layers.{layer}" for l, layer in chain.layers.items()}
    assert graph.costs.forward_macs == chain.costs.forward_macs
    assert graph.costs.feedback_parameters == chain.costs.feedback_parameters


@pytest.mark.unchecked
def test_a_resnet_with_norms_that_learn() -> None:
    build = partial(audited, make=partial(fw.models.ResNet, 8, outputs=3), shape=(3, 8, 8))
    layers = [1, 2, 3, 4, 5, 6, 7, 8]
    found = {name: build(name) for name in ("backprop", "feedback-alignment", "pepita", "drtp")}
    report = found["backprop"]
    assert list(report.layers) == layers
    assert report.layers[1] == "conv"
    assert report.layers[3] == "blocks.0.conv2"
    assert report.answers.transport.layers == (2, 3, 4, 5, 6, 7, 8)
    steps = {
        name: [report.answers.locking.layers[l].update for l in layers]
        for name, report in found.items()
    }
    assert steps["backprop"] == [16 - l for l in layers]
    assert steps["feedback-alignment"] == [*(15 - l for l in layers[:-1]), 8]
    assert steps["pepita"] == [*(8 + l for l in layers[:-1]), 15]
    assert steps["drtp"] == layers
    local = {name: report.answers.locality.answer for name, report in found.items()}
    assert local == {
        "backprop": "non-local",
        "feedback-alignment": "non-local",
        "pepita": "local",
        "drtp": "local",
    }
    with FlopCounterMode(display=False) as counter:
        fw.models.ResNet(8, outputs=3)(torch.rand(7, 3, 8, 8))
    assert report.costs.forward_macs == counter.get_total_flops() // 2


class Bent(TwoReadouts):
    """One of whose readouts has an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return torch.tanh(self.wide(x)) + self.deep(h + torch.tanh(self.b(h)))


@pytest.mark.filterwarnings("ignore:the model ends in")
def test_branches_are_one_layer_and_readouts_the_last() -> None:
    gated = audited("backprop", Gated, (6,))
    assert gated.layers == {1: "gate, value", 2: "down", 3: "head"}
    assert gated.answers.locking.passes == 1
    assert audited("pepita", Gated, (6,)).answers.locking.passes == 2
    for make in (TwoReadouts, Bent):
        assert audited("backprop", make, (5,)).layers == {1: "a", 2: "b", 3: "wide, deep"}


@pytest.mark.parametrize(
    ("make", "shape", "last"),
    [
        (UNet, (1, 4, 4), 5),  # with a transposed convolution
        (Encoder, (4, 3), 6),
        (partial(ConvBlock, nn.BatchNorm2d), (2, 4, 4), 5),
    ],
)
def test_transport_is_through_every_layer_but_the_first(
    make: Callable[[], nn.Module], shape: tuple[int, ...], last: int
) -> None:
    found = audited("backprop", make, shape).answers
    assert found.transport.layers == tuple(range(2, last + 1))
    assert (found.transport.answer, found.frozen.answer) == ("full", "frozen")
    partly = audited("sign-symmetry-fixed", make, shape).answers
    assert (partly.transport.answer, partly.frozen.answer) == ("partial", "frozen")
    assert partly.transport.layers == found.transport.layers
    for name in ("feedback-alignment", "direct-feedback-alignment", "pepita"):
        assert audited(name, make, shape).answers.transport.answer == "none"


def test_feedback_with_the_values_of_a_weight_is_transport() -> None:
    rule = fw.DirectFeedbackAlignment(ResidualMLP(), nn.CrossEntropyLoss(), input_shape=(6,))
    rule.get_buffer("B_3").copy_(rule.model.get_parameter("head.weight").T)
    report = fw.audit(rule, torch.rand(7, 6), torch.randint(3, (7,)))
    assert (report.answers.transport.answer, report.answers.transport.layers) == ("full", (4,))


@pytest.mark.parametrize(("make", "shape"), [(Recurrent, (4, 3)), (Tied, (5,))])
def test_weights_of_several_layers(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="is used several times, so it is of several layers"):
        audited("pepita", make, shape)


def test_where_checkpoints_would_be_is_not_known() -> None:
    rule = fw.Backprop(ResidualMLP(), nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"ResidualMLP is no chain.*torch\.utils\.checkpoint"):
        checkpointed_backprop(rule, torch.rand(7, 6), torch.randint(3, (7,)))


@pytest.mark.unchecked
@pytest.mark.parametrize("model", ["resmlp", "resnet8", "vit"])
def test_the_command(tmp_path: Path, command: Command, model: str) -> None:
    done = command(
        *("audit", "--model", model, "--rules", "pepita", "backprop", "--batch", "3"),
        *("--out", model),
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / model / "audit.json").read_text("utf-8"))
    assert content["rules"]["backprop"]["transport"]["answer"] == "full"
    assert content["rules"]["pepita"]["locality"]["answer"] == "local"
    assert content["checkpointed_backprop"] is None
    page = (tmp_path / model / "audit.html").read_text("utf-8")
    assert "with activation checkpointing" not in page


def test_mistakes_on_the_command_line(command: Command) -> None:
    done = command("audit", "--model", "vit", "--rules", "foton")
    assert done.returncode == 2
    assert "foton takes chains of layers alone" in done.stderr
    done = command("audit", "--model", "resmlp", "--hidden", "3", "4")
    assert done.returncode == 2
    assert "hidden must be sizes that are all the same; given [3, 4]" in done.stderr
