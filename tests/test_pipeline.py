"""A pipeline equals one process, keeps its timetable, and refuses what it cannot do right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly.distributed import Pipeline, pipeline
from forwardly.distributed import timetable as module
from forwardly.distributed.timetable import UPDATE, Timetable, timetable
from forwardly.rules.by_stage import ByStage, Pass
from test_cli import Command
from test_laws import FACTORIES
from threads_as_ranks import SECONDS, Ranks

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "scaling.md"
SOURCE = Path(pipeline.__file__).parent
N, D, K = 10, 12, 4


def network(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(D, 9), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(9, 8, bias=False), nn.Tanh(), nn.LayerNorm(8, elementwise_affine=False)),
        *(nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(6, K)),
    )


def convolutional(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(3, 4, 2, padding=1)),
        *(nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 7), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(7, K)),
    )


RULES: dict[str, Callable[..., Any]] = {
    "pepita": fw.PEPITA,
    "pepita, its options": lambda *given, **options: fw.PEPITA(
        *given, output_error="second", presynaptic="clean", sign=-1, **options
    ),
    "drtp": fw.DRTP,
    "forward-forward": fw.ForwardForward,
    "forward-forward, likely": lambda *given, **options: fw.ForwardForward(
        *given, negatives="likely", **options
    ),
    "backprop": fw.Backprop,
}


def built(name: str, make: Callable[[float], nn.Sequential] = network, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    model = make(dropout).double()
    options = {"input_shape": (1, 3, 4)} if make is convolutional else {}
    rule = RULES[name](model, nn.CrossEntropyLoss(), **options)
    if name.startswith("pepita"):
        rule.F *= 10
    return rule


class Batch(NamedTuple):
    x: Tensor
    target: Tensor


def batches(count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(N, 1, 3, 4, generator=generator, dtype=torch.float64),
            torch.randint(K, (N,), generator=generator),
        )
        for _ in range(count)
    ]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9)


def state_of(rule: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in rule.state_dict().items()}


def trained(rule: Any, microbatches: int, data: Sequence[Batch]) -> tuple[dict[str, Tensor], Any]:
    """What a rank ends with, and the losses that it was told."""
    pipe = Pipeline(rule, microbatches)
    optimizer = sgd(pipe.parameters())
    losses: list[Tensor | None] = []
    for number, batch in enumerate(data):
        if number == 2:
            pipe.gather()
            assert rule.predict(batch.x).isfinite().all()
        optimizer.zero_grad()
        losses.append(pipe.accumulate(*batch))
        optimizer.step()
    pipe.gather()
    return state_of(rule), losses


def in_threads(ranks: int, work: Callable[[int], Any]) -> list[Any]:
    """What each rank's work gives."""
    threads = Ranks(ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "distributed", threads)
        return threads.run(work)


