"""People's own files as data: ``my.npz``, ``my.csv``, or a folder of images.

my.npz    x_train, y_train, and if there are x_val, y_val, x_test, y_test; or x and y
my.csv    a line of names, then a sample a line: the columns but the target are numbers
folder/   CLASS/*.png; or train/CLASS/*.png, and if there are val/ and test/ beside it

What a file does not put aside for validation and test is put aside here, by a seed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from forwardly import files
from forwardly.data import npz
from forwardly.data.arrays import Task
from forwardly.data.dataset import Dataset
from forwardly.errors import UsageError
from forwardly.files.text import visible

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""What is put aside, of what there is then, unless a file or a user says otherwise."""

_TARGETS = ("target", "label", "class", "y")
_PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's names of images of 8 bits."""

_KINDS = "an .npz file, a .csv file, or a folder of images"
_MOST_CHANNELS = 4


@dataclass(frozen=True)
class Samples:
    """A part of a file.

    Attributes:
        x: (n, …) numbers; images (n, c, h, w).
        target: (n,) or (n, k); None where the file has none.
        names: what each sample is called: a file, or its number from 1.
        columns: of a table, without the target's.
        target_name: of a table.
    """

    x: NDArray[Any]
    target: NDArray[Any] | None
    names: Sequence[str]
    columns: tuple[str, ...] = ()
    target_name: str = ""


def is_file_name(data: str) -> bool:
    """Whether this names a file or folder, and not a data set that is known by name."""
    path = Path(data)
    named = path.suffix.lower() in (".npz", ".csv") or "/" in data or "\\" in data
    return bool(data) and (named or os.path.isdir(path))  # noqa: PTH112, Path's raises OSError of a long name


