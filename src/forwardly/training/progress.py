"""A progress bar for notebooks, where ``fit`` would otherwise be silent for a long time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any


def in_notebook() -> bool:
    """Whether the code runs in a notebook's kernel."""
    found = sys.modules.get("IPython")
    shell = None if found is None else found.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def shown(wanted: bool | None, epochs: int) -> Generator[Callable[[Mapping[str, float]], None]]:
    """A function to call with each epoch's row; it moves a bar, if one is wanted.

    Args:
        wanted: None where a notebook should have one.
        epochs: in all.
    """
    if not (in_notebook() if wanted is None else wanted):
        yield lambda _: None
        return
    began = time.monotonic()
    show = _display() if in_notebook() else _rewrite
    first: list[float] = []

    def move(row: Mapping[str, float]) -> None:
        done = row["epoch"]
        first.append(done)
        each = (time.monotonic() - began) / (done - first[0] + 1)
        show(done, epochs, f"{_figures(row)}, {each * (epochs - done):,.0f} s left")

    try:
        yield move
    finally:
        if not in_notebook():
            sys.stderr.write("\n")


def _figures(row: Mapping[str, float]) -> str:
    part = "validation " if "validation_loss" in row else ""
    prefix = part.replace(" ", "_")
    if f"{prefix}accuracy" in row:
        return f"{part}accuracy {100 * row[f'{prefix}accuracy']:.2f} %"
    return f"{part}loss {row[f'{prefix}loss']:.4g}"


def _rewrite(done: float, epochs: int, text: str) -> None:
    """On a terminal, in the same line again."""
    sys.stderr.write(f"\repoch {done:.0f} of {epochs}, {text}    ")
    sys.stderr.flush()


def _display() -> Callable[[float, int, str], None]:
    """In a notebook, in the same place again; ipywidgets are not needed."""
    from IPython.display import HTML, display  # pyright: ignore

    def content(done: float, epochs: int, text: str) -> Any:
        bar = f'<progress value="{done:.0f}" max="{epochs}" style="width: 20em"></progress>'
        return HTML(f"{bar} epoch {done:.0f} of {epochs}, {escape(text)}")  # pyright: ignore

    handle: Any = display(HTML("…"), display_id=True)  # pyright: ignore

    def show(done: float, epochs: int, text: str) -> None:
        handle.update(content(done, epochs, text))  # pyright: ignore

    return show