def equals(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


# The timetable, looked at by a checker that knows no more than what depends on what.

PASSES = {
    "pepita": (Pass("clean"), Pass("modulated", after="clean")),
    "backprop": (Pass("forward"), Pass("backward", after="forward", backward=True)),
    "drtp": (Pass("forward"),),
}


def check_timetable(t: Timetable, passes: Sequence[Pass], products: int) -> None:
    """All is done once, after what it needs, one thing at a time, and with weights of one batch."""
    ranks, batches_of_all = len(t.slots), t.slots[0][-1].batch + 1
    found = {(s.rank, s.batch, s.microbatch, s.what): s for row in t.slots for s in row}
    assert len(found) == sum(map(len, t.slots))
    wanted = (len(passes) + 1) * t.microbatches * batches_of_all * ranks
    assert len(found) == wanted, "not everything is done once"
    for row in t.slots:
        for before, slot in pairwise(row):
            assert before.end <= slot.start, "two things at a time"
            assert before.batch <= slot.batch, "stale weights"
    for (rank, batch, m, what), slot in found.items():
        assert slot.end - slot.start == (products if what == UPDATE else 1)
        needs: list[tuple[int, str]] = []
        if what == UPDATE:
            needs = [(rank, p.name) for p in passes]
        else:
            p = next(p for p in passes if p.name == what)
            first, before = (ranks - 1, rank + 1) if p.backward else (0, rank - 1)
            if rank != first:
                needs = [(before, what)]
            elif p.after:
                needs = [(ranks - 1, p.after)]
        for place, name in needs:
            assert found[place, batch, m, name].end <= slot.start, f"{what} before {name}"


def timetable_is_right(make: Callable[..., Timetable] = timetable) -> None:
    for name, passes in PASSES.items():
        for ranks in (1, 2, 4):
            for microbatches in (1, 3, 4, 9):
                for late in (False, True):
                    t = make(passes, ranks, microbatches, late=late)
                    check_timetable(t, passes, 1)
                    for rank in range(ranks):
                        order = [s.microbatch for s in t.order(rank) if s.what == UPDATE]
                        assert order == list(range(microbatches)), name


def test_nothing_is_done_before_what_it_needs() -> None:
    timetable_is_right()
    for negatives in ("uniform", "likely"):
        rule = fw.ForwardForward(network(), nn.CrossEntropyLoss(), negatives=negatives)
        check_timetable(timetable(rule.passes, 4, 5, products=2), rule.passes, 2)


def test_the_rules_have_these_passes() -> None:
    for name, passes in PASSES.items():
        assert fw.RULES[name].passes == passes  # pyright: ignore
        assert fw.RULES[name].products == 1  # pyright: ignore
    assert fw.ForwardForward.products == 2
    own = {name for name, kind in fw.RULES.items() if issubclass(kind, ByStage)}
    assert own == {*PASSES, "forward-forward"}


@pytest.mark.parametrize("wrong", ["early update", "two at a time", "stale", "twice", "too short"])
def test_the_checker_rejects(wrong: str) -> None:
    passes = PASSES["pepita"]
    right = timetable(passes, 2, 2)
    rows = [[*row] for row in right.slots]
    row = rows[0]
    update = next(i for i, slot in enumerate(row) if slot.what == UPDATE)
    if wrong == "early update":
        modulated = row[update - 1]
        row[update - 1] = row[update]._replace(start=modulated.start, end=modulated.end)
        row[update] = modulated._replace(start=row[update].start + 1, end=row[update].end + 1)
    elif wrong == "two at a time":
        row[update] = row[update]._replace(start=row[update].start - 1, end=row[update].end - 1)
    elif wrong == "stale":
        last = max(i for i, slot in enumerate(row) if slot.batch == 0)
        a, b = row[last], row[last + 1]
        row[last] = b._replace(start=a.start, end=a.end)
        row[last + 1] = a._replace(start=b.start, end=b.end)
    elif wrong == "twice":
        row[update] = row[update]._replace(microbatch=1)
    else:
        row[update] = row[update]._replace(end=row[update].end - 1)
    with pytest.raises(AssertionError):
        check_timetable(Timetable(tuple(map(tuple, rows)), 2, 3), passes, 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("microbatches", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17])
def test_periods_are_these(ranks: int, microbatches: int) -> None:
    P, M = ranks, microbatches
    pepita = timetable(PASSES["pepita"], P, M)
    assert pepita.period == (3 if M >= P else (P + 2 * M) / M)
    assert pepita.held == min(P, M)
    one_by_one = timetable(PASSES["backprop"], P, M)
    assert one_by_one.period == pytest.approx(3 + 2 * (P - 1) / M)
    assert one_by_one.held == min(P, M)
    late = timetable(PASSES["backprop"], P, M, late=True)
    assert (late.period == 3) == (M >= 2 * P - 1)
    assert late.period <= one_by_one.period
    assert timetable(PASSES["drtp"], P, M).period == 2
    uniform, likely = (
        (Pass("neutral"), Pass("true"), Pass("wrong", after=after)) for after in ("", "neutral")
    )
    assert timetable(uniform, P, M, products=2).period == 5
    assert (timetable(likely, P, M, products=2).period == 5) == (2 * M >= P)


def test_at_four_ranks_pepita_has_no_gap() -> None:
    """The figures of the documentation."""
    pepita, backprop, late = (
        timetable(PASSES[name], 4, 4, late=late)
        for name, late in (("pepita", False), ("backprop", False), ("backprop", True))
    )
    assert (pepita.period, backprop.period, late.period) == (3.0, 4.5, 3.75)
    assert (pepita.idle, backprop.idle, late.idle) == (0, pytest.approx(1 / 3), pytest.approx(0.2))
    assert timetable(PASSES["backprop"], 4, 7, late=True).held == 7
    assert timetable(PASSES["pepita"], 4, 7).held == 4


def test_the_last_batch_is_like_all_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (passes, P, M, late)
        for passes in PASSES.values()
        for P in (1, 2, 4, 5)
        for M in (1, 2, 3, 4, 6, 11)
        for late in (False, True)
    ]
    periods = [timetable(passes, P, M, late=late).period for passes, P, M, late in cases]
    monkeypatch.setattr(module, "_BATCHES", 9)
    longer = [timetable(passes, P, M, late=late).period for passes, P, M, late in cases]
    assert longer == periods


