"""The one error that commands show without a traceback, and what several of them check."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any


class UsageError(ValueError):
    """A mistake of the user's; the message says what was given, what is expected, what to do."""


def check_rules(names: Collection[str], known: Collection[str]) -> None:
    """Refuse names that are not among the known rules, none at all, and any twice.

    Raises:
        UsageError: that lists the known ones.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        given = f"unknown rule {unknown[0]!r}" if unknown else "no rule given"
        raise UsageError(f"{given}; the known rules are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise UsageError(f"a rule is named twice: {', '.join(names)}")


def in_a_line(failure: Exception) -> str:
    """What somebody else's code raised: the kind, and the first line of what it says."""
    said = next(iter(str(failure).strip().splitlines()), "")
    if isinstance(failure, UsageError):
        return said
    return f"{type(failure).__name__}: {said}" if said else type(failure).__name__


def missing(what: str, package: str, extra: str, problem: ImportError) -> UsageError:
    """That a package of one of our extras is needed."""
    return UsageError(
        f"{what} the package {package} is needed ({problem}): pip install 'forwardly[{extra}]'"
    )


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, NumPy's too, as Python's."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number; given {value!r}") from None
    if least is not None and whole < least:
        raise UsageError(f"{name} must be at least {least}; given {value}")
    return whole
