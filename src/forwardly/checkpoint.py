"""Checkpoints: files that appear whole or not at all, and that load without running any code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from forwardly.errors import UsageError
from forwardly.files import replacing

VERSION = 1


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data, replacing the file in one step."""
    with replacing(path) as part:
        torch.save({"version": VERSION, **state}, part)  # pyright: ignore[reportUnknownMemberType]


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
    except Exception as reason:  # of a damaged file torch raises anything
        first_line = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        raise UsageError(f"{path} is not a checkpoint of forwardly: {first_line}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:  # pyright: ignore
        raise UsageError(f"{path} is not a checkpoint of this version of forwardly")
    return state
