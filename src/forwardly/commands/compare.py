"""``forwardly compare``: rules side by side on one data set and model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import fields_but, preprocessing
from forwardly.experiments.comparison import (
    Comparison,
    Run,
    metric_of,
    options_in_words,
    search_settings,
    trial,
)
from forwardly.experiments.provenance import provenance
from forwardly.experiments.recipe import NO_SIZES
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.stress import name_of
from forwardly.fast.devices import AUTO, choose
from forwardly.files.text import csv_table
from forwardly.rules import RULES

_DEFAULTS = Comparison()
_HIDDEN = {"mlp": _DEFAULTS.hidden, "conv": (32,), "resmlp": (128,) * 4}
"""Sizes of hidden layers by the kind of model; the others have none to choose."""


def compare(
    *,
    rules: tuple[str, ...] = (),
    settings: Annotated[
        Comparison, fields_but("rules", "rates", "hidden", "preprocessing")
    ] = _DEFAULTS,
    rates: tuple[str, ...] = (),
    hidden: tuple[int, ...] | None = None,
    centre: bool = False,
    standardise: bool = False,
    device: str = AUTO,
    data_root: Path | None = None,
    out: Path | None = None,
) -> int:
    """Train rules on the same network, data and seeds, and compare their test accuracy.

    Every rule is tested against readout-only, seed by seed, as a frozen hidden layer learns too.
    Of data without classes the losses are compared. Under --stress there is a table for each
    condition, and what it takes from each rule. Writes results.csv, summary.json and compare.png.

    Parameters
    ----------
    rules
        Rules to compare, separated by spaces, those of other packages too (default: all of
        forwardly's that the data suits). Options follow a colon, so that a rule may stand there
        several times: pepita pepita:presynaptic=clean,projection=0.4.
    rates
        Learning rates of single rules, as NAME=0.1, separated by spaces.
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels (default: 128;
        conv: 32; resmlp: four of 128).
    centre
        Shift samples to means of 0, as ``forwardly train`` does.
    standardise
        Shift and scale samples to means of 0 and standard deviations of 1.
    device
        Where: cpu, or a GPU: cuda, cuda:1 (the second), xpu or mps; or auto, which takes a GPU if
        there is one and a batch's work is large.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    out
        Folder to write to; it must not hold anything yet (default: runs/compare/TIME).
    """
    sizes = hidden or _HIDDEN.get(settings.model, NO_SIZES)
    settings = replace(
        settings,
        rules=rules or settings.rules,
        rates=rates,
        hidden=sizes,
        preprocessing=preprocessing(centre, standardise),
    )
    if device != AUTO:
        choose(device)  # refused before data is waited for
    tried = trial(settings, data_root)
    metric, chosen = metric_of(tried), tried.device(device)
    if not rules:
        is_chain, numbers = tried.rule.network.graph is None, metric.name == "loss"
        settings = replace(
            settings,
            rules=tuple(
                name
                for name in settings.rules
                if (is_chain or not RULES[name].needs_chain)
                and not (numbers and RULES[name].teacher == "label")
            ),
        )
    software = provenance()
    folder = RunFolder.new(out, "compare")
    torch.set_num_threads(1)
    console = PlainConsole()
    if chosen.why:
        console.say(f"Device: {chosen}.")
    run = Run(settings, metric, data_root, chosen.device)

    def write(status: Literal["running", "finished", "interrupted"]) -> None:
        names = ("condition", "rule", "seed", "learning_rate", f"validation_{metric.name}")
        rows = [
            (name_of(condition), *line)
            for condition, results in run.results.items()
            for result in results.values()
            for line in result.table()
        ]
        folder.write("results.csv", csv_table((*names, f"test_{metric.name}", "ended"), rows))
        content = {
            "experiment": "compare",
            "data": settings.data,
            "status": status,
            "settings": asdict(settings),
            **tried.recipe.own_model(),
            **run.as_data(),
            **chosen.as_data(),
            **software,
        }
        folder.write_json("summary.json", content)

    code = 0
    try:
        with bars(console) as progress:
            total = run.left
            bar = progress.add_task(settings.data, total=total)
            for name in run.advance():
                write("running")
                said = f"{settings.data}, {name}"
                progress.update(bar, completed=total - run.left, description=said)
    except KeyboardInterrupt:
        code = INTERRUPTED
    write("interrupted" if code else "finished")
    _write_figure(run, folder)
    _report(run, console)
    for file in ("results.csv", "summary.json", "compare.png"):
        console.say(str(folder.path / file))
    if code:
        console.say("Stopped; what was done is written.", style="yellow")
    lost = any(
        result.failure or result.lost
        for results in run.results.values()
        for result in results.values()
    )
    return code or int(lost)


def _write_figure(run: Run, folder: RunFolder) -> None:
    from forwardly.experiments import (  # matplotlib is slow to import, and only needed here
        comparison_figure,
        figures,
    )

    settings = run.settings
    sizes = " ".join(map(str, settings.hidden)) if settings.model in _HIDDEN else ""
    model = Path(settings.model).name + (f" of {sizes}" if sizes else "")
    title = f"{Path(settings.data).name}, {model}, {settings.epochs} epochs"
    panels = {name_of(condition): run.rows(condition) for condition in run.results}
    figure = comparison_figure.comparison_figure(panels, run.metric, title=title)
    figures.save(figure, folder.path / "compare.png")


def _report(run: Run, console: PlainConsole) -> None:
    """The tables, where learning rates are from, and what went wrong."""
    for condition in run.results:
        if run.settings.stress:
            console.say(("\n" * (condition is not None)) + name_of(condition), style="bold")
        console.table(_table(run, condition))
    if "readout-only" not in run.settings.rules:
        console.say("Add readout-only to --rules: a frozen hidden layer learns too.")
    for line in _sources(run):
        console.say(line)
    for condition, results in run.results.items():
        under = f" under {condition}" if condition is not None else ""
        for name, result in results.items():
            if result.failure is not None:
                seed = result.failed_seed
                console.say(f"{name} failed with seed {seed}{under}: {result.failure}", style="red")
            elif result.lost:
                console.say(f"{name} diverged (NaN or infinity){under} {result.lost}.", style="red")


def _table(run: Run, condition: str | None) -> Table:
    caption = "difference from readout-only, paired by seed, with its 95 % interval"
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    headings = ["rule", "rate", run.metric.label, "difference", "p"]
    if condition is not None:
        headings.append("from clean")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in run.rows(condition):
        rate = run.results[condition][row.rule].learning_rate
        cells = [row.rule, "–" if rate is None else f"{rate:g}", row.text(), *row.difference_text()]
        if condition is not None:
            cells.append(row.from_clean_text())
        table.add_row(*cells)
    return table


def _sources(run: Run) -> Iterator[str]:
    """Where learning rates and options are from; rules and conditions of one source in a line."""
    sources = {
        "given": "given",
        "known": "known, the best on the digits' validation part for just these settings",
        "searched": "searched for, the best of 1, 0.3, 0.1, 0.03, … on the validation part with "
        f"seed {run.settings.seed} and {search_settings(run.settings).epochs} epochs",
    }
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for condition, results in run.results.items():
        for source in sources:
            of = tuple(
                name
                for name, result in results.items()
                if ("searched" if result.choice is None else result.choice.source) == source
            )
            if of:
                found.setdefault((source, of), []).append(name_of(condition))
    for (source, of), under in found.items():
        rules = "all rules" if len(of) == len(run.settings.rules) > 1 else ", ".join(of)
        where = "" if len(under) == len(run.results) else f" ({', '.join(under)})"
        yield f"Learning rates of {rules}{where}: {sources[source]}."
    for condition, results in run.results.items():
        where = f" ({name_of(condition)})" if run.settings.stress else ""
        for name, result in results.items():
            if result.choice is not None and result.choice.options:
                words = " ".join(options_in_words(result.choice.options))
                yield f"Options of {name}{where}: {words}, chosen with its learning rate."
