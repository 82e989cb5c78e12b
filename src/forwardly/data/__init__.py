"""Data sets as tensors in memory: ``load(name)``.

    mnist  fashion-mnist  cifar10  cifar100     downloaded once, checked, kept as NAME.npz
    digits  mnist1d  teacher-student            made or bundled, offline

Part of the training set is put aside for validation, by a seed; the test set is for one look, at
the end. Samples are taken by index, a whole batch at once.

May import ``files`` and what is below it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forwardly.checks import values_readable
from forwardly.data import npz
from forwardly.data.download import download
from forwardly.data.sources import SOURCES
from forwardly.data.teacher_student import TaskSettings, draw
from forwardly.errors import UsageError
from forwardly.files import is_there

NAMES = (*SOURCES, "digits", "mnist1d", "teacher-student")
VARIABLE = "FORWARDLY_DATA"
"""The environment variable that names the folder of the data sets."""


@dataclass(frozen=True)
class Split:
    """Samples and targets.

    Attributes:
        x: (n, …), numbers; or bytes, which stand for 0 to 1.
        target: class indices (n,), or numbers (n, k).

    Raises:
        TypeError: if they are no tensors.
        ValueError: if there are not as many targets as samples.
    """

    x: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        """Refuse what cannot be samples with their targets."""
        for name, values in (("x", self.x), ("target", self.target)):
            if not isinstance(values, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"{name} of a Split must be a tensor; given is a {type(values).__name__}: "
                    "torch.as_tensor makes one of an array or a list"
                )
            if values.dim() == 0:
                raise ValueError(f"{name} of a Split must have a first dimension, of samples")
        if len(self.x) != len(self.target):
            raise ValueError(
                f"a Split has a target for each sample; given are {len(self.x)} samples and "
                f"{len(self.target)} targets"
            )

    def __len__(self) -> int:
        """n."""
        return len(self.x)

    def __repr__(self) -> str:
        """What there is, not the numbers."""
        shape, target = tuple(self.x.shape[1:]), self.target
        return (
            f"Split({len(self):,} samples of {shape} {self.x.dtype}, "
            f"targets of {tuple(target.shape[1:])} {target.dtype})"
        )

    def batch(self, index: Tensor | slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The samples at ``index`` as numbers of ``dtype``, and their targets."""
        x, target = self.x[index], self.target[index]
        if target.is_floating_point():
            target = target.to(dtype)
        return (x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)), target

    def to(self, device: torch.device | str) -> Split:
        """The same on another device."""
        return Split(self.x.to(device), self.target.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts.

    Attributes:
        name: as ``load`` takes it.
        outputs: k, the number of classes, or of the target's numbers.
        train: what is learned from.
        validation: put aside from the training set; for curves and for choosing settings.
        test: for one look, at the end.

    Raises:
        ValueError: if the parts do not go together, or a class is not below ``outputs``.
    """

    name: str
    outputs: int
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        """Refuse parts that do not go together; one without samples says nothing."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "test")}
        filled = {name: part for name, part in parts.items() if len(part)}
        kinds = {
            name: (tuple(part.x.shape[1:]), part.target.dim(), part.target.is_floating_point())
            for name, part in filled.items()
        }
        if len(set(kinds.values())) > 1:
            described = (
                f"{name} {tuple(part.x.shape)} with {part.target.dtype} {tuple(part.target.shape)}"
                for name, part in filled.items()
            )
            raise ValueError(
                "the parts of a data set must have samples and targets of one kind; given are "
                f"{', '.join(described)}"
            )
        if not self.classes:
            return
        for name, part in filled.items():
            if not values_readable(part.target):
                continue
            low, high = (int(end) for end in part.target.aminmax())
            if low < 0 or high >= self.outputs:
                raise ValueError(
                    f"classes must be 0 to {self.outputs - 1}, as the data set has {self.outputs} "
                    f"outputs; the {name} part has {low if low < 0 else high}. Targets that are "
                    "numbers, not classes, must be floating-point"
                )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

    @property
    def classes(self) -> bool:
        """Whether targets are classes, and not numbers."""
        return not self.train.target.is_floating_point() and self.train.target.dim() == 1

    def loss(self) -> nn.Module:
        """What is usual for such targets: cross-entropy for classes, else squared error."""
        return nn.CrossEntropyLoss() if self.classes else nn.MSELoss()

    def to(self, device: torch.device | str) -> Dataset:
        """The same on another device."""
        parts = (part.to(device) for part in (self.train, self.validation, self.test))
        return Dataset(self.name, self.outputs, *parts)


def load(
    name: str,
    root: Path | str | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Dataset:
    """Load a data set, downloading it first where it must be.

    Args:
        name: one of ``NAMES``.
        root: the folder that holds, or is to hold, NAME.npz (Keras' layout: x_train, y_train,
            x_test, y_test); if None, the folder that the environment variable FORWARDLY_DATA
            names; if that is not set, the user's cache.
        validation: how many training samples to put aside; if None, a number that suits the set.
        seed: which ones; and of data that is made, the data.
        progress: whether to show the progress of a download.

    Raises:
        UsageError: if the name is unknown, a file is not what it should be, or the set is neither
            there nor can be downloaded; the message says which file to put where.
    """
    if name not in NAMES:
        raise UsageError(f"unknown data set {name!r}; the known ones are {', '.join(NAMES)}")
    if name in SOURCES:
        return _images(name, root, validation, seed, progress)
    return _MADE[name](validation, seed)


def folder(root: Path | str | None = None) -> Path:
    """Where data sets are looked for, and downloaded to; see ``load``."""
    given = root or os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    import pooch  # pyright: ignore  # slow to import, and not needed where a folder is given

    return Path(cast(str, pooch.os_cache("forwardly")))  # pyright: ignore[reportUnknownMemberType]


def _images(
    name: str, root: Path | str | None, validation: int | None, seed: int, progress: bool
) -> Dataset:
    path = folder(root) / f"{name}.npz"
    if not is_there(path):
        download(name, path, progress)
    arrays = npz.read(path)
    source = SOURCES[name]
    train = Split(_planes(arrays["x_train"]), _classes(arrays["y_train"], source.classes, path))
    test = Split(_planes(arrays["x_test"]), _classes(arrays["y_test"], source.classes, path))
    count = source.validation if validation is None else validation
    return Dataset(name, source.classes, *_put_aside(train, count, seed), test)


def _planes(images: NDArray[np.uint8]) -> Tensor:
    """(n, h, w[, c]) → (n, c, h, w)."""
    x = torch.from_numpy(images)  # pyright: ignore[reportUnknownMemberType]
    return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def _classes(labels: NDArray[np.integer], classes: int, path: Path) -> Tensor:
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            f"{path} has classes {labels.min()} to {labels.max()}; expected are 0 to {classes - 1}"
        )
    return torch.as_tensor(labels.reshape(-1).astype(np.int64), device="cpu")


def _put_aside(train: Split, count: int, seed: int) -> tuple[Split, Split]:
    """All but ``count`` samples, and these, both in a random order."""
    if not 0 < count < len(train):
        raise UsageError(
            f"validation must be 1 to {len(train) - 1}, as there are {len(train)} training "
            f"samples; given {count}"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed), device="cpu")
    rest, aside = order[:-count], order[-count:]
    return Split(train.x[rest], train.target[rest]), Split(train.x[aside], train.target[aside])


