"""Checkpoints: files that appear whole or not at all, and that load without running any code."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from forwardly.errors import UsageError
from forwardly.files import write

VERSION = 2


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data, replacing the file in one step.

    Raises:
        OSError: if it cannot be written, as on a full disk; what stood there is kept.
    """
    file = io.BytesIO()  # on a full disk torch's own writer raises something that says nothing
    torch.save(_with_numbers({"version": VERSION, **state}), file)  # pyright: ignore[reportUnknownMemberType]
    write(path, file.getvalue())


def check(state: Mapping[str, Any]) -> None:
    """Refuse a state that could be written but not be loaded again.

    Raises:
        UsageError: that says what is in the way.
    """
    file = io.BytesIO()
    try:
        torch.save(_with_numbers(state), file)  # pyright: ignore[reportUnknownMemberType]
        file.seek(0)
        torch.load(file, weights_only=True)  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # torch and pickle raise anything
        raise UsageError(
            "settings, optimizer or scheduler hold something else than tensors and plain data, "
            f"which a checkpoint cannot have: {_why(error)}"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote; only tensors and plain data are ever loaded (``weights_only``).

    Raises:
        UsageError: if the file is missing, damaged, or not such a file.
    """
    try:
        state = cast(
            dict[str, Any],
            torch.load(path, map_location="cpu", weights_only=True),  # pyright: ignore
        )
    except FileNotFoundError:
        raise UsageError(f"there is no checkpoint {path}") from None
    except Exception as error:  # of a damaged file torch raises anything
        raise UsageError(f"{path} is not a checkpoint of forwardly: {_why(error)}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:  # pyright: ignore
        raise UsageError(f"{path} is not a checkpoint of this version of forwardly")
    return state


def _why(error: Exception) -> str:
    """Its first line; of torch's long message, which says how to run foreign code, the class."""
    if "weights_only" in str(error):
        found = re.search(r"GLOBAL (\S+)", str(error))
        return f"there is a {found[1]}" if found else "there is something else in it"
    return str(error).partition("\n")[0] or type(error).__name__


def _with_numbers(value: Any) -> Any:
    """The same with Python's numbers in place of NumPy's, which would not load."""
    if isinstance(value, Counter):  # a scheduler's milestones
        counted = cast(Counter[Any], value)
        return Counter({_with_numbers(key): count for key, count in counted.items()})
    if isinstance(value, dict):
        items = cast(dict[Any, Any], value).items()
        return {_with_numbers(key): _with_numbers(item) for key, item in items}
    if isinstance(value, list):
        return [_with_numbers(item) for item in cast(list[Any], value)]
    if isinstance(value, tuple):
        return tuple(_with_numbers(item) for item in cast(tuple[Any, ...], value))
    return cast(Any, value.item() if isinstance(value, np.generic) else value)
