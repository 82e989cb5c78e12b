"""What is timed: training steps and whole epochs, ours and the alternatives'.

Names of alternatives are "GROUP, DETAIL"; the fastest of a group is what ours is compared with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from forwardly.benchmarks.timing import Subject
from forwardly.data.teacher_student import draw
from forwardly.experiments.teacher_student import Run, TeacherStudent
from forwardly.fast.cpu_epochs.compiled import CompiledTraining
from forwardly.feedback import uniform
from forwardly.models import conv
from forwardly.rule import Rule
from forwardly.rules.mem_pepita import MemPEPITA
from forwardly.rules.pepita import PEPITA
from forwardly.training.local_sgd import LocalSGD

Subjects = dict[str, Subject]
MOMENTUM, RATE = 0.9, 1e-4


@dataclass(frozen=True)
class Step:
    """A training step of a model, which can be taken again and again."""

    model: nn.Module
    run: Callable[[], object]

    def __call__(self) -> object:
        """Take the step."""
        return self.run()

    def updates(self) -> list[Tensor]:
        """Take the step; the gradients that it left behind."""
        self.run()
        return [p.grad for p in self.model.parameters() if p.grad is not None]


def dense(sizes: tuple[int, ...], batch: int) -> Subjects:
    """A step of PEPITA and of backprop on linear layers with ReLU."""
    data = batch_of((sizes[0],), sizes[-1], batch)
    subjects = {"pepita": _pepita(sizes, batch)}
    for name in ("foreach", "fused"):
        subjects[f"backprop, {name}"] = backprop_step(network(sizes), data, **{name: True})
    return subjects


def convolutional() -> Subjects:
    """A step of PEPITA and of backprop on 32 kernels of 5 × 5, in both memory formats."""
    shape = (3, 32, 32)
    data = batch_of(shape, 10, 50)
    last = data[0].contiguous(memory_format=torch.channels_last), data[1]
    rule = PEPITA(conv(shape, 10, channels=32), nn.CrossEntropyLoss(), input_shape=shape)
    subjects = {"pepita": local_step(rule, data)}
    for name in ("foreach", "fused"):
        model: Any = conv(shape, 10, channels=32)
        subjects[f"backprop, {name}"] = backprop_step(model, data, **{name: True})
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        subjects[f"backprop, {name}, channels last"] = backprop_step(model, last, **{name: True})
    return subjects


class Published:
    """PEPITA's step as its authors compute it: two whole passes, and momentum by hand.

    Args:
        sizes: d, hidden units, k.
        batch: n.
    """

    def __init__(self, sizes: tuple[int, int, int], batch: int) -> None:
        d, h, k = sizes
        self.x, self.target = batch_of((d,), k, batch)
        self.rate = RATE
        self.W = [torch.randn(h, d) / math.sqrt(d), torch.randn(k, h) / math.sqrt(h)]
        self.F = (2 * torch.rand(d, k) - 1) * 0.05 * math.sqrt(6 / d)
        self._t = nn.functional.one_hot(self.target, k).to(self.x.dtype)
        self._v = [torch.zeros_like(w) for w in self.W]

    def __call__(self) -> None:
        """Take the step."""
        W, v, n = self.W, self._v, len(self.x)
        h = (self.x @ W[0].T).relu()
        e = (h @ W[1].T).softmax(1) - self._t
        x_err = self.x + e @ self.F.T
        h_err = (x_err @ W[0].T).relu()
        (h_err @ W[1].T).softmax(1)
        updates = (h - h_err).T @ x_err / n, e.T @ h_err / n
        for l, update in enumerate(updates):
            v[l] = MOMENTUM * v[l] - self.rate * update
            W[l] = W[l] + v[l]


def as_published(sizes: tuple[int, int, int], batch: int) -> Subjects:
    """PEPITA's step as its authors compute it, and ours."""
    return {"as published": Published(sizes, batch), "pepita": _pepita(sizes, batch)}


def limit(sizes: tuple[int, int, int], batch: int) -> Subjects:
    """The two large products alone, into memory that is there, beside PEPITA's step."""
    d, h, _ = sizes
    x, W, delta = torch.rand(batch, d), torch.randn(h, d), torch.randn(batch, h)
    z, update = torch.empty(batch, h), torch.empty(h, d)

    def products() -> None:
        torch.mm(x, W.T, out=z)
        torch.mm(delta.T, x, out=update)

    return {"products": products, "pepita": _pepita(sizes, batch)}


def precisions(sizes: tuple[int, ...], batch: int) -> Subjects:
    """PEPITA's step with products in bfloat16 and in float32."""
    return {"bf16": _pepita(sizes, batch, "bf16"), "float32": _pepita(sizes, batch)}


