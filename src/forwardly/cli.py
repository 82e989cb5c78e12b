"""The command ``forwardly``."""

from __future__ import annotations

import gc
import sys
from typing import cast

import cyclopts

from forwardly import __version__
from forwardly.commands import ending
from forwardly.commands.arguments import check_arguments, check_texts
from forwardly.commands.console import PlainConsole
from forwardly.commands.encoding import show_stand_ins
from forwardly.errors import UsageError

COMMANDS = {
    "teacher_student:teacher_student": (
        "Learn a small teacher network's outputs: the experiment of the blog post."
    ),
    "train:train": "Train a model by a rule; the test samples are looked at once, at the end.",
    "predict:predict": "Say what a trained model makes of samples, as a table (CSV).",
    "evaluate:evaluate": "Hold a trained model to samples whose targets are known.",
    "export:export": "Write a training step as files that learn without torch: wherever inference "
    "runs, or in C.",
    "reproduce:reproduce": (
        "Run a published experiment, as far as it is not recorded yet, or list what is."
    ),
    "report:report": (
        "Make one self-contained page of records or training runs: tables, curves, settings, gaps."
    ),
    "compare:compare": (
        "Train rules on the same network, data and seeds, and compare their test accuracy."
    ),
    "tune:tune": (
        "Search for the settings with which a rule does best on validation samples, by Optuna."
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
        consume_multiple=1,
        negative_iterable="",
        show_default=as_given,
        json_dict=False,
        json_list=False,  # [a] is the name of a file, and no list
    ),
    config=check_arguments,
    suppress_keyboard_interrupt=False,
)
for _function, _summary in COMMANDS.items():
    app.command(f"forwardly.commands.{_function}", help=_summary)


def main() -> None:
    """Run the command line, and end with the exit code of ``commands/ending.py``."""
    gc.freeze()  # looking through torch's objects, which stay, would take as long as a command
    show_stand_ins()
    code = ending.run(lambda: _called(sys.argv[1:]))
    gc.freeze()  # as Python's end would take a third of a second for it
    sys.exit(code)


def _called(given: list[str]) -> int:
    """What the command returns.

    Raises:
        UsageError: if there is no such command, option or value.
    """
    check_texts(given)
    if given and given[0] in app and not given[0].startswith("-"):
        app[given[0]].help = None  # its docstring then, which says more than the summary
    try:
        code = app(
            given,
            console=PlainConsole(),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except cyclopts.CycloptsError as mistake:
        raise UsageError(_words(mistake)) from None
    return code if isinstance(code, int) else 0


def _words(mistake: cyclopts.CycloptsError) -> str:
    """Cyclopts' own, or better ones."""
    if isinstance(mistake, cyclopts.UnknownOptionError):
        options = [a.name for a in mistake.argument_collection if a.show and a.name[0] == "-"]
        return f"{mistake} The options are {', '.join(options) or 'none'}."
    if isinstance(mistake, cyclopts.MissingArgumentError) and mistake.argument:
        option, given = mistake.keyword or mistake.argument.name, mistake.tokens_so_far
        count, _ = mistake.argument.token_count()
        if count > 1:
            return f"{option} needs {count} values; given {' '.join(given) or 'none'}."
        return f"{option} needs a value, and none is given."
    (wrong, *_) = mistake.unused_tokens or [""]
    if isinstance(mistake, cyclopts.UnknownCommandError):
        commands = (name for name in app if not name.startswith("-"))
        return f'unknown command "{wrong}"; the commands are {", ".join(commands)}.'
    if isinstance(mistake, cyclopts.UnusedCliTokensError):
        command = " ".join(["forwardly", *(mistake.command_chain or ())])
        return f'"{wrong}" belongs to no option; see {command} --help.'
    return str(mistake)
