"""The command ``forwardly``."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType

import cyclopts

from forwardly import __version__
from forwardly.commands import (
    audit,
    bench,
    compare,
    report,
    reproduce,
    rules,
    teacher_student,
    train,
)
from forwardly.commands.console import INTERRUPTED, PlainConsole
from forwardly.commands.encoding import show_stand_ins
from forwardly.errors import UsageError

app = cyclopts.App(
    name="forwardly",
    help="Train networks with forward passes only: PEPITA and the rules it is compared with.",
    version=__version__,
)
app.command(teacher_student.teacher_student)
app.command(train.train)
app.command(reproduce.reproduce)
app.command(report.report)
app.command(compare.compare)
app.command(audit.audit)
app.command(bench.bench)
app.command(rules.list_rules, name="rules")
app.command(rules.cite)


def main() -> None:
    """Run the command line; a user's mistake gives a message and exit code 2, no traceback."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    show_stand_ins()
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, stop)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (UsageError, cyclopts.CycloptsError) as mistake:
        message = f"error: {mistake}"
        if isinstance(mistake, cyclopts.UnknownOptionError):
            options = (argument.name for argument in mistake.argument_collection)
            message += f" The options are {', '.join(options)}."
        elif isinstance(mistake, cyclopts.UnknownCommandError):
            (given, *_) = mistake.unused_tokens or [""]
            commands = (name for name in app if not name.startswith("-"))
            message = f'error: unknown command "{given}"; the commands are {", ".join(commands)}.'
        PlainConsole(stderr=True).say(message, style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
