"""What the commands share: how progress looks, and what shells are told."""

from __future__ import annotations

from typing import Annotated, TypeVar

from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

INTERRUPTED = 130
"""What shells report of a command that Ctrl-C ended."""

Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Parameter(consume_multiple=True, negative="")]
"""An option that takes several values, separated by spaces."""


def bars(console: Console, *fields: str) -> Progress:
    """Progress bars with time left.

    Args:
        console: where to.
        fields: formats of what else to show, such as "MAE {task.fields[mae]}".
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        *(TextColumn(field) for field in fields),
        TimeRemainingColumn(),
        console=console,
    )