def test_passes_that_cannot_be_are_refused() -> None:
    for passes in (
        (Pass("clean"), Pass("modulated", after="celan")),
        (Pass("first", after="second"), Pass("second")),
        (Pass("forward"), Pass("back", "forward", backward=True), Pass("third", "back")),
        (Pass("short", to_readout=False), Pass("next", after="short")),
    ):
        with pytest.raises(ValueError, match="which is no earlier pass that reaches the output"):
            timetable(passes, 2, 2)


# The runner, its ranks as threads.


@pytest.mark.unchecked
@pytest.mark.parametrize("make", [network, convolutional])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", RULES)
def test_equals_one_process(
    name: str,
    dropout: float,
    make: Callable[[float], nn.Sequential],
) -> None:
    data = batches()
    whole = built(name, make, dropout)
    optimizer = sgd(whole.model.parameters())
    losses: list[Tensor] = []
    for batch in data:
        optimizer.zero_grad()
        losses.append(whole.accumulate(*batch).loss)
        optimizer.step()
    for microbatches in (1, 4):
        one, own_losses = trained(built(name, make, dropout), microbatches, data)
        for key, value in state_of(whole).items():
            torch.testing.assert_close(one[key], value, rtol=1e-12, atol=1e-12)
        if not name.startswith("forward-forward"):  # whose loss is also that of hidden layers
            for own, loss in zip(own_losses, losses, strict=True):
                torch.testing.assert_close(own.as_subclass(Tensor), loss.as_subclass(Tensor))
        for ranks in (2, 4):
            rules = [built(name, make, dropout) for _ in range(ranks)]
            work = lambda rank, rules=rules, m=microbatches: trained(rules[rank], m, data)  # noqa: E731
            for rank, (found, told) in enumerate(in_threads(ranks, work)):
                equals(found, one)
                if rank == ranks - 1:
                    assert told == own_losses
                else:
                    assert told == [None] * 3


def mean_by_hand(rule: Any, batch: Batch, microbatches: int) -> dict[str, Tensor]:
    """The mean over the samples of microbatches, by the rule itself."""
    totals: dict[str, Tensor] = {}
    for x, target in zip(*(t.tensor_split(microbatches) for t in batch), strict=True):
        for name, update in rule(x, target).updates.items():
            part = (len(x) / len(batch.x)) * update
            totals[name] = totals[name] + part if name in totals else part
    return totals


@pytest.mark.unchecked
@pytest.mark.parametrize("name", [*(n for n in RULES if n[:7] != "forward" and n != "backprop")])
@pytest.mark.parametrize("microbatches", [1, 3, 5])
def test_equals_the_rule_on_the_same_microbatches(name: str, microbatches: int) -> None:
    """Bit for bit, of rules that draw no numbers; backprop's ``assign`` adds in another order."""
    (batch,) = batches(1)
    rule = built(name)
    expected = mean_by_hand(rule, batch, microbatches)
    Pipeline(rule, microbatches).accumulate(*batch)
    found = {n: p.grad for n, p in rule.model.named_parameters() if p.grad is not None}
    equals(found, expected)
    Pipeline(rule, microbatches).accumulate(*batch)  # adds to .grad, as backward() does
    for n, p in rule.model.named_parameters():
        assert torch.equal(p.grad, 2 * expected[n])


