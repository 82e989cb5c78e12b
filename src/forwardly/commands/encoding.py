"""Terminals that cannot show every sign are given plain ones in their place.

``LC_ALL=C`` is ASCII, and Windows' consoles have code pages. What they lack would end a command
with UnicodeEncodeError; here ≤ becomes <=, and é becomes e. (rich sees to the lines of tables.)
"""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

# fmt: off
_SIGNS = {
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "…": "...", "•": "*", "·": "*", "∗": "*",
    "‘": "'", "’": "'", "′": "'", "“": '"', "”": '"', "«": '"', "»": '"', "⁄": "/", "÷": "/",
    "±": "+/-", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∝": "~", "∈": "in",
    "→": "->", "←": "<-", "∂": "d", "√": "sqrt", "⊗": "(x)", "⊙": "(.)", "‖": "||", "°": "deg",
    "⌊": "[", "⌋": "]", "⟨": "<", "⟩": ">", "μ": "u", "∞": "inf", "Σ": "sum", "ı": "i",
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l",
    "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th",
    "\N{COMBINING TILDE}": "~",
}
# fmt: on
_SPINNER = range(0x2800, 0x2900)
"""Braille, of which rich makes what turns while one waits."""


def stand_in(character: str) -> str:
    """What to show in place of a character, in ASCII; a question mark if nothing is known."""
    if character in _SIGNS:
        return _SIGNS[character]
    if ord(character) in _SPINNER:
        return "*"
    parts = unicodedata.normalize("NFKD", character)  # a letter and its accent, say
    letters = "".join(_SIGNS.get(c, c) for c in parts if not unicodedata.combining(c))
    if letters and letters.isascii():
        return letters
    alphabet, *_, word = unicodedata.name(character, "?").split()
    return word.lower() if alphabet == "GREEK" else "?"


def show_stand_ins() -> None:
    """Have the process's own output show them, where its encoding lacks a character."""
    codecs.register_error("forwardly.stand_in", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="forwardly.stand_in")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(stand_in, error.object[error.start : error.end])), error.end
