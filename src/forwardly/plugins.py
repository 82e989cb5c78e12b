"""Rules of other packages, which add them through the entry point ``forwardly.rules``.

[project.entry-points."forwardly.rules"]
my-rule = "my_package.my_rule:MyRule"
"""

from __future__ import annotations

from importlib.metadata import entry_points

from forwardly.rule import Rule
from forwardly.rules import RULES

GROUP = "forwardly.rules"


def all_rules() -> tuple[dict[str, type[Rule]], list[str]]:
    """Ours and those of installed packages, by name; and what is wrong with those left out.

    A package cannot take the name of one of our rules, and one that does not load is left out.
    """
    rules = dict(RULES)
    problems: list[str] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in RULES:
            problems.append(f"{point.value} is left out: the name {point.name!r} is taken")
            continue
        try:
            rule = point.load()
        except Exception as reason:  # whatever a foreign package's import may raise
            problems.append(f"{point.name} ({point.value}) does not load: {reason!r}")
            continue
        if isinstance(rule, type) and issubclass(rule, Rule):
            rules[point.name] = rule
        else:
            problems.append(f"{point.name} ({point.value}) is not a subclass of forwardly.Rule")
    return dict(sorted(rules.items())), problems
