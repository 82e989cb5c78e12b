"""The experiment of the blog post "A Biologically-Plausible Learning Rule" (September 2023).

A 16-8-1 teacher network makes the targets of 1,000 training and 500 validation inputs, and a
student of the same form learns them by full-batch PEPITA. The post plots the mean absolute error
(MAE) on both sets over 100,000 epochs. Here the control and the reference run beside it.

    teacher      W ~ N(0, 0.5²), no biases, ReLU         inputs   x ~ U[0, 1)
    student      W ~ U(±0.5)                             F        ~ U(±0.03)
    an epoch     W ← W − 5·10⁻⁴ · Σ over the samples of the rule's update; then the MAE of both sets

Shapes
    As in the post, samples are rows: x (n, d), y (n, k), w_l (n_{l−1}, n_l), F (k, d).

Deviations
    The post is in Julia, whose random numbers are others: the draws are alike in distribution only.
    ``arrays.load`` continues from the post's own arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forwardly.errors import UsageError, check_rules
from forwardly.experiments.history import History
from forwardly.rule import Rule
from forwardly.rules import PEPITA, RULES
from forwardly.training.full_batch import Batch, FullBatchTraining

if TYPE_CHECKING:
    from forwardly.fast.cpu_epochs.full_batch import CompiledFullBatchTraining

Array = NDArray[np.float64]

MOST_AT_ONCE = 500
"""Epochs between two looks at the keyboard, the clock and the weights."""


@dataclass(frozen=True)
class TeacherStudent:
    """The settings; the defaults are the post's.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = ("pepita", "readout-only", "backprop")
    seeds: int = 1
    seed: int = 99
    epochs: int = 100_000
    hidden: tuple[int, ...] = (8,)  # of the student
    learning_rate: float = 5e-4  # on updates summed over the batch
    dtype: str = "float64"
    log_every: int = 100
    engine: str = "compiled"  # where the rule has it; "readable" for the rules as they are written
    inputs: int = 16
    teacher_hidden: int = 8
    outputs: int = 1
    train_samples: int = 1000
    validation_samples: int = 500
    teacher_sd: float = 0.5
    student_bound: float = 0.5
    feedback_bound: float = 0.03

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_rules(self.rules, RULES)
        unfit = [name for name in self.rules if RULES[name].teacher == "label"]
        if unfit:
            raise UsageError(
                f"{unfit[0]} learns classes, and this is a regression: leave it out of the rules"
            )
        if len(set(self.rules)) < len(self.rules):
            raise UsageError(f"a rule is named twice: {', '.join(self.rules)}")
        if self.dtype not in ("float64", "float32"):
            raise UsageError(f"dtype must be float64 or float32; given {self.dtype!r}")
        if self.engine not in ("compiled", "readable"):
            raise UsageError(f"engine must be compiled or readable; given {self.engine!r}")
        for name in ("seeds", "epochs", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; given {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0; given {self.seed}")
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(
                f"hidden must be one or more layer sizes of at least 1; given {list(self.hidden)}"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(
                f"learning_rate must be positive and finite; given {self.learning_rate}"
            )


class Task(NamedTuple):
    """What one seed starts from, laid out as in the post."""

    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    weights: tuple[Array, ...]  # of the student: w1, w2, …
    F: Array


def draw(settings: TeacherStudent, generator: np.random.Generator) -> Task:
    """A teacher, its data, a student and a feedback matrix."""
    d, k = settings.inputs, settings.outputs
    teacher = [
        generator.normal(0, settings.teacher_sd, shape)
        for shape in pairwise((d, settings.teacher_hidden, k))
    ]
    x_train = generator.random((settings.train_samples, d))
    x_val = generator.random((settings.validation_samples, d))
    bound = settings.student_bound
    student = tuple(
        generator.uniform(-bound, bound, shape) for shape in pairwise((d, *settings.hidden, k))
    )
    feedback = generator.uniform(-settings.feedback_bound, settings.feedback_bound, (k, d))
    return Task(x_train, output(teacher, x_train), x_val, output(teacher, x_val), student, feedback)


def output(weights: Sequence[Array], x: Array) -> Array:
    """The output of a ReLU network with a linear readout, (n, k)."""
    h = x
    for w in weights[:-1]:
        h = np.maximum(h @ w, 0)
    return h @ weights[-1]


def training(
    name: str, tasks: Sequence[Task], settings: TeacherStudent, threads: int | None = None
) -> FullBatchTraining | CompiledFullBatchTraining:
    """The rule ``name`` on the students of all tasks at once; compiled, by ``threads``."""
    from forwardly.fast.cpu_epochs.compiled import (
        why_not_compiled,  # numba is slow to import, and only needed here
    )
    from forwardly.fast.cpu_epochs.full_batch import CompiledFullBatchTraining

    dtype = torch.float64 if settings.dtype == "float64" else torch.float32

    def stack(*arrays: Array) -> Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=dtype)

    # The post sums updates over the samples; a rule averages them.
    rate = settings.learning_rate * len(tasks[0].x_train)
    rules = [
        _rule(name, task, dtype, rate, torch.Generator().manual_seed(settings.seed + i))
        for i, task in enumerate(tasks)
    ]
    train = Batch(
        stack(*(task.x_train for task in tasks)), stack(*(task.y_train for task in tasks))
    )
    validation = Batch(
        stack(*(task.x_val for task in tasks)), stack(*(task.y_val for task in tasks))
    )
    if settings.engine == "readable" or why_not_compiled(rules[0]):
        return FullBatchTraining(rules, train, validation, learning_rate=rate)
    return CompiledFullBatchTraining(rules, train, validation, learning_rate=rate, threads=threads)


def _rule(
    name: str,
    task: Task,
    dtype: torch.dtype,
    learning_rate: float,
    generator: torch.Generator,
) -> Rule:
    """The rule on a task's student. PEPITA's family has the task's F, others draw theirs."""
    layers: list[nn.Module] = []
    for w in task.weights:
        layers += [nn.Linear(*w.shape, bias=False, dtype=dtype), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, w in zip(model.parameters(), task.weights, strict=True):
            parameter.copy_(torch.as_tensor(w.T))
    kind, options = RULES[name], dict[str, object](generator=generator)
    if kind.projection_scale is not None:
        # Some draw it smaller than PEPITA does, such as that of signs, which do not shrink.
        scale = kind.projection_scale / cast(float, PEPITA.projection_scale)
        options["projection"] = scale * torch.as_tensor(task.F.T)
    if kind.needs_learning_rate:
        options["learning_rate"] = learning_rate
    return cast(Callable[..., Rule], kind)(model, nn.MSELoss(), **options)


class Run:
    """The experiment under way: every rule in turn, some epochs at a time, on the same tasks.

    Args:
        settings: the experiment's.
        tasks: a task a seed, from ``settings.seed`` on.
        threads: networks at once, where epochs are compiled; one a processor if None.

    Attributes:
        histories: what has been logged, by rule.
        trainings: where each rule stands.
    """

    def __init__(
        self, settings: TeacherStudent, tasks: Sequence[Task], threads: int | None = None
    ) -> None:
        self.settings = settings
        seeds = tuple(settings.seed + i for i in range(len(tasks)))
        self._tasks = tasks
        self.trainings = {name: training(name, tasks, settings, threads) for name in settings.rules}
        self.histories = {name: History(name, seeds) for name in settings.rules}

    def prepare(self) -> None:
        """Have the loops compiled that this run needs: seconds, once on a machine."""
        for one in self.trainings.values():
            one.prepare()

    def before(self, which: int = 0) -> list[Array]:
        """A student's weights before training, (n_l, n_{l−1}) each; which of the seeds, from 0."""
        return [w.T for w in self._tasks[which].weights]

    def advance(self) -> Iterator[str]:
        """Train to the end, yielding the name of each rule that has moved on.

        May be left and called again: what was done stays done.
        """
        active = list(self.settings.rules)
        while active:
            for name in list(active):
                if not self._some_epochs(name):
                    active.remove(name)
                yield name

    def _some_epochs(self, name: str) -> bool:
        """Train one rule a little further; whether there is more to do."""
        now, history = self.trainings[name], self.histories[name]
        every, last = self.settings.log_every, self.settings.epochs
        step = min(every - now.epoch % every, last - now.epoch, MOST_AT_ONCE)
        times = 1
        if step == every:  # then several, each measured
            times = min(MOST_AT_ONCE, last - now.epoch) // every
        start = time.perf_counter()
        rows = now.advance(times, step)
        history.seconds += time.perf_counter() - start
        history.diverged = {history.seeds[i]: epoch for i, epoch in now.diverged.items()}
        ends = [history.diverged.get(seed, last + 1) for seed in history.seeds]
        for row in rows:
            if (row.epoch % every == 0 or row.epoch == last) and row.epoch < max(ends):
                history.log(*row)
        return bool(history.alive) and now.epoch < last
