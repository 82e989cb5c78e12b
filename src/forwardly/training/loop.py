"""One training loop for all rules and all torch optimizers and schedulers.

``fit`` trains by batches and measures after every epoch. With a checkpoint file, a run that was
killed at any moment continues from its last whole epoch and ends with the same weights, bit for
bit, as one that was left alone: the file holds the rule (model, feedback, state of dropout), the
optimizer, the scheduler, all random states and what was measured.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from forwardly.checks import check_kind
from forwardly.data import Dataset, Split
from forwardly.errors import UsageError
from forwardly.feedback import Mirror
from forwardly.losses import check_classes, encoded
from forwardly.metrics import correct
from forwardly.rule import Rule
from forwardly.training import checkpoint as checkpoints
from forwardly.training.local_sgd import LocalSGD

Measure = Callable[[Rule, Tensor, Tensor], Mapping[str, float]]
"""(rule, x, target) → named figures, from a fixed batch of training samples, once an epoch."""

Row = dict[str, float]
"""What one epoch measured: epoch, loss, accuracy, validation_loss, validation_accuracy, …"""

_BATCHES_BETWEEN_CHECKS = 50
_SAMPLES_TO_EVALUATE_AT_ONCE = 1000
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
    checkpoint: Path | str | None = None,
    resume: bool = False,
    drop_last: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> Fit:
    """Train a rule's model on a data set; the model is changed in place.

    What cannot be trained, or could not be continued, is refused before the first epoch. Modules
    that are in evaluation mode, such as a frozen batch normalisation, stay in it, unless the whole
    model is.

    Args:
        rule: what trains, built on the model.
        dataset: its training part is learned, its validation part measured; its test part is not
            looked at, see ``evaluate``.
        optimizer: of the model's parameters.
        epochs: passes over the training samples, in all; a resumed run makes those that are left.
        batch: samples a step; the last batch of an epoch may be smaller, see ``drop_last``.
        scheduler: stepped after every epoch; a plateau scheduler sees the validation loss.
        seed: of the order of the batches.
        measures: what else to measure after each epoch, see ``Measure``; their figures join the
            row.
        mirror: stepped every ``mirror_every`` batches.
        mirror_every: see ``mirror``.
        checkpoint: the file to write after every epoch.
        resume: continue from that file, if it is there.
        drop_last: whether to leave out samples that do not fill the last batch of an epoch.
        settings: plain data that a run must share with the checkpoint that it continues.
        on_batch: called after each batch with the number of those done in this epoch, and of all.
        on_epoch: called after each epoch, its checkpoint written, with its row.

    Raises:
        TypeError: if an argument is something else than what is asked for; what the rule raises.
        UsageError: if a number or a split makes no sense, if the optimizer trains another model or
            needs a closure, or the checkpoint is damaged, of another run, or cannot be written.
        ValueError: what the rule raises for a batch that it cannot take.
    """
    seed = _whole("seed", seed)
    epochs, batch, mirror_every = (
        _whole(name, value, least=1)
        for name, value in (("epochs", epochs), ("batch", batch), ("mirror_every", mirror_every))
    )
    path = None if checkpoint is None else Path(checkpoint)
    check_kind("rule", rule, Rule)
    check_kind("optimizer", optimizer, Optimizer)
    check_kind("scheduler", scheduler, LRScheduler, ReduceLROnPlateau, type(None))
    check_kind("mirror", mirror, Mirror, type(None))
    check_kind("settings", settings, Mapping, type(None))
    check_kind("measures", measures, Sequence)
    for name, calls in (("measures", measures), ("on_batch and on_epoch", (on_batch, on_epoch))):
        if not all(call is None or callable(call) for call in calls):
            raise TypeError(f"{name} must be functions; given {calls!r}")
    if resume and path is None:
        raise UsageError("resume needs checkpoint, the file to continue from")
    run = _Run(rule, optimizer, scheduler, mirror, seed, batch, drop_last, dict(settings or {}))
    if not (rule.training and rule.model.training):
        rule.train()
    _check(run, dataset, path, measures)
    if resume and path is not None and path.exists():
        run.load(path)
    while len(run.fit.rows) < epochs and run.fit.diverged is None:
        row = _epoch(run, dataset, mirror_every, on_batch)
        if run.fit.diverged is None:
            row |= _measured(measures, rule, dataset)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(row["validation_loss"])  # pyright: ignore[reportUnknownMemberType]
            elif scheduler is not None:
                scheduler.step()
        run.fit.rows.append(row)
        if path is not None:
            run.save(path)
        if on_epoch is not None:
            on_epoch(row)
    return run.fit


def evaluate(rule: Rule, split: Split) -> Row:
    """Loss and, for classes, accuracy of ``rule.predict`` over all samples.

    Returns:
        "loss", the mean over samples, and "accuracy", 0 to 1.

    Raises:
        ValueError: if there is no sample, or targets do not fit the loss.
    """
    check_kind("rule", rule, Rule)
    check_kind("split", split, Split)
    if len(split) == 0:
        raise ValueError("there is no sample to evaluate: the split is empty")
    total, right = 0.0, 0
    counted = True
    with evaluating(rule):
        for start in range(0, len(split), _SAMPLES_TO_EVALUATE_AT_ONCE):
            chosen = slice(start, start + _SAMPLES_TO_EVALUATE_AT_ONCE)
            x, target = split.batch(chosen, _dtype(rule))
            output = rule.predict(x)
            if rule.own_error is None:  # then it is known what the loss takes
                encoded(rule.loss, target, tuple(output.shape), output.dtype)
            total += float(rule.loss_value(output, target)) * len(x)
            found = correct(output, target)
            counted &= found is not None
            right += 0 if found is None else int(found)
    row = {"loss": total / len(split)}
    if counted:
        row["accuracy"] = right / len(split)
    return row


def _shown(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.4g}"


@contextmanager
def evaluating(rule: Rule) -> Generator[None]:
    """Evaluation mode, and after it each module's own mode again."""
    modes = [(module, module.training) for module in rule.modules()]
    rule.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, NumPy's too, as Python's."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number; given {value!r}") from None
    if least is not None and whole < least:
        raise UsageError(f"{name} must be at least {least}; given {value}")
    return whole


