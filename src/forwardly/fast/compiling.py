"""Compiling with numba, once a machine where the compiled code can be kept."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast


def compile_cached(
    decorator: Callable[..., Any], function: Callable[..., Any], *signature: Any, **options: Any
) -> Any:
    """``function`` compiled by ``numba.njit`` or ``numba.cfunc``, or from numba's cache.

    What checks calls in the tests is taken off it.
    """
    function = inspect.unwrap(function)
    if _digest_of_sources() not in function.__qualname__:
        function.__qualname__ += f"_{_digest_of_sources()}"  # which names the file in the cache
    try:
        return decorator(*signature, cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written to
        return decorator(*signature, **options)(function)


def compile_inner(function: Callable[..., Any], **options: Any) -> Any:
    """``function`` compiled as a part of the compiled functions that call it, for no others."""
    from numba import njit

    decorator = cast(Any, njit)(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)
    return decorator(inspect.unwrap(function))


@cache
def no_numba() -> str:
    """Why nothing can be compiled here; empty if it can. Loads numba."""
    try:
        import numba  # pyright: ignore  # noqa: F401
    except (ImportError, OSError) as error:  # not there, or not for this NumPy, this system
        return f"numba, which compiles it, cannot be imported ({error})"
    return ""


@cache
def _digest_of_sources() -> str:
    """Of the files in this folder and those within: a function's cached code is only as new as the
    functions that it calls, and numba asks only whether its own file has changed.
    """
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
