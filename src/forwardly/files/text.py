"""Names and values from outside, made fit for where they are shown.

Each medium has one place of its own: pages ``page.py``, terminals ``commands/console.py``,
figures ``plots.as_label``, CSV ``csv_table`` below. All of them write control characters out.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence


def visible(text: str, keep: str = "") -> str:
    r"""``text`` with what cannot be seen written out: an escape character becomes ``\x1b``.

    That is what moves a cursor, turns the direction of text, breaks a line, or cannot be encoded.

    Args:
        text: any.
        keep: characters that may stay, such as "\n".
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or not _is_invisible(c) else c.encode("unicode_escape").decode()
        for c in text
    )


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")


def csv_table(names: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> str:
    """A table as CSV: a row a line, and no text that a spreadsheet takes for a formula.

    Args:
        names: of the columns.
        rows: their cells.
    """
    content = io.StringIO()
    writer = csv.writer(  # noqa: TID251, the one place
        content, lineterminator="\n"
    )
    writer.writerow(map(_cell, names))
    writer.writerows(map(_cell, row) for row in rows)
    return content.getvalue()


def _cell(value: str | int | float) -> str | int | float:
    if not isinstance(value, str):
        return value
    # What begins so is a formula, if it is no number; the apostrophe, which is not shown, makes
    # it text. Spreadsheets know the wide forms of Asian scripts too.
    sign = unicodedata.normalize("NFKC", value[:1])
    return ("'" if sign in {*"=+-@"} and not _is_number(value) else "") + visible(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