def test_weights_of_others_are_not_there() -> None:
    (batch,) = batches(1)
    rules = [built("pepita") for _ in range(2)]

    def work(rank: int) -> None:
        pipe = Pipeline(rules[rank], 2, layers=(3, 1))
        own = [name for name, p in rules[rank].model.named_parameters() if not p.is_meta]
        assert (
            own
            == (["2.weight", "2.bias", "5.weight", "8.weight", "8.bias"], ["11.weight", "11.bias"])[
                rank
            ]
        )
        assert len(pipe.parameters()) == len(own)
        with pytest.raises(TypeError, match="must be of one type on one device"):
            rules[rank](*batch)
        pipe.gather()
        rules[rank](*batch)

    in_threads(2, work)


def test_stages_are_shared_out_by_their_work() -> None:
    assert pipeline.balanced([4, 1, 1, 1, 1], 2) == (1, 4)
    assert pipeline.balanced([1, 1, 1, 1, 4], 2) == (4, 1)
    assert pipeline.balanced([1, 2, 3], 3) == (1, 1, 1)
    assert pipeline.balanced([5], 1) == (1,)
    generator = torch.Generator().manual_seed(0)
    for parts in (2, 3, 4):
        costs = [int(c) for c in torch.randint(1, 9, (7,), generator=generator)]
        found = pipeline.balanced(costs, parts)
        assert sum(found) == 7
        assert largest(costs, found) == min(largest(costs, cut) for cut in cuts(7, parts))


def cuts(n: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(n,)]
    return [(a, *rest) for a in range(1, n - parts + 2) for rest in cuts(n - a, parts - 1)]


def largest(costs: list[int], lengths: Sequence[int]) -> int:
    left = [*costs]
    sums: list[int] = []
    for length in lengths:
        sums.append(sum(left[:length]))
        del left[:length]
    return max(sums)


# What is refused.


def refuses(rule: Any, why: str, kind: type[Exception] = ValueError, **options: Any) -> None:
    with pytest.raises(kind, match=why):
        Pipeline(rule, **{"microbatches": 2, **options})


@pytest.mark.parametrize(
    "name", [n for n, kind in fw.RULES.items() if not issubclass(kind, ByStage)]
)
def test_rules_that_say_nothing_of_stages_are_refused(name: str) -> None:
    factory = FACTORIES[name]
    why = "cut between stages.*can be cut: Backprop, DRTP, ForwardForward, PEPITA$"
    refuses(factory(network(), nn.CrossEntropyLoss()), why, TypeError)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.BatchNorm1d(9, affine=False), "mixes the samples of a batch"),
        (nn.BatchNorm1d(9, affine=False).eval(), "mixes the samples of a batch"),
        (fw.Normalise(over="batch"), "mixes the samples of a batch"),
        (nn.LayerNorm(9), "trains others: 1.bias, 1.weight"),
    ],
)
def test_modules_that_it_cannot_have(module: nn.Module, why: str) -> None:
    model = nn.Sequential(nn.Linear(D, 9), module, nn.Linear(9, K))
    refuses(fw.Backprop(model, nn.CrossEntropyLoss()), why)


class Mixes(nn.ReLU):
    """Of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as torch names it
        return input - input.mean(0)


class Residual(nn.Module):
    """No chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.first(x))


def test_models_that_it_cannot_have() -> None:
    loss = nn.CrossEntropyLoss()
    altered = nn.Sequential(nn.Linear(D, 9), Mixes(), nn.Linear(9, K))
    refuses(fw.PEPITA(altered, loss), "without hooks: module '1'", TypeError)
    hooked = network()
    hooked[3].register_forward_hook(lambda *_: None)
    refuses(fw.PEPITA(hooked, loss), "without hooks: module '3'", TypeError)
    shared_out = fw.PEPITA(network(), loss)
    shared_out.parallel = Mock()
    refuses(shared_out, "shares out its batches by DataParallel", TypeError)
    refuses(fw.PEPITA(Residual(), loss, input_shape=(D,)), "is no chain", TypeError)
    reshaped = nn.Sequential(
        nn.Linear(D, 8), nn.Flatten(0), nn.Unflatten(0, (4, 4)), nn.Linear(4, K)
    )
    refuses(fw.PEPITA(reshaped, loss, input_shape=(D,)), "no longer counts samples")
    meta = fw.PEPITA(network(), loss).to("meta")
    refuses(meta, "the model is on meta", TypeError)


