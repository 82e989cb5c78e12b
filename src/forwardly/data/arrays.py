"""Samples and targets of whatever people have: tensors, NumPy arrays, lists, frames of pandas.

No such library is imported here; frames and series are known by their methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forwardly.errors import UsageError
from forwardly.files.text import visible

Task = Literal["classification", "regression"]
Label = str | int
"""What a class is called."""

_FEW = 20
"""So many different whole numbers may be classes, however few samples there are."""


def is_frame(data: Any) -> bool:
    """Whether it is a table with named columns, as of pandas or polars."""
    return hasattr(data, "columns") and hasattr(data, "to_numpy")


def columns(frame: Any, target: str) -> tuple[Any, Any]:
    """A frame's other columns, and the target's.

    Raises:
        UsageError: if there is no such column, or no other.
    """
    if not is_frame(frame):
        raise UsageError(
            f"a target that is a name, {target!r}, is a column of a frame; x is a "
            f"{type(frame).__name__}"
        )
    names = names_of(frame)
    if target not in names:
        raise UsageError(f"there is no column {target!r} among {', '.join(map(visible, names))}")
    if len(names) == 1:
        raise UsageError(f"there is no column beside the target {target!r} to learn from")
    own = list(frame.columns)
    which = own.pop(names.index(target))
    return frame[own], frame[which]


def names_of(data: Any) -> tuple[str, ...]:
    """A frame's columns by name; none if it is no frame.

    Raises:
        UsageError: if two have one name.
    """
    names = tuple(map(str, data.columns)) if is_frame(data) else ()
    if len(set(names)) < len(names):
        raise UsageError(f"two columns have one name, among {', '.join(map(visible, names))}")
    return names


def like_columns(data: Any, names: tuple[str, ...], what: str) -> Any:
    """A frame with its columns in the order of ``names``; what is no frame is as it is.

    Raises:
        UsageError: if it has other columns.
    """
    found = names_of(data)
    if not (found and names):
        return data
    if {*found} != {*names}:
        raise UsageError(
            f"{what} must have the columns {', '.join(map(visible, names))}; it has "
            f"{', '.join(map(visible, found))}"
        )
    own = list(data.columns)
    return data[[own[found.index(name)] for name in names]]


def samples(given: Any, name: str = "x") -> Tensor:
    """Samples as a tensor (n, …) of real numbers; bytes stay bytes, which stand for 0 to 1.

    Raises:
        UsageError: if they are no numbers, of which none is NaN or infinite, or no table.
    """
    x = given.detach() if isinstance(given, Tensor) else _tensor(_numbers(given, name))
    if x.layout != torch.strided:
        raise UsageError(f"{name} is sparse: make it dense, by .to_dense()")
    if x.dim() < 2:
        raise UsageError(
            f"{name} must be (samples, numbers of a sample, …); given is {tuple(x.shape)}. Of a "
            "single number a sample make .reshape(-1, 1)"
        )
    if x.is_complex() or x.numel() == 0:
        raise UsageError(f"{name} must be real numbers; given are {tuple(x.shape)} of {x.dtype}")
    check_finite(x, name)
    if x.dtype == torch.float64 and x.abs().max() > torch.finfo(torch.float32).max:
        raise UsageError(f"{name} has numbers that float32 does not reach: scale them")
    return x if x.is_floating_point() or x.dtype == torch.uint8 else x.to(torch.get_default_dtype())


def targets(
    given: Any, task: Task | None, labels: Sequence[Label] | None = None, name: str = "the target"
) -> tuple[Tensor, tuple[Label, ...]]:
    """Targets as a tensor, and what its classes are called.

    Args:
        given: (n,) or (n, 1) classes of any name; or numbers (n,) or (n, k).
        task: which of the two; if None, floating-point numbers are numbers, all else is classes.
        labels: the classes that there are; if None, those that are found, sorted. Whole numbers
            from 0 on are taken as they are.
        name: for messages.

    Returns:
        int64 (n,) and the classes' names, or floating-point (n, k) and none.

    Raises:
        UsageError: if they are neither, or a class is not among the labels.
    """
    y = _array(given, name)
    if y.ndim == 0 or y.size == 0:
        raise UsageError(f"{name} must have a value a sample; given is an array {y.shape}")
    if task == "regression" or (task is None and y.dtype.kind == "f"):
        numbers = _tensor(_numbers(y, name))
        numbers = numbers if numbers.is_floating_point() else numbers.double()
        check_finite(numbers, name)
        return numbers.reshape(len(numbers), -1), ()
    if y.size != len(y):
        raise UsageError(
            f"classes must be one a sample, (n,); {name} is {y.shape}. Of one-hot rows take "
            ".argmax(1); numbers to learn are task='regression'"
        )
    return _classes(y.reshape(-1), labels, task, name)


def targets_of(given: Any, *, indices: bool, name: str = "the target") -> Tensor:
    """Targets as they are: whole numbers as class ``indices``, int64 (n,), or numbers (n, k).

    Raises:
        UsageError: if they are no numbers, or missing.
    """
    y = _array(given, name)
    if y.dtype.kind not in "biuf":
        raise UsageError(
            f"{name} has classes with names: make a Dataset of it, by Dataset.from_arrays(x, "
            "target), whose labels say which output is which"
        )
    if indices and y.dtype.kind != "f" and y.size == len(y):
        return torch.as_tensor(y.reshape(-1).astype(np.int64), device="cpu")
    return targets(y, "regression", name=name)[0]


def check_finite(x: Tensor, name: str) -> None:
    """Refuse a NaN or an infinity.

    Raises:
        UsageError: that says in which sample the first is.
    """
    if x.is_floating_point() and not x.isfinite().all():
        bad = ~x.isfinite().reshape(len(x), -1).all(1)
        raise UsageError(
            f"there is a NaN or an infinity in {name}, first in sample {int(bad.nonzero()[0])}: "
            "fill in or leave out what is missing"
        )


def _classes(
    y: NDArray[Any], labels: Sequence[Label] | None, task: Task | None, name: str
) -> tuple[Tensor, tuple[Label, ...]]:
    names = [_label(value, name) for value in cast(list[Any], y.tolist())]
    if labels is None:
        found = set(names)
        whole = all(isinstance(value, int) for value in found)
        if task is None and whole and len(found) > max(_FEW, len(names) // 2):
            raise UsageError(
                f"{name} has {len(found):,} different whole numbers in {len(names):,} samples: say "
                "whether they are task='regression' or 'classification'"
            )
        if whole and _are_indices(cast(set[int], found)):
            labels = range(max(cast(set[int], found)) + 1)
        else:
            labels = sorted(found, key=lambda label: (isinstance(label, str), label))
    index = {label: i for i, label in enumerate(labels)}
    if any(value not in index for value in names):  # 1 in one file may be "1" in another
        by_text = {str(label): i for label, i in index.items()}
        if len(by_text) == len(index):
            index |= by_text | {v: by_text[str(v)] for v in names if str(v) in by_text}
    unknown = next((value for value in names if value not in index), None)
    if unknown is not None:
        raise UsageError(
            f"{name} has the class {unknown!r}, which is not among those learned: "
            f"{', '.join(map(visible, map(str, labels)))}"
        )
    return torch.tensor([index[value] for value in names], device="cpu"), tuple(labels)


def _are_indices(found: set[int]) -> bool:
    """Whether whole numbers begin at 0 and leave few out, so that they count classes."""
    return min(found) == 0 and max(found) < 10 * len(found) + 100


def _label(value: Any, name: str) -> Label:
    """A whole number, or else text."""
    if isinstance(value, str):
        return value
    if _is_missing(value):
        raise UsageError(f"{name} lacks a value: fill it in, or leave the sample out")
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return int(value) if isinstance(value, int | float) and value == int(value) else str(value)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    try:
        return value is None or bool(value != value)  # which is how NaN shows
    except TypeError:  # pandas.NA, of which nobody knows whether it equals itself
        return True


def _numbers(given: Any, name: str) -> NDArray[Any]:
    """Real numbers, those of a frame column by column."""
    if not is_frame(given):
        values = _array(given, name)
        if values.dtype.kind not in "biuf":
            raise UsageError(f"{name} must be numbers; given is an array of {values.dtype}")
        return values
    found = {str(column): np.asarray(given[column]) for column in given.columns}
    others = [column for column, values in found.items() if values.dtype.kind not in "biuf"]
    if others:
        raise UsageError(
            f"the columns of {name} must be numbers, all there; {', '.join(map(visible, others))} "
            "are not: encode or drop them (pandas.get_dummies, .fillna)"
        )
    if not found:
        raise UsageError(f"{name} has no column")
    table = np.stack(list(found.values()), axis=1)
    return table.astype(np.float32) if table.dtype.kind != "f" else table  # bytes are no shades


def _array(given: Any, name: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given
    try:
        values: NDArray[Any] = np.asarray(given)
        if values.dtype.kind == "U" and isinstance(given, list | tuple):
            values = np.asarray(given, object)  # of mixed kinds NumPy would make text
    except Exception as problem:  # rows of unequal length, tensors with gradients, say
        raise UsageError(f"{name} is no array: {visible(str(problem))}") from None
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):  # pyright: ignore
        raise UsageError(f"{name} has masked values: fill them in, by .filled(...)")
    return values


def _tensor(values: NDArray[Any]) -> Tensor:
    """On the CPU, of kinds that torch computes with, in memory of its own or shared."""
    kind = values.dtype.kind
    if kind == "f" and values.dtype.itemsize not in (4, 8):
        values = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
    elif kind in "biu" and values.dtype != np.uint8:
        values = values.astype(np.float64)
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if not values.flags.writeable or any(stride < 0 for stride in values.strides):
        values = values.copy()
    return torch.as_tensor(np.ascontiguousarray(values), device="cpu")
