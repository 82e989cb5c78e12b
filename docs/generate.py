"""Write what the README says in figures, from the records and the code; ``make docs`` runs it."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import accuracy  # beside this file, as are any_module, convolution, depth and runtimes
import any_module
import convolution
import depth
import runtimes

import forwardly as fw
from forwardly import files
from forwardly.benchmarks import scaling
from forwardly.errors import UsageError
from forwardly.experiments import records
from forwardly.experiments import results as teacher_student_results
from forwardly.experiments.comparison_table import Row
from forwardly.experiments.published import EXPERIMENTS, unbound_cifar10, unbound_mnist
from forwardly.experiments.report import Column, Line, columns, trials
from forwardly.experiments.statistics import Difference, difference, mean_text, sd_text
from forwardly.files.fields import Fields
from forwardly.files.text import visible

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMPARISON = ROOT / "docs" / "comparison.md"
RESULTS = ROOT / "docs" / "results.md"
BENCHMARK = ROOT / "docs" / "benchmark.md"
API = ROOT / "docs" / "api.md"
AMPLIFICATION = ROOT / "docs" / "self-amplification.md"
DEPTH = ROOT / "docs" / "depth.md"
CONVOLUTION = ROOT / "docs" / "convolution.md"
ANY_MODULE = ROOT / "docs" / "any-module.md"
ON_DEVICE = ROOT / "docs" / "on-device.md"
YOUR_OWN = ROOT / "docs" / "your-own.md"
_UNBOUND = (
    ("CIFAR-10", unbound_cifar10.EXPERIMENT, "fc-cifar10"),
    ("CIFAR-10, flips", unbound_cifar10.EXPERIMENT, "fc-cifar10-flips"),
    ("MNIST", unbound_mnist.EXPERIMENT, "fc-mnist"),
    ("MNIST, shifts", unbound_mnist.EXPERIMENT, "fc-mnist-shifts"),
)
DOCUMENTS = (
    README,
    COMPARISON,
    RESULTS,
    BENCHMARK,
    API,
    AMPLIFICATION,
    DEPTH,
    CONVOLUTION,
    ANY_MODULE,
    YOUR_OWN,
    ON_DEVICE,
)
ALL_RECORDS = ROOT / "records"
RECORDS = ROOT / "records" / "teacher-student"
DIGITS = ROOT / "records" / "compare"

AUDITED = ("backprop", "feedback-alignment", "direct-feedback-alignment", "drtp", "pepita")

NOTES = {
    "backprop": "the reference",
    "readout-only": "the control: over a frozen hidden layer, a readout learns too",
}


class Markdown(str):
    """Text that is Markdown already; any other is escaped."""

    __slots__ = ()


def markdown(text: str) -> str:
    """Text as Markdown that shows it, in one line."""
    if isinstance(text, Markdown):
        return text
    return re.sub(r"[\\`*_~<&|]|(?<=\])\(", r"\\\g<0>", visible(text))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, its cells escaped."""
    lines = [f"| {' | '.join(map(markdown, row))} |" for row in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]


def parts(document: Path) -> dict[str, str]:
    """What stands between the marks ``<!-- name -->`` of a document."""
    if document == README:
        return {
            "teacher-student": teacher_student(),
            "audit": audit(),
            "accuracy": accuracies(),
            "table-1": table_1(),
            "bench": bench(),
            "rules": rules(),
        }
    if document == RESULTS:
        return {"results": results(), "terms": terms()}
    if document == API:
        return {"names": names()}
    if document == AMPLIFICATION:
        return {"growth": amplification(), "unbound": unbound()}
    if document == DEPTH:
        return {"depth": depths(), "alignment": alignments(), "first-steps": first_steps()}
    if document == CONVOLUTION:
        return {"convolution": kernels()}
    if document == ANY_MODULE:
        return {"learns": learns()}
    if document == YOUR_OWN:
        return {"gpu": gpu()}
    if document == ON_DEVICE:
        return {name: "\n".join(table(*of())) + "\n" for name, of in runtimes.TABLES.items()}
    if document == BENCHMARK:
        return {
            "costs": costs(),
            "growth": growth(),
            "avx2": bench("avx2"),
            "start-up": start_up(),
        }
    return {name: comparison(name) for name in ("digits", "digits-16")}


