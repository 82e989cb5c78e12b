"""Compiling with numba, once a machine where the compiled code can be kept."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any


def kept(
    decorate: Callable[..., Any], function: Callable[..., Any], *given: Any, **more: Any
) -> Any:
    """``function`` compiled by a decorator of numba's, from the cache if there is one.

    Args:
        decorate: ``numba.njit`` or ``numba.cfunc``.
        function: what to compile; what checks calls in the tests is taken off it.
        given: of the decorator.
        more: likewise.
    """
    plain = inspect.unwrap(function)
    if _sources() not in plain.__qualname__:
        plain.__qualname__ += f"_{_sources()}"  # which names the file that it is kept in
    try:
        return decorate(*given, cache=True, **more)(plain)
    except RuntimeError:  # no folder that can be written to
        return decorate(*given, **more)(plain)


@cache
def no_numba() -> str:
    """Why nothing can be compiled here; empty if it can. Loads numba."""
    try:
        import numba  # pyright: ignore  # noqa: F401
    except (ImportError, OSError) as reason:  # not there, or not for this NumPy, this system
        return f"numba, which compiles it, cannot be imported ({reason})"
    return ""


@cache
def _sources() -> str:
    """A digest of this folder: of a function numba asks only whether its own file has changed, not
    those of what it calls.
    """
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
