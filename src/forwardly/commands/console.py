"""What the commands share: what they print with, how progress looks, what shells are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, TypeVar

from cyclopts import Parameter
from rich.console import (
    Console,  # noqa: TID251, the one place
    ConsoleOptions,
    RenderableType,
)
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from forwardly.text import visible

INTERRUPTED = 130
"""What shells report of a command that Ctrl-C ended."""

Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Parameter(consume_multiple=True, negative="")]
"""An option that takes several values, separated by spaces."""


class PlainConsole(Console):
    """A console for text that may come from anywhere: names, paths, what files say.

    Nothing in a text is obeyed. Square brackets and :names: are no markup, and control characters
    are written out, so that none moves the cursor, makes a link or sets the window's title.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Everything that is shown passes here: text, tables' cells, progress bars."""
        for segment in super().render(renderable, options):
            if segment.control:  # rich's own; colours are added to the text later
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n\t"), segment.style)


def bars(console: PlainConsole, *fields: str) -> Progress:
    """Progress bars with time left.

    Args:
        console: where to.
        fields: formats of what else to show, such as "MAE {task.fields[mae]}".
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        *(TextColumn(field, markup=False) for field in fields),
        TimeRemainingColumn(),
        console=console,
    )
