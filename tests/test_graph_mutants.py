"""Guards of graphs shown to bite: wrong readings and passes, each of which a check must reject."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import test_graph_references as references
from forwardly.testing import CASES, Case
from graphs import GRAPHS
from reference import graphs as reference
from test_mutants import mutate, whole

__all__ = ["mutate", "whole"]  # fixtures

MUTANTS = [
    ("h past the sum", "network/graph.py", "if mine and alone.issuperset(mine) and", "if mine and"),
    (
        "h before the norm",
        "network/graph.py",
        "        kinds = (*ALL_ACTIVATIONS, *ALL_NORMS, *ALL_DROPOUTS)",
        "        kinds = (*ALL_ACTIVATIONS, *ALL_DROPOUTS)",
    ),
    ("a₀ at the wrong value", "network/graph.py", "return max(common)", "return min(common)"),
    ("sums not one unit", "network/graph.py", "if len(consumers) != 1 or not", "if True or not"),
    (
        "the last use alone",
        "network/step.py",
        "updates[name] + update if name in updates else update",
        "update",
    ),
    (
        "masks drawn anew for the second pass",
        "rules/pepita.py",
        "modulated = step.activities(a_0_err, keep_z=False)",
        "other = self.network.step(self.noise if self.noise is None else self.noise + 1)\n"
        "        other.prepare(x)\n"
        "        modulated = other.activities(a_0_err)",
    ),
    ("one mask for both calls", "network/stage.py", "if part.call else part.name", "and part.name"),
    (
        "divided by windows",
        "network/step.py",
        "self._samples = x.shape[0]",
        "self._samples = None",
    ),
    (
        "statistics moved by every pass",
        "network/step.py",
        "is_first = key_of(part) not in self._recorded and",
        "is_first =",
    ),
    ("a scale's update without its input", "network/stage.py", "post * pre, self.", "post, self."),
    (
        "one way back of several",
        "network/program.py",
        "signal = tree_map(torch.add, signals[number], signal)",
        "signal = signals[number]",
    ),
    (
        "a scale left out on the way back",
        "network/program.py",
        "return module.weight if isinstance(module, Diagonal)",
        "return torch.ones(4) if isinstance(module, Diagonal)",
    ),
    (
        "what is added has no tangent",
        "network/program.py",
        "for number in inputs for part in floating(changes[number]))",
        "* (n == inputs[0]) for n in inputs for part in floating(changes[n]))",
    ),
    (
        "a row for each place of a token",
        "network/stage.py",
        "return z.dim() - 1 if is_last else 1",
        "return 1",
    ),
    (
        "rows turned",
        "feedback.py",
        "(signal @ B.flatten(0, -2).T)",
        "(signal @ B.flatten(0, -2).T).flip(1)",
    ),
    (
        "the shortest way",
        "network/graph.py",
        "before = max((found.get(number, 0) for number in op.inputs), default=0)",
        "before = min((found[n] for n in op.inputs if n in found), default=0)",
    ),
    (
        "a transposed convolution taken for one that is not",
        "audit/trace.py",
        "found[name] = l, isinstance(stage.part.module, TRANSPOSED)",
        "found[name] = l, False",
    ),
    (
        "its derivative, too",
        "audit/ops.py",
        "summed = 1 if call.args[7] else 0",
        "summed = 0",
    ),
    (
        "constants of one run for all",
        "training/seeds.py",
        'return f"a constant of {call.tensor.tolist()}"',
        'return "a constant"',
    ),
    (
        "no dropout within attention",
        "network/attention.py",
        "functional.dropout(weights.softmax(-1), module.dropout, module.training)",
        "weights.softmax(-1)",
    ),
]


def case_of(name: str) -> Case:
    return next(case for case in (*GRAPHS, *CASES) if case.name == name)


def _rules() -> dict[str, Callable[..., object]]:
    return importlib.import_module("forwardly.rules").RULES


def graphs_learn_as_chains() -> None:
    kit = importlib.import_module("forwardly.testing")
    network = importlib.import_module("forwardly.network").Network
    feedback = importlib.import_module("forwardly.feedback")
    for name in ("dropout", "batch-norm", "conv2d"):
        case = case_of(name)

        def make(*given: object, **options: object) -> object:
            return _rules()["pepita"](*given, projection=feedback.uniform(0.5), **options)

        rule = kit.build(make, case)
        network.as_graph = True
        other = make(
            references_wrapped(rule.model),
            rule.loss,
            input_shape=case.input_shape,
            generator=torch.Generator().manual_seed(7),
        )
        network.as_graph = False
        ours, theirs = rule(*case.batch()), other(*case.batch())
        for update, value in ours.updates.items():
            assert_close(theirs.updates[f"layers.{update}"], value)


def references_wrapped(layers: nn.Module) -> nn.Module:
    from test_graph import Wrapped

    return Wrapped(copy.deepcopy(layers))


def pepita_equals_its_reference() -> None:
    for make, run, shape in (
        (references.Residual, reference.residual, (6,)),
        (references.Recurrent, reference.recurrent, (4, 3)),
    ):
        references.pepita_equals(_rules()["pepita"], make, run, shape)


def feedback_alignment_is_backprop() -> None:
    kit = importlib.import_module("forwardly.testing")
    for name in ("residual", "windows", "scaled"):
        case = case_of(name)
        rule = kit.build(_rules()["feedback-alignment"], case)
        gradient = _rules()["backprop"](rule.model, rule.loss, input_shape=case.input_shape)
        for stage in rule.network.stages:
            if stage.sends_back:
                rule.B[stage.name].copy_(stage.synapse.weight.detach())
        assert_close(rule(*case.batch()).updates, gradient(*case.batch()).updates)


def mem_pepita_is_pepita() -> None:
    kit = importlib.import_module("forwardly.testing")
    case = case_of("dense")
    rules = [kit.build(_rules()[name], case) for name in ("pepita", "mem-pepita")]
    first, second = (rule(*case.batch()).updates for rule in rules)
    assert_close(first, second)


def calls_of_a_dropout_have_their_own_masks() -> None:
    kit = importlib.import_module("forwardly.testing")
    rule = kit.build(_rules()["backprop"], case_of("dense"))
    assert len(rule.network.dropouts) == len(set(rule.network.dropouts)) == 2


def statistics_move_as_the_models() -> None:
    kit = importlib.import_module("forwardly.testing")
    case = case_of("batch-norm-block")
    rule, (x, target) = kit.build(_rules()["pepita"], case), case.batch()
    model = copy.deepcopy(rule.model)
    model(x)
    rule.accumulate(x, target)
    assert_close(dict(rule.model.named_buffers()), dict(model.named_buffers()))


def tangents_are_pepitas_limit() -> None:
    kit = importlib.import_module("forwardly.testing")
    case = case_of("residual")
    rules = [kit.build(_rules()[n], case) for n in ("pepita", "adaptive-feedback-alignment")]
    for rule in rules:
        rule.F.mul_(1e-6)
    first, second = (rule(*case.batch()).updates for rule in rules)
    for name, update in first.items():
        assert_close(update * 1e6, second[name] * 1e6, rtol=1e-3, atol=1e-5)


def attention_drops_what_torchs_does() -> None:
    """On the weights of attention, what it makes, and twice in what follows."""
    kit = importlib.import_module("forwardly.testing")
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.3, batch_first=True)
    case = Case("dropped", lambda: [layer, nn.Flatten(), nn.Linear(12, 3)], (3, 4), 3)
    assert len(kit.build(_rules()["backprop"], case).network.dropouts) == 4


def rows_of_channels_are_rows_of_units() -> None:
    """A row is for a token's feature, or a channel, and what it sends is the same at all places."""
    kit, per_channel = (importlib.import_module(f"forwardly.{n}") for n in ("testing", "feedback"))
    direct = _rules()["direct-feedback-alignment"]
    for name, last in (("attention", True), ("conv-block", False)):
        case = case_of(name)
        make = partial(direct, backward=per_channel.per_channel())
        rule, full = kit.build(make, case), kit.build(direct, case)
        for l, layer in enumerate(rule.network.probe(case.input_shape)[:-1], start=1):
            B, channels = rule.get_buffer(f"B_{l}"), layer.z.shape[-1 if last else 1]
            assert B.numel() == channels * B.shape[-1]
            each = B.expand(*layer.z.shape[1:], B.shape[-1])
            full.get_buffer(f"B_{l}").copy_(each.reshape(-1, B.shape[-1]))
        assert_close(rule(*case.batch()).updates, full(*case.batch()).updates)