def generated(document: Path) -> str:
    """The document with its generated parts made anew."""
    text = document.read_text("utf-8")
    for name, part in parts(document).items():
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = marks.subn(lambda match, part=part: f"{match[1]}{part}{match[2]}", text)
        if found != 1:
            raise UsageError(f"{document} must have one place for {name}, and has {found}")
    return text


def teacher_student() -> str:
    """One seed, which the figure shows, beside several."""
    one, many = (_summary(RECORDS / name) for name in ("default", "ten-seeds"))
    epochs = {rule.epoch for rule in (*one.rules.values(), *many.rules.values())}
    if one.rules.keys() != many.rules.keys() or len(epochs) != 1 or 0 in epochs:
        files.refuse(RECORDS, "must have two runs of the same rules and epochs")
    heads = (
        f"MAE after {epochs.pop():,} epochs",
        f"training, seed {one.seed}",
        f"validation, seed {one.seed}",
        "validation, ten seeds: mean ± sd",
        "median",
        "largest",
        "diverged",
    )
    rows = (
        (
            name,
            sd_text(one.rules[name].train, 4),
            sd_text(one.rules[name].validation, 4),
            sd_text(rule.validation, 3),
            f"{median(rule.seeds):.3f}" if rule.seeds else "–",
            f"{max(rule.seeds):.3f}" if rule.seeds else "–",
            f"{rule.diverged} of {many.seeds}",
        )
        for name, rule in many.rules.items()
    )
    return "\n".join(table(heads, rows)) + "\n"


def terms() -> str:
    """The presynaptic terms in the post's experiment, at its learning rate and at a lower one."""
    runs = [_summary(RECORDS / name) for name in ("clean", "clean-slower")]
    if runs[0].rules.keys() != runs[1].rules.keys():
        files.refuse(RECORDS, "must have two runs of the same rules")
    heads = ["ten seeds; MAE on validation"]
    for rate in ("the post's rate", "a fifth of it"):
        heads += [f"{rate}: median", "largest", "diverged"]
    rows: list[list[str]] = []
    for name in runs[0].rules:
        cells = [name]
        for run in runs:
            rule = run.rules[name]
            cells += [f"{of(rule.seeds):.3f}" if rule.seeds else "–" for of in (median, max)]
            cells.append(f"{rule.diverged} of {run.seeds}")
        rows.append(cells)
    return "\n".join(table(heads, rows)) + "\n"


def audit() -> str:
    """The blog's four points, as measured."""
    found = Fields.read(ALL_RECORDS / "audit" / "audit.json").fields("rules")
    order = [*AUDITED, *(name for name in found if name not in AUDITED)]
    heads = "rule", "weight transport", "updates", "activity", "layer 1 waits", "next sample after"
    return "\n".join(table(heads, (_audited(name, found.fields(name)) for name in order))) + "\n"


def _audited(name: str, rule: Fields) -> tuple[str, ...]:
    locking = rule.fields("locking")
    first, total = locking.fields("layers").fields("1"), locking.whole("total")
    transport = rule.fields("transport").text("answer", "none", "partial", "full")
    updates = rule.fields("locality").text("answer", "local", "non-local")
    activity = rule.fields("frozen").text("answer")
    return (
        name,
        {"none": "no", "full": bold("yes")}.get(transport, bold(transport)),
        bold(updates) if updates == "non-local" else updates,
        bold(activity) if activity == "frozen" else activity,
        str(first.whole("update")) if "update" in first else "–",
        f"{locking.whole('next_sample')} of {total}",
    )


def table_1() -> str:
    """Table 1 of the PEPITA paper: ours and, in brackets, published; one column a data set."""
    experiment = EXPERIMENTS["dellaferrera2022_table1"]
    found = {c.name: c for c in columns(experiment, records.read_all(ALL_RECORDS)) if c.recorded}
    names = list(dict.fromkeys(line.name for c in found.values() for line in c.recorded))
    rows: list[list[str]] = []
    for name in names:
        cells: list[str] = []
        for column in found.values():
            line = next((one for one in column.recorded if one.name == name), None)
            published = "" if line is None or line.cell.published is None else line.published
            ours = "" if line is None else line.ours
            cells.append(f"{ours} ({published})" if published else ours)
        rows.append([name, *cells])
    lines = table(("test accuracy (%)", *found), rows)
    counts = [len(line.accuracies) for c in found.values() for line in c.recorded]
    seeds = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{min(counts)}"
    return "\n".join(lines) + f"\n\nSeeds of ours: {seeds}; published: ten.\n"