@pytest.mark.unchecked
def test_arguments_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = built("pepita")
    for wrong in (0, -1, 1.5, True, "4"):
        refuses(rule, "microbatches must be a whole number of at least 1", microbatches=wrong)
    for layers in ([3], [5], [2, 2], []):
        refuses(rule, "layers must be 1 numbers of at least 1", layers=layers)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuses(rule, "but no process group: build the pipeline within")
    monkeypatch.delenv("WORLD_SIZE")
    threads = Ranks(5)
    threads.own.rank = 0
    monkeypatch.setattr(pipeline, "distributed", threads)
    refuses(rule, "a pipeline of 5 ranks needs as many synapses, and the model has 4")
    monkeypatch.setattr(threads, "get_backend", lambda: "nccl")
    refuses(rule, 'the process group is "nccl"')
    assert not any(p.is_meta for p in rule.parameters())


BATCHES: list[tuple[str, Callable[[Batch], Any], str]] = [
    ("pepita", lambda b: (b.x[:3], b.target[:3]), "at least 4 samples; given is x of shape"),
    ("pepita", lambda b: (b.x, b.target[:9]), "the target must have as many"),
    ("pepita", lambda b: (b.x[:, :, :2], b.target), "needs an input of shape"),
    ("pepita", lambda b: (b.x.float(), b.target), "the input is torch.float32"),
    ("pepita", lambda b: (b.x / 0, b.target), "x has a NaN or an infinity"),
    ("pepita", lambda b: (b.x, b.target + K), "class indices must be 0 to 3"),
    ("drtp", lambda b: (b.x, b.target.double()), "needs a target of"),
    ("forward-forward", lambda b: (b.x, torch.full((N, K), 1 / K)), "needs class indices"),
    ("pepita", lambda b: (b.x.tolist(), b.target), "x must be a tensor"),
]


@pytest.mark.unchecked
@pytest.mark.parametrize(("name", "make", "why"), BATCHES)
def test_a_wrong_batch_is_refused_on_every_rank(
    name: str, make: Callable[[Batch], Any], why: str
) -> None:
    """Before anything is sent, so that none waits for another; and the next batch goes on."""
    (batch,) = batches(1)
    rules = [built(name) for _ in range(3)]

    def work(rank: int) -> None:
        pipe = Pipeline(rules[rank], 4)
        before = state_of(rules[rank])
        with pytest.raises((ValueError, TypeError), match=why):
            pipe.accumulate(*make(batch))
        assert all(p.grad is None for p in pipe.parameters())
        assert state_of(rules[rank]).keys() == before.keys()
        pipe.accumulate(*batch)
        pipe.gather()

    in_threads(3, work)


def test_other_sizes_than_it_was_built_for_are_refused() -> None:
    rule = built("drtp", convolutional)
    with pytest.raises(ValueError, match="was built for samples that reach the first synapse as"):
        Pipeline(rule, 2).accumulate(torch.zeros(4, 1, 4, 4).double(), torch.zeros(4).long())


def test_ranks_with_different_batches_are_told() -> None:
    first, second = batches(2)
    rules = [built("drtp") for _ in range(2)]

    def work(rank: int) -> None:
        pipe = Pipeline(rules[rank], 2)
        if rank == 0:
            pipe.accumulate(*first)
        else:
            with pytest.raises(ValueError, match="ranks 0 and 1 were given different batches"):
                pipe.accumulate(first.x, second.target)
        pipeline.distributed.barrier.wait(SECONDS)  # pyright: ignore
        pipeline.distributed.messages.clear()  # pyright: ignore

    in_threads(2, work)


@pytest.mark.parametrize("what", ["sign", "weights", "microbatches"])
def test_ranks_that_are_not_built_alike_are_told(what: str) -> None:
    rules = [built("pepita") for _ in range(2)]
    if what == "sign":
        rules[1].sign = -1
    if what == "weights":
        rules[1].model[2].weight.data[0, 0] += 1

    def work(rank: int) -> None:
        with pytest.raises(ValueError, match="the ranks have built different rules"):
            Pipeline(rules[rank], 2 + rank if what == "microbatches" else 2)

    in_threads(2, work)


def test_a_changed_model_is_refused() -> None:
    (batch,) = batches(1)
    rule = built("pepita")
    pipe = Pipeline(rule, 2)
    rule.model[2].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="the model has changed"):
        pipe.accumulate(*batch)
    Pipeline(rule, 2).accumulate(*batch)
    assert rule.model[2].weight.grad is None


