"""The command ``forwardly``."""

from __future__ import annotations

import gc
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import cast

import cyclopts

from forwardly import __version__
from forwardly.commands.console import INTERRUPTED, PlainConsole
from forwardly.commands.encoding import show_stand_ins
from forwardly.errors import UsageError

COMMANDS = {
    "teacher_student:teacher_student": (
        "Learn a small teacher network's outputs: the experiment of the blog post."
    ),
    "train:train": "Train a model by a rule; the test samples are looked at once, at the end.",
    "predict:predict": "Say what a trained model makes of samples, as a table (CSV).",
    "evaluate:evaluate": "Hold a trained model to samples whose targets are known.",
    "reproduce:reproduce": (
        "Run a published experiment, as far as it is not recorded yet, or list what is."
    ),
    "report:report": (
        "Make one self-contained page of records or training runs: tables, curves, settings, gaps."
    ),
    "compare:compare": (
        "Train rules on the same network, data and seeds, and compare their test accuracy."
    ),
    "audit:audit": (
        "Measure the four ways in which backprop is implausible in the brain, for each rule."
    ),
    "bench:bench": "Time training steps against the fastest alternative, in turn, as ratios.",
    "rules:rules": (
        "List the rules, those of other installed packages too, and what each of them needs."
    ),
    "rules:cite": "Print the BibTeX entries of rules' papers.",
}
"""Where each is and its summary, for the list of all: a command is imported when it is called."""


def as_given(default: object) -> str | None:
    """A default in a help as one would give it; none where there is nothing to give."""
    values = cast(tuple[object, ...], default) if isinstance(default, tuple) else (default,)
    return (
        " ".join(str(value) for value in values if value is not None and value is not False) or None
    )


app = cyclopts.App(
    name="forwardly",
    help="Train networks with forward passes only: PEPITA and the rules it is compared with.",
    version=__version__,
    default_parameter=cyclopts.Parameter(
        consume_multiple=True, negative_iterable="", show_default=as_given
    ),
)
for _function, _summary in COMMANDS.items():
    app.command(f"forwardly.commands.{_function}", help=_summary)


def main() -> None:
    """Run the command line; a user's mistake gives a message and exit code 2, no traceback."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    gc.freeze()  # torch's objects, which take a tenth of a second to look through, stay to the end
    show_stand_ins()
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, stop)
    given = sys.argv[1:]
    try:
        if given and given[0] in app and not given[0].startswith("-"):
            app[given[0]].help = None  # its docstring then, which says more than the summary
        app(given, exit_on_error=False, print_error=False)
    except (UsageError, cyclopts.CycloptsError) as mistake:
        message = f"error: {mistake}"
        if isinstance(mistake, cyclopts.UnknownOptionError):
            options = (a.name for a in mistake.argument_collection if a.show)
            message += f" The options are {', '.join(options)}."
        elif isinstance(mistake, cyclopts.UnknownCommandError):
            (wrong, *_) = mistake.unused_tokens or [""]
            commands = (name for name in app if not name.startswith("-"))
            message = f'error: unknown command "{wrong}"; the commands are {", ".join(commands)}.'
        PlainConsole(stderr=True).say(message, style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
