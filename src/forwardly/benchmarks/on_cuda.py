"""What is timed on a GPU: our steps, and backprop by every quick way that PyTorch has.

On a GPU a small step's time is that of its launches, so backprop is captured as a CUDA graph too,
and compiled; the fastest way is what ours is compared with. Ours is a step of ``LocalSGD`` as a
user calls it, and a batch of ``fit``, whichever is quicker, as both are in the record.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly.benchmarks.cases import Case
from forwardly.benchmarks.steps import (
    MOMENTUM,
    RATE,
    Step,
    Subjects,
    backprop_step,
    batch_of,
    local_step,
    network,
)
from forwardly.data import Dataset
from forwardly.fast.cuda.captured import Captured
from forwardly.rules.pepita import PEPITA
from forwardly.training.launched import Launched
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.run import Run, begin
from forwardly.training.seeds import epochs_at_once

_STEPS = 100
_CIFAR, _DEEP = (3072, 1024, 10), (3072, *(1024,) * 4, 10)
_LARGE, _NARROW = (4096, *(4096,) * 4, 1000), (784, *(512,) * 32, 10)


def cases(device: torch.device) -> tuple[Case, ...]:
    """Those of a GPU, with the goals that were set for them."""

    def step(name: str, what: str, must: float, sizes: tuple[int, ...], batch: int) -> Case:
        return Case(
            *(name, f"PEPITA step / backprop step, {what}", "pepita", "backprop", must, None, True),
            partial(dense, sizes, batch, device),
            tf32="TF32" in what,
        )

    return (
        step("fc-cifar10", "3072-1024-10, batch 64", 0.9, _CIFAR, 64),
        step("fc-cifar10-tf32", "3072-1024-10, batch 64, TF32", 1.0, _CIFAR, 64),
        step("fc-deep", "3072-1024×4-10, batch 64, TF32", 1.0, _DEEP, 64),
        step("large", "4096×5-1000, batch 4096, TF32", 1.05, _LARGE, 4096),
        Case(
            *("seeds", "16 networks of 3072-1024-10 at once, batches of 64: PEPITA / backprop"),
            *("pepita", "backprop", 0.65, None, True, partial(at_once, 16, _CIFAR, 64, device)),
            call=f"{_STEPS} steps",
        ),
        Case(
            *("fit", "whole epochs of fit / the captured step alone, 3072-1024-10, batch 64"),
            *("fit", "step", 1.3, None, True, partial(epochs, _CIFAR, 64, device)),
            call=f"{_STEPS} steps",
        ),
        Case(
            *("bytes", "bytes that a step takes, PEPITA / backprop, 784-512×32-10, batch 8192"),
            *("pepita", "backprop", 1.1, None, True, partial(deep, _NARROW, 8192, device)),
            of="bytes",
        ),
    )


@contextmanager
def products_in(tf32: bool) -> Generator[None]:
    """Have products of float32 on CUDA round to TF32, or not."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def dense(sizes: tuple[int, ...], batch: int, device: torch.device) -> Subjects:
    """A step of PEPITA and of backprop on linear layers with ReLU."""
    data = _data(sizes, batch, device)

    def backprop(**options: bool) -> Step:
        return backprop_step(network(sizes).to(device), data, **options)

    subjects: Subjects = {
        "pepita, LocalSGD": local_step(_pepita(sizes, device), data),
        "pepita, fit": _launched(sizes, data),
        "backprop, foreach": backprop(foreach=True),
        "backprop, fused": backprop(fused=True),
        "backprop, fused, graph": _captured(backprop(fused=True), device),
    }
    if device.type == "cuda":
        model = network(sizes).to(device)
        model.compile(mode="reduce-overhead")  # pyright: ignore[reportUnknownMemberType]
        compiled = backprop_step(model, data, fused=True)
        try:
            compiled()
        except Exception as problem:  # whatever a machine without compilers says
            warnings.warn(f"torch.compile is left out: {problem}", stacklevel=2)
        else:
            subjects["backprop, fused, compiled"] = compiled
    return subjects


def deep(sizes: tuple[int, ...], batch: int, device: torch.device) -> Subjects:
    """A step of PEPITA and of backprop, whose memory is counted."""
    data = _data(sizes, batch, device)
    return {
        "pepita": local_step(_pepita(sizes, device), data),
        "backprop": backprop_step(network(sizes).to(device), data, fused=True),
    }