def bench(name: str = "bench") -> str:
    """What steps cost, as ratios, beside the goals."""
    content = _bench(name)
    cases = content.fields("cases")
    rows: list[tuple[str, ...]] = []
    for name in cases:
        case = cases.fields(name)
        found, sign = case.fields("ratio"), "≤" if case.flag("lower") else "≥"
        verdict = case.text("verdict", "hope", "must", "missed", "undecided")
        rows.append(
            (
                case.text("what"),
                f"{found.number('median'):.2f} "
                f"[{found.number('low'):.2f}, {found.number('high'):.2f}]",
                f"{sign} {case.number('must'):g}",
                {"hope": "met", "must": "met"}.get(verdict, bold(verdict)),
            )
        )
    lines = table(("… / …", "ratio, 95 % interval", "goal", ""), rows)
    processor = content.text("processor")
    if "instructions" in content:  # which version 0.1 did not record
        processor += f" with {content.text('instructions')}"
    threads = content.whole("threads", 1)
    machine = f"{processor}, {threads} thread{'' if threads == 1 else 's'}"
    software = content.fields("versions").text("torch")
    return "\n".join(lines) + f"\n\n{markdown(f'On {machine}, torch {software}.')}\n"


def costs() -> str:
    """What the ratios are made of."""
    cases = _bench().fields("cases")
    rows: list[tuple[str, ...]] = []
    for name in cases:
        case = cases.fields(name)
        times = case.fields("median_seconds")
        used = [case.fields(kind) for kind in ("activation_bytes", "process_bytes")]
        for subject in times:
            memory = (f"{b.whole(subject) / 1e6:.3g} MB" if subject in b else "" for b in used)
            time = f"{1e3 * times.number(subject):.3g} ms, {case.text('call')}"
            rows.append((name, subject, time, *memory))
    return (
        "\n".join(table(("case", "subject", "median time", "activities", "process"), rows)) + "\n"
    )


def growth() -> str:
    """Exponents of time beside those of the arithmetic."""
    content = _bench().list("scaling")
    points: list[dict[str, Any]] = []
    for number in content:
        point = content.fields(number)
        by_rule = {kind: _positive(point.fields(kind)) for kind in ("seconds", "macs")}
        points.append({"axis": point.text("axis"), "value": point.whole("value", 1), **by_rule})
    for axis in {point["axis"] for point in points}:
        values = [point["value"] for point in points if point["axis"] == axis]
        if len(values) < 3 or values != sorted(set(values)):
            content.refuse("axis", f"three points or more in order of {axis}")
    rows = (
        (axis, rule, f"{time:.2f}", f"{products:.2f}")
        for axis, found in scaling.slopes(points).items()
        for rule, (time, products) in found.items()
    )
    return "\n".join(table(("over", "rule", "time", "products"), rows)) + "\n"


def _positive(times: Fields) -> dict[str, float]:
    """What the two rules took, or did."""
    found = {rule: times.number(rule) for rule in ("pepita", "backprop")}
    for rule, value in found.items():
        if not 0 < value < math.inf:
            times.refuse(rule, "a positive number")
    return found


def _bench(name: str = "bench") -> Fields:
    return Fields.read(ALL_RECORDS / "bench" / f"{name}.json")


def start_up() -> str:
    """What whole commands take; ``start_up.py`` makes the record."""
    record = Fields.read(ALL_RECORDS / "start-up" / "start-up.json")
    found = record.fields("seconds")
    rows: list[tuple[str, ...]] = []
    for name in found:
        each = found.list(name)
        middle = median(each.number(i) for i in each)
        kind = "literal NumPy, all three" if name == "teacher-student" else "literal NumPy, pepita"
        literal = found.list(kind)
        ratio = middle / median(literal.number(i) for i in literal)
        command = name if name.startswith("literal") else f"forwardly {name}"
        shown = f"{ratio:.2f} of {kind}" if "teacher-student" in name else ""
        rows.append((command, f"{middle:.1f} s", shown))
    lines = table(("whole command", "median", ""), rows)
    machine = record.text("processor")
    return "\n".join(lines) + f"\n\n{markdown(f'On {machine}.')}\n"


