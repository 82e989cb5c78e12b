"""The task of the blog post "A Biologically-Plausible Learning Rule" (September 2023).

A teacher network makes the targets of random inputs, and a student of the same form is to learn
them from its initial weights. In ``.npz`` files as here the names and layouts are the post's:
samples in rows, x_train (n, d), y_train (n, k), x_val, y_val, the student's w1 (d, h), w2 (h, k), …
and F (k, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardly.data import npz
from forwardly.errors import UsageError
from forwardly.files import is_there

Array = NDArray[np.float64]

_DATA = ("x_train", "y_train", "x_val", "y_val")


@dataclass(frozen=True)
class TaskSettings:
    """What a task is drawn by; the defaults are the post's."""

    hidden: tuple[int, ...] = (8,)  # of the student
    inputs: int = 16
    teacher_hidden: int = 8
    outputs: int = 1
    train_samples: int = 1000
    validation_samples: int = 500
    teacher_sd: float = 0.5
    student_bound: float = 0.5
    feedback_bound: float = 0.03


class Task(NamedTuple):
    """What one seed starts from, laid out as in the post."""

    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    weights: tuple[Array, ...]  # of the student: w1, w2, …
    F: Array
    teacher: tuple[Array, ...] = ()  # its weights, likewise; none where arrays came from a file


def draw(settings: TaskSettings, generator: np.random.Generator) -> Task:
    """A teacher, its data, a student and a feedback matrix."""
    d, k = settings.inputs, settings.outputs
    teacher = tuple(
        generator.normal(0, settings.teacher_sd, shape)
        for shape in pairwise((d, settings.teacher_hidden, k))
    )
    x_train = generator.random((settings.train_samples, d))
    x_val = generator.random((settings.validation_samples, d))
    bound = settings.student_bound
    student = tuple(
        generator.uniform(-bound, bound, shape) for shape in pairwise((d, *settings.hidden, k))
    )
    feedback = generator.uniform(-settings.feedback_bound, settings.feedback_bound, (k, d))
    y_train, y_val = output(teacher, x_train), output(teacher, x_val)
    return Task(x_train, y_train, x_val, y_val, student, feedback, teacher)


def output(weights: Sequence[Array], x: Array) -> Array:
    """The output of a ReLU network with a linear readout, (n, k)."""
    for w in weights[:-1]:
        x = np.maximum(x @ w, 0)
    return x @ weights[-1]


def save(task: Task, path: Path) -> None:
    """Write a task as ``load`` reads it."""
    arrays = {name: getattr(task, name) for name in ("F", *_DATA)}
    npz.write(path, arrays | {f"w{layer}": w for layer, w in enumerate(task.weights, start=1)})


def load(path: Path) -> Task:
    """Read a task from an ``.npz`` file, whoever made it.

    Raises:
        UsageError: if the file is missing or malformed, an array is missing, or shapes or values
            make no sense together.
    """
    arrays = _read(path)
    layers = 1
    while f"w{layers + 1}" in arrays:
        layers += 1
    names = [*_DATA, "F", *(f"w{layer}" for layer in range(1, max(layers, 2) + 1))]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array {', '.join(missing)}; needed are {', '.join(names)}, "
            f"and the file has {', '.join(arrays) or 'none'}"
        )
    weights = tuple(arrays[f"w{layer}"] for layer in range(1, layers + 1))
    d, k = weights[0].shape[0], weights[-1].shape[-1]
    sizes = [d, *(w.shape[-1] for w in weights)]
    shapes: dict[str, tuple[int, ...]] = {
        f"w{layer}": shape for layer, shape in enumerate(pairwise(sizes), start=1)
    }
    shapes["F"] = (k, d)
    for part in ("train", "val"):
        n = len(arrays[f"x_{part}"])
        if k == 1 and arrays[f"y_{part}"].shape == (n,):  # a Julia vector
            arrays[f"y_{part}"] = arrays[f"y_{part}"][:, None]
        shapes |= {f"x_{part}": (n, d), f"y_{part}": (n, k)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].size == 0:
            raise UsageError(
                f"{path}: {name} must have the shape {shape} (samples in rows, w1 of {d} inputs "
                f"and w{layers} of {k} outputs); its shape is {arrays[name].shape}"
            )
        if not np.isfinite(arrays[name]).all():
            raise UsageError(f"{path}: {name} has a NaN or an infinity")
    x_train, y_train, x_val, y_val = (arrays[name] for name in _DATA)
    return Task(x_train, y_train, x_val, y_val, weights, arrays["F"])


def _read(path: Path) -> dict[str, Array]:
    if not is_there(path):
        raise UsageError(f"there is no file {path}")
    try:
        arrays = npz.load(path)
    except ValueError as problem:
        raise UsageError(f"{path} is not a readable .npz file of plain arrays: {problem}") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.ndim == 0:
            raise UsageError(
                f"{path}: {name} must be an array of real numbers; "
                f"it is {array.dtype} of shape {array.shape}"
            )
    return {name: array.astype(np.float64) for name, array in arrays.items()}
