"""What each of several processes runs to check data parallelism; see test_data_parallel.py.

Each check is called in all processes at once. Names of checks are the arguments; what fails raises
in all of them.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.testing import assert_close

import forwardly as fw
import graphs
from forwardly.distributed import DataParallel, data_parallel, joined
from forwardly.network.share import Share
from forwardly.rule import Rule
from forwardly.testing import CASES, Case, build, cases_for
from test_laws import FACTORIES

BY_NAME = {case.name: case for case in CASES}


def gathered(value: Tensor) -> list[Tensor]:
    found = [torch.empty_like(value) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, value.contiguous())
    return found


def same_everywhere(values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        for theirs in gathered(value):
            assert torch.equal(theirs, value), name


def whole_equals_one(rule: str, case: Case, n: int, tolerance: float = 1e-12) -> None:
    """The credit, and the buffers that a step moves; that of all updates is the scale."""
    x, target = case.batch(n)
    one, many = (build(FACTORIES[rule], case) for _ in range(2))
    expected, moved = one.run(x, target)
    credit, buffers = DataParallel(many).run(x, target)
    scale = max(float(update.abs().max()) for update in expected.updates.values())
    assert credit.updates.keys() == expected.updates.keys()
    for name, update in credit.updates.items():
        assert_close(update, expected.updates[name], rtol=0, atol=tolerance * scale)
    for mine, theirs in zip(credit[1:], expected[1:], strict=True):
        assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    assert buffers.keys() == moved.keys()
    for name, value in buffers.items():
        assert_close(value, moved[name], rtol=tolerance, atol=tolerance)
    same_everywhere(credit.updates)
    again, _ = many.run(x, target)
    for name, update in again.updates.items():
        assert torch.equal(update, credit.updates[name])


def credit_is_the_whole_batchs() -> None:
    refused: set[str] = set()
    for name, kind in fw.RULES.items():
        if kind.needs_whole_batch:
            refused.add(name)
            with raises(TypeError, "cannot share out batches over processes"):
                DataParallel(build(kind, BY_NAME["dense"]))
            continue
        for case in cases_for(kind):
            if case.name in ("dropout", "batch-norm"):
                whole_equals_one(name, case, 4)  # of three processes 2, 2 and 0
    assert refused == {"error-broadcast", "time-local-pepita"}
    for case in CASES:
        whole_equals_one("pepita", case, 5)  # 2, 2 and 1
    whole_equals_one("pepita", BY_NAME["dropout"], 1)
    whole_equals_one("forward-forward", BY_NAME["dropout"], 1)


def graphs_are_shared_out_too() -> None:
    cases = {case.name: case for case in graphs.GRAPHS}
    found = [case for case in cases.values() if not case.per_sample]
    assert found
    for case in (*found, cases["residual"]):
        whole_equals_one("pepita", case, 5)
        whole_equals_one("backprop", case, 5)
        whole_equals_one("adaptive-feedback-alignment", case, 5)


class Scrambled(nn.Module):
    """A dropout where samples are the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.relu(self.first(x)).reshape(-1, 1, 5).transpose(0, 1))
        return self.last(h.transpose(0, 1).reshape(-1, 5))


def digits(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(distributed.get_rank())  # the first one's are taken
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 10)]
    return nn.Sequential(*layers).to(dtype)


