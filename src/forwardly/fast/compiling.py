"""Compiling with numba, once a machine where the compiled code can be kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
    try:
        return decorate(*given, cache=True, **more)(plain)
    except RuntimeError:  # no folder that can be written to
        return decorate(*given, **more)(plain)
