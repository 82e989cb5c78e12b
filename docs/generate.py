"""Write what the README says in figures, from the records and the code; ``make docs`` runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import forwardly as fw
from forwardly import records
from forwardly.benchmarks import scaling
from forwardly.experiments.digits import Row
from forwardly.experiments.registry import EXPERIMENTS
from forwardly.report import Column, Line, columns
from forwardly.statistics import Difference

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMPARISON = ROOT / "docs" / "comparison.md"
RESULTS = ROOT / "docs" / "results.md"
BENCHMARK = ROOT / "docs" / "benchmark.md"
ALL_RECORDS = ROOT / "records"
RECORDS = ROOT / "records" / "teacher-student"
DIGITS = ROOT / "records" / "compare"

AUDITED = ("backprop", "feedback-alignment", "direct-feedback-alignment", "drtp", "pepita")

NOTES = {
    "backprop": "the reference",
    "readout-only": "the control: over a frozen hidden layer, a readout learns too",
}


def parts(document: Path) -> dict[str, str]:
    """What stands between the marks ``<!-- name -->`` of a document."""
    if document == README:
        return {
            "teacher-student": teacher_student(),
            "audit": audit(),
            "table-1": table_1(),
            "bench": bench(),
            "rules": rules(),
        }
    if document == RESULTS:
        return {"results": results()}
    if document == BENCHMARK:
        return {"costs": costs(), "growth": growth()}
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


def audit() -> str:
    """The blog's four points, as measured."""
    found: dict[str, Any] = json.loads((ALL_RECORDS / "audit" / "audit.json").read_text())["rules"]
    order = [*AUDITED, *(name for name in found if name not in AUDITED)]
    heads = "rule", "weight transport", "updates", "activity", "layer 1 waits", "next sample after"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in order:
        one = found[name]
        locking = one["locking"]
        first, total = locking["layers"]["1"]["update"], locking["total"]
        cells = (
            {"none": "no", "full": "**yes**"}.get(one["transport"]["answer"], "**partial**"),
            {"local": "local", "non-local": "**non-local**"}[one["locality"]["answer"]],
            {"frozen": "**frozen**"}.get(one["frozen"]["answer"], one["frozen"]["answer"]),
            "–" if first is None else str(first),
            f"{locking['next_sample']} of {total}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_1() -> str:
    """Table 1 of the PEPITA paper: ours and, in brackets, published; one column a data set."""
    experiment = EXPERIMENTS["dellaferrera2022_table1"]
    found = {c.name: c for c in columns(experiment, records.read_all(ALL_RECORDS)) if c.recorded}
    names = list(dict.fromkeys(line.name for c in found.values() for line in c.recorded))
    lines = [f"| test accuracy (%) | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for name in names:
        cells: list[str] = []
        for column in found.values():
            line = next((one for one in column.recorded if one.name == name), None)
            published = "" if line is None or line.cell.published is None else line.published
            ours = "" if line is None else line.ours
            cells.append(f"{ours} ({published})" if published else ours)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    counts = [len(line.accuracies) for c in found.values() for line in c.recorded]
    seeds = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{min(counts)}"
    return "\n".join(lines) + f"\n\nSeeds of ours: {seeds}; published: ten.\n"


def bench() -> str:
    """What steps cost, as ratios, beside the goals."""
    content = _bench()
    lines = ["| … / … | ratio, 95 % interval | goal | |", "|---|---|---|---|"]
    for case in content["cases"].values():
        found, sign = case["ratio"], "≤" if case["lower"] else "≥"
        said = {"hope": "met", "must": "met"}.get(case["verdict"], f"**{case['verdict']}**")
        lines.append(
            f"| {case['what']} | {found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}] "
            f"| {sign} {case['must']:g} | {said} |"
        )
    machine = f"{content['processor']}, {content['threads']} threads"
    return "\n".join(lines) + f"\n\nOn {machine}, torch {content['versions']['torch']}.\n"


def costs() -> str:
    """What the ratios are made of."""
    lines = ["| case | subject | median time | activities | process |", "|---|---|---|---|---|"]
    for name, case in _bench()["cases"].items():
        for subject, seconds in case["median_seconds"].items():
            used = (case[kind].get(subject) for kind in ("activation_bytes", "process_bytes"))
            memory = ("" if one is None else f"{one / 1e6:.3g} MB" for one in used)
            time = f"{1e3 * seconds:.3g} ms, {case['call']}"
            lines.append(f"| {name} | {subject} | {time} | {' | '.join(memory)} |")
    return "\n".join(lines) + "\n"


def growth() -> str:
    """Exponents of time beside those of the arithmetic."""
    lines = ["| over | rule | time | products |", "|---|---|---|---|"]
    for axis, found in scaling.slopes(_bench()["scaling"]).items():
        for rule, (time, products) in found.items():
            lines.append(f"| {axis} | {rule} | {time:.2f} | {products:.2f} |")
    return "\n".join(lines) + "\n"


def _bench() -> dict[str, Any]:
    return json.loads((ALL_RECORDS / "bench" / "bench.json").read_text())


def results() -> str:
    """All experiments' tables, and what was not run."""
    found = records.read_all(ALL_RECORDS)
    lines: list[str] = []
    for experiment in EXPERIMENTS.values():
        table = columns(experiment, found)
        lines += [
            f"## {experiment.title}",
            "",
            f"<{experiment.url}>, `forwardly reproduce {experiment.name}`",
            "",
        ]
        for column in table:
            lines += _column(column)
        missing = [name for column in table for name in column.missing_names()]
        if missing:
            lines += [f"Not run: {', '.join(f'`{name}`' for name in missing)}.", ""]
    return "\n".join(lines)


def _column(column: Column) -> list[str]:
    if not column.recorded:
        return []
    heads = "rule", "published", "ours", "seeds", "from published", "over readout-only", "p"
    lines = [f"### {column.name}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *map(_line, column.recorded), ""]


def _line(line: Line) -> str:
    apart = line.distance
    difference = "–"
    if apart is not None:
        difference = f"{apart.difference:+.2f}"
        if apart.standard_errors is not None:
            difference += f" ({apart.standard_errors:+.1f} se)"
        if apart.within is False:
            difference = f"**{difference}**"
    over, p = "–", "–"
    if line.over_control is not None:
        over, p = line.over_control.text(), f"{line.over_control.p:.2g}"
    diverged = f", {len(line.diverged)} diverged" if line.diverged else ""
    seeds = f"{len(line.accuracies)}{diverged}"
    return (
        f"| {line.name} | {line.published} | {line.ours} | {seeds} | {difference} | {over} | {p} |"
    )


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
    for document in (README, COMPARISON, RESULTS, BENCHMARK):
        document.write_text(generated(document))
