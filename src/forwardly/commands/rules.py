"""``forwardly rules`` and ``forwardly cite``: what there is, and whose it is."""

from __future__ import annotations

from rich.table import Table

from forwardly.commands.console import PlainConsole
from forwardly.errors import check_rules
from forwardly.rules.plugins import all_rules


def rules() -> int:
    """List the rules, those of other installed packages too, and what each of them needs."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in (
        "rule",
        "paper",
        "year",
        "passes",
        "autograd",
        "feedback",
        "hidden\nlayers see",
    ):
        table.add_column(heading)
    known, problems = all_rules()
    for name, rule in known.items():
        people = [author.split()[-1] for author in rule.paper.authors]
        table.add_row(
            name,
            people[0] if len(people) == 1 else f"{people[0]} et al.",
            str(rule.paper.year),
            str(rule.forward_passes),
            "yes" if rule.uses_autograd else "no",
            rule.feedback_path or "–",
            "nothing" if rule.trains == "readout" else rule.teacher,
        )
    PlainConsole().table(table)
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
    known, _ = all_rules()
    check_rules(dict.fromkeys(names), known)
    console = PlainConsole()
    for entry in dict.fromkeys(known[name].paper.bibtex for name in names):
        console.say(entry)
    return 0