# Wrong versions, each of which the tests above reject.


def mutant(file: str, piece: str, replacement: str) -> ModuleType:
    text = (SOURCE / file).read_text("utf-8")
    assert text.count(piece) == 1, f"{piece!r} stands {text.count(piece)} times in {file}"
    wrong = ModuleType(f"wrong_{file.removesuffix('.py')}")
    sys.modules[wrong.__name__] = wrong  # where dataclasses look
    exec(compile(text.replace(piece, replacement), file, "exec", dont_inherit=True), vars(wrong))
    del sys.modules[wrong.__name__]
    return wrong


@pytest.mark.parametrize(
    ("piece", "replacement"),
    [
        pytest.param(
            "finished = done[first.name], min(done[p.name] for p in self.passes)",
            "finished = done[first.name], done[first.name]",
            id="an update before both passes",
        ),
        pytest.param(
            "if self._done[rank][UPDATE] == self.microbatches:",
            "if self._done[rank][self.passes[-1].name] == self.microbatches:",
            id="stale weights",
        ),
        pytest.param(
            "self._ends[rank, batch, m, what] = end",
            "self._ends[rank, batch, m, what] = now",
            id="what is under way is there",
        ),
        pytest.param(
            "place, what = (self.ranks - 1, p.after)",
            "place, what = (0, p.after)",
            id="the error before the output",
        ),
        pytest.param(
            "if p.backward else (0, rank - 1)",
            "if p.backward else (0, rank)",
            id="no way between ranks",
        ),
    ],
)
def test_a_wrong_timetable_is_rejected(piece: str, replacement: str) -> None:
    wrong = mutant("timetable.py", piece, replacement)
    with pytest.raises(AssertionError):
        timetable_is_right(wrong.timetable)


def pipeline_is_right(make: Callable[[Any, int], Pipeline]) -> None:
    """An uneven batch, with dropout, two in a row, against the rule itself."""
    for name in ("pepita", "backprop"):
        data = batches(2)
        whole, rule = built(name, dropout=0.3), built(name, dropout=0.3)
        pipe = make(rule, 4)
        for batch in data:
            expected = whole.accumulate(*batch)
            loss = pipe.accumulate(*batch)
            assert loss is not None
            assert abs(float(loss) - float(expected.loss)) < 1e-12
        for (n, found), own in zip(
            rule.model.named_parameters(), whole.model.parameters(), strict=True
        ):
            error = (found.grad - own.grad).abs().max() / own.grad.abs().max()
            assert error < 1e-11, n


@pytest.mark.parametrize(
    ("piece", "replacement"),
    [
        pytest.param(
            "len(samples.x) / len(x)",
            "1 / self.timetable.microbatches",
            id="mean over microbatches, not samples",
        ),
        pytest.param("len(samples.x) / len(x)", "1.0", id="sum for mean"),
        pytest.param(
            "begin_step(share=Share(first, len(samples), len(x)))",
            "begin_step(share=Share(0, len(samples), len(x)))",
            id="masks by the place in the microbatch",
        ),
        pytest.param(
            "begin_step(share=Share(first, len(samples), len(x)))",
            "begin_step()",
            id="masks of the microbatch",
        ),
        pytest.param(
            "totals[name] + part if name in totals else part",
            "part",
            id="the last microbatch alone",
        ),
        pytest.param("else parameter.grad + update", "else update", id="gradients overwritten"),
        pytest.param(
            "        self.rule.move_buffers(self.rule.moved_buffers(self.rule.begin_step()))\n",
            "",
            id="masks of the batch before",
        ),
        pytest.param("torch.cat(outputs)", "torch.cat(outputs[::-1])", id="outputs out of order"),
    ],
)
@pytest.mark.unchecked
def test_a_wrong_pipeline_is_rejected(piece: str, replacement: str) -> None:
    with pytest.raises(AssertionError):
        pipeline_is_right(mutant("pipeline.py", piece, replacement).Pipeline)


@pytest.mark.unchecked
def test_the_right_ones_are_not_rejected() -> None:
    pipeline_is_right(Pipeline)
    same = "len(samples.x) / len(x)"
    pipeline_is_right(mutant("pipeline.py", same, same).Pipeline)


