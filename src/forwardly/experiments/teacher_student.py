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
    ``data.teacher_student.load`` continues from the post's own arrays.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from forwardly.data.teacher_student import Array, Task, TaskSettings
from forwardly.errors import UsageError, in_a_line
from forwardly.experiments.history import History
from forwardly.experiments.settings import (
    LAYERS,
    MOST_EPOCHS,
    MOST_SEEDS,
    MOST_UNITS,
    POSITIVE,
    at_least,
    check,
    require,
)
from forwardly.fast.engine import Batch
from forwardly.rule import Rule
from forwardly.rules import PEPITA
from forwardly.rules.options import build
from forwardly.rules.plugins import rules_with_options
from forwardly.training.full_batch import FullBatchTraining

if TYPE_CHECKING:
    from forwardly.fast.cpu_epochs.full_batch import CompiledFullBatchTraining

MOST_AT_ONCE = 500
"""Epochs between two looks at the keyboard, the clock and the weights."""


@dataclass(frozen=True)
class TeacherStudent(TaskSettings):
    """The settings; the defaults are the post's.

    Attributes:
        rules: Rules to compare, separated by spaces; ``forwardly rules`` lists them, those of other
            packages too. Options follow a colon: pepita:presynaptic=clean,sign=-1.
        seeds: How many seeds to run at once; the figure then shows each, and their median, and the
            table mean and standard deviation.
        epochs: Full-batch updates.
        seed: The first seed, of teacher, data, student and feedback matrix.
        learning_rate: On updates summed over the batch.
        dtype: Precision of the training.
        log_every: Epochs between two measurements of the MAE; before the first, epochs 1, 2, 4, 8,
            … are measured too.
        engine: How the epochs run: compiled, for the rules that have it, or the readable rules as
            they are written. Both come to the same errors.

    Raises:
        UsageError: if one makes no sense, naming it.
    """

    rules: tuple[str, ...] = ("pepita", "readout-only", "backprop")
    seeds: Annotated[int, at_least(1), MOST_SEEDS] = 1
    epochs: Annotated[int, at_least(1), MOST_EPOCHS] = 100_000
    seed: Annotated[int, at_least(0)] = 99
    learning_rate: Annotated[float, POSITIVE] = 5e-4
    dtype: Literal["float64", "float32"] = "float64"
    log_every: Annotated[int, at_least(1)] = 100
    engine: Literal["compiled", "readable"] = "compiled"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activities."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        known = rules_with_options(self.rules)
        unfit = [name for name, (rule, _) in known.items() if rule.teacher == "label"]
        if unfit:
            raise UsageError(
                f"{unfit[0]} learns classes, and this is a regression: leave it out of the rules"
            )
        require(LAYERS, hidden=self.hidden)
        require(MOST_UNITS, hidden=self.hidden)
        check(self)


_TERMS = (
    *("pepita", "pepita:presynaptic=clean", "readout-only"),
    *("pepita:projection=0.5", "pepita:projection=0.5,presynaptic=clean", "backprop"),
)
"""The presynaptic terms side by side, with an F as in the post and one ten times as long."""

PARTS = {
    "default": TeacherStudent(),
    "ten-seeds": TeacherStudent(seeds=10),
    "clean": TeacherStudent(rules=_TERMS, seeds=10, log_every=500),
    "clean-slower": TeacherStudent(rules=_TERMS, seeds=10, log_every=500, learning_rate=1e-4),
}
"""What is recorded: the post's figure, its spread, and what the clean presynaptic term changes."""


def training(
    name: str,
    tasks: Sequence[Task],
    settings: TeacherStudent,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> FullBatchTraining | CompiledFullBatchTraining:
    """The rule ``name`` on the students of all tasks at once; compiled, by ``threads``.

    On a device other than the processor the readable rule runs.
    """
    dtype, device = settings.torch_dtype, torch.device(device)

    def stack(*arrays: Array) -> Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=dtype, device=device)

    # The post sums updates over the samples; a rule averages them.
    rate = settings.learning_rate * len(tasks[0].x_train)
    rules = [
        _rule(name, task, dtype, rate, torch.Generator().manual_seed(settings.seed + i)).to(device)
        for i, task in enumerate(tasks)
    ]
    x_train, y_train, x_val, y_val = map(stack, *(task[:4] for task in tasks))
    train, validation = Batch(x_train, y_train), Batch(x_val, y_val)
    # Numba is slow to import, and only needed here.
    from forwardly.fast.cpu_epochs.full_batch import CompiledFullBatchTraining
    from forwardly.fast.find import why_no_epochs

    if settings.engine == "readable" or device.type != "cpu" or why_no_epochs(rules[0]):
        return FullBatchTraining(rules, train, validation, learning_rate=rate)
    return CompiledFullBatchTraining(rules, train, validation, learning_rate=rate, threads=threads)


