"""Settings are dataclasses, and what a field may be stands beside its type: checked by ``check``.

    epochs: Annotated[int, at_least(1)] = 30

Commands take their options from the same fields: defaults, types, and help from the docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from forwardly.errors import UsageError


@dataclass(frozen=True)
class Must:
    """What a setting must be, in words and as a predicate."""

    be: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Must:
    """A number that is not below ``low``."""
    return Must(f"at least {low}", lambda value: value >= low)


def at_most(high: int) -> Must:
    """A number that is not above ``high``."""
    return Must(f"at most {high:,}", lambda value: value <= high)


def one_of(*options: str) -> Must:
    """One of some words."""
    return Must(f"one of {', '.join(options)}", lambda value: value in options)


_LARGEST = 1e30
"""Above it float32, in which networks compute, is close to its end."""

RATE = Must(f"at least 0 and at most {_LARGEST:g}", lambda value: 0 <= value <= _LARGEST)
POSITIVE = Must(f"positive and at most {_LARGEST:g}", lambda value: 0 < value <= _LARGEST)
SHARE = Must("above 0 and at most 1", lambda value: 0 < value <= 1)
BELOW_1 = Must("below 1", lambda value: value < 1)
EPOCHS = Must("numbers of epochs of at least 1", lambda epochs: min(epochs, default=1) >= 1)
LAYERS = Must(
    "one or more layer sizes of at least 1", lambda sizes: bool(sizes) and min(sizes) >= 1
)
MOST_PIXELS = at_most(10_000)
MOST_EPOCHS = at_most(1_000_000_000)
MOST_SEEDS = at_most(10_000)
MOST_THREADS = at_most(1024)
MOST_UNITS = Must("sizes of at most 1,000,000", lambda sizes: max(sizes, default=0) <= 1_000_000)


def require(must: Must, **settings: Any) -> None:
    """Refuse settings that are not what they must be; None stands for a default.

    Raises:
        UsageError: that names the setting.
    """
    for name, value in settings.items():
        if value is not None and not must.holds(value):
            given = list(value) if isinstance(value, tuple) else value  # pyright: ignore
            raise UsageError(f"{name} must be {must.be}; given {given!r}")


def check(settings: object) -> None:
    """Refuse a dataclass one of whose fields is not what it must be.

    Raises:
        UsageError: that names the field.
    """
    for name, must in _declared(type(settings)):
        require(must, **{name: getattr(settings, name)})


@cache
def _declared(kind: type) -> list[tuple[str, Must]]:
    declared: list[tuple[str, Must]] = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        declared += [(name, m) for m in getattr(hint, "__metadata__", ()) if isinstance(m, Must)]
        if get_origin(hint) is Literal:
            options = get_args(hint)
            words = " or ".join(options) if len(options) == 2 else one_of(*options).be
            declared.append((name, Must(words, options.__contains__)))
    return declared
