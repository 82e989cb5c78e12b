"""The audit: expected answers for all rules, rules that try to fool it, and costs by formula."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly import Credit, Rule
from forwardly.audit import checkpointed_backprop, ops
from forwardly.audit.page import render
from forwardly.network import Step
from test_cli import Command
from test_report import Page

aten = torch.ops.aten
N, D, K = 7, 12, 4
DENSE = (9, 8, 6)


def dense() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = (D, *DENSE, K)
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Sequential:
    first = nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Conv2d(3, 5, 2, padding=1), nn.Tanh()
    return nn.Sequential(
        *first, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, K)
    )


def dressed() -> nn.Sequential:
    """With all that may stand behind a synapse."""
    first = nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3, affine=False), nn.ReLU()
    second = nn.Conv2d(3, 5, 2, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()
    third = nn.Linear(20, 8), fw.Normalise(), nn.Sigmoid(), nn.Unflatten(1, (2, 4))
    return nn.Sequential(
        *(*first, nn.Dropout(0.2), *second, *third),
        *(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(4, K)),
    )


SHAPES = {dense: (3, 4), convolutional: (2, 9, 9), dressed: (2, 9, 9)}


@cache
def audited(kind: Any, make: Callable[[], nn.Sequential] = dense, **options: Any) -> fw.AuditReport:
    torch.manual_seed(0)
    shape = SHAPES[make]
    rule = kind(make(), nn.CrossEntropyLoss(), input_shape=shape, **options)
    x, target = torch.rand(N, *shape), torch.randint(K, (N,))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    report = fw.audit(rule, x, target)
    for name, value in rule.state_dict().items():
        assert torch.equal(value, before[name])
    return report


# transport, its layers (of 4), locality, frozen activity, when updates are known (of L = 4 layers)
L = 4
BACKWARD = [2 * L - l for l in range(1, L + 1)]
MODULATED = [L + l for l in range(1, L)] + [2 * L - 1]
EXPECTED: dict[str, tuple[str, tuple[int, ...], str, str, Sequence[int | None]]] = {
    "backprop": ("full", (2, 3, 4), "non-local", "frozen", BACKWARD),
    "feedback-alignment": ("none", (), "non-local", "frozen", [6, 5, 4, 4]),
    "kolen-pollack": ("none", (), "non-local", "frozen", [6, 5, 4, 4]),
    "sign-symmetry-batch": ("partial", (2, 3, 4), "non-local", "frozen", BACKWARD),
    "sign-symmetry-fixed": ("partial", (2, 3, 4), "non-local", "frozen", BACKWARD),
    "sign-symmetry-uniform": ("partial", (2, 3, 4), "non-local", "frozen", BACKWARD),
    "direct-feedback-alignment": ("none", (), "local", "frozen", [L] * L),
    "direct-kolen-pollack": ("none", (), "local", "frozen", [L] * L),
    "drtp": ("none", (), "local", "frozen", [1, 2, 3, 4]),
    "error-broadcast": ("none", (), "local", "frozen", [L] * L),
    # forward passes only, and yet through all weights: one step of e through F, then as PEPITA
    "foton": ("full", (1, 2, 3, 4), "non-local", "modulated", [6, 7, 8, 4]),
    "node-perturbation": ("none", (), "local", "frozen", [L] * L),
    "weight-perturbation": ("none", (), "local", "frozen", [L] * L),
    "pepita": ("none", (), "local", "modulated", MODULATED),
    "mem-pepita": ("none", (), "local", "modulated", MODULATED),
    "sign-pepita": ("none", (), "local", "modulated", MODULATED),
    "hebbian-pepita": ("none", (), "local", "modulated", MODULATED),
    "time-local-pepita": ("none", (), "local", "modulated", MODULATED),
    "adaptive-feedback-alignment": ("none", (), "local", "modulated", [5, 6, 7, 4]),
    "forward-forward": ("none", (), "local", "modulated", [1, 2, 3, 4]),
    # through the head and back
    "local-errors": ("none", (), "local", "frozen", [3, 4, 5, 4]),
    "mono-forward": ("none", (), "local", "frozen", [3, 4, 5, 4]),
    "readout-only": ("none", (), "local", "no hidden updates", [None, None, None, 4]),
}
LOCKED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int]] = {
    # update-locked layers, backward-locked layers, when the next sample may enter, passes
    "backprop": ((1, 2, 3), (1, 2, 3), 7, 1),
    "feedback-alignment": ((1, 2, 3), (1, 2), 6, 1),
    "kolen-pollack": ((1, 2, 3), (1, 2), 6, 1),
    "sign-symmetry-batch": ((1, 2, 3), (1, 2, 3), 7, 1),
    "sign-symmetry-fixed": ((1, 2, 3), (1, 2, 3), 7, 1),
    "sign-symmetry-uniform": ((1, 2, 3), (1, 2, 3), 7, 1),
    "direct-feedback-alignment": ((1, 2, 3), (), 4, 1),
    "direct-kolen-pollack": ((1, 2, 3), (), 4, 1),
    "drtp": ((), (), 1, 1),
    "error-broadcast": ((1, 2, 3), (), 4, 1),
    "foton": ((1, 2, 3), (1, 2, 3), L + 2, 2),
    "node-perturbation": ((1, 2, 3), (), L, 2),
    "weight-perturbation": ((1, 2, 3), (), L, 2),
    "pepita": ((1, 2, 3), (), L + 1, 2),
    "mem-pepita": ((1, 2, 3), (), L + 1, 3),
    "sign-pepita": ((1, 2, 3), (), L + 1, 2),
    "hebbian-pepita": ((1, 2, 3), (), L + 1, 2),
    "time-local-pepita": ((1, 2, 3), (), L + 1, 2),
    "adaptive-feedback-alignment": ((1, 2, 3), (), L + 1, 2),
    "forward-forward": ((), (), 1, 3),
    "local-errors": ((), (), 3, 1),
    "mono-forward": ((), (), 3, 1),
    "readout-only": ((), (), 1, 1),
}


@pytest.mark.unchecked  # tens of thousands of calls; below there are others
@pytest.mark.parametrize("make", [dense, dressed])
@pytest.mark.parametrize("name", fw.RULES)
def test_expected_answers(name: str, make: Callable[[], nn.Sequential]) -> None:
    a = audited(fw.RULES[name], make).answers
    transport, layers, locality, frozen, updates = EXPECTED[name]
    assert (a.transport.answer, a.transport.layers) == (transport, layers)
    assert bool(a.transport.evidence) == (transport != "none")
    assert a.locality.answer == locality
    assert a.frozen.answer == frozen
    heads = name in ("local-errors", "mono-forward")
    assert a.both_ways == (("M_1", "M_2", "M_3") if heads else ())
    k = a.locking
    assert [times.update for times in k.layers.values()] == updates
    assert [times.activities[0] for times in k.layers.values()] == [1, 2, 3, 4]
    assert (k.update_locked, k.backward_locked, k.next_sample, k.passes) == LOCKED[name]
    assert k.total == max(update for update in updates if update is not None)
    # Evidence is of the rule's own file, though the operation may be made in a helper of the house.
    file = fw.RULES[name].__module__.rpartition(".")[2]
    own = rf"{file}\.py:\d+ in {fw.RULES[name].__name__}\.\w+"
    assert bool(a.frozen.evidence) == (frozen == "modulated")
    for evidence in (*a.transport.evidence, *a.frozen.evidence):
        assert re.fullmatch(own, evidence.line), evidence.line


def test_every_rule_has_its_line() -> None:
    assert EXPECTED.keys() == LOCKED.keys() == fw.RULES.keys()


def test_what_backprops_updates_need() -> None:
    needs = audited(fw.Backprop).answers.locality.layers
    assert needs[1].weights == (2, 3, 4)
    assert needs[1].activities == (2, 3)
    assert needs[4].local
    assert needs[4].upstream == (1, 2, 3)
    assert needs[1].signals == ("error",)


def test_what_feedback_alignments_updates_need() -> None:
    needs = audited(fw.FeedbackAlignment).answers.locality.layers
    assert needs[1].weights == ()
    assert needs[1].activities == (2, 3)
    assert needs[1].feedback == ("B_2", "B_3", "B_4")
    assert needs[3].local


@pytest.mark.parametrize("make", [dense, dressed])
def test_feedback_that_learns_learns_from_what_is_there(make: Callable[[], nn.Sequential]) -> None:
    """Also where the signals that it carries are made of what later layers are."""
    own = audited(fw.KolenPollack, make).answers.locality.own
    assert own.keys() == {"B_2", "B_3", "B_4"}
    assert all(needs.local for needs in own.values())
    own = audited(fw.DirectKolenPollack, make).answers.locality.own
    assert own.keys() == {"B_1", "B_2", "B_3"}
    assert all(needs.local and needs.signals == ("error",) for needs in own.values())
    assert audited(fw.FeedbackAlignment, make).answers.locality.own == {}


def test_which_signal_is_broadcast() -> None:
    for name, signal in {"drtp": "target", "pepita": "error", "local-errors": "target"}.items():
        assert audited(fw.RULES[name]).answers.locality.layers[1].signals == (signal,)


def test_evidence_names_lines() -> None:
    (one, *_) = audited(fw.Backprop).answers.transport.evidence
    assert one.what == "a signal times W_4, summed over its output index"
    assert re.fullmatch(r"aten\.\w+\.default", one.operation)
    assert re.fullmatch(r"backprop\.py:\d+ in Backprop\.assign", one.line)
    frozen = audited(fw.PEPITA).answers.frozen
    assert frozen.layers == (1, 2, 3)
    assert frozen.evidence[0].what == "a signal times W_1, summed over its input index"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("presynaptic", ["modulated", "clean"])
@pytest.mark.parametrize("output_error", ["first", "second"])
def test_options_of_pepita(sign: int, presynaptic: str, output_error: str) -> None:
    options = {"sign": sign, "presynaptic": presynaptic, "output_error": output_error}
    a = audited(fw.PEPITA, **options).answers
    assert (a.transport.answer, a.locality.answer, a.frozen.answer) == (
        "none",
        "local",
        "modulated",
    )


def test_likely_negatives_lock_forward_forward() -> None:
    """They are drawn by the output, which is not there before the neutral pass has ended."""
    a = audited(fw.ForwardForward, negatives="likely").answers
    assert [times.update for times in a.locking.layers.values()] == [5, 6, 7, 4]
    assert (a.locking.update_locked, a.locking.next_sample) == ((1, 2, 3), L + 1)
    assert (a.transport.answer, a.locality.answer) == ("none", "local")


def test_one_hidden_layer_makes_fa_dfa() -> None:
    torch.manual_seed(0)
    for kind in (fw.FeedbackAlignment, fw.DirectFeedbackAlignment):
        model = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, K))
        batch = torch.rand(N, D), torch.randint(K, (N,))
        a = fw.audit(kind(model, nn.CrossEntropyLoss()), *batch).answers
        assert a.locality.answer == "local"
        assert [times.update for times in a.locking.layers.values()] == [2, 2]


def test_other_losses() -> None:
    rule = fw.PEPITA(dense(), nn.MSELoss())
    a = fw.audit(rule, torch.rand(N, D), torch.rand(N, K)).answers
    assert (a.locality.answer, a.frozen.answer) == ("local", "modulated")
    assert a.locality.layers[1].signals == ("error",)


# Rules that try to fool the audit. All of them look like DFA from outside.


class Adversary(Rule):
    """A rule of two hidden layers at least that may do anything; says that it is harmless."""

    paper: ClassVar[Any] = fw.DirectFeedbackAlignment.paper
    uses_autograd = False
    forward_passes = 1
    feedback_path = ""
    teacher = "error"
    trains = "synapses"

    def send(self, l: int, delta: Tensor) -> Tensor:
        """The signal at layer l, from that at layer l + 1."""
        raise NotImplementedError

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        """What is added to the signal at layer l."""
        del l, layers
        return 0.0

    @property
    def weights(self) -> list[Tensor]:
        return [stage.synapse.weight for stage in self.network.stages]

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        layers = list(step.activities(step.prepare(x)))
        output = layers[-1].a
        e = self.error(output, target)
        updates: dict[str, Tensor] = {}
        delta = e
        for l in reversed(range(len(layers))):
            stage, layer = self.network.stages[l], layers[l]
            if l < len(layers) - 1:
                delta = (self.send(l, delta) + self.leak(l, layers)) * (layer.z > 0)
            updates |= stage.synapse_update(delta, layer.pre)
        return Credit(updates, output, self.loss_value(output, target), e)


class Contiguous(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        return (self.weights[l + 1].t().contiguous() @ delta.t()).t()


class Copied(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        buffer = torch.empty(self.weights[l + 1].shape)
        buffer.copy_(self.weights[l + 1])
        return delta @ buffer


class Added(Adversary):
    """A copy that is what addmm adds to nothing."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        weight = self.weights[l + 1]
        nothing = torch.zeros(len(weight), 1), torch.zeros(1, weight.shape[1])
        return delta @ torch.addmm(weight, *nothing)


