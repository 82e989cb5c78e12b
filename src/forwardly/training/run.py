"""All state of a training run: what is refused before it, what an epoch measures, what is kept.

``fit`` trains one run by batches, ``fit_seeds`` several at once; all else is here, and is the same.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from forwardly import files
from forwardly.checks import check_kind, one_of
from forwardly.data import Augmentation, Dataset, Split
from forwardly.data.arrays import check_finite
from forwardly.errors import UsageError
from forwardly.feedback import JacobianMirror, Mirror
from forwardly.losses import check_classes, encoded
from forwardly.metrics import correct
from forwardly.rule import Rule, evaluating
from forwardly.training import checkpoint as checkpoints
from forwardly.training.batches import Batches, InMemory, batches_of, parts_of
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.settings import flat

Measure = Callable[[Rule, Tensor, Tensor], Mapping[str, float]]
"""(rule, x, target) → named figures, from a fixed batch of training samples, once an epoch."""

Row = dict[str, float]
"""What one epoch measured: epoch, loss, accuracy, validation_loss, validation_accuracy, …"""

_OWN_FIGURES = (
    *("epoch", "learning_rate", "loss", "accuracy", "rule_loss", "validation_loss"),
    *("validation_accuracy", "seconds", "samples_per_second"),
)
_EPOCHS_SHOWN = 10
_SAMPLES_TO_MEASURE = 256
_SAMPLES_TO_PREDICT = 10_000
"""Of the training set, for rules whose predictions are another pass than training's."""


@dataclass
class Fit:
    """A run of ``fit``, as far as it has come.

    Attributes:
        rows: what each epoch measured. Losses are means over samples, accuracies 0 to 1 (and only
            of data with classes), ``learning_rate`` that of the first parameter group, ``seconds``
            and ``samples_per_second`` of training alone. Those of the training set are of its
            batches as they came, before their update; for a rule whose ``Credit.output`` predicts
            nothing (see ``Rule.output_predicts``) they are measured as those of the validation set
            are, on up to 10,000 samples, and ``rule_loss`` is what the rule itself made smaller.
        diverged: the epoch in which the loss was no longer finite; training ended there.
        best: the epoch with the best figures so far: the highest accuracy of the validation part,
            and of equals, or where there are no classes, the lowest loss; of the training part if
            there is no other.
        stopped: whether training ended early, for want of patience.
    """

    rows: list[Row] = field(default_factory=list[Row])
    diverged: int | None = None
    best: int | None = None
    stopped: bool = False

    @classmethod
    def saved(cls, path: Path) -> Fit:
        """How far the run of a checkpoint has come.

        Raises:
            UsageError: if it is damaged.
        """
        state = checkpoints.load(path)
        try:
            return cls(list(map(dict, state["rows"])), state["diverged"], state["best_epoch"])
        except Exception as error:  # whatever comes of values of other kinds
            raise _damaged(path, error) from None

    @property
    def seconds(self) -> float:
        """Training time of all epochs."""
        return sum(row["seconds"] for row in self.rows)

    def curve(self, name: str) -> list[float]:
        """One figure after each epoch."""
        return [row[name] for row in self.rows]

    def _repr_html_(self) -> str:
        """In a notebook: a table of the first epoch and the last ones."""
        from forwardly.files import page  # which needs jinja2

        heads = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [[_shown(row[name]) if name in row else "" for name in heads] for row in self.rows]
        if len(lines) > _EPOCHS_SHOWN:
            lines[1 : 2 - _EPOCHS_SHOWN] = [["…" for _ in heads]]
        count = len(self.rows)
        caption = f"{count} epoch{'' if count == 1 else 's'}, {self.seconds:.1f} s of training"
        if self.diverged is not None:
            caption += f"; diverged in epoch {self.diverged}"
        return page.table(caption, [name.replace("_", " ") for name in heads], lines)


class Totals(NamedTuple):
    """What training saw in an epoch.

    Attributes:
        loss: summed over samples.
        right: samples whose class was found; None where there are no classes.
        samples: how many.
        seconds: of training alone.
    """

    loss: float
    right: int | None
    samples: int
    seconds: float


