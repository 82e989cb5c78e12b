"""Data sets as tensors in memory: ``load(name)``.

    mnist  fashion-mnist  cifar10  cifar100     downloaded once, checked, kept as NAME.npz
    digits  mnist1d  teacher-student            made or bundled, offline

Part of the training set is put aside for validation, by a seed; the test set is for one look, at
the end. Samples are taken by index, a whole batch at once.

May import ``noise`` and what is below it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forwardly.data import npz, stress
from forwardly.data.augmentation import Augmentation
from forwardly.data.dataset import Dataset, Split, put_aside
from forwardly.data.download import download
from forwardly.data.preprocessing import as_numbers
from forwardly.data.sources import SOURCES
from forwardly.data.teacher_student import TaskSettings, draw
from forwardly.errors import UsageError
from forwardly.files import is_there

__all__ = [
    "NAMES",
    "VARIABLE",
    "Augmentation",
    "Dataset",
    "Split",
    "as_numbers",
    "folder",
    "load",
    "stress",
]

NAMES = (*SOURCES, "digits", "mnist1d", "teacher-student")
VARIABLE = "FORWARDLY_DATA"
"""The environment variable that names the folder of the data sets."""


def load(
    name: str,
    root: Path | str | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    centre: bool = False,
    standardise: bool = False,
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
        centre: whether to shift all samples to means of 0, by those of the training part; of each
            channel of images, of each number of other samples.
        standardise: whether to shift and scale them to standard deviations of 1 as well.
        progress: whether to show the progress of a download.

    Raises:
        UsageError: if the name is unknown, a file is not what it should be, or the set is neither
            there nor can be downloaded; the message says which file to put where.
    """
    if name not in NAMES:
        raise UsageError(f"unknown data set {name!r}; the known ones are {', '.join(NAMES)}")
    if name in SOURCES:
        dataset = _images(name, root, validation, seed, progress)
    else:
        dataset = _MADE[name](validation, seed)
    if not (centre or standardise):
        return dataset
    return dataset.prepared("standardise" if standardise else "centre")


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
    return Dataset(name, source.classes, *put_aside(train, count, seed), test=test)


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


def _digits(validation: int | None, seed: int) -> Dataset:
    """scikit-learn's 1,797 digits; 300 for the test."""
    table = _table_of_digits()
    x = torch.as_tensor(table[:, :-1] / 16, dtype=torch.float32, device="cpu")
    target = torch.as_tensor(table[:, -1].astype(np.int64), device="cpu")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu")
    count = 200 if validation is None else validation
    if not 0 < count < len(x) - 300:
        raise UsageError(f"validation must be 1 to {len(x) - 301}; given {count}")
    parts = order[: -300 - count], order[-300 - count : -300], order[-300:]
    train, aside, test = (Split(x[part], target[part]) for part in parts)
    return Dataset("digits", 10, train, aside, test)


def _table_of_digits() -> NDArray[np.float64]:
    """64 pixels from 0 to 16 and the class of each digit, from the file that scikit-learn reads.

    It lies in the package, whose import takes longer than a short training.
    """
    package = find_spec("sklearn")
    table = Path(package.origin if package and package.origin else "").parent
    table = table / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        return np.loadtxt(table, delimiter=",")
    from sklearn.datasets import load_digits  # pyright: ignore

    pixels, classes = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    return np.column_stack([pixels, classes])


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
        "mnist1d", 10, *put_aside(split("x", "y"), count, seed), split("x_test", "y_test")
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
