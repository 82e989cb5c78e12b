"""One training loop for all rules and all torch optimizers and schedulers.

``fit`` trains by batches and measures after every epoch. With a checkpoint file, a run that was
killed at any moment continues from its last whole epoch and ends with the same weights, bit for
bit, as one that was left alone: the file holds the rule (model, feedback, state of dropout), the
optimizer, the scheduler, all random states and what was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from forwardly import checkpoint as checkpoints
from forwardly.data import Dataset, Split
from forwardly.errors import UsageError
from forwardly.feedback import Mirror
from forwardly.local_sgd import LocalSGD
from forwardly.rule import Rule

Measure = Callable[[Rule, Tensor, Tensor], Mapping[str, float]]
"""(rule, x, target) → named figures, from a fixed batch of training samples, once an epoch."""

Row = dict[str, float]
"""What one epoch measured: epoch, loss, accuracy, validation_loss, validation_accuracy, …"""

_BATCHES_BETWEEN_CHECKS = 50
_SAMPLES_TO_EVALUATE_AT_ONCE = 1000
_SAMPLES_TO_MEASURE = 256


@dataclass
class Fit:
    """A run of ``fit``, as far as it has come.

    Attributes:
        rows: what each epoch measured. Losses are means over samples, accuracies 0 to 1 (and only
            of data with classes), ``learning_rate`` that of the first parameter group, ``seconds``
            and ``samples_per_second`` of training alone.
        diverged: the epoch in which the loss was no longer finite; training ended there.
    """

    rows: list[Row] = field(default_factory=list[Row])
    diverged: int | None = None

    @property
    def seconds(self) -> float:
        """Training time of all epochs."""
        return sum(row["seconds"] for row in self.rows)

    def curve(self, name: str) -> list[float]:
        """One figure after each epoch."""
        return [row[name] for row in self.rows]


def fit(
    rule: Rule,
    dataset: Dataset,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch: int = 64,
    scheduler: LRScheduler | ReduceLROnPlateau | None = None,
    seed: int = 0,
    measures: Sequence[Measure] = (),
    mirror: Mirror | None = None,
    mirror_every: int = 1,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> Fit:
    """Train a rule's model on a data set; the model is changed in place.

    Args:
        rule: what trains, built on the model.
        dataset: its training part is learned, its validation part measured; its test part is not
            looked at, see ``evaluate``.
        optimizer: of the model's parameters.
        epochs: passes over the training samples, in all; a resumed run makes those that are left.
        batch: samples a step; the last batch of an epoch may be smaller.
        scheduler: stepped after every epoch; a plateau scheduler sees the validation loss.
        seed: of the order of the batches.
        measures: what else to measure after each epoch, see ``Measure``; their figures join the
            row.
        mirror: stepped every ``mirror_every`` batches.
        mirror_every: see ``mirror``.
        checkpoint: the file to write after every epoch.
        resume: continue from that file, if it is there.
        settings: plain data that a run must share with the checkpoint that it continues.
        on_batch: called after each batch with the number of those done in this epoch, and of all.
        on_epoch: called after each epoch, its checkpoint written, with its row.

    Raises:
        UsageError: if epochs or batch are below 1, or the checkpoint is damaged or of another run.
        ValueError: what the rule raises for a batch that it cannot take.
    """
    for name, value in (("epochs", epochs), ("batch", batch), ("mirror_every", mirror_every)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1; given {value}")
    run = _Run(rule, optimizer, scheduler, mirror, seed, batch, dict(settings or {}))
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    fixed = dataset.train.batch(slice(_SAMPLES_TO_MEASURE), _dtype(rule))
    while len(run.fit.rows) < epochs and run.fit.diverged is None:
        row = _epoch(run, dataset, batch, mirror_every, on_batch)
        if run.fit.diverged is None:
            rule.eval()
            for measure in measures:
                row |= measure(rule, *fixed)
            rule.train()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(row["validation_loss"])  # pyright: ignore[reportUnknownMemberType]
            elif scheduler is not None:
                scheduler.step()
        run.fit.rows.append(row)
        if checkpoint is not None:
            run.save(checkpoint)
        if on_epoch is not None:
            on_epoch(row)
    return run.fit


def evaluate(rule: Rule, split: Split) -> Row:
    """Loss and, for classes, accuracy of ``rule.predict`` over all samples.

    Returns:
        "loss", the mean over samples, and "accuracy", 0 to 1.
    """
    was_training = rule.training
    rule.eval()
    total, right = 0.0, 0
    for start in range(0, len(split), _SAMPLES_TO_EVALUATE_AT_ONCE):
        chosen = slice(start, start + _SAMPLES_TO_EVALUATE_AT_ONCE)
        x, target = split.batch(chosen, _dtype(rule))
        output = rule.predict(x)
        total += float(rule.loss_value(output, target)) * len(x)
        if not target.is_floating_point():
            right += int((output.argmax(1) == target).sum())
    rule.train(was_training)
    row = {"loss": total / len(split)}
    if not split.target.is_floating_point():
        row["accuracy"] = right / len(split)
    return row


@dataclass
class _Run:
    """All state of a run."""

    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    mirror: Mirror | None
    seed: int
    batch: int
    settings: dict[str, Any]
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        self.order = torch.Generator().manual_seed(self.seed)
        self.settings |= {
            "rule": type(self.rule).__name__,
            "optimizer": type(self.optimizer).__name__,
            "seed": self.seed,
            "batch": self.batch,
        }

    def save(self, path: Path) -> None:
        """Everything, in one file."""
        state: dict[str, Any] = {
            "settings": self.settings,
            "rule": self.rule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "mirror": None if self.mirror is None else self.mirror.state_dict(),
            "order": self.order.get_state(),
            "global_random_state": torch.get_rng_state(),
            "rows": self.fit.rows,
            "diverged": self.fit.diverged,
        }
        checkpoints.save(path, state)

    def load(self, path: Path) -> None:
        """Continue from a file.

        Raises:
            UsageError: if it is damaged, or of a run with other settings.
        """
        state = checkpoints.load(path)
        theirs, ours = _flat(state["settings"]), _flat(self.settings)
        other = [
            f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here"
            for name in sorted(ours.keys() | theirs.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if other:
            raise UsageError(f"{path} is of a run with other settings: {'; '.join(other)}")
        try:
            self.rule.load_state_dict(state["rule"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as reason:
            raise UsageError(f"{path} is of another model: {reason}") from None
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.mirror is not None:
            self.mirror.load_state_dict(state["mirror"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["global_random_state"])
        self.fit.rows, self.fit.diverged = state["rows"], state["diverged"]


def _epoch(
    run: _Run,
    dataset: Dataset,
    batch: int,
    mirror_every: int,
    on_batch: Callable[[int, int], None] | None,
) -> Row:
    """One pass over the training samples; sets ``run.fit.diverged`` if the loss is not finite."""
    rule, split = run.rule, dataset.train
    dtype, device = _dtype(rule), split.x.device
    rule.train()
    epoch = len(run.fit.rows) + 1
    rate = float(run.optimizer.param_groups[0]["lr"])
    row: Row = {"epoch": float(epoch), "learning_rate": rate}
    losses: list[Tensor] = []  # times samples; they stay on the device until the next check
    total = 0.0
    right = torch.zeros((), dtype=torch.int64, device=device)
    order = torch.randperm(len(split), generator=run.order, device="cpu").to(device)
    batches = math.ceil(len(split) / batch)
    began = time.perf_counter()
    for done in range(1, batches + 1):
        x, target = split.batch(order[(done - 1) * batch : done * batch], dtype)
        if isinstance(run.optimizer, LocalSGD):
            credit = run.optimizer.step(x, target)
        else:
            run.optimizer.zero_grad()
            credit = rule.accumulate(x, target)
            run.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(credit.loss * len(x))
        if dataset.classes:
            right += (credit.output.argmax(1) == target).sum()
        if run.mirror is not None and done % mirror_every == 0:
            run.mirror.step()
        if done % _BATCHES_BETWEEN_CHECKS == 0:
            total, losses = _plus(total, losses), []
            if not math.isfinite(total):
                break
        if on_batch is not None:
            on_batch(done, batches)
    seconds = time.perf_counter() - began
    row["loss"] = _plus(total, losses) / len(split)
    if dataset.classes:
        row["accuracy"] = int(right) / len(split)
    measured = evaluate(rule, dataset.validation)
    row |= {f"validation_{name}": value for name, value in measured.items()}
    row |= {"seconds": seconds, "samples_per_second": len(split) / seconds}
    if not (math.isfinite(row["loss"]) and math.isfinite(row["validation_loss"])):
        run.fit.diverged = epoch
    return row


def _plus(total: float, losses: Sequence[Tensor]) -> float:
    """Their sum in Python's numbers, one by one: not every device has float64."""
    values = cast(list[float], torch.stack([*losses]).tolist() if losses else [])  # pyright: ignore[reportUnknownMemberType]
    for value in values:
        total += value
    return total


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings side by side, as "outer.inner"."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _dtype(rule: Rule) -> torch.dtype:
    return next(rule.model.parameters()).dtype
