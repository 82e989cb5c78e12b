"""Pages: one way to make them, in which a name from outside is text wherever a template puts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: TID251, the one place

from forwardly.files.text import visible


def render(template: str, **values: Any) -> str:
    """A page, self-contained, from one of ``templates/``.

    All text is escaped, and control characters are written out. The templates, which extend
    ``base.html.jinja``, forbid whatever lies outside the page, and scripts: all but
    ``learn.html.jinja``, whose scripts are files beside it.
    """
    environment = Environment(
        loader=PackageLoader("forwardly.files"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    return environment.get_template(template).render(**values)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table, as notebooks show one; all text is escaped, as in pages."""

    def line(kind: str, cells: Sequence[str]) -> str:
        style = "text-align: left; padding: .1em 1em .1em 0"
        texts = (f'<{kind} style="{style}">{_text(cell)}</{kind}>' for cell in cells)
        return f"<tr>{''.join(texts)}</tr>"

    lines = [line("td", cells) for cells in rows]
    start = f'<caption style="text-align: left">{_text(caption)}</caption>'
    head = f"{start}<thead>{line('th', heads)}</thead>"
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def _text(text: str) -> str:
    return escape(visible(text))


def _finalize(value: Any) -> Any:
    """What is put in at each place of a template, before it is escaped."""
    return visible(value, keep="\n\t") if type(value) is str else value  # or markup
