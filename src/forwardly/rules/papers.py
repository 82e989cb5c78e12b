"""Where the rules come from: the entries of ``papers.bib``, each as a ``Paper``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from forwardly.rule import Paper

_ENTRY = re.compile(r"@\w+\{(?P<key>[^,]+),.*?^\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ {2}(\w+) = \{(.*?)\},?$", re.MULTILINE | re.DOTALL)


def paper(key: str) -> Paper:
    """The paper that is cited by that key.

    Raises:
        KeyError: if there is no such entry.
    """
    return _papers()[key]


@cache
def _papers() -> dict[str, Paper]:
    entries = Path(__file__).with_name("papers.bib").read_text(encoding="utf-8")
    return {found["key"]: _paper(found[0]) for found in _ENTRY.finditer(entries)}


def _paper(entry: str) -> Paper:
    fields = {name: " ".join(text.split()) for name, text in _FIELD.findall(entry)}
    people = (name.partition(", ") for name in fields["author"].split(" and "))
    return Paper(
        title=fields["title"],
        authors=tuple(f"{first} {last}" for last, _, first in people),
        year=int(fields["year"]),
        venue=fields.get("booktitle") or fields["journal"],
        url=fields["url"],
        bibtex=entry,
    )
