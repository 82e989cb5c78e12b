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
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from forwardly.checks import check_kind
from forwardly.data import Augmentation, Dataset
from forwardly.errors import UsageError, whole_number
from forwardly.feedback import JacobianMirror, Mirror
from forwardly.metrics import correct
from forwardly.rule import Rule
from forwardly.training.batches import batches_of, parts_of
from forwardly.training.launched import Launched, why_not_launched
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.progress import shown
from forwardly.training.run import Fit, Measure, Row, Run, Totals, begin, evaluated

_BATCHES_BETWEEN_CHECKS = 50


def fit(
    rule: Rule,
    data: Any,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch: int = 64,
    validation: Any = None,
    target: str | None = None,
    patience: int | None = None,
    keep: Literal["last", "best"] = "last",
    scheduler: LRScheduler | ReduceLROnPlateau | None = None,
    seed: int = 0,
    measures: Sequence[Measure] = (),
    mirror: Mirror | JacobianMirror | None = None,
    mirror_every: int = 1,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    drop_last: bool = False,
    augment: Augmentation | None = None,
    settings: Mapping[str, Any] | None = None,
    on_batch: Callable[[int, int | None], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    progress: bool | None = None,
) -> Fit:
    """Train a rule's model on data; the model is changed in place.

    What cannot be trained, or could not be continued, is refused before the first epoch. Modules
    that are in evaluation mode, such as a frozen batch normalisation, stay in it, unless the whole
    model is.

    Args:
        rule: what trains, built on the model.
        data: what to learn: a ``Dataset``, of which the test part is not looked at (see
            ``evaluate``); a pair (x, target) of tensors or arrays; a frame of pandas, see
            ``target``; a data set or a DataLoader of torch's, whose batches are pairs (x, target).
            Bytes (uint8) stand for 0 to 1. Arrays of targets are taken as the loss takes them:
            whole numbers as class indices by cross-entropy, all else as numbers.
        optimizer: of the model's parameters.
        epochs: passes over the training samples, in all; a resumed run makes those that are left.
        batch: samples a step, but of a DataLoader, which has its own; the last batch of an epoch
            may be smaller, see ``drop_last``.
        validation: what to measure after each epoch, of any kind that ``data`` may be; or a share
            such as 0.1, or a number of samples, to put aside. If None, the validation part of a
            ``Dataset``, or nothing.
        target: the column of a frame that is to be learned.
        patience: end training after so many epochs without a new best figure, see ``Fit.best``.
        keep: whether the model is left as the last epoch made it, or the best.
        scheduler: stepped after every epoch; a plateau scheduler sees the validation loss (that of
            training if there is no other).
        seed: of the order of the batches, and which samples are put aside.
        measures: what else to measure after each epoch, see ``Measure``; their figures join the
            row. They are called once before the first, too, to see whether they can be.
        mirror: stepped every ``mirror_every`` batches, with the batch.
        mirror_every: see ``mirror``.
        checkpoint: the file to write after every epoch; of several processes that share out
            batches, the first writes it, and all must see it to continue.
        resume: continue from that file, if it is there.
        drop_last: whether to leave out samples that do not fill the last batch of an epoch.
        augment: how images to train on are changed at random, by ``seed``; validation sees them as
            they are.
        settings: plain data that a run must share with the checkpoint that it continues.
        on_batch: called after each batch with the number of those done in this epoch, and of all
            (None of a stream).
        on_epoch: called after each epoch, its checkpoint written, with its row.
        progress: whether to show a bar; if None, in a notebook.

    Raises:
        TypeError: if an argument is something else than what is asked for; what the rule raises.
        UsageError: if a number or a split makes no sense, if the optimizer trains another model or
            needs a closure, or the checkpoint is damaged, of another run, or cannot be written.
        ValueError: what the rule raises for a batch that it cannot take.
    """
    seed = whole_number("seed", seed)
    epochs, batch, mirror_every = (
        whole_number(name, value, least=1)
        for name, value in (("epochs", epochs), ("batch", batch), ("mirror_every", mirror_every))
    )
    patience = None if patience is None else whole_number("patience", patience, least=1)
    path = None if checkpoint is None else Path(checkpoint)
    if not all(call is None or callable(call) for call in (on_batch, on_epoch)):
        raise TypeError(f"on_batch and on_epoch must be functions; given {(on_batch, on_epoch)!r}")
    if resume and path is None:
        raise UsageError("resume needs checkpoint, the file to continue from")
    run = begin(
        rule,
        data,
        optimizer,
        batch=batch,
        seed=seed,
        validation=validation,
        target=target,
        keep=keep,
        scheduler=scheduler,
        measures=measures,
        mirror=mirror,
        checkpoint=path,
        drop_last=drop_last,
        augment=augment,
        settings=settings,
    )
    if resume and path is not None and path.exists():
        run.load(path)
    made = run.fit
    launched = None if why_not_launched(run) else Launched(run)
    with shown(progress, epochs) as bar:
        while len(made.rows) < epochs and made.diverged is None and not run.impatient(patience):
            if launched is None:
                seen = _trained(run, mirror_every, on_batch)
            else:
                seen = launched.epoch(on_batch)
            row = run.end_epoch(seen, measures, keep=keep == "best")
            if path is not None and (rule.parallel is None or rule.parallel.leads):
                run.save(path)
            if on_epoch is not None:
                on_epoch(row)
            bar(row)
    made.stopped = made.diverged is None and len(made.rows) < epochs
    if run.best is not None:
        rule.load_state_dict(run.best)
    return made


def evaluate(rule: Rule, data: Any, *, target: str | None = None) -> Row:
    """Loss and, for classes, accuracy of ``rule.predict`` over all samples.

    Args:
        rule: what predicts.
        data: a part of a ``Dataset``, or anything else that ``fit`` takes, all of it.
        target: see ``fit``.

    Returns:
        "loss", the mean over samples, and "accuracy", 0 to 1.

    Raises:
        ValueError: if there is no sample, or targets do not fit the loss.
    """
    check_kind("rule", rule, Rule)
    if isinstance(data, Dataset):
        raise TypeError("evaluate takes one part: say which, as in evaluate(rule, dataset.test)")
    part, _ = parts_of(data, None, rule, target, 0)
    return evaluated(rule, batches_of(part, next(rule.model.parameters())))


def _trained(
    run: Run, mirror_every: int, on_batch: Callable[[int, int | None], None] | None
) -> Totals:
    """One pass over the training samples, or until the loss is no longer finite."""
    rule, batches = run.rule, run.batches
    epoch = len(run.fit.rows) + 1
    losses: list[Tensor] = []  # times samples; they stay on the device until the next check
    total, samples = 0.0, 0
    right: Tensor | int | None = 0
    began = time.perf_counter()
    seed = run.settings["seed"]
    for done, (x, target) in enumerate(batches.epoch(epoch), start=1):
        x = run.augment(x, seed, epoch, done)
        if isinstance(run.optimizer, LocalSGD):
            credit = run.optimizer.step(x, target)
        else:
            run.optimizer.zero_grad()
            credit = rule.accumulate(x, target)
            run.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(credit.loss * len(x))
        samples += len(x)
        found = correct(credit.output, target)
        right = None if right is None or found is None else right + found
        if run.mirror is not None and done % mirror_every == 0:
            run.mirror.step(x)
        if done % _BATCHES_BETWEEN_CHECKS == 0:
            total, losses = _plus(total, losses), []
            if not math.isfinite(total):
                break
        if on_batch is not None:
            on_batch(done, batches.count)
        run.last = x, target
    if not samples:
        raise UsageError("the loader gave no batch to train on")
    total = _plus(total, losses)
    if isinstance(run.optimizer, LocalSGD):
        run.optimizer.settle()
    seconds = time.perf_counter() - began
    return Totals(total, None if right is None else int(right), samples, seconds)


def _plus(total: float, losses: Sequence[Tensor]) -> float:
    """Their sum in Python's numbers, one by one: not every device has float64."""
    values = cast(list[float], torch.stack([*losses]).tolist() if losses else [])  # pyright: ignore[reportUnknownMemberType]
    for value in values:
        total += value
    return total
