"""Whole epochs of ``fit`` on a device that captures: a batch is one launch.

Samples lie on the device, where they were checked before the first epoch. So gathering a batch,
changing its images, the step, and what is counted of it are all captured together, and the
processor only says which samples come next. The last, shorter batch is a step of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from forwardly.data import Augmentation
from forwardly.fast.cuda import captured
from forwardly.metrics import correct
from forwardly.rule import Credit
from forwardly.training.batches import InMemory
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.run import Run, Totals


def why_not_launched(run: Run) -> str:
    """Why a run's batches are not single launches; empty if they are."""
    place = next(run.rule.model.parameters())
    if not isinstance(run.optimizer, LocalSGD):
        return "the optimizer is not LocalSGD"
    if not isinstance(run.batches, InMemory) or run.batches.split.x.device != place.device:
        return f"samples do not lie on {place.device}"
    if run.rule.parallel is not None:
        return "batches are shared out over processes"
    if run.mirror is not None:
        return "a mirror sees every batch"
    return "" if captured.can_capture(place.device) else f"the model is on {place.device}"


class Launched:
    """See the module docstring.

    Args:
        run: for which ``why_not_launched`` knows no reason.
    """

    @torch.inference_mode(False)  # what it makes is written to
    def __init__(self, run: Run) -> None:
        self._run, self._batches = run, cast(InMemory, run.batches)
        self._optimizer = cast(LocalSGD, run.optimizer)
        device = self._batches.split.x.device

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._chosen, self._draws = zeros(self._batches.batch), zeros(2)
        # One loss a batch: their sum would round, as it does not on the processor.
        self._losses = zeros(self._batches.count or 0, dtype=torch.float64)
        self._done, self._right = zeros(1), zeros()
        self._counts_right = True
        self._target: Tensor | None = None
        self._take = self._optimizer.launched(lambda: self._batch(self._chosen), self._count)

    @torch.inference_mode(False)
    @torch.no_grad()
    def epoch(self, on_batch: Callable[[int, int | None], None] | None) -> Totals:
        """One pass over the training samples."""
        began = time.perf_counter()
        order = self._batches.order().to(self._chosen.device)
        epoch = len(self._run.fit.rows) + 1
        draws = Augmentation.draws(self._run.settings["seed"], epoch, 1)
        self._draws.copy_(torch.tensor(draws, device="cpu"))
        self._done.zero_()
        self._right.zero_()
        size, count, samples = len(self._chosen), len(self._losses), 0
        for done in range(1, count + 1):
            chosen = order[samples : samples + size]
            samples += len(chosen)
            if len(chosen) == size:
                self._chosen.copy_(chosen)
                self._take()
            else:
                self._count(self._optimizer.step(*self._batch(chosen)))
            if on_batch is not None:
                on_batch(done, count)
        total = float(self._losses.cpu().sum())
        right = int(self._right) if self._counts_right else None
        return Totals(total, right, samples, time.perf_counter() - began)

    def _batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        x, self._target = self._batches.at(chosen)
        return self._run.augment.changed(x, self._draws), self._target

    def _count(self, credit: Credit) -> None:
        target = cast(Tensor, self._target)
        loss = credit.loss * len(target)
        self._losses.index_copy_(0, self._done, loss[None].to(self._losses.dtype))
        self._done += 1
        self._draws[1] += 1
        found = correct(credit.output, target)
        if found is None:
            self._counts_right = False
        else:
            self._right += found
