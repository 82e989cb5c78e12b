"""``forwardly rules`` and ``forwardly cite``: what there is, and whose it is."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.table import Table

from forwardly.commands.console import PlainConsole
from forwardly.files.text import visible
from forwardly.rule import Paper, Rule
from forwardly.rules.options import help_of, options_of
from forwardly.rules.plugins import all_rules, rules_named

_HEADINGS = ("rule", "paper", "year", "passes", "autograd", "feedback", "hidden layers see")


def rules(*names: str, json: bool = False) -> int:
    """List the rules, those of other installed packages too, and what each of them needs.

    Of rules that are named: their options, paper, and where their equations are.

    Parameters
    ----------
    names
        Rules to describe.
    json
        Print data, as one JSON document.
    """
    console = PlainConsole()
    known, problems = (rules_named(names), []) if names else all_rules()
    if json:
        described = [_as_data(name, rule) for name, rule in known.items()]
        sys.stdout.write(dumps(described, indent=2) + "\n")
    elif names:
        for count, (name, rule) in enumerate(known.items()):
            console.say("\n" * min(count, 1) + name)
            _describe(rule, console)
    else:
        _list([_HEADINGS, *(_row(name, rule) for name, rule in known.items())], console)
    for problem in problems:
        PlainConsole(stderr=True).say(problem, style="yellow")
    return 0


def cite(*names: str) -> int:
    """Print the BibTeX entries of rules' papers.

    Parameters
    ----------
    names
        Rules, as ``forwardly rules`` lists them.
    """
    known = rules_named(dict.fromkeys(names))
    console = PlainConsole()
    for entry in dict.fromkeys(rule.paper.bibtex for rule in known.values()):
        console.say(entry)
    return 0


def _row(name: str, rule: type[Rule]) -> tuple[str, ...]:
    return (
        name,
        _authors(rule.paper),
        str(rule.paper.year),
        str(rule.forward_passes),
        "yes" if rule.uses_autograd else "no",
        rule.feedback_path or "–",
        _hidden_layers_see(rule),
    )


def _describe(rule: type[Rule], console: PlainConsole) -> None:
    """What is known of one rule."""
    paper, options, described = rule.paper, options_of(rule), help_of(rule)
    console.say(f"{_summary(rule)}\n".lstrip())
    facts = (
        ("paper", f"{', '.join(paper.authors)}: {paper.title}. {paper.venue}, {paper.year}"),
        ("", paper.url),
        ("equations", f"at the top of {_source(rule) or rule.__module__}"),
        ("class", f"{rule.__module__}.{rule.__qualname__}"),
        ("passes", str(rule.forward_passes)),
        ("autograd", "yes" if rule.uses_autograd else "no"),
        ("feedback", rule.feedback_path or "none"),
        ("hidden layers see", _hidden_layers_see(rule)),
    )
    for line in _aligned(facts):
        console.say(line)
    if not options:
        console.say("\nIt has no options.")
        return
    console.say(
        "\nOptions, for forwardly train as --rule-options NAME=VALUE, for forwardly compare and "
        "teacher-student as --rules RULE:NAME=VALUE:"
    )
    headings = ("option", "takes", "default", "what it is")
    rows = ((o.name, o.values, o.default or "–", described.get(o.name, "")) for o in options)
    _list([headings, *rows], console)


def _as_data(name: str, rule: type[Rule]) -> dict[str, Any]:
    described = help_of(rule)
    return {
        "name": name,
        "summary": _summary(rule),
        "paper": asdict(rule.paper),
        "class": f"{rule.__module__}.{rule.__qualname__}",
        "equations": _source(rule),
        "forward_passes": rule.forward_passes,
        "uses_autograd": rule.uses_autograd,
        "feedback": rule.feedback_path,
        "hidden_layers_see": _hidden_layers_see(rule),
        "options": [
            {
                "name": option.name,
                "takes": option.values,
                "default": option.default,
                "help": described.get(option.name),
            }
            for option in options_of(rule)
        ],
    }


def _authors(paper: Paper) -> str:
    people = [author.split()[-1] for author in paper.authors]
    return people[0] if len(people) == 1 else f"{people[0]} et al."


def _hidden_layers_see(rule: type[Rule]) -> str:
    return "nothing" if rule.trains == "readout" else rule.teacher


def _summary(rule: type[Rule]) -> str:
    """The first sentence of its own docstring."""
    return " ".join(inspect.cleandoc(rule.__doc__ or "").partition("\n\n")[0].split())


def _source(rule: type[Rule]) -> str | None:
    """Its file, at whose top rules have their equations."""
    try:
        return inspect.getsourcefile(rule)
    except (TypeError, OSError):  # of a class without a file
        return None


def _list(rows: Sequence[Sequence[str]], console: PlainConsole) -> None:
    """Headings and rows: on a terminal a table, elsewhere a line each, whatever its length."""
    if not sys.stdout.isatty():
        for line in _aligned(rows):
            console.say(line)
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows[1:]:
        table.add_row(*row)
    console.table(table)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, columns below each other with two spaces between."""
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in shown]