@dataclass
class Run:
    """All state of a run."""

    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    mirror: Mirror | JacobianMirror | None
    batches: Batches
    aside: Batches | None
    settings: dict[str, Any]
    augment: Augmentation
    fit: Fit = field(default_factory=Fit)
    last: tuple[Tensor, Tensor] | None = None
    """The batch that came last, where none can be looked at by itself."""
    best: dict[str, Tensor] | None = None
    """The rule's state after the best epoch, where it is to be kept."""

    def end_epoch(self, seen: Totals, measures: Sequence[Measure], *, keep: bool) -> Row:
        """Measure, let the scheduler know, and note the row; if it is the best so far, the state.

        ``fit.diverged`` is set if a loss is not finite.
        """
        row: Row = {
            "epoch": float(len(self.fit.rows) + 1),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "loss": seen.loss / seen.samples,
        }
        if not self.rule.output_predicts:
            row["rule_loss"] = row["loss"]
            row |= self._of_training()
        elif seen.right is not None:
            row["accuracy"] = seen.right / seen.samples
        if self.aside is not None:
            found = evaluated(self.rule, self.aside)
            row |= {f"validation_{name}": value for name, value in found.items()}
        row |= {"seconds": seen.seconds, "samples_per_second": seen.samples / seen.seconds}
        if not all(math.isfinite(row.get(name, 0)) for name in ("loss", "validation_loss")):
            self.fit.diverged = len(self.fit.rows) + 1
        else:
            row |= self.measured(measures)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(row.get("validation_loss", row["loss"]))  # pyright: ignore[reportUnknownMemberType]
            elif self.scheduler is not None:
                self.scheduler.step()
        self._add(row, keep=keep)
        return row

    def measured(self, measures: Sequence[Measure]) -> Row:
        """The figures of measures."""
        row: Row = {}
        batch = self.batches.first(_SAMPLES_TO_MEASURE) if measures else None
        batch = batch or self.last
        if batch is None or not measures:
            return row
        with evaluating(self.rule):
            for measure in measures:
                figures = measure(self.rule, *batch)
                try:
                    found = {name: float(figure) for name, figure in figures.items()}
                except (AttributeError, TypeError, ValueError, RuntimeError):
                    raise TypeError(
                        f"a measure must return named figures, as {{'norm': 1.0}}; {measure} "
                        f"returned {figures!r}"
                    ) from None
                if taken := found.keys() & {*row, *_OWN_FIGURES}:
                    raise UsageError(f"a measure calls its figure {min(taken)!r}, which is taken")
                row |= found
        return row

    def _of_training(self) -> Row:
        """Figures of predictions on training samples; none of a stream, which would go on."""
        if isinstance(self.batches, InMemory):
            some = batches_of(_some(self.batches.split), next(self.rule.model.parameters()))
            return evaluated(self.rule, some)
        return {} if self.batches.count is None else evaluated(self.rule, self.batches)

    def _add(self, row: Row, *, keep: bool) -> None:
        rows = self.fit.rows
        rows.append(row)
        if self.fit.diverged is not None:
            return
        if self.fit.best is None or _figure(row) > _figure(rows[self.fit.best - 1]):
            self.fit.best = len(rows)
            if keep:
                state = self.rule.state_dict()
                self.best = {name: value.detach().clone() for name, value in state.items()}

    def impatient(self, patience: int | None) -> bool:
        """Whether so many epochs have passed since the best one."""
        if patience is None or self.fit.best is None:
            return False
        return len(self.fit.rows) - self.fit.best >= patience

    def save(self, path: Path) -> None:
        """Everything, in one file."""
        checkpoints.save(path, {**self.state(), "rule": self.rule.state_dict()})

    def state(self) -> dict[str, Any]:
        """All but the rule's own."""
        return {
            "settings": self.settings,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "mirror": None if self.mirror is None else self.mirror.state_dict(),
            "batches": self.batches.state(),
            "global_random_state": torch.get_rng_state(),
            "rows": self.fit.rows,
            "diverged": self.fit.diverged,
            "best_epoch": self.fit.best,
            "best": self.best,
        }

    def load(self, path: Path) -> None:
        """Continue from a file.

        Raises:
            UsageError: if it is damaged, or of a run with other settings.
        """
        try:
            self._load(path)
        except UsageError:
            raise
        except Exception as error:  # whatever comes of values of other kinds
            raise _damaged(path, error) from None

    def _load(self, path: Path) -> None:
        state = checkpoints.load(path)
        theirs, ours = flat(state["settings"]), flat(self.settings)
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
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{path} is of another model: {error}") from None
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.mirror is not None:
            self.mirror.load_state_dict(state["mirror"])
        self.batches.load_state(state["batches"])
        torch.set_rng_state(state["global_random_state"])
        self.fit.rows, self.fit.diverged = state["rows"], state["diverged"]
        self.fit.best, self.best = state["best_epoch"], state["best"]
        if self.fit.rows and self.fit.diverged != 1:
            self.fit.rows[operator.index(state["best_epoch"]) - 1]  # is there
        if self.best is not None:
            ours = {name: value.shape for name, value in self.rule.state_dict().items()}
            if {name: value.shape for name, value in self.best.items()} != ours:
                raise ValueError("its best state is of another model")


