"""NAME.npz files in Keras' layout: uint8 x_train, y_train, x_test, y_test, samples first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from forwardly.errors import UsageError
from forwardly.files import replacing
from forwardly.files.text import visible

Arrays = dict[str, NDArray[Any]]
KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path) -> Arrays:
    """All arrays of an ``.npz`` file, none of them pickled.

    Raises:
        ValueError: if the file is missing, damaged, or of another kind.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # reading a pipe would wait for ever
        with path.open("rb") as opened:
            content = np.load(opened, allow_pickle=False)
            if not isinstance(content, NpzFile):
                raise ValueError("it holds one array without a name")
            return {visible(name): content[name] for name in content.files}
    except Exception as problem:  # of a damaged file zlib, zipfile and numpy raise anything
        said = visible(str(problem))
        if "pickle" in said:  # numpy's advice is to load it unsafely
            said = "it is another kind of file, or holds Python objects, which are not loaded"
        raise ValueError(said) from None


def read(path: Path) -> Arrays:
    """The four arrays, checked; images (n, h, w) or (n, h, w, c), labels (n,).

    Raises:
        UsageError: if the file is not such a file.
    """
    try:
        arrays = load(path)
    except ValueError as problem:
        raise UsageError(
            f"{path} cannot be read ({problem}): delete it to download it anew"
        ) from None
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array {', '.join(missing)}; needed are {', '.join(KEYS)}, as in "
            "Keras' files"
        )
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        fits = x.ndim in (3, 4) and x.dtype == np.uint8 and np.issubdtype(y.dtype, np.integer)
        if not fits or y.size != len(x) or len(x) == 0:
            raise UsageError(
                f"{path}: x_{part} must be uint8 images (n, h, w) or (n, h, w, c) and y_{part} "
                f"n integers; they are {x.dtype} {x.shape} and {y.dtype} {y.shape}"
            )
        arrays[f"y_{part}"] = y.reshape(-1)
    return {key: arrays[key] for key in KEYS}


def write(path: Path, arrays: Arrays) -> None:
    """Write arrays; the file appears whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        # Without allow_pickle=, of which NumPy before 2.1 would make one more array.
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