def at_once(count: int, sizes: tuple[int, int, int], batch: int, device: torch.device) -> Subjects:
    """Some steps of several networks: by ``fit_seeds``, and by batched products and autograd."""
    data = _samples(sizes, batch, device)
    runs = [_run(sizes, data, batch, seed, device) for seed in range(count)]
    ours = epochs_at_once(runs, 10**9)
    backprop = _BackpropAtOnce(count, sizes, batch, data)
    return {"pepita": lambda: next(ours), "backprop": backprop.epoch}


def epochs(sizes: tuple[int, ...], batch: int, device: torch.device) -> Subjects:
    """An epoch of ``fit``, and as many captured steps on one batch."""
    run = _run(sizes, _samples(sizes, batch, device), batch, 0, device)
    launched = Launched(run)
    step = _launched(sizes, _data(sizes, batch, device))

    def steps() -> None:
        for _ in range(_STEPS):
            step()

    return {"fit": lambda: launched.epoch(None), "step": steps}


def allocated_bytes(step: Step) -> int:
    """The most that CUDA's allocator gives out in a step, over what stays."""
    step()  # momentum is there from the first step on, and the next is not yet a graph's
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


class _BackpropAtOnce:
    """Networks with one hidden layer, side by side, as a user of PyTorch batches and captures them.

    Args:
        count: S.
        sizes: d, hidden units, k.
        batch: n.
        data: what all learn, each in an order of its own.
    """

    def __init__(self, count: int, sizes: tuple[int, int, int], batch: int, data: Dataset) -> None:
        d, h, k = sizes
        self._x, self._target = data.train.x, data.train.target
        device = self._x.device
        drawn = (torch.randn(count, h, d) / math.sqrt(d), torch.randn(count, k, h) / math.sqrt(h))
        self.W = [nn.Parameter(w.to(device)) for w in drawn]
        self._optimizer = torch.optim.SGD(self.W, RATE, MOMENTUM, fused=True)
        self._chosen = torch.zeros(count, batch, dtype=torch.int64, device=device)
        self._launch = Captured(self._step, device)

    def epoch(self) -> None:
        """Some steps, all networks in each."""
        count, batch = self._chosen.shape
        orders = [torch.randperm(len(self._x), device="cpu") for _ in range(count)]
        order = torch.stack(orders).to(self._chosen.device)
        for start in range(0, _STEPS * batch, batch):
            self._chosen.copy_(order[:, start : start + batch])
            self._launch()

    def _step(self) -> None:
        x, target = self._x[self._chosen], self._target[self._chosen]
        with torch.enable_grad():
            self._optimizer.zero_grad()
            h = torch.bmm(x, self.W[0].mT).relu()
            output = torch.bmm(h, self.W[1].mT)
            losses = functional.cross_entropy(output.mT, target, reduction="sum")
            (losses / x.shape[1]).backward()  # pyright: ignore[reportUnknownMemberType]
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]


def _captured(step: Step, device: torch.device) -> Callable[[], object]:
    def work() -> None:
        step()

    return Captured(work, device)


def _launched(sizes: tuple[int, ...], data: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Our captured step, and nothing else."""
    rule = _pepita(sizes, data[0].device)
    optimizer = LocalSGD(rule, lr=RATE, momentum=MOMENTUM)
    return optimizer.launched(lambda: data, lambda _: None)


def _pepita(sizes: tuple[int, ...], device: torch.device) -> PEPITA:
    rule = PEPITA(network(sizes), nn.CrossEntropyLoss())
    return rule.to(device)


def _run(sizes: tuple[int, ...], data: Dataset, batch: int, seed: int, device: torch.device) -> Run:
    rule = _pepita(sizes, device)
    return begin(rule, data, LocalSGD(rule, lr=RATE, momentum=MOMENTUM), batch=batch, seed=seed)


def _data(sizes: tuple[int, ...], batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    x, target = batch_of((sizes[0],), sizes[-1], batch)
    return x.to(device), target.to(device)


def _samples(sizes: tuple[int, ...], batch: int, device: torch.device) -> Dataset:
    """As many as an epoch of steps needs."""
    x, target = batch_of((sizes[0],), sizes[-1], _STEPS * batch)
    return Dataset.from_arrays(x, target).to(device)