def layers_are_counted_by_the_longest_way() -> None:
    kit, audit = (importlib.import_module(f"forwardly.{name}") for name in ("testing", "audit"))
    for name, layers in (
        ("u-net", {1: "enter", 2: "inner", 3: "up", 4: "leave", 5: "head"}),
        ("two-readouts", {1: "a", 2: "b", 3: "wide, deep"}),
    ):
        case = case_of(name)
        report = audit.audit(kit.build(_rules()["backprop"], case), *case.batch())
        assert {l: n.replace("0.", "") for l, n in report.layers.items()} == layers
        assert report.answers.transport.layers == tuple(layers)[1:]
        assert report.answers.frozen.answer == "frozen"


def runs_at_once_share_their_constants() -> None:
    training, data = (importlib.import_module(f"forwardly.{n}") for n in ("training", "data"))

    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.a, self.b, self.factor = nn.Linear(4, 3), nn.Linear(3, 2), torch.tensor(factor)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) * self.factor)

    rules = [_rules()["pepita"](Scaled(f), nn.CrossEntropyLoss()) for f in (1.0, 2.0)]
    optimizers = [training.LocalSGD(rule, 0.1) for rule in rules]
    samples = data.Dataset.from_arrays(torch.rand(9, 4), torch.arange(9) % 2)
    refused = False
    try:
        training.fit_seeds(rules, samples, optimizers, epochs=1, seeds=(0, 1))
    except ValueError:
        refused = True
    assert refused, "runs of two models were taken for one"


CHECKS = [
    graphs_learn_as_chains,
    pepita_equals_its_reference,
    feedback_alignment_is_backprop,
    mem_pepita_is_pepita,
    calls_of_a_dropout_have_their_own_masks,
    statistics_move_as_the_models,
    tangents_are_pepitas_limit,
    attention_drops_what_torchs_does,
    rows_of_channels_are_rows_of_units,
    layers_are_counted_by_the_longest_way,
    runs_at_once_share_their_constants,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_right_graphs_are_not_rejected(check: Callable[[], None]) -> None:
    check()


def _rejected() -> bool:
    for check in CHECKS:
        try:
            check()
        except AssertionError:  # and no other: a mutant that crashes shows nothing
            return True
    return False


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("file", "piece", "replacement"),
    [pytest.param(*rest, id=what) for what, *rest in MUTANTS],
)
def test_wrong_graphs_are_rejected(
    mutate: Callable[[str, str, str], None],
    file: str,
    piece: str,
    replacement: str,
) -> None:
    mutate(file, piece, replacement)
    assert _rejected()