def results() -> str:
    """All experiments' tables, and what was not run."""
    found = records.read_all(ALL_RECORDS)
    lines: list[str] = []
    for experiment in EXPERIMENTS.values():
        made = columns(experiment, found)
        lines += [
            f"## {experiment.title}",
            "",
            f"<{experiment.url}>, `forwardly reproduce {experiment.name}`",
            "",
        ]
        for column in made:
            lines += _column(column)
        missing = [name for column in made for name in column.missing_names()]
        if missing:
            lines += [f"Not run: {', '.join(f'`{name}`' for name in missing)}.", ""]
        lines += _rates(trials(experiment, found))
    return "\n".join(lines)


def _rates(tried: dict[str, float]) -> list[str]:
    """What learning rates were chosen by, a table for each column of trials."""
    by_column: dict[str, dict[str, dict[float, float]]] = {}
    for cell, reached in tried.items():
        column, _, trial = cell.partition("/")
        rule, _, rate = trial.rpartition("-")
        by_column.setdefault(column, {}).setdefault(rule, {})[float(rate)] = reached
    lines: list[str] = []
    for column, found in by_column.items():
        rates = sorted({rate for of_rule in found.values() for rate in of_rule})
        rows = [
            (rule, *(f"{100 * of_rule[rate]:.1f}" if rate in of_rule else "–" for rate in rates))
            for rule, of_rule in sorted(found.items())
        ]
        lines += [
            f"`{column}`: accuracy on validation images by learning rate, by which rates were "
            "chosen (%):",
            "",
            *table(("rule", *(f"{rate:g}" for rate in rates)), rows),
            "",
        ]
    return lines


def _column(column: Column) -> list[str]:
    if not column.recorded:
        return []
    heads = "rule", "published", "ours", "seeds", "from published", "over readout-only", "p"
    return [f"### {column.name}", "", *table(heads, map(_line, column.recorded)), ""]


def _line(line: Line) -> tuple[str, ...]:
    apart = line.distance
    difference = "–"
    if apart is not None:
        difference = f"{apart.difference:+.2f}"
        if apart.standard_errors is not None:
            difference += f" ({apart.standard_errors:+.1f} se)"
        if apart.within is False:
            difference = bold(difference)
    over, p = "–", "–"
    if line.over_control is not None:
        over, p = line.over_control.text(), f"{line.over_control.p:.2g}"
    diverged = f", {len(line.diverged)} diverged" if line.diverged else ""
    seeds = f"{len(line.accuracies)}{diverged}"
    return line.name, line.published, line.ours, seeds, difference, over, p


def rules() -> str:
    """The rules there are."""
    rows: list[tuple[str, ...]] = []
    for name, rule in fw.RULES.items():
        paper = rule.paper
        note = f", {NOTES[name]}" if name in NOTES else ""
        people = [author.split()[-1] for author in paper.authors]
        if len(people) > 3:
            people = [f"{people[0]} et al."]
        cited = " & ".join([", ".join(people[:-1]), people[-1]] if len(people) > 1 else people)
        rows.append(
            (
                Markdown(f"`{name}`"),
                Markdown(f"`fw.{rule.__name__}`{note}"),
                Markdown(f"[{cited} {paper.year}]({paper.url})"),
                "yes" if rule.uses_autograd else "no",
            )
        )
    return "\n".join(table(("rule", "class", "paper", "autograd"), rows)) + "\n"


def accuracies() -> str:
    """The picture that opens the results, told in words too."""
    made = accuracy.points(records.read_all(ALL_RECORDS))
    return f"![{markdown(accuracy.in_words(made))}](docs/accuracy.svg)\n"


def amplification() -> str:
    """How W₁F grows, measured and predicted; ``self_amplification.py`` makes the record."""
    record = Fields.read(ALL_RECORDS / "self-amplification" / "growth.json")
    curves = record.list("curves")
    last = str(len(list(record.list("steps"))) - 1)
    rows: list[tuple[str, ...]] = []
    for curve in map(curves.fields, curves):
        grown = [curve.list(name).number(last) for name in ("predicted", "measured")]
        rows.append((curve.text("term"), f"{curve.number('scale'):g}", *map(_percent, grown)))
    return "\n".join(table(("presynaptic term", "F", "formula", "measured"), rows)) + "\n"