def batches(steps: int, n: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.rand((n, 784), generator=generator).to(dtype)
        yield x, torch.randint(10, (n,), generator=generator)


def trained(
    n: int,
    optimizer: Callable[[Rule], torch.optim.Optimizer],
    share_out: Callable[[Rule], Rule],
    dtype: torch.dtype = torch.float32,
    steps: int = 8,
) -> dict[str, Tensor]:
    rule = fw.PEPITA(digits(0.2, dtype), nn.CrossEntropyLoss())
    DataParallel(rule)  # with the first process's weights and feedback
    rule.parallel = None
    optimizer_ = optimizer(share_out(rule))
    for x, target in batches(steps, n, dtype):
        if isinstance(optimizer_, fw.LocalSGD):
            optimizer_.step(x, target)
            assert "readable" in str(optimizer_.path)
        else:
            optimizer_.zero_grad()
            rule.accumulate(x, target)
            optimizer_.step()
    return dict(rule.state_dict())


def alone(rule: Rule) -> Rule:
    return rule


def local(rule: Rule) -> fw.LocalSGD:
    return fw.LocalSGD(rule, 0.05, 0.9, 1e-4, fast=rule.parallel is not None)


def steps_are_those_of_one_process() -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        for optimizer in (local, lambda rule: torch.optim.Adam(rule.parameters(), 1e-3)):
            one = trained(30, optimizer, alone, dtype, 1)
            many = trained(30, optimizer, DataParallel, dtype, 1)
            for name, value in many.items():
                # Adam's first step is as long for a small update as for a large one.
                loose = 1 if optimizer is local else 1e3
                assert_close(value, one[name], rtol=0, atol=tolerance * loose)
    many = trained(30, local, DataParallel)
    same_everywhere(many)
    again = trained(30, local, DataParallel)
    for name, value in many.items():
        assert torch.equal(value, again[name])


def exact_steps_have_the_bits_of_one_process() -> None:
    def exact(rule: Rule) -> Rule:
        return DataParallel(rule, exact=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = trained(64, local, exact)
        same_everywhere(many)
        for name, value in trained(64, local, alone).items():
            assert torch.equal(value, many[name]), name
    # Fewer numbers go to other processes: the factors of 64 samples, and not the products.
    sent: dict[str, int] = {"all_gather": 0, "all_reduce": 0}
    with counted(sent):
        trained(64, local, exact, steps=1)
    assert sent["all_reduce"] < 10
    factors = 64 * (784 + 256 + 256 + 10)
    assert factors <= sent["all_gather"] * distributed.get_world_size() < 3 * factors + 2_000


@contextmanager
def counted(sent: dict[str, int]) -> Iterator[None]:
    """Numbers that this process gives to collectives."""
    before = distributed.all_gather, distributed.all_reduce

    def all_gather(found: list[Tensor], mine: Tensor, **options: Any) -> None:
        sent["all_gather"] += mine.numel()
        before[0](found, mine, **options)

    def all_reduce(mine: Tensor, **options: Any) -> None:
        sent["all_reduce"] += mine.numel()
        before[1](mine, **options)

    distributed.all_gather, distributed.all_reduce = all_gather, all_reduce
    try:
        yield
    finally:
        distributed.all_gather, distributed.all_reduce = before


def bits_that_cannot_be_had_are_named() -> None:
    case = BY_NAME["batch-norm"]
    rule = DataParallel(build(fw.PEPITA, case), exact=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rule(*case.batch(6))
        rule(*case.batch(6))
    assert ["equal up to rounding only" in str(one.message) for one in said] == [True]


def losses_are_those_of_the_whole_batch() -> None:
    case, weights = BY_NAME["dense"], torch.tensor([1.0, 5.0, 0.2]).double()
    weighted = nn.CrossEntropyLoss(weight=weights, ignore_index=1)

    def of_each(output: Tensor, target: Tensor) -> Tensor:
        e = output.softmax(1) - nn.functional.one_hot(target, 3)
        return e * weights[target][:, None] * (target != 1)[:, None]

    def of_all(output: Tensor, target: Tensor) -> Tensor:
        return of_each(output, target) * len(target) / weights[target][target != 1].sum()

    x, target = case.batch(5)
    for loss, error in ((nn.CrossEntropyLoss(reduction="sum"), None), (weighted, of_each)):
        one, many = (fw.PEPITA(case.model(), loss, error=error) for _ in range(2))
        DataParallel(many)
        one.load_state_dict(many.state_dict())
        assert_close(many(x, target), one(x, target))
    with raises(TypeError, "another error of a sample if others are beside it"):
        DataParallel(fw.PEPITA(case.model(), weighted, error=of_all))(x, target)


class Centred(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return a - a.mean(0)


def what_cannot_be_right_is_refused() -> None:
    case = BY_NAME["dense"]
    x, target = case.batch(6)
    rank, loss = distributed.get_rank(), nn.CrossEntropyLoss()
    with raises(ValueError, "were given other batches"):
        order = torch.arange(6) if rank == 0 else torch.tensor([1, 0, 2, 3, 4, 5])
        DataParallel(build(fw.PEPITA, case))(x[order], target[order])
    with raises(ValueError, "were given other batches"):
        DataParallel(build(fw.PEPITA, case))(x[rank:], target[rank:])
    rule = DataParallel(build(fw.PEPITA, case))
    with torch.no_grad():
        rule.model[0].weight[0, 0] += rank
    with raises(ValueError, "have come to other weights"):
        rule(x, target)
    with raises(ValueError, "rules of other forms"):
        DataParallel(fw.PEPITA(nn.Sequential(nn.Linear(4, 3 + rank)), loss))
    over_batch = nn.Sequential(nn.Linear(7, 5), fw.Normalise(over="batch"), nn.Linear(5, 3))
    with raises(TypeError, "divides by the length of the whole batch"):
        DataParallel(fw.PEPITA(over_batch.double(), loss))
    mixing = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 5), Centred(), nn.Linear(5, 3))
    mixing = nn.Sequential(mixing, nn.Identity()).double()
    with raises(TypeError, "depends on the others of its batch"):
        DataParallel(fw.PEPITA(mixing, loss, input_shape=(7,)))(x, target)
    with raises(TypeError, "where samples are not the first dimension"):
        DataParallel(fw.PEPITA(Scrambled(), loss, input_shape=(6,)))
    with raises(ValueError, "takes none: leave it out"):
        bf16 = DataParallel(fw.PEPITA(digits(), loss))
        fw.LocalSGD(bf16, 0.1, precision="bf16").step(*next(batches(1, 4, torch.float32)))
    with raises(TypeError, "exact=True is for chains of layers and rules"):
        DataParallel(build(fw.Backprop, case), exact=True)
    with raises(TypeError, "cannot be traced, compiled, exported or batched"):
        torch.vmap(DataParallel(build(fw.PEPITA, case)), (0, None))(x[None], target)
    with raises(ValueError, "needs more than one sample"):
        DataParallel(build(fw.PEPITA, BY_NAME["batch-norm"]))(*BY_NAME["batch-norm"].batch(1))


def sharded_parameters_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    fully_shard(model, mesh=mesh)
    for use in (
        lambda: fw.PEPITA(model, nn.CrossEntropyLoss()),
        lambda: rule(torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)),
        lambda: fw.LocalSGD(rule, 0.1).step(torch.zeros(4, 6), torch.zeros(4).long()),
    ):
        with raises(TypeError, "is a DTensor, as torch's fully_shard"):
            use()


def masks_are_right_on_dtensors() -> None:
    """Whose >> and << are not: random numbers stay right where a model passes them on."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate

    from forwardly import noise

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    numbers, of = torch.tensor([5, 9]), torch.arange(7) << 40
    shared = [DTensor.from_local(t, mesh, [Replicate()]) for t in (numbers, of)]
    expected = noise.splitmix64(noise.start(*numbers.unbind(), 2)[0], of)
    found = noise.splitmix64(noise.start(*shared[0].unbind(), 2)[0], shared[1])
    assert torch.equal(found.to_local(), expected)


@contextmanager
def raises(kind: type[Exception], words: str) -> Iterator[None]:
    with pytest.raises(kind, match=re.escape(words)):
        yield


MUTANTS: list[tuple[str, Any, str, str, str]] = [
    (
        "weights of shares forgotten",
        data_parallel._Processes,
        "_summed",
        "flat * weight",
        "flat / 2",
    ),
    (
        "an empty share counts",
        data_parallel._Processes,
        "_summed",
        "if weight else torch.zeros_like(flat)",
        "if weight else flat / 5",
    ),
    ("masks by the place in the share", Share, "rows", "self.first, self.count", "0, self.count"),
    (
        "statistics of each process",
        Share,
        "moments",
        "mean = (weights * means).sum(0)",
        "means = mean",
    ),
    ("all processes' statistics count the same", Share, "moments", "count / self.total", "0.5"),
    (
        "signals through statistics stay in the process",
        data_parallel._Stacked,
        "backward",
        "_reduce(ctx.group, total)",
        "pass",
    ),
]


@contextmanager
def mutated(of: Any, name: str, piece: str, other: str) -> Iterator[None]:
    function = inspect.unwrap(getattr(of, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(piece) == 1, (name, piece)
    made: dict[str, Any] = {}
    exec(
        "from __future__ import annotations\n" + source.replace(piece, other),
        {**vars(sys.modules[function.__module__])},
        made,
    )
    before = inspect.getattr_static(of, name)
    setattr(of, name, made[name])
    try:
        yield
    finally:
        setattr(of, name, before)


def mutants_are_rejected() -> None:
    for what, *mutant in MUTANTS:
        with mutated(*mutant):
            survived = True
            tried = (
                ("pepita", "dropout", 5),
                ("pepita", "dropout", 1),
                ("backprop", "batch-norm", 5),
            )
            for rule, case, n in tried:
                try:
                    whole_equals_one(rule, BY_NAME[case], n)
                except (AssertionError, TypeError):
                    survived = False
            # Whether it is found must not depend on the process.
            assert not any(map(bool, gathered(torch.tensor(survived)))), what


CHECKS = [
    credit_is_the_whole_batchs,
    graphs_are_shared_out_too,
    steps_are_those_of_one_process,
    exact_steps_have_the_bits_of_one_process,
    bits_that_cannot_be_had_are_named,
    losses_are_those_of_the_whole_batch,
    what_cannot_be_right_is_refused,
    sharded_parameters_are_refused,
    masks_are_right_on_dtensors,
    mutants_are_rejected,
]


def main() -> None:
    """Run the checks that are named; those that hold are printed, as "holds NAME"."""
    gc.freeze()  # a rule looks for wrapped models among all objects
    with joined():
        for check in CHECKS:
            if check.__name__ not in sys.argv[1:]:
                continue
            try:
                check()
            except Exception:  # which the others have as well
                sys.stdout.write(f"{check.__name__}, process {distributed.get_rank()}:\n")
                traceback.print_exc()
            else:
                sys.stdout.write(f"holds {check.__name__} {distributed.get_rank()}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
    # Meshes of DTensors keep threads of gloo, which may abort Python as it ends.
    sys.stdout.flush()
    os._exit(0)