def begin(
    rule: Rule,
    data: Any,
    optimizer: Optimizer,
    *,
    batch: int,
    seed: int,
    validation: Any = None,
    target: str | None = None,
    keep: str = "last",
    scheduler: LRScheduler | ReduceLROnPlateau | None = None,
    measures: Sequence[Measure] = (),
    mirror: Mirror | JacobianMirror | None = None,
    checkpoint: Path | None = None,
    drop_last: bool = False,
    augment: Augmentation | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """A run before its first epoch; what could not be trained or continued is refused.

    The arguments are those of ``fit``, which says what is raised.
    """
    check_kind("rule", rule, Rule)
    check_kind("optimizer", optimizer, Optimizer)
    check_kind("scheduler", scheduler, LRScheduler, ReduceLROnPlateau, type(None))
    check_kind("mirror", mirror, Mirror, JacobianMirror, type(None))
    check_kind("settings", settings, Mapping, type(None))
    check_kind("measures", measures, Sequence)
    check_kind("augment", augment, Augmentation, type(None))
    if not all(callable(measure) for measure in measures):
        raise TypeError(f"measures must be functions; given {measures!r}")
    if one_of("keep", keep, ("last", "best")) == "best":
        settings = {**(settings or {}), "keep": keep}
    place = next(rule.model.parameters())
    train, aside = parts_of(data, validation, rule, target, seed)
    batches = batches_of(train, place, batch=batch, seed=seed, drop_last=drop_last)
    measured = None if aside is None else batches_of(aside, place)
    run = Run(
        rule,
        optimizer,
        scheduler,
        mirror,
        batches,
        measured,
        {
            **(settings or {}),
            "rule": type(rule).__name__,
            "rule_options": _options_of(rule),
            "loss": _described(rule.loss),
            "optimizer": type(optimizer).__name__,
            "scheduler": None if scheduler is None else type(scheduler).__name__,
            "seed": seed,
            "batches": batches.described(),
            "validation_batches": None if measured is None else measured.described(),
            "batch": batches.size,
            **({"drop_last": True} if drop_last else {}),
            **({"augment": repr(augment)} if augment else {}),
        },
        augment or Augmentation(),
    )
    if not (rule.training and rule.model.training):
        rule.train()
    _check(run, data, checkpoint, measures)
    return run


def evaluated(rule: Rule, batches: Batches) -> Row:
    """Loss and, for classes, accuracy of ``rule.predict`` over all batches; see ``evaluate``."""
    total, right, samples = 0.0, 0, 0
    counted = True
    with evaluating(rule):
        for x, target in batches.once():
            output = rule.predict(x)
            if rule.own_error is None:  # then it is known what the loss takes
                encoded(rule.loss, target, tuple(output.shape), output.dtype)
            total += float(rule.loss_value(output, target)) * len(x)
            samples += len(x)
            found = correct(output, target)
            counted &= found is not None
            right += 0 if found is None else int(found)
    if not samples:
        raise ValueError("there is no sample to evaluate: the split is empty")
    row = {"loss": total / samples}
    if counted:
        row["accuracy"] = right / samples
    return row


def _check(run: Run, data: Any, path: Path | None, measures: Sequence[Measure]) -> None:
    """Refuse before the first epoch what could not be done or continued."""
    _check_optimizer(run)
    for name, batches in (("training", run.batches), ("validation", run.aside)):
        if not isinstance(batches, InMemory):
            continue
        if len(batches.split) == 0:
            raise UsageError(f"the {name} part of the data set is empty")
        if batches.count == 0:
            raise UsageError(
                f"drop_last leaves nothing of {len(batches.split)} samples in batches of "
                f"{batches.size}"
            )
        for what, values in (("samples", batches.split.x), ("targets", batches.split.target)):
            check_finite(values, f"the {what} of the {name} part")
    if path is not None:
        try:
            files.check_place(path)
        except (OSError, ValueError):
            raise UsageError(
                f"cannot write a checkpoint to {path}: name a file in a folder"
            ) from None
        checkpoints.check(run.state())
    if run.rule.network.altered:
        return  # hooks should see nothing but training
    # A step on the smallest batch and a look at the validation part, of which nothing remains.
    first = run.batches.first(run.batches.smallest)
    if first is None:
        return  # a stream's would be lost
    run.augment.check(tuple(first[0].shape[1:]))
    output = run.rule(*first).output
    splits = [part.split for part in (run.batches, run.aside) if isinstance(part, InMemory)]
    if isinstance(data, Dataset):
        splits.append(data.test)
    for split in splits:
        classes = not split.target.is_floating_point() and split.target.dim() == 1
        if classes and output.dim() == 2 and len(split):
            check_classes(split.target, output.shape[1])
    few = None if run.aside is None else run.aside.first(2)
    if few is not None:
        try:
            evaluated(run.rule, InMemory(Split(*few), 2, 0, False, few[0]))
        except RuntimeError as problem:
            raise UsageError(
                f"the model does not take the validation part, samples of "
                f"{tuple(few[0].shape[1:])}: {problem}"
            ) from None
    with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
        run.measured(measures)


def _check_optimizer(run: Run) -> None:
    rule, optimizer = run.rule, run.optimizer
    if isinstance(optimizer, LocalSGD):
        if optimizer.rule is not rule:
            raise UsageError("the optimizer trains another rule's model: make LocalSGD of this one")
    elif _needs_closure(type(optimizer)):
        raise UsageError(
            f"{type(optimizer).__name__} needs a closure, which it calls several times a step; fit "
            "computes one update a batch: take another optimizer"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(rule.model.get_parameter(name)) in held for name in rule.trained):
        raise UsageError(
            "the optimizer holds no parameter that the rule trains: make it of "
            "rule.model.parameters()"
        )
    if missing := [n for n, p in rule.learned.items() if id(p) not in held]:
        raise UsageError(
            f"the optimizer does not hold {', '.join(missing)}, which {type(rule).__name__} learns "
            "beside the model: make it of rule.parameters()"
        )
    if run.scheduler is not None and run.scheduler.optimizer is not optimizer:
        raise UsageError("the scheduler is of another optimizer")
    if getattr(run.scheduler, "mode", "min") == "max" and isinstance(
        run.scheduler, ReduceLROnPlateau
    ):
        raise UsageError("the scheduler sees a loss, which is to fall: make it with mode='min'")
    if run.mirror is not None and run.mirror.rule is not rule:
        raise UsageError("the mirror is of another rule")


def _needs_closure(kind: type[Optimizer]) -> bool:
    _, *parameters = inspect.signature(kind.step).parameters.values()  # pyright: ignore[reportUnknownMemberType]
    return any(p.name == "closure" and p.default is p.empty for p in parameters)


def _described(loss: torch.nn.Module) -> str:
    """A loss with its settings, which its own ``repr`` leaves out."""
    own = sorted(vars(loss).items())
    given = (f"{n}={v!r}" for n, v in own if n[0] != "_" and n != "training")
    return f"{type(loss).__name__}({', '.join(given)})"


def _options_of(rule: Rule) -> dict[str, str]:
    """What of a rule's options is plain data; what they have drawn is in its buffers."""
    names = inspect.signature(type(rule)).parameters
    given = {name: getattr(rule, name, None) for name in names}
    return {n: str(v) for n, v in given.items() if isinstance(v, int | float | str)}


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is damaged, or no checkpoint of fit: {type(error).__name__}: {error}"
    )


def _figure(row: Row) -> tuple[float, float]:
    """What is best where it is largest; see ``Fit.best``."""
    part = "validation_" if "validation_loss" in row else ""
    return row.get(f"{part}accuracy", 0.0), -row[f"{part}loss"]


def _some(split: Split) -> Split:
    """All samples, or if there are many some from every part."""
    every = math.ceil(len(split) / _SAMPLES_TO_PREDICT)
    return Split(split.x[::every], split.target[::every])


def _shown(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.4g}"
