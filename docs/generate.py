"""Write what the README says in figures, from the records and the code; ``make docs`` runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import forwardly as fw
from forwardly.experiments.digits import Row
from forwardly.statistics import Difference

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMPARISON = ROOT / "docs" / "comparison.md"
RECORDS = ROOT / "records" / "teacher-student"
DIGITS = ROOT / "records" / "compare"

NOTES = {
    "backprop": "the reference",
    "readout-only": "the control: over a frozen hidden layer, a readout learns too",
}


def parts(document: Path) -> dict[str, str]:
    """What stands between the marks ``<!-- name -->`` of a document."""
    if document == README:
        return {"teacher-student": teacher_student(), "rules": rules()}
    return {name: comparison(name) for name in ("digits", "digits-16")}


def generated(document: Path) -> str:
    """The document with its generated parts made anew."""
    text = document.read_text()
    for name, part in parts(document).items():
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = marks.subn(lambda match, part=part: f"{match[1]}{part}{match[2]}", text)
        assert found == 1, f"{found} places for {name}"
    return text


def teacher_student() -> str:
    """One seed, which the figure shows, beside several."""
    one, many = (_summary(name) for name in ("default", "ten-seeds"))
    first = json.loads((RECORDS / "default" / "config.json").read_text())["settings"]["seed"]
    lines = [
        f"| MAE after {one['pepita']['final']['epoch']:,} epochs | training, seed {first} "
        f"| validation, seed {first} | validation, ten seeds: mean ± sd | median | largest "
        "| diverged |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in one:
        final, all_final = one[rule]["final"], many[rule]["final"]
        errors = [seed["val_mae"] for seed in many[rule]["seeds"].values()]
        lines.append(
            f"| {rule} | {final['train_mae']:.4f} | {final['val_mae']:.4f} "
            f"| {all_final['val_mae']:.3f} ± {all_final['val_mae_sd']:.3f} "
            f"| {median(errors):.3f} | {max(errors):.3f} | {len(many[rule]['diverged'])} of 10 |"
        )
    return "\n".join(lines) + "\n"


def rules() -> str:
    """The rules there are."""
    lines = ["| rule | class | paper | autograd |", "|---|---|---|---|"]
    for name, rule in fw.RULES.items():
        paper = rule.paper
        note = f", {NOTES[name]}" if name in NOTES else ""
        people = [author.split()[-1] for author in paper.authors]
        if len(people) > 3:
            people = [f"{people[0]} et al."]
        cited = " & ".join([", ".join(people[:-1]), people[-1]] if len(people) > 1 else people)
        lines.append(
            f"| `{name}` | `fw.{rule.__name__}`{note} | [{cited} {paper.year}]({paper.url}) "
            f"| {'yes' if rule.uses_autograd else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def comparison(record: str) -> str:
    """The table of ``forwardly compare``."""
    content = json.loads((DIGITS / record / "summary.json").read_text())
    lines = [
        "| rule | learning rate | test accuracy (%) "
        "| difference from readout-only, 95 % interval | p |",
        "|---|---|---|---|---|",
    ]
    for rule, row in content["rules"].items():
        change = row["over_readout_only"]
        made = Row(rule, row["accuracies"], None if change is None else Difference(**change))
        rate = content["learning_rates"][rule]
        lines.append(
            f"| {rule} | {rate:g} | {made.accuracy_text()} | {' | '.join(made.difference_text())} |"
        )
    return "\n".join(lines) + "\n"


def _summary(record: str) -> dict[str, Any]:
    return json.loads((RECORDS / record / "summary.json").read_text())["rules"]


if __name__ == "__main__":
    for document in (README, COMPARISON):
        document.write_text(generated(document))
