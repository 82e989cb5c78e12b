"""Teacher–student tasks as ``.npz`` files, to continue from arrays made elsewhere.

The names and layouts are the blog post's: samples in rows, x_train (n, d), y_train (n, k), x_val,
y_val, the student's w1 (d, h), w2 (h, k), … and F (k, d).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from forwardly.errors import UsageError
from forwardly.experiments.teacher_student import Array, Task
from forwardly.files import write
from forwardly.files.text import visible

_DATA = ("x_train", "y_train", "x_val", "y_val")


def save(task: Task, path: Path) -> None:
    """Write a task as ``load`` reads it."""
    arrays: dict[str, Array] = {name: getattr(task, name) for name in _DATA}
    arrays |= {f"w{layer}": w for layer, w in enumerate(task.weights, start=1)}
    content = io.BytesIO()
    # Without allow_pickle=, of which NumPy before 2.1 would make one more array.
    np.savez(content, F=task.F, **arrays)  # pyright: ignore[reportArgumentType]
    write(path, content.getvalue())


def load(path: Path) -> Task:
    """Read x_train, y_train, x_val, y_val, w1, w2, … and F from an ``.npz`` file.

    Raises:
        UsageError: if the file is missing or malformed, an array is missing, or shapes or values
            make no sense together.
    """
    arrays = _read_arrays(path)
    layers = 1
    while f"w{layers + 1}" in arrays:
        layers += 1
    names = [*_DATA, "F", *_weight_names(max(layers, 2))]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array {', '.join(missing)}; needed are {', '.join(names)}, "
            f"and the file has {', '.join(arrays) or 'none'}"
        )
    weights = tuple(arrays[name] for name in _weight_names(layers))
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
    return Task(**{name: arrays[name] for name in _DATA}, weights=weights, F=arrays["F"])


def _weight_names(layers: int) -> list[str]:
    return [f"w{layer}" for layer in range(1, layers + 1)]


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, NpzFile):
                raise ValueError("it holds one array without a name")
            found = cast(Mapping[str, NDArray[np.generic]], content)
            arrays = {visible(name): array for name, array in found.items()}
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except Exception as reason:  # of a damaged file zlib, zipfile and numpy raise anything
        raise UsageError(
            f"{path} is not a readable .npz file of plain arrays: {visible(str(reason))}"
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.ndim == 0:
            raise UsageError(
                f"{path}: {name} must be an array of real numbers; "
                f"it is {array.dtype} of shape {array.shape}"
            )
    return {name: array.astype(np.float64) for name, array in arrays.items()}
