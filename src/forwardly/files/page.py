"""Pages: one way to make them, in which a name from outside is text wherever a template puts it."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: TID251, the one place

from forwardly.files.text import visible


def render(template: str, **values: Any) -> str:
    """A page, self-contained, from one of ``templates/``.

    All text is escaped, and control characters are written out. The templates, which extend
    ``base.html.jinja``, forbid scripts and whatever lies outside the page.
    """
    environment = Environment(
        loader=PackageLoader("forwardly.files"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    return environment.get_template(template).render(**values)


def _finalize(value: Any) -> Any:
    """What is put in at each place of a template, before it is escaped."""
    return visible(value, keep="\n\t") if type(value) is str else value  # or markup