def _check(run: _Run, dataset: Dataset, path: Path | None, measures: Sequence[Measure]) -> None:
    """Refuse before the first epoch what could not be done or continued."""
    if not isinstance(dataset, Dataset):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"fit takes a Dataset; given is a {type(dataset).__name__}. Make one of tensors: "
            "Dataset(name, outputs, train, validation, test) from forwardly.data, each part a "
            "Split(x, target)"
        )
    _check_optimizer(run)
    for name, split in (("training", dataset.train), ("validation", dataset.validation)):
        if len(split) == 0:
            raise UsageError(f"the {name} part of the data set is empty")
        for what, values in (("samples", split.x), ("targets", split.target)):
            if values.is_floating_point() and not values.isfinite().all():
                raise UsageError(
                    f"the {what} of the {name} part have a NaN or an infinity: clean the data"
                )
    if run.drop_last and len(dataset.train) < run.batch:
        raise UsageError(
            f"drop_last leaves nothing of {len(dataset.train)} samples in batches of {run.batch}"
        )
    if path is not None:
        if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"cannot write a checkpoint to {path}: name a file in a folder")
        checkpoints.check(run.state())
    if run.rule.network.altered:
        return  # hooks should see nothing but training
    # A step on the smallest batch and a look at the validation part, of which nothing remains.
    left = 0 if run.drop_last else len(dataset.train) % run.batch
    smallest = slice(left or min(run.batch, len(dataset.train)))
    output = run.rule(*dataset.train.batch(smallest, _dtype(run.rule))).output
    if dataset.classes and output.dim() == 2:
        for split in (dataset.train, dataset.validation, dataset.test):
            if len(split):
                check_classes(split.target, output.shape[1])
    evaluate(run.rule, Split(dataset.validation.x[:2], dataset.validation.target[:2]))
    with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
        _measured(measures, run.rule, dataset)