class CopiedBefore(Adversary):
    """Holds copies of the weights, made outside the step, transposed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for l, weight in enumerate(self.weights):
            self.register_buffer(f"secret_{l}", weight.detach().T.clone())

    def send(self, l: int, delta: Tensor) -> Tensor:
        return nn.functional.linear(delta, self.get_buffer(f"secret_{l + 1}"))


class Einsum(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        return torch.einsum("oi,no->ni", self.weights[l + 1], delta)


class Summed(Adversary):
    """No product of matrices at all."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        return (self.weights[l + 1][None] * delta[:, :, None]).sum(1)


class Sliced(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        parts = [delta[:, o : o + 1] * w for o, w in enumerate(self.weights[l + 1].unbind())]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class Halved(Adversary):
    """Parts of the transposed weight on the left, which an operation with several results gives."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        upper, lower = self.weights[l + 1].t().chunk(2)
        return torch.cat([upper @ delta.t(), lower @ delta.t()]).t()


class Squared(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        weight = self.weights[l + 1]
        return delta @ (weight * weight)


class Convolved(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        kernel = self.weights[l + 1][:, :, None, None]
        return nn.functional.conv_transpose2d(delta[:, :, None, None], kernel).flatten(1)


class Rearranged(Adversary):
    """A convolution, with the weight's indices swapped first."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        kernel = self.weights[l + 1].permute(1, 0).unsqueeze(-1)
        return nn.functional.conv1d(delta.unsqueeze(-1), kernel).flatten(1)


class Scaled(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        double = self.weights[l + 1].double().mul(0.5)
        return (delta.double() @ double).float()


class Multiplied(Adversary):
    """All later weights multiplied together first."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        del delta
        chained = self.weights[-1]
        for weight in reversed(self.weights[l + 1 : -1]):
            chained = chained @ weight
        return self._e @ chained

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        self._e = super().error(output, target)
        return self._e


class Signed(Adversary):
    def send(self, l: int, delta: Tensor) -> Tensor:
        return delta @ torch.where(self.weights[l + 1] > 0, 1.0, -1.0)


class Shuffled(Adversary):
    """Rows taken in a random order, signal likewise: an operation that is not followed."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        order = torch.tensor([*range(1, delta.shape[1]), 0])
        return delta[:, order] @ self.weights[l + 1][order]


class Direct(Adversary):
    """As DFA, honest, for what follows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for l, size in enumerate(DENSE):
            self.register_buffer(f"B_{l}", torch.randn(size, K))

    def send(self, l: int, delta: Tensor) -> Tensor:
        del delta
        return self._e @ self.get_buffer(f"B_{l}").T

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        self._e = super().error(output, target)
        return self._e


class LeaksWeight(Direct):
    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        del layers
        return self.weights[2].sum() if l == 0 else 0.0


class LeaksActivity(Direct):
    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        return layers[1].h.mean() if l == 0 else 0.0


class LeaksOutput(Direct):
    """Uses the output, which is not the error, as a second broadcast."""

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        return layers[-1].a.sum() if l == 0 else 0.0


class Separate(Direct):
    """Goes through two matrices one after the other, in one direction each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for l, size in enumerate(DENSE):
            self.register_buffer(f"C_{l}", torch.randn(K, size))

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        return layers[l].h @ self.get_buffer(f"C_{l}").T @ self.back(l)

    def back(self, l: int) -> Tensor:
        return self.get_buffer(f"B_{l}").T


class Tied(Separate):
    """The same, there and back through one."""

    def back(self, l: int) -> Tensor:
        return self.get_buffer(f"C_{l}")


def test_only_the_same_matrix_is_both_ways() -> None:
    assert audited(Separate).answers.both_ways == ()
    assert audited(Tied).answers.both_ways == ("C_0", "C_1", "C_2")


class LeaksReward(Direct):
    """Honest: one number a sample, of error and output, that every layer may be told."""

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        return (self._e * layers[-1].a).sum(1, keepdim=True) if l == 0 else 0.0


class LeaksWeightInReward(Direct):
    """One number a sample that has a weight in it."""

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        del layers
        return self._e.sum(1, keepdim=True) * self.weights[2].sum() if l == 0 else 0.0


class LeaksActivityInReward(Direct):
    """One number a sample that has an activity in it."""

    def leak(self, l: int, layers: list[Any]) -> Tensor | float:
        again = self._e.sum(1, keepdim=True) * layers[1].h.sum(1, keepdim=True)
        return again if l == 0 else 0.0


class ComputesTheErrorAgain(Direct):
    def send(self, l: int, delta: Tensor) -> Tensor:
        del delta
        again = super(Direct, self).error(self._output, self._target)
        return again @ self.get_buffer(f"B_{l}").T

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        self._output, self._target = output, target
        return super(Direct, self).error(output, target)


class ConvolvedBack(Adversary):
    """Backprop through convolutions, by transposed convolutions with the same kernels."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        stage = self.network.stages[l + 1]
        if isinstance(stage.synapse, nn.Linear):
            return (delta @ stage.synapse.weight).reshape(-1, 4, 5, 5)
        return nn.functional.conv_transpose2d(delta, stage.synapse.weight)


def test_transposed_convolutions_are_transport() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU()
    model = nn.Sequential(*first, nn.Flatten(), nn.Linear(100, K))
    batch = torch.rand(N, 2, 9, 9), torch.randint(K, (N,))
    rule = ConvolvedBack(model, nn.CrossEntropyLoss())
    expected = fw.Backprop(model, nn.CrossEntropyLoss())(*batch).updates
    torch.testing.assert_close(rule(*batch).updates, expected)
    a = fw.audit(rule, *batch).answers
    assert (a.transport.answer, a.transport.layers) == ("full", (2, 3))
    assert any("convolution" in one.operation for one in a.transport.evidence)


class MixedFirst(Adversary):
    """The next weight in another basis, made without a signal; and back."""

    def send(self, l: int, delta: Tensor) -> Tensor:
        basis = torch.linalg.qr(torch.randn(len(self.weights[l + 1]), len(self.weights[l + 1])))[0]
        return delta @ basis.T @ (basis @ self.weights[l + 1])


FULL = [
    *(
        MixedFirst,
        Contiguous,
        Copied,
        Added,
        CopiedBefore,
        Einsum,
        Summed,
        Convolved,
        Rearranged,
        Scaled,
    ),
    *(Multiplied,),
]


@pytest.mark.parametrize("kind", FULL)
def test_hidden_transport_is_found(kind: type[Adversary]) -> None:
    a = audited(kind).answers
    assert a.transport.answer == "full"
    assert a.transport.layers == (2, 3, 4)
    assert a.locality.answer == "non-local"


@pytest.mark.parametrize("kind", [Contiguous, Added, Einsum, Summed, Halved])
def test_they_are_backprop(kind: type[Adversary]) -> None:
    """So the adversaries do what they say."""
    torch.manual_seed(0)
    model = dense()
    batch = torch.rand(N, D), torch.randint(K, (N,))
    loss = nn.CrossEntropyLoss()
    expected = fw.Backprop(model, loss)(*batch).updates
    torch.testing.assert_close(kind(model, loss)(*batch).updates, expected)


@pytest.mark.parametrize("kind", [Signed, Squared, Shuffled, Halved])
def test_functions_of_weights_are_partial_transport(kind: type[Adversary]) -> None:
    a = audited(kind).answers
    assert a.transport.answer == "partial"
    assert a.transport.layers == (2, 3, 4)


MOVES: list[tuple[Any, tuple[Any, ...], bool]] = [
    # operation, arguments behind a weight of (4, 6), whether the table must tell its indices apart
    *((op.default, (), True) for op in (aten.clone, aten.detach, aten.t)),
    *((aten.transpose.int, (0, -1), True), (aten.permute.default, ([1, 0],), True)),
    *((aten.flip.default, ([0],), True), (aten.roll.default, ([1], [1]), True)),
    *((aten.slice.Tensor, (1, 1, 5, 2), True), (aten.select.int, (0, 2), True)),
    *((aten.select.int, (-1, 2), True), (aten.unsqueeze.default, (1,), True)),
    *((aten.expand.default, ([3, 4, 6],), True), (aten.view.default, ([2, 2, 6],), True)),
    *((aten.view.default, ([4, 1, 3, 2],), True), (aten.view.default, ([24],), True)),
    *((aten.view.default, ([8, 3],), False), (aten.view.default, ([3, 8],), False)),
    *((aten.gather.default, (1, torch.arange(24).reshape(4, 6) % 5), False),),
    *((aten.index.Tensor, ([torch.tensor([2, 0])],), False),),
]


@pytest.mark.parametrize(("operation", "arguments", "precise"), MOVES)
def test_indices_are_where_the_elements_are(
    operation: Any, arguments: tuple[Any, ...], precise: bool
) -> None:
    """Numbers that tell rows from columns are moved, and looked for along each dimension."""
    numbers = torch.arange(24).reshape(4, 6)
    rows, columns = numbers // 6, numbers % 6
    moved = {"out": operation(rows, *arguments), "in": operation(columns, *arguments)}
    weight = ops.weight((4, 6), 1, transposed=False)
    shape = tuple(moved["in"].shape)
    call = ops.Call(operation.overloadpacket, (weight, *arguments), {}, [weight], shape)
    value = ops.transfer(operation)(call)
    assert len(value.dims) == len(shape)
    for dim, indices in enumerate(value.dims):
        needed = {side for side, part in moved.items() if (part.diff(dim=dim) != 0).any()}
        found = {index.side for index in indices}
        assert found >= needed
        assert found == needed or not precise


def test_rows_one_by_one_are_caught_as_non_local() -> None:
    """The limit that docs/audit.md states: without a sum, transport itself is not seen."""
    a = audited(Sliced).answers
    assert a.locality.answer == "non-local"
    assert a.locality.layers[1].weights == (2, 3, 4)


def test_honest_direct_feedback() -> None:
    for kind in (Direct, ComputesTheErrorAgain, LeaksReward):
        a = audited(kind).answers
        assert (a.transport.answer, a.locality.answer, a.frozen.answer) == (
            "none",
            "local",
            "frozen",
        )
        assert [times.update for times in a.locking.layers.values()] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("kind", "weights", "activities"),
    [
        *((LeaksWeight, (3,), ()), (LeaksActivity, (), (2,)), (LeaksOutput, (), (2, 3, 4))),
        *((LeaksWeightInReward, (3,), ()), (LeaksActivityInReward, (), (2,))),
    ],
)
def test_leaks_are_found(
    kind: type[Adversary], weights: tuple[int, ...], activities: tuple[int, ...]
) -> None:
    a = audited(kind).answers
    assert a.transport.answer == "none"
    assert a.locality.answer == "non-local"
    assert (a.locality.layers[1].weights, a.locality.layers[1].activities) == (weights, activities)
    assert a.locality.layers[2].local


class OwnFeedback(Adversary):
    """Direct feedback that learns from what is not there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for l, weight in enumerate(self.weights[:-1]):
            self.register_parameter(f"B_{l}", nn.Parameter(torch.rand(K, len(weight))))

    def send(self, l: int, delta: Tensor) -> Tensor:
        del delta
        return self.e @ getattr(self, f"B_{l}")

    def learn(self, l: int, layers: list[Any]) -> Tensor:
        raise NotImplementedError

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        layers = list(step.activities(step.prepare(x)))
        self.e = self.error(layers[-1].a, target)
        updates = {f"rule.B_{l}": self.learn(l, layers) for l in range(len(layers) - 1)}
        credit = super().assign(x, target, step)
        return credit._replace(updates=credit.updates | updates)


class OfTheWay(OwnFeedback):
    """Becomes the product of the weights, by reading them."""

    def learn(self, l: int, layers: list[Any]) -> Tensor:
        del layers
        way = self.weights[-1]
        for weight in reversed(self.weights[l + 1 : -1]):
            way = way @ weight
        return getattr(self, f"B_{l}") - way


class OfAnotherLayer(OwnFeedback):
    def learn(self, l: int, layers: list[Any]) -> Tensor:
        return self.e.T @ layers[l].h * layers[-2].h.mean()


def test_feedback_that_reads_the_weights_is_weight_transport() -> None:
    a = audited(OfTheWay).answers
    assert (a.transport.answer, a.transport.layers) == ("partial", (2, 3, 4))
    assert "the update of B_2 is made of W_4 itself" in [e.what for e in a.transport.evidence]
    assert a.locality.answer == "non-local"
    assert all(needs.local for needs in a.locality.layers.values())
    assert a.locality.own["B_2"].weights == (4,)


def test_feedback_that_learns_from_another_layer_is_not_local() -> None:
    a = audited(OfAnotherLayer).answers
    assert a.transport.answer == "none"
    assert a.locality.answer == "non-local"
    assert a.locality.own["B_0"].activities == (2, 3)
    assert a.locality.own["B_2"].local


def test_names_do_not_matter() -> None:
    """Backprop under another name, with other attributes."""

    class Harmless(Contiguous):
        forward_passes = 2
        uses_autograd = False

    Harmless.__name__ = "PEPITA"
    assert audited(Harmless).answers.transport.answer == "full"


def macs_of(*sizes: int) -> int:
    return N * sum(a * b for a, b in pairwise(sizes))


def test_macs_of_dense_networks_are_the_papers() -> None:
    """Pau & Aymone 2023; DFA and DRTP likewise."""
    forward = macs_of(D, *DENSE, K)
    backward = macs_of(*DENSE, K)  # not of layer 1
    projection = N * D * K
    direct = N * K * sum(DENSE)
    expected = {
        "backprop": 2 * forward + backward,
        "pepita": 3 * forward + projection,
        "mem-pepita": 4 * forward + projection,
        "forward-forward": 5 * forward - 3 * N * DENSE[-1] * K,  # one pass reads out
        "direct-feedback-alignment": 2 * forward + direct,
        "direct-kolen-pollack": 2 * forward + 2 * direct,
        "drtp": 2 * forward + direct,
        "error-broadcast": 2 * forward + 2 * direct,  # its matrices move
        "local-errors": 2 * forward + 2 * direct,
        "mono-forward": 2 * forward + 3 * direct,
        "readout-only": forward + N * DENSE[-1] * K,
    }
    for name, macs in expected.items():
        costs = audited(fw.RULES[name]).costs
        assert costs.macs == macs, name
        assert costs.forward_macs == forward


def test_macs_of_convolutional_networks_are_the_papers() -> None:
    # 2×9×9 → 3×4×4 (3×3, stride 2) → 5×5×5 (2×2, padding 1) → pooled 5×2×2
    layers = (3 * 16 * 2 * 9, 5 * 25 * 3 * 4, 20 * 6, 6 * K)
    forward, backward = N * sum(layers), N * sum(layers[1:])
    assert audited(fw.Backprop, convolutional).costs.macs == 2 * forward + backward
    projection = N * 2 * 81 * K
    assert audited(fw.PEPITA, convolutional).costs.macs == 3 * forward + projection
    assert audited(fw.MemPEPITA, convolutional).costs.macs == 4 * forward + projection


def test_feedback_parameters() -> None:
    direct = K * sum(DENSE)
    assert audited(fw.PEPITA).costs.feedback_parameters == D * K
    assert audited(fw.DirectFeedbackAlignment).costs.feedback_parameters == direct
    assert audited(fw.DirectKolenPollack).costs.feedback_parameters == direct
    assert audited(fw.LocalErrors).costs.feedback_parameters == direct
    assert audited(fw.MonoForward).costs.feedback_parameters == direct
    assert audited(fw.Backprop).costs.feedback_parameters == 0
    factors = D * DENSE[0] + DENSE[0] * DENSE[1] + DENSE[1] * DENSE[2] + DENSE[2] * K
    product = audited(fw.PEPITA, projection=fw.feedback.product())
    assert product.costs.feedback_parameters == factors


def deep(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(20, 20, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(20, K, bias=False))


def peak(kind: Any, depth: int) -> int:
    batch = torch.rand(50, 20), torch.randint(K, (50,))
    return fw.audit(kind(deep(depth), nn.CrossEntropyLoss()), *batch).costs.peak_bytes


def test_memory_grows_with_depth_but_for_streaming_rules() -> None:
    layer = 50 * 20 * 4
    for kind, grows in {
        fw.MemPEPITA: False,
        fw.DRTP: False,
        fw.PEPITA: True,
        fw.Backprop: True,
    }.items():
        growth = (peak(kind, 8) - peak(kind, 4)) / (4 * layer)
        assert (growth > 0.9) if grows else (growth < 0.05), (kind, growth)


def test_checkpointed_backprop_trades_products_for_memory() -> None:
    rule = fw.Backprop(deep(6), nn.CrossEntropyLoss())
    batch = torch.rand(50, 20), torch.randint(K, (50,))
    used, macs = checkpointed_backprop(rule, *batch)
    costs = fw.audit(rule, *batch).costs
    assert used < 0.8 * costs.peak_bytes
    assert costs.macs < macs <= costs.macs + costs.forward_macs


def test_bad_batches_are_refused_as_by_the_rule() -> None:
    rule = fw.PEPITA(dense(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="NaN"):
        fw.audit(rule, torch.full((N, D), torch.nan), torch.zeros(N).long())


def test_answers_are_there_in_a_few_letters_for_narrow_screens() -> None:
    """And long for wide ones, one of the two at a time."""
    content = render({"backprop": audited(fw.Backprop)}, "a model", None)
    row = re.findall(r'<span class="short">(.*?)</span><span class="long">(.*?)</span>', content)
    assert [short for short, _ in row] == ["yes", "non-local", "frozen", "7 of 7"]
    assert row[0][1] == "through W of layers 2, 3 and 4"
    assert ".short { display: none; }" in content
    assert "table.answers .long { display: none; }" in content


def test_notebooks_show_the_answers() -> None:
    report = replace(audited(fw.Backprop), rule="<b>mine</b>")
    shown = report._repr_html_()
    page = Page(shown)
    assert not page.open
    assert "b" not in page.tags
    assert "<b>mine</b>" in page.text
    for text in ("weight transport", "yes", "through W of layers 2, 3 and 4", "7 of 7", "MACs"):
        assert text.replace("MACs", f"{report.costs.macs:,}") in page.text, text


def test_the_page_is_whole_and_safe() -> None:
    reports = {"<b>evil</b>": audited(fw.Backprop), "pepita": audited(fw.PEPITA)}
    page = Page(render(reports, "a model & more", (1000, 2000)))
    assert not page.open
    assert "<b>evil</b>" in page.text
    assert "b" not in page.tags
    assert page.tags.count("svg") == 2
    # first and later activities, and updates, of 4 layers each; the readout has one activity
    assert page.tags.count("circle") == 4 + 7
    assert page.tags.count("rect") == 8
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "through W of layers 2, 3 and 4",
        "ΔW_1 needs the error , W of layers 2, 3 and 4, activities of layers 2 and 3".replace(
            " ,", ","
        ),
        "layer 1 waits 5 steps; update-locked",
        "backprop, with activation checkpointing 2,000",
    ):
        assert words in text
    assert all(reference.startswith("#") for reference in page.references)


def test_the_command(tmp_path: Path, command: Command) -> None:
    done = command("audit", "--rules", "pepita", "backprop", "--out", "here")
    assert done.returncode == 0
    assert "here/audit.json" in done.stdout
    content = json.loads((tmp_path / "here" / "audit.json").read_text("utf-8"))
    assert content["rules"]["backprop"]["transport"]["answer"] == "full"
    assert content["rules"]["pepita"]["frozen"]["answer"] == "modulated"
    assert content["rules"]["pepita"]["locking"]["layers"]["1"]["update"] == 5
    assert (tmp_path / "here" / "audit.html").exists()
    done = command("audit", "--rules", "drtp", "--model", "conv", "--out", "conv")
    assert done.returncode == 0
    for arguments, message in {
        ("--rules", "pepito"): "unknown rule 'pepito'",
        ("--batch", "0"): "batch must be at least 1; given 0",
        ("--hidden", "0"): "hidden must be one or more sizes of at least 1; given [0]",
        ("--out", "here"): "here exists already",
        ("--model", "cnn"): "Invalid value",
    }.items():
        done = command("audit", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
