"""Data sets under stress: fewer samples, wrong targets to learn from, another test distribution.

Functions of a data set and a seed; the given one stays as it is. The training part is changed, or
the test part, never that for validation. What is drawn is the seed's, so all rules have the same
samples and the same wrong targets; and it is nested: the hundred samples of a seed are among its
five hundred, and what is wrong at a tenth is so at a third.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from forwardly.data.dataset import Dataset, Split
from forwardly.data.preprocessing import as_numbers
from forwardly.errors import UsageError

_WHICH_WRONG, _WRONG, _SAMPLES, _DIRECTION = range(1, 5)


def with_noise(dataset: Dataset, amount: float, seed: int) -> Dataset:
    """A data set some of whose training targets are wrong.

    Args:
        dataset: of classes or of numbers.
        amount: of classes the share of samples whose class is replaced by another one, each as
            likely; of numbers the standard deviation of the Gaussian noise that is added to each,
            in standard deviations of that number over the training part.
        seed: of what is drawn.

    Raises:
        UsageError: if it is no share, or there is no other class.
    """
    x, target = dataset.train.x, dataset.train.target
    if not dataset.classes:
        number = target.to(torch.float64)
        scale = number.std(0, correction=0, keepdim=True)
        draws = torch.randn(
            target.shape, generator=_generator(seed, _WRONG), dtype=number.dtype, device="cpu"
        )
        wrong = (number + amount * scale * draws).to(target.dtype)
        return replace(dataset, train=Split(x, wrong))
    if not 0 <= amount <= 1:
        raise UsageError(
            f"noise of classes is the share that is wrong, above 0 and at most 1; given {amount:g}"
        )
    if dataset.outputs < 2:
        raise UsageError("noise replaces a class by another, and the data set has one")
    n, k = len(target), dataset.outputs
    order = torch.randperm(n, generator=_generator(seed, _WHICH_WRONG), device="cpu")
    away = torch.randint(1, k, (n,), generator=_generator(seed, _WRONG), device="cpu")
    away[order[round(amount * n) :]] = 0
    wrong = ((target.long() + away) % k).to(target.dtype)
    return replace(dataset, train=Split(x, wrong))


def with_samples(dataset: Dataset, count: int, seed: int) -> Dataset:
    """A data set with only some of its training samples, in the order in which they were.

    Args:
        dataset: any; of classes each keeps its share as nearly as whole numbers can.
        count: how many samples are left.
        seed: of which ones.

    Raises:
        UsageError: if there are not as many.
    """
    train = dataset.train
    if not 1 <= count <= len(train):
        raise UsageError(
            f"samples must be 1 to {len(train)}, as many as there are to train on; given {count}"
        )
    order = torch.randperm(len(train), generator=_generator(seed, _SAMPLES), device="cpu")
    if dataset.classes:
        # The i-th of a class of m stands at (i + ½)/m of the way, and the first ones are kept.
        of = train.target[order]
        place = torch.empty(len(order), dtype=torch.float64, device="cpu")
        for label in range(dataset.outputs):
            own = of == label
            m = int(own.sum())
            place[own] = (torch.arange(m, dtype=torch.float64, device="cpu") + 0.5) / m
        order = order[place.argsort(stable=True)]
    kept = order[:count].sort().values
    return replace(dataset, train=Split(train.x[kept], train.target[kept]))


def with_shift(dataset: Dataset, by: float, seed: int) -> Dataset:
    """A data set whose test samples are of a shifted distribution.

    Args:
        dataset: any.
        by: of images (channels, height, width) by how many pixels each is moved, up, down, left or
            right, each as likely; zeros come in, as they do in ``Augmentation``. Of other samples
            how many standard deviations, of that number over the training part, are added to each
            number.
        seed: of the directions.

    Raises:
        UsageError: if images are to be moved by a part of a pixel.
    """
    if len(dataset.sample_shape) == 3:
        if not float(by).is_integer():
            raise UsageError(f"images are shifted by whole pixels; given {by:g}")
        return replace(
            dataset, test=Split(_moved(dataset.test.x, int(by), seed), dataset.test.target)
        )
    made = {
        name: Split(as_numbers(part.x), part.target)
        for name in ("train", "validation", "test")
        for part in [getattr(dataset, name)]
    }
    scale = made["train"].x.std(0, correction=0)
    if not scale.isfinite().all():
        raise UsageError("samples are too large for their standard deviation: scale them")
    made["test"] = Split(made["test"].x + by * scale, dataset.test.target)
    of_bytes = dataset.of_bytes or dataset.train.x.dtype == torch.uint8
    return replace(dataset, of_bytes=of_bytes, **made)


def _moved(x: Tensor, by: int, seed: int) -> Tensor:
    """Images, each moved by so many pixels in one of four directions."""
    height, width = x.shape[-2:]
    by = min(by, max(height, width))  # further than out of sight is nowhere
    padded = torch.nn.functional.pad(x, (by, by, by, by))
    moved = torch.empty_like(x)
    direction = torch.randint(4, (len(x),), generator=_generator(seed, _DIRECTION), device="cpu")
    for number, (top, left) in enumerate(((0, by), (2 * by, by), (by, 0), (by, 2 * by))):
        of = direction == number
        moved[of] = padded[of, :, top : top + height, left : left + width]
    return moved


def _generator(seed: int, which: int) -> torch.Generator:
    """A stream of its own for each thing that is drawn."""
    (state,) = np.random.SeedSequence([seed, which]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)  # torch's are signed
