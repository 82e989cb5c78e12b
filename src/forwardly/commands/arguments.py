"""What is given on a command line, looked at before it is converted: one door for all commands.

By itself cyclopts rounds --epochs 1.5, takes 0x10 and "none" for numbers, and 1e400 for infinity.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, ArgumentCollection

from forwardly.errors import UsageError

_LONGEST = 4096
"""Characters: of a path, more than that has no name on any system."""

_LARGEST = 2**63 - 1
"""What torch, NumPy and JSON's readers have as integers."""


def check_texts(given: Sequence[str]) -> None:
    """Refuse what nothing can be called.

    Raises:
        UsageError: if a text holds a zero byte, or is too long.
    """
    for text in given:
        if len(text) > _LONGEST:
            raise UsageError(
                f"an argument has {len(text):,} characters, and {_LONGEST:,} are the most: "
                f'"{text[:40]}…"'
            )
        if "\0" in text:
            raise UsageError(f'an argument cannot hold a zero byte; given "{text}"')


def check_arguments(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse texts that do not stand for what an option takes. Cyclopts calls it; see ``config``.

    Raises:
        UsageError: that names the option and what was given.
    """
    for argument in arguments:
        types = set(kinds(argument.hint))
        for token in argument.tokens:
            name, text = token.keyword or argument.name, token.value
            if Path in types:
                _check_path(name, text)
            if int in types:
                _check_whole(name, text)
            elif float in types:
                _check_number(name, text)


def kinds(hint: Any) -> Iterator[Any]:
    """The types that a value may have: of ``tuple[int, ...] | None``, int and None's."""
    inner = get_args(hint)
    if not inner:
        yield hint
    for part in inner:
        yield from kinds(part)


def _check_path(name: str, text: str) -> None:
    try:
        names_something = bool(os.fsencode(text))
    except UnicodeEncodeError:  # half of a sign, say
        names_something = False
    if not names_something:
        raise UsageError(f'{name} must be a path; given "{text}"')


def _check_whole(name: str, text: str) -> None:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise UsageError(f'{name} must be a whole number; given "{_shortened(text)}"')
    if len(text) > 20 or abs(int(text)) > _LARGEST:
        raise UsageError(f"{name} must be at most {_LARGEST}; given {_shortened(text)}")


def _check_number(name: str, text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f'{name} must be a number; given "{_shortened(text)}"') from None
    if not math.isfinite(value):
        raise UsageError(f'{name} must be a finite number; given "{_shortened(text)}"')


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