def dataset(
    path: Path,
    *,
    target: str | None = None,
    task: Task | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set of somebody's file.

    Args:
        path: see the module's docstring.
        target: the column, or array, to learn; if None, one called target, label, class or y, or
            else a table's last column.
        task: see ``Dataset.from_arrays``.
        validation: how many training samples to put aside, where the file has no validation part;
            if None a tenth.
        seed: which ones; and which fifth is the test part, where the file has none.

    Raises:
        UsageError: if something in it cannot be learned from; it names the file.
    """
    parts = _parts(path, target)
    aside: dict[str, Any] = {"test": TEST_SHARE, "validation": validation or VALIDATION_SHARE}
    for part in aside:
        if part in parts:
            aside[part] = parts[part].x, _target(path, parts[part])
    train = parts["train"]
    try:
        made = Dataset.from_arrays(
            train.x, _target(path, train), task=task, seed=seed, name=path.name, **aside
        )
    except UsageError as problem:
        raise UsageError(f"{path}: {problem}") from None
    return replace(made, columns=train.columns, target_name=train.target_name)


def samples(path: Path, like: Dataset | None) -> Samples:
    """The samples of a file that are to be predicted or evaluated: its test part, or all.

    Args:
        path: see the module's docstring; targets may be missing.
        like: what the model was trained on, as to columns and shape of samples; its parts may be
            empty. None if that is not known.

    Raises:
        UsageError: if there are none, or they are not of that kind.
    """
    target = None if like is None else like.target_name or None
    columns = None if like is None else like.columns or None
    parts = _parts(path, target, needs_target=False, columns=columns)
    found = parts.get("test", parts["train"])
    if like is None:
        return found
    if like.train.x.dtype == torch.uint8:
        found = replace(found, x=_as_bytes(path, found.x))
    elif found.x.dtype == np.uint8:
        found = replace(found, x=found.x.astype(np.float32))  # as they were learned: numbers
    if like.columns:
        missing = [name for name in like.columns if name not in found.columns]
        if missing:
            raise UsageError(
                f"{path} has no column {', '.join(map(visible, missing))}, which the model learned "
                "from"
            )
        order = [found.columns.index(name) for name in like.columns]
        found = replace(found, x=found.x[:, order], columns=like.columns)
    shape, learned = found.x.shape[1:], like.sample_shape
    if shape != learned:
        if math.prod(shape) != math.prod(learned) or len(learned) != 1:
            raise UsageError(f"{path} has samples of {shape}; the model learned from {learned}")
        found = replace(found, x=found.x.reshape(-1, *learned))
    return found


def _as_bytes(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    """Samples for a model that learned from bytes, which stood for 0 to 1."""
    low, high = x.min(), x.max()
    if x.dtype == np.uint8 or (low >= 0 and high <= 1 and x.dtype.kind == "f"):
        return x
    if low >= 0 and high <= 255 and (x == np.round(x)).all():
        return x.astype(np.uint8)
    raise UsageError(
        f"{path} has numbers from {low:g} to {high:g}; the model learned from bytes, 0 to 255, "
        "which stood for 0 to 1: give either"
    )


def _parts(
    path: Path,
    target: str | None,
    *,
    needs_target: bool = True,
    columns: tuple[str, ...] | None = None,
) -> dict[str, Samples]:
    """Train, and if they are there validation and test; of a table these ``columns`` alone."""
    if not files.is_there(path):
        raise UsageError(f"there is no {path}: name {_KINDS}")
    if path.is_dir():
        return _folder(path, needs_target)
    if not path.is_file():
        raise UsageError(f"{path} is not a file: name {_KINDS}")
    if path.suffix.lower() == ".csv":
        return {"train": _table(path, target, needs_target, columns)}
    return _arrays(path, target, needs_target)


def _target(path: Path, part: Samples) -> NDArray[Any]:
    if part.target is None:
        raise UsageError(f"{path} has no targets to learn: name them by --target")
    return part.target


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _arrays(path: Path, target: str | None, needs_target: bool) -> dict[str, Samples]:
    """Of an .npz file."""
    try:
        arrays = npz.load(path)
    except ValueError as problem:
        raise UsageError(f"{path} is not a readable .npz file of plain arrays: {problem}") from None
    lower = {name.lower(): name for name in arrays}
    parts: dict[str, Samples] = {}
    for part, suffixes in _PART_NAMES.items():
        for suffix in suffixes:
            if f"x_{suffix}" in lower:
                y = lower.get(f"y_{suffix}")
                x = arrays[lower[f"x_{suffix}"]]
                parts[part] = _array_part(path, x, None if y is None else arrays[y])
    if parts and needs_target and target not in (None, "y_train"):
        raise UsageError(
            f"{path} has x_train, so what is learned is y_train, and --target cannot name "
            f"{target!r}: call its arrays x and {target}"
        )
    if not parts:
        target = target if target in arrays or needs_target else None
        y = target or next((name for name in _TARGETS if name in lower), "")
        y = y if y in arrays else lower.get(y)
        others = [name for name in arrays if name != y]
        x = lower.get("x", others[0] if len(others) == 1 else None)
        if x is None or (target and y is None):
            raise UsageError(
                f"{path} must have arrays x_train and y_train, or x and y; it has "
                f"{', '.join(arrays) or 'none'}"
            )
        part = _array_part(path, arrays[x], None if y is None else arrays[y])
        parts["train"] = replace(part, target_name=target or "")
    if "train" not in parts:
        if needs_target:
            raise UsageError(f"{path} has x_{next(iter(parts))} and no x_train to learn from")
        parts["train"] = next(iter(parts.values()))
    return parts


def _array_part(path: Path, x: NDArray[Any], y: NDArray[Any] | None) -> Samples:
    if x.ndim == 0 or 0 in x.shape:
        raise UsageError(f"{path}: samples must be (n, …), none of it 0; given is {x.shape}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] <= _MOST_CHANNELS < x.shape[1]:
        x = np.moveaxis(x, 3, 1)
    return Samples(x, y, _numbers(len(x)))


def _table(
    path: Path, target: str | None, needs_target: bool, columns: tuple[str, ...] | None
) -> Samples:
    """Of a .csv file."""
    lines = _lines(path)
    names = [name.strip() for name in next(lines, (0, list[str]()))[1]]
    if len(set(names)) < len(names) or not all(names) or not names:
        raise UsageError(f"{path}: the first line must name the columns, each by its own name")
    if all(_number(name) is not None for name in names):
        raise UsageError(f"{path}: the first line must name the columns; it has numbers")
    lower = [name.lower() for name in names]
    which = next((lower.index(name) for name in _TARGETS if name in lower), len(names) - 1)
    if target is not None and target in names:
        which = names.index(target)
    elif target is not None and needs_target:
        shown = ", ".join(map(visible, names))
        raise UsageError(f"{path} has no column {target!r}; it has {shown}")
    elif target is not None or not needs_target:
        which = -1
    used = [i for i in range(len(names)) if i != which]
    if columns is not None and {*columns} <= {*names}:
        used = [names.index(name) for name in columns]
    learning = f" (what is learned is {visible(names[which])})" if which >= 0 else ""
    rows: list[NDArray[np.float64]] = []
    learned: list[str] = []
    for number, cells in lines:
        if len(cells) != len(names):
            raise UsageError(
                f"{path}, line {number}, has {len(cells)} cells; the first line has {len(names)}"
            )
        if which >= 0:
            learned.append(cells[which].strip())
            if not learned[-1]:
                raise UsageError(
                    f"{path}, line {number}: {visible(names[which])}, which is learned, lacks a "
                    "value: fill it in, or leave the line out"
                )
        values = [_number(cells[i]) for i in used]
        if None in values:
            wrong = used[values.index(None)]
            raise UsageError(
                f"{path}, line {number}: {visible(names[wrong])} must be a number, and is "
                f"{cells[wrong]!r}; leave out or encode what is none{learning}"
            )
        rows.append(np.array(values, np.float64))
    if not rows:
        raise UsageError(f"{path} has no samples, only the names of columns")
    if not used:
        raise UsageError(f"{path} has no column beside the target to learn from")
    y = None if which < 0 else _as_targets(path, learned)
    name = "" if which < 0 else names[which]
    found = tuple(names[i] for i in used)
    return Samples(np.stack(rows), y, _numbers(len(rows)), found, name)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty, with its number, as cells."""
    try:
        text = files.read(path).decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8: save it as CSV UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as problem:
        raise UsageError(
            f"{path}, line {reader.line_num}, is no line of a table: {problem}"
        ) from None


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _as_targets(path: Path, cells: list[str]) -> NDArray[Any]:
    """Whole numbers, or else numbers, or else text; "01" is text, as it is no number's name."""
    if all(cell.lstrip("-").isdecimal() and str(int(cell)) == cell for cell in cells):
        with contextlib.suppress(OverflowError):
            return np.array([int(cell) for cell in cells], np.int64)
    numbers = [_number(cell) for cell in cells]
    if None not in numbers and any("." in cell or "e" in cell.lower() for cell in cells):
        return np.array(numbers, np.float64)
    others = [cell for cell, number in zip(cells, numbers, strict=True) if number is None]
    if 0 < len(others) < len(cells) / 2 and any("." in cell for cell in cells):
        raise UsageError(
            f"{path}: most of what is learned are numbers, and {others[0]!r} is none (decimals "
            "have a point): mend it, or leave its line out"
        )
    return np.array(cells)


def _folder(root: Path, needs_target: bool) -> dict[str, Samples]:
    """Of a folder of images."""
    inside = {path.name.lower(): path for path in _visible_in(root) if path.is_dir()}
    parts: dict[str, Samples] = {}
    for part, names in _PART_NAMES.items():
        place = next((inside[name] for name in names if name in inside), None)
        if place is not None:
            parts[part] = _classes(place, needs_target)
    if not parts:
        parts["train"] = _classes(root, needs_target)
    if "train" not in parts:
        if needs_target:
            raise UsageError(f"{root} has a folder {next(iter(parts))} and none called train")
        parts["train"] = next(iter(parts.values()))
    shapes = {part: samples.x.shape[1:] for part, samples in parts.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise UsageError(f"{root}: images must be of one size and kind; they are {said}")
    return parts


def _classes(root: Path, needs_target: bool) -> Samples:
    """Images in folders, whose names are the classes; or without any."""
    folders = [path for path in _visible_in(root) if path.is_dir()]
    if not folders and needs_target:
        raise UsageError(f"{root} must have a folder for each class, with its images; it has none")
    paths: list[Path] = []
    labels: list[str] = []
    for folder in folders or [root]:
        found = [path for path in _visible_in(folder) if path.suffix.lower() in _IMAGES]
        if not found:
            raise UsageError(f"{folder} has no image ({', '.join(_IMAGES)})")
        paths += found
        labels += [folder.name] * len(found)
    images = list(map(_image, paths))
    grey = all(image.ndim == 2 for image in images)
    planes = [_planes(image, grey) for image in images]
    for path, plane in zip(paths, planes, strict=True):
        if plane.shape != planes[0].shape:
            sizes = (f"{p.shape[2]} × {p.shape[1]}" for p in (planes[0], plane))
            first, other = sizes
            raise UsageError(
                f"images must be of one size: {visible(str(paths[0]))} is {first}, "
                f"{visible(str(path))} {other}; resize them"
            )
    names = [str(path.relative_to(root)) for path in paths]
    return Samples(np.stack(planes), np.array(labels) if folders else None, names)


def _visible_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as problem:
        raise UsageError(f"{folder} cannot be read: {problem.strerror}") from None


def _planes(image: NDArray[np.uint8], grey: bool) -> NDArray[np.uint8]:
    """(c, h, w), of one channel if all images have one."""
    if grey:
        return image[None]
    return np.moveaxis(image if image.ndim == 3 else np.stack([image] * 3, 2), 2, 0)


def _image(path: Path) -> NDArray[np.uint8]:
    """(h, w) shades of grey or (h, w, 3) colours."""
    from PIL import Image, UnidentifiedImageError  # of use here alone

    if not path.is_file():  # a pipe would be waited for
        _refuse_image(path, "is not a file")
    content = files.read(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in (
                "1",
                "L",
                "P",
                "LA",
                "RGB",
                "RGBA",
                "CMYK",
                "YCbCr",
                "HSV",
                "LAB",
            ):
                _refuse_image(path, f"has shades of the kind {image.mode}, and 8 bits are needed")
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except UnidentifiedImageError:
        _refuse_image(path, "is no image")
    except UsageError:
        raise
    except Exception as problem:  # of a damaged image Pillow raises anything
        _refuse_image(path, f"is damaged: {problem}")


def _refuse_image(path: Path, what: str) -> NoReturn:
    raise UsageError(f"{visible(str(path))} {visible(what)}") from None