# Real processes.


def begin(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked, and the loopback is lo")
def test_real_ranks(tmp_path: Path) -> None:
    """P = 2 and 4, bit-equal to one process; where every pass sleeps, as quick as the timetable."""
    done = begin(str(TESTS / "pipeline_ranks.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    expected = torch.load(tmp_path / "1-0.pt")["trained"]
    assert len(expected) == 4
    files = [(ranks, rank) for ranks in (2, 4) for rank in range(ranks)]
    for ranks, rank in files:
        found = torch.load(tmp_path / f"{ranks}-{rank}.pt")
        for name, one in expected.items():
            equals(found["trained"][name]["state"], one["state"])
            told = one["losses"] if rank == ranks - 1 else [None] * 3
            assert found["trained"][name]["losses"] == told
        (said,) = found["refused"]
        assert "the ranks have built different rules" in said
    units: list[tuple[str, float]] = torch.load(tmp_path / "4-0.pt")["units"]
    best = {kind: min(u for name, u in units if name == kind) for kind in ("PEPITA", "Backprop")}
    # 3.0 and 4.5 in the timetable; sleeping takes no less, and other work adds to both.
    assert best["PEPITA"] > 2.9
    assert best["Backprop"] > 4.4
    assert best["PEPITA"] / best["Backprop"] < 0.9


def test_the_program_of_the_page(tmp_path: Path) -> None:
    """As it stands there, by torchrun, on two ranks; it learns, and one rank saves."""
    section = PAGE.read_text("utf-8").split("## A pipeline\n")[1].split("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^    torchrun (.*) train.py$", section, re.MULTILINE)
    (tmp_path / "train.py").write_text(program, "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *command.replace("4", "2").split(),
            "train.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"^test accuracy: ([\d.]+) %$", done.stdout, re.MULTILINE)
    assert float(accuracy) > 80
    assert isinstance(fw.load(tmp_path / "digits.pt"), fw.PEPITA)


def test_the_command_draws_the_timetables(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In letters of any terminal, no wider than it is, and on the page."""
    monkeypatch.setenv("COLUMNS", "40")
    rules = "pepita", "backprop", "error-broadcast"
    done = command("audit", "--rules", *rules, "--pipeline", "4", "4", "--out", "here")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1 CCCCMUMUMUMUccccmumumumuCCCCMUMUMUMUcc" in lines
    assert "1 FFFF...BU.BU.BU.BUffff...bu.bu.bu.buFF" in lines
    drawn = [line for line in lines if re.match(r"[1-4] [A-Za-z.]+$", line)]
    assert len(drawn) == 12
    assert all(len(line) == 40 and line.isascii() for line in drawn)
    assert any("is cut between stages: error-broadcast." in line for line in lines)
    content = json.loads((tmp_path / "here" / "audit.json").read_text("utf-8"))["pipeline"]
    assert content["rules"]["pepita"] == {"units": 3.0, "idle": 0.0, "held": 4}
    assert content["rules"]["backprop"]["units"] == 4.5
    assert content["rules"]["backprop, updates in gaps"]["units"] == 3.75
    page = (tmp_path / "here" / "audit.html").read_text("utf-8")
    assert page.count('<svg class="pipeline"') == 3
    assert "rank 4, batch 1, microbatch 1: modulated" in page
    for given, message in {
        ("0", "4"): "pipeline's ranks must be at least 1; given 0",
        ("65", "4"): "pipeline's ranks must be at most 64; given 65",
        ("4", "999"): "pipeline's microbatches must be at most 256; given 999",
    }.items():
        done = command("audit", "--rules", "pepita", "--pipeline", *given)
        assert done.returncode == 2
        assert message in done.stderr


def test_the_page_has_the_timetables_figures() -> None:
    rows = re.findall(
        r"^\| P = (\d+), M = (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 4
    for P, M, *said in rows:
        found = [
            timetable(PASSES[name], int(P), int(M), late=late).period
            for name, late in (
                *(("pepita", False), ("backprop", False), ("backprop", True)),
                ("drtp", False),
            )
        ]
        assert [float(number) for number in said] == pytest.approx(found, abs=0.006)