def _rule(
    name: str,
    task: Task,
    dtype: torch.dtype,
    learning_rate: float,
    generator: torch.Generator,
) -> Rule:
    """The rule on a task's student.

    PEPITA's family has the task's F, unless its option says otherwise; others draw theirs.
    """
    layers: list[nn.Module] = []
    for w in task.weights:
        layers += [nn.Linear(*w.shape, bias=False, dtype=dtype), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, w in zip(model.parameters(), task.weights, strict=True):
            parameter.copy_(torch.as_tensor(w.T))
    kind, options = rules_with_options([name])[name]
    if kind.projection_scale is not None and "projection" not in options:
        # Some draw it smaller than PEPITA does, such as that of signs, which do not shrink.
        scale = kind.projection_scale / cast(float, PEPITA.projection_scale)
        options["projection"] = scale * torch.as_tensor(task.F.T)
    return build(
        kind, model, nn.MSELoss(), options, learning_rate=learning_rate, generator=generator
    )


class Run:
    """The experiment under way: every rule in turn, some epochs at a time, on the same tasks.

    Args:
        settings: the experiment's.
        tasks: a task a seed, from ``settings.seed`` on.
        threads: networks at once, where epochs are compiled; one a processor if None.
        device: where.

    Attributes:
        histories: what has been logged, by rule.
        trainings: where each rule stands; none of a rule that could not begin.
    """

    def __init__(
        self,
        settings: TeacherStudent,
        tasks: Sequence[Task],
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        seeds = tuple(settings.seed + i for i in range(len(tasks)))
        self._tasks = tasks
        self.trainings: dict[str, FullBatchTraining | CompiledFullBatchTraining] = {}
        self.histories = {name: History(name, seeds) for name in settings.rules}
        for name in settings.rules:
            with self._failing_alone(name):
                self.trainings[name] = training(name, tasks, settings, threads, device)

    def prepare(self) -> None:
        """Have the loops compiled that this run needs: seconds, once on a machine."""
        for name, training in self.trainings.items():
            with self._failing_alone(name):
                training.prepare()

    def before(self, which: int = 0) -> list[Array]:
        """A student's weights before training, (n_l, n_{l−1}) each; which of the seeds, from 0."""
        return [w.T for w in self._tasks[which].weights]

    def teacher(self, which: int = 0) -> list[Array]:
        """The weights that made a student's targets, likewise; none where they are not known."""
        return [w.T for w in self._tasks[which].teacher]

    def advance(self) -> Iterator[str]:
        """Train to the end, yielding the name of each rule that has moved on.

        A rule that raises an exception ends there, with what was logged of it; the others go on.
        May be left and called again: what was done stays done.
        """
        active = [name for name, history in self.histories.items() if history.failure is None]
        while active:
            for name in list(active):
                if not self._some_epochs(name):
                    active.remove(name)
                yield name

    def _some_epochs(self, name: str) -> bool:
        """Train one rule a little further; whether there is more to do."""
        now, history = self.trainings[name], self.histories[name]
        every, last = self.settings.log_every, self.settings.epochs
        step = min(self._next_logged(now.epoch) - now.epoch, MOST_AT_ONCE)
        times = 1
        if step == every:  # then several, each measured
            times = min(MOST_AT_ONCE, last - now.epoch) // every
        # What is not compiled is logged bit by bit, for what comes before a failure.
        at_once = 1 if isinstance(now, FullBatchTraining) else times
        with self._failing_alone(name):
            for _ in range(times // at_once):
                start = time.perf_counter()
                rows = now.advance(at_once, step)
                history.seconds += time.perf_counter() - start
                history.diverged = {history.seeds[i]: at for i, at in now.diverged.items()}
                ends = [history.diverged.get(seed, last + 1) for seed in history.seeds]
                for row in rows:
                    if row.epoch == self._next_logged(row.epoch - 1) and row.epoch < max(ends):
                        history.log(*row)
        return history.failure is None and bool(history.alive) and now.epoch < last

    def _next_logged(self, epoch: int) -> int:
        """The first epoch after this one whose errors are logged."""
        every, last = self.settings.log_every, self.settings.epochs
        power = 1 << epoch.bit_length() if epoch < every else last
        return min(power, (epoch // every + 1) * every, last)

    @contextmanager
    def _failing_alone(self, name: str) -> Generator[None]:
        """Enter what a rule raises, whatever it may be, in its history."""
        try:
            yield
        except Exception as failure:
            self.histories[name].failure = in_a_line(failure)
