"""What the commands share: what they print with, how progress looks, what shells are told."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from rich.console import (
    Console,  # noqa: TID251, the one place
    ConsoleOptions,
    RenderableType,
)
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from forwardly.files.text import visible

INTERRUPTED = 130
"""What shells report of a command that Ctrl-C ended."""

_FIRST_PAUSE, _SECONDS_OF_SILENCE = 1.0, 60

_ANY_WIDTH = 1000
"""Characters, of more than any table has."""


class PlainConsole(Console):
    """A console for text that may come from anywhere: names, paths, what files say.

    Nothing in a text is obeyed. Square brackets and :names: are no markup, and control characters
    are written out, so that none moves the cursor, makes a link or sets the window's title.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, as long as it will be when it is shown, so that tables have room for it."""
        return super().render_str(visible(text, keep="\n\t"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Everything that is shown passes here, progress bars and texts of other makes too."""
        for segment in super().render(renderable, options):
            if segment.control:  # rich's own; colours are added to the text later
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n\t"), segment.style)

    def on_broken_pipe(self) -> None:
        """Leave it to ``ending.run``; rich would exit with 1."""
        raise  # of the BrokenPipeError that is being handled

    def say(self, text: str, style: str | None = None) -> None:
        """A line, whole: terminals wrap it by themselves, and scripts find it in one piece."""
        self.print(text, style=style, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table in which no word is cut, if need be wider than the terminal.

        Left to itself rich makes the widest columns narrow first, those of names.
        """
        wide = self.options.update_width(_ANY_WIDTH)
        lacks: list[int] = []
        widths: list[int] = []
        for column in table.columns:
            cells = [Measurement.get(self, wide, cell) for cell in (column.header, *column.cells)]
            most = max(cell.maximum for cell in cells)
            column.min_width = most if column.no_wrap else max(cell.minimum for cell in cells)
            widths.append(column.min_width)
            lacks.append(most - column.min_width)
        needed = Measurement.get(self, wide, table).minimum
        for _ in range(min(self.width - needed, sum(lacks))):
            neediest = lacks.index(max(lacks))
            widths[neediest] += 1
            lacks[neediest] -= 1
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        if needed > self.width:
            table.width = needed
        self.print(table, crop=False)


def bars(console: PlainConsole, *fields: str) -> Progress:
    """Progress bars with time left; lines now and then where there is no terminal to show them.

    They stay out of pipes: where the command's output goes elsewhere, they are on standard error.

    Args:
        console: of the command's output.
        fields: formats of what else to show, such as "MAE {task.fields[mae]}".
    """
    shown = console if console.is_terminal else PlainConsole(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        *(TextColumn(field, markup=False) for field in fields),
        TimeRemainingColumn(),
    )
    if shown.is_terminal:
        return Progress(*columns, console=shown)
    return _Lines(shown, fields)


class _Lines(Progress):
    """A line when a task comes to its next whole step, at first every second, later every minute.

    A task with the field ``quiet`` is a part of another and has no lines.
    """

    def __init__(self, console: PlainConsole, fields: Iterable[str]) -> None:
        super().__init__(console=console, disable=True)
        self._out, self._formats = console, [*fields]
        self._pause, self._last = _FIRST_PAUSE, time.monotonic()
        self._steps: dict[TaskID, int] = {}

    def stop(self) -> None:
        """Nothing was begun, after which some versions of rich end a line."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See ``Progress``."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See ``Progress``."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, number: TaskID) -> None:
        task = next(task for task in self.tasks if task.id == number)
        before, step = self._steps.get(number, 0), int(task.completed)
        self._steps[number] = step
        silent = time.monotonic() - self._last
        due = silent >= (self._pause if step != before else _SECONDS_OF_SILENCE)
        if task.fields.get("quiet") or not due:
            return
        self._pause = min(2 * self._pause, _SECONDS_OF_SILENCE)
        self._last += silent
        done = f"{task.completed:,.{0 if step == task.completed else 1}f}"
        of = "" if task.total is None else f" of {task.total:,.0f}"
        parts = [f"{task.description}: {done}{of}", *(f.format(task=task) for f in self._formats)]
        if task.time_remaining is not None:
            parts.append(f"{timedelta(seconds=round(task.time_remaining))} left")
        self._out.say(", ".join(part for part in parts if part.strip()))