def _check_optimizer(run: _Run) -> None:
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
    if run.scheduler is not None and run.scheduler.optimizer is not optimizer:
        raise UsageError("the scheduler is of another optimizer")
    if run.mirror is not None and run.mirror.rule is not rule:
        raise UsageError("the mirror is of another rule")


def _needs_closure(kind: type[Optimizer]) -> bool:
    _, *parameters = inspect.signature(kind.step).parameters.values()  # pyright: ignore[reportUnknownMemberType]
    return any(p.name == "closure" and p.default is p.empty for p in parameters)


@dataclass
class _Run:
    """All state of a run."""

    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    mirror: Mirror | None
    seed: int
    batch: int
    drop_last: bool
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
        if self.drop_last:
            self.settings["drop_last"] = True

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
            "order": self.order.get_state(),
            "global_random_state": torch.get_rng_state(),
            "rows": self.fit.rows,
            "diverged": self.fit.diverged,
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
            raise UsageError(
                f"{path} is damaged, or no checkpoint of fit: {type(error).__name__}: {error}"
            ) from None

    def _load(self, path: Path) -> None:
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
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{path} is of another model: {error}") from None
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
    mirror_every: int,
    on_batch: Callable[[int, int], None] | None,
) -> Row:
    """One pass over the training samples; sets ``run.fit.diverged`` if the loss is not finite."""
    rule, split, batch = run.rule, dataset.train, run.batch
    dtype, device = _dtype(rule), split.x.device
    epoch = len(run.fit.rows) + 1
    rate = float(run.optimizer.param_groups[0]["lr"])
    row: Row = {"epoch": float(epoch), "learning_rate": rate}
    losses: list[Tensor] = []  # times samples; they stay on the device until the next check
    total = 0.0
    right: Tensor | None = torch.zeros((), dtype=torch.int64, device=device)
    order = torch.randperm(len(split), generator=run.order, device="cpu").to(device)
    batches = len(split) // batch if run.drop_last else math.ceil(len(split) / batch)
    samples = min(len(split), batches * batch)
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
        found = correct(credit.output, target)
        right = None if right is None or found is None else right + found
        if run.mirror is not None and done % mirror_every == 0:
            run.mirror.step()
        if done % _BATCHES_BETWEEN_CHECKS == 0:
            total, losses = _plus(total, losses), []
            if not math.isfinite(total):
                break
        if on_batch is not None:
            on_batch(done, batches)
    total = _plus(total, losses)
    seconds = time.perf_counter() - began
    if rule.output_predicts:
        row["loss"] = total / samples
        if right is not None:
            row["accuracy"] = int(right) / samples
    else:
        row |= evaluate(rule, _some(split)) | {"rule_loss": total / samples}
    measured = evaluate(rule, dataset.validation)
    row |= {f"validation_{name}": value for name, value in measured.items()}
    row |= {"seconds": seconds, "samples_per_second": samples / seconds}
    if not all(math.isfinite(row[name]) for name in ("loss", "validation_loss")):
        run.fit.diverged = epoch
    return row


def _measured(measures: Sequence[Measure], rule: Rule, dataset: Dataset) -> Row:
    row: Row = {}
    batch = dataset.train.batch(slice(_SAMPLES_TO_MEASURE), _dtype(rule))
    with evaluating(rule):
        for measure in measures:
            figures = measure(rule, *batch)
            try:
                row |= {name: float(figure) for name, figure in figures.items()}
            except (AttributeError, TypeError, ValueError, RuntimeError):
                raise TypeError(
                    f"a measure must return named figures, as {{'norm': 1.0}}; {measure} returned "
                    f"{figures!r}"
                ) from None
    return row


def _some(split: Split) -> Split:
    """All samples, or if there are many some from every part."""
    every = math.ceil(len(split) / _SAMPLES_TO_PREDICT)
    return Split(split.x[::every], split.target[::every])


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
