"""Rules by name and options; those of other packages too, by the entry point ``forwardly.rules``.

[project.entry-points."forwardly.rules"]
my-rule = "my_package.my_rule:MyRule"
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Any

from forwardly.errors import UsageError, check_rules
from forwardly.rule import Paper, Rule
from forwardly.rules import RULES
from forwardly.rules.options import read_options, take_options

GROUP = "forwardly.rules"


def all_rules() -> tuple[dict[str, type[Rule]], list[str]]:
    """All rules by name, those of installed packages too, and the problems of those left out."""
    rules = dict(RULES)
    problems: list[str] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in RULES:
            problems.append(f"{point.value} is left out: the name {point.name!r} is taken")
            continue
        try:
            rule = point.load()
        except Exception as failure:  # whatever a foreign package's import may raise
            problems.append(f"{point.name} ({point.value}) does not load: {failure!r}")
            continue
        if not (isinstance(rule, type) and issubclass(rule, Rule)):
            problems.append(f"{point.name} ({point.value}) is not a subclass of forwardly.Rule")
        elif wrong := [name for name, fits in _ATTRIBUTES.items() if not fits(_get(rule, name))]:
            problems.append(
                f"{point.name} ({point.value}) is left out: its class attributes "
                f"{', '.join(wrong)} are missing, or not what forwardly.Rule says of them"
            )
        else:
            rules[point.name] = rule
    return dict(sorted(rules.items())), problems


def rules_named(names: Collection[str]) -> dict[str, type[Rule]]:
    """The rules of those names. Other packages are slow to look through, and only if need be.

    Raises:
        UsageError: if there is no name, or one is unknown or of a rule that was left out.
    """
    known, problems = (RULES, []) if names and RULES.keys() >= {*names} else all_rules()
    for name in names:
        why = [text for text in problems if name not in known and text.startswith(f"{name} (")]
        if why:
            raise UsageError(why[0])
    check_rules(names, known)
    return {name: known[name] for name in names}


def rules_with_options(given: Collection[str]) -> dict[str, tuple[type[Rule], dict[str, Any]]]:
    """Rules as ``pepita`` or, with options, as ``pepita:presynaptic=clean,sign=-1``.

    Returns:
        By what was given, the rule and its options as it takes them.

    Raises:
        UsageError: as ``rules_named``, ``read_options`` and ``take_options`` do.
    """
    split = {text: text.partition(":") for text in given}
    known = rules_named(dict.fromkeys(name for name, *_ in split.values()))
    check_rules(given, given)  # each once
    found: dict[str, tuple[type[Rule], dict[str, Any]]] = {}
    for text, (name, colon, options) in split.items():
        rule, taken = known[name], dict[str, Any]()
        if colon:
            taken = take_options(name, rule, read_options(options.split(",")))
        found[text] = rule, taken
    return found


def _get(rule: type[Rule], name: str) -> object:
    return getattr(rule, name, None)


def _is_paper(paper: object) -> bool:
    if not isinstance(paper, Paper):
        return False
    parts: dict[str, Any] = asdict(paper)
    given = parts.pop("authors")
    authors: list[Any] = list(given) if hasattr(given, "__iter__") else []
    return (
        bool(authors)
        and isinstance(parts.pop("year"), int)
        and all(isinstance(text, str) for text in (*authors, *parts.values()))
        and all(author.strip() for author in authors)
    )


_ATTRIBUTES: dict[str, Callable[[object], bool]] = {
    "paper": _is_paper,
    "uses_autograd": lambda value: isinstance(value, bool),
    "forward_passes": lambda value: isinstance(value, int),
    "feedback_path": lambda value: isinstance(value, str),
    "teacher": lambda value: value in ("error", "target", "label"),
    "trains": lambda value: value in ("all", "synapses", "readout"),
}
"""The class attributes that commands read, each with a check of its value."""