def _digits(validation: int | None, seed: int) -> Dataset:
    """scikit-learn's 1,797 digits; 300 for the test."""
    from sklearn.datasets import load_digits  # pyright: ignore

    images, classes = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    x = torch.as_tensor(images / 16, dtype=torch.float32, device="cpu")
    target = torch.as_tensor(classes, device="cpu")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu")
    count = 200 if validation is None else validation
    if not 0 < count < len(x) - 300:
        raise UsageError(f"validation must be 1 to {len(x) - 301}; given {count}")
    parts = order[: -300 - count], order[-300 - count : -300], order[-300:]
    return Dataset("digits", 10, *(Split(x[part], target[part]) for part in parts))


def _mnist1d(validation: int | None, seed: int) -> Dataset:
    """Greydanus & Kobak 2024: 4,000 + 1,000 signals of 40 numbers."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset  # pyright: ignore
    except ImportError:
        raise UsageError(
            "the data set mnist1d needs the package of that name: pip install 'forwardly[mnist1d]'"
        ) from None
    # The package seeds the global generators.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        arrays = cast(dict[str, NDArray[np.float64]], make_dataset(get_dataset_args()))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

    def split(x: str, y: str) -> Split:
        samples = torch.as_tensor(arrays[x], dtype=torch.float32, device="cpu")
        return Split(samples, torch.as_tensor(arrays[y], device="cpu"))

    count = 400 if validation is None else validation
    return Dataset(
        "mnist1d", 10, *_put_aside(split("x", "y"), count, seed), split("x_test", "y_test")
    )


def _teacher_student(validation: int | None, seed: int) -> Dataset:
    """The blog post's task, and as many test as validation samples of the same teacher."""
    count = 500 if validation is None else validation
    if not 1 <= count <= 1_000_000:
        raise UsageError(f"validation must be 1 to 1,000,000; given {count}")
    task = draw(TaskSettings(validation_samples=2 * count), np.random.default_rng(seed))
    arrays = (task.x_train, task.y_train, task.x_val, task.y_val)
    x_train, y_train, x, y = (torch.as_tensor(array, device="cpu") for array in arrays)
    train = Split(x_train, y_train)
    parts = Split(x[:count], y[:count]), Split(x[count:], y[count:])
    return Dataset("teacher-student", y.shape[1], train, *parts)


_MADE: dict[str, Callable[[int | None, int], Dataset]] = {
    "digits": _digits,
    "mnist1d": _mnist1d,
    "teacher-student": _teacher_student,
}