def unbound() -> str:
    """Accuracies of all rules treated alike, and how far PEPITA stays from backprop."""
    found = records.read_all(ALL_RECORDS)
    recorded: list[dict[str, Line]] = []
    for _, made, name in _UNBOUND:
        (column,) = (column for column in columns(made, found) if column.name == name)
        recorded.append({line.name: line for line in column.recorded})
    rows: list[tuple[str, ...]] = []
    for rule in dict.fromkeys(rule for lines in recorded for rule in lines):
        lines = [of_rule.get(rule) for of_rule in recorded]
        rows.append((rule, *("–" if line is None else _with_seeds(line) for line in lines)))
    for rule in ("pepita", unbound_cifar10.MIRRORED):
        behind = [
            difference(*_paired(of[rule], of["backprop"])) if rule in of else None
            for of in recorded
        ]
        rows.append((f"{rule} − backprop", *("–" if d is None else d.text() for d in behind)))
    heads = "test accuracy (%), seeds", *(head for head, _, _ in _UNBOUND)
    return "\n".join(table(heads, rows)) + "\n"


def _with_seeds(line: Line) -> str:
    return f"{line.ours}, {len(line.accuracies)}" if line.accuracies else "diverged"


def _paired(ours: Line, theirs: Line) -> tuple[list[float], list[float]]:
    """Accuracies of the seeds that both have."""
    both = sorted(ours.accuracies.keys() & theirs.accuracies.keys())
    return [ours.accuracies[n] for n in both], [theirs.accuracies[n] for n in both]


def gpu() -> str:
    """What a step of so many networks at once takes on a GPU."""
    record = Fields.read(ALL_RECORDS / "gpu" / "seeds-at-once.json")
    times = record.fields("milliseconds")
    counts = list(times.fields(next(iter(times))))
    heads = f"ms a step, {record.text('device')}", *(f"{count} at once" for count in counts)
    rows = (
        (rule, *(f"{times.fields(rule).number(count):.2f}" for count in counts)) for rule in times
    )
    return "\n".join(table(heads, rows)) + "\n"


def depths() -> str:
    """Test accuracies by rule and number of hidden layers, without and with normalisation."""
    rows: list[tuple[str, ...]] = []
    for column, of_rules in depth.accuracies(records.read_all(ALL_RECORDS)).items():
        for rule, of_rule in of_rules.items():
            reached = (
                (mean_text(of_rule[n]) if of_rule[n] else "diverged") if n in of_rule else "–"
                for n in depth.LAYERS
            )
            rows.append((column, rule, *reached))
    return "\n".join(table(("activities", "rule", *map(str, depth.LAYERS)), rows)) + "\n"


def kernels() -> str:
    """Of each rule, accuracy with a convolution, and how the kernels' updates point."""
    rows = [
        (
            row.name,
            mean_text(row.accuracies),
            str(len(row.accuracies)),
            f"{mean(row.cosines):+.2f}" if row.cosines else "–",
        )
        for row in convolution.rows(records.read_all(ALL_RECORDS))
    ]
    heads = "rule", "test accuracy (%)", "seeds", "cosine of the kernels' update with backprop's"
    return "\n".join(table(heads, rows)) + "\n"


def learns() -> str:
    """Of networks that are no chain: of each rule whether its hidden layers learn."""
    texts = {
        "resmlp-mnist": "Residual MLP on MNIST, 10,000 images, 10 epochs",
        "resnet8-cifar10": "ResNet-8 on CIFAR-10, 5,000 images, 5 epochs",
        "vit8-cifar10": "Vision transformer (patches of 8 × 8) on CIFAR-10, 5,000 images, 8 epochs",
    }
    heads = (
        *("rule", "learning rate", "test accuracy (%)", "seeds"),
        "over frozen hidden layers, 95 % interval",
        "hidden layers learn",
        *("cosine with backprop: first layer", "other hidden layers"),
    )
    parts: list[str] = []
    found = any_module.rows(records.read_all(ALL_RECORDS))
    for column, text in texts.items():
        of_column = found.get(column, [])
        made = [
            (
                row.line.name,
                f"{row.rate:g}",
                row.line.ours,
                str(len(row.line.runs)),
                "–" if row.over_control is None else row.over_control.text(),
                row.learns,
                *("–" if c is None else f"{c:+.2f}" for c in (row.first, row.others)),
            )
            for row in of_column
        ]
        parts += [
            f"**{text}**",
            "",
            *(table(heads, made) if made else ["No runs are recorded yet."]),
        ]
        parts.append("")
    return "\n".join(parts[:-1]) + "\n"