def terms(sizes: tuple[int, ...], batch: int) -> Subjects:
    """PEPITA's step with the clean presynaptic term and with the modulated one."""
    clean = _pepita(sizes, batch, presynaptic="clean", projection=uniform(0.4))
    return {"clean": clean, "modulated": _pepita(sizes, batch)}


def teacher_student(dtype: Literal["float64", "float32"]) -> Subjects:
    """100 epochs of the blog's loop in NumPy, and of ours; MAE of both sets after each."""
    settings = TeacherStudent(rules=("pepita",), dtype=dtype, log_every=1, epochs=10**9)
    task = draw(settings, np.random.default_rng(settings.seed))
    run = Run(settings, [task], 1)
    run.prepare()
    w1, w2 = (w.copy() for w in task.weights)

    def literal() -> None:
        for _ in range(100):
            h = np.maximum(task.x_train @ w1, 0)
            e = h @ w2 - task.y_train
            x_err = task.x_train + e @ task.F
            h_err = np.maximum(x_err @ w1, 0)
            w1[:] -= settings.learning_rate * x_err.T @ (h - h_err)
            w2[:] -= settings.learning_rate * h_err.T @ e
            np.mean(np.abs(np.maximum(task.x_train @ w1, 0) @ w2 - task.y_train))
            np.mean(np.abs(np.maximum(task.x_val @ w1, 0) @ w2 - task.y_val))

    return {"literal NumPy": literal, "pepita": lambda: run.trainings["pepita"].advance(100, 1)}


def online(sizes: tuple[int, ...], samples: int) -> Subjects:
    """Samples learned one by one: by the rule as it is written, and compiled."""
    x, target = batch_of((sizes[0],), sizes[-1], samples)
    regression = sizes[-1] == 1
    loss = nn.MSELoss() if regression else nn.CrossEntropyLoss()
    target = torch.rand(samples, 1) if regression else target
    eager = PEPITA(network(sizes), loss, projection=uniform(0.05))
    optimizer = torch.optim.SGD(eager.model.parameters(), lr=RATE)
    compiled = CompiledTraining(PEPITA(network(sizes), loss))

    def one_by_one() -> None:
        for i in range(samples):
            optimizer.zero_grad()
            eager.accumulate(x[i : i + 1], target[i : i + 1])
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    return {
        "eager": one_by_one,
        "pepita": lambda: compiled.train(x, target, learning_rate=RATE, batch=1),
    }


def seeds(count: int, processors: int) -> Subjects:
    """200 epochs of the teacher–student networks of many seeds, by one thread and by several."""
    settings = TeacherStudent(rules=("pepita",), seeds=count, learning_rate=1e-5, epochs=10**9)
    tasks = [draw(settings, np.random.default_rng(i)) for i in range(count)]
    alone, together = (Run(settings, tasks, threads) for threads in (1, processors))
    alone.prepare()
    return {
        "one after another": lambda: alone.trainings["pepita"].advance(1, 200),
        "together": lambda: together.trainings["pepita"].advance(1, 200),
    }


def deep() -> Subjects:
    """MemPEPITA, PEPITA and backprop on 32 hidden layers of 512, batches of 512."""
    sizes = (512, *(512,) * 32, 10)
    data = batch_of((sizes[0],), sizes[-1], 512)
    loss = nn.CrossEntropyLoss()
    return {
        "mem-pepita": local_step(MemPEPITA(network(sizes), loss), data),
        "pepita": local_step(PEPITA(network(sizes), loss), data),
        "backprop": backprop_step(network(sizes), data, fused=True),
    }


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers without biases, ReLU between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _pepita(
    sizes: tuple[int, ...], batch: int, precision: Literal["full", "bf16"] = "full", **options: Any
) -> Step:
    rule = PEPITA(network(sizes), nn.CrossEntropyLoss(), **options)
    return local_step(rule, batch_of((sizes[0],), sizes[-1], batch), precision)


def local_step(
    rule: Rule, data: tuple[Tensor, Tensor], precision: Literal["full", "bf16"] = "full"
) -> Step:
    """A step of ``LocalSGD``."""
    optimizer = LocalSGD(rule, lr=RATE, momentum=MOMENTUM, precision=precision)
    return Step(rule.model, lambda: optimizer.step(*data))


def backprop_step(model: nn.Module, data: tuple[Tensor, Tensor], **options: bool) -> Step:
    """A step as a user of PyTorch writes it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, **options)
    loss = nn.CrossEntropyLoss()
    x, target = data

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), target).backward()
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    return Step(model, step)


def batch_of(shape: tuple[int, ...], classes: int, n: int) -> tuple[Tensor, Tensor]:
    """n samples of numbers on [0, 1), and a class each."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=numbers)
    return x, torch.randint(max(classes, 2), (n,), generator=numbers)