def alignments() -> str:
    """Cosines of each layer's update with backprop's; ``depth.py`` makes the record."""
    record = Fields.read(depth.RECORD).fields("alignment")
    rows: list[tuple[str, ...]] = []
    for column in record:
        of_rules = record.fields(column)
        for rule in of_rules:
            epochs = of_rules.list(rule)
            last = epochs.list(str(len(list(epochs)) - 1))
            cosines = [f"{last.number(layer):+.2f}" for layer in last]
            layers = depth.LAYERS[-1] + 1
            if not cosines:
                rows.append((column, rule, "diverged", *[""] * (layers - 1)))
            elif len(cosines) == layers:  # as a frozen layer has none
                rows.append((column, rule, *cosines))
    heads = "activities", "rule", *(str(n + 1) for n in range(depth.LAYERS[-1])), "output"
    return "\n".join(table(heads, rows)) + "\n"


def first_steps() -> str:
    """When PEPITA's loss explodes, by the slope of activations below 0."""
    record = Fields.read(depth.RECORD).fields("first_steps")
    slopes = record.fields("slopes")
    rows: list[tuple[str, ...]] = []
    for slope in slopes:
        found = slopes.list(slope)
        last = found.fields(str(len(list(found)) - 1))
        exploded = not last.number("loss") < depth.EXPLODED
        cosines = last.list("cosines")
        hidden = [cosines.number(layer) for layer in cosines][:-1]
        rows.append(
            (
                slope,
                f"at step {last.whole('step')}" if exploded else "no",
                f"{min(hidden):+.2f} to {max(hidden):+.2f}",
            )
        )
    heads = "slope below 0", "loss explodes", "hidden layers' cosines at the last step"
    return "\n".join(table(heads, rows)) + "\n"


def _percent(grown: float) -> str:
    return f"{100 * (grown - 1):+.1f} %"


def names() -> str:
    """The public names, and the first line that each says of itself."""
    rows: list[tuple[str, ...]] = []
    for name in fw.__all__:
        said = "The rules, by the names that commands take." if name == "RULES" else None
        said = said or inspect.getdoc(getattr(fw, name)) or ""
        first = Markdown(re.sub(r"``", "`", said.partition("\n\n")[0].replace("\n", " ")))
        rows.append((Markdown(f"`fw.{name}`"), first))
    return "\n".join(table(("name", "what it is"), rows)) + "\n"


def comparison(record: str) -> str:
    """The table of ``forwardly compare``."""
    content = Fields.read(DIGITS / record / "summary.json")
    found, rates = content.fields("rules"), content.fields("learning_rates")
    heads = (
        "rule",
        "learning rate",
        "test accuracy (%)",
        "difference from readout-only, 95 % interval",
        "p",
    )
    rows: list[tuple[str, ...]] = []
    for name in found:
        rule = found.fields(name)
        accuracies = rule.list("accuracies")
        for seed in accuracies:
            if not math.isnan(accuracies.number(seed)):  # as of a seed that diverged
                accuracies.share(seed)
        change = None
        if "over_readout_only" in rule:
            test = rule.fields("over_readout_only")
            change = Difference(*(test.number(part) for part in Difference._fields))
        made = Row(name, [accuracies.number(seed) for seed in accuracies], change)
        rate = f"{rates.number(name):g}"
        rows.append((name, rate, made.text(), *made.difference_text()))
    return "\n".join(table(heads, rows)) + "\n"


def bold(text: str) -> Markdown:
    """In bold type."""
    return Markdown(f"**{markdown(text)}**")


def _summary(folder: Path) -> teacher_student_results.Summary:
    found = teacher_student_results.read(folder)
    if found is None:
        files.refuse(folder, "is no record of forwardly teacher-student")
    return found


if __name__ == "__main__":
    try:
        accuracy.save(accuracy.points(records.read_all(ALL_RECORDS)))
        depth.save(records.read_all(ALL_RECORDS))
        convolution.save(records.read_all(ALL_RECORDS))
        for document in DOCUMENTS:
            document.write_text(generated(document), "utf-8", newline="\n")
    except UsageError as mistake:
        sys.exit(f"error: {mistake}")
