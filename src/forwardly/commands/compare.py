"""``forwardly compare``: all rules on one small task."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import fields_but
from forwardly.experiments.comparison import LEARNING_RATES, Digits, Row, run
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder

_DEFAULTS = Digits()


def compare(
    *,
    data: Literal["digits"] = "digits",
    rules: tuple[str, ...] = (),
    settings: Annotated[
        Digits, fields_but("rules", "batch", "momentum", "validation_samples")
    ] = _DEFAULTS,
    out: Path | None = None,
) -> int:
    """Train rules on the same network, data and seeds, and compare their test accuracy.

    Every rule is tested against readout-only, seed by seed, as a frozen hidden layer learns too.

    Parameters
    ----------
    data
        The data set: scikit-learn's 1,797 digits.
    rules
        Rules to compare, separated by spaces (default: all).
    out
        Folder to write to; it must not hold anything yet (default: runs/compare/TIME).
    """
    settings = replace(settings, rules=rules or settings.rules)
    software = provenance()
    folder = RunFolder.new(out, "compare")
    torch.set_num_threads(1)
    console = PlainConsole()
    accuracies: dict[str, list[float]] = {name: [] for name in settings.rules}

    def write(status: Literal["running", "finished", "interrupted"]) -> list[Row]:
        control = accuracies.get("readout-only", [])
        rows = [Row.of(name, values, control) for name, values in accuracies.items()]
        content = {
            "experiment": "compare",
            "data": data,
            "status": status,
            "settings": asdict(settings),
            "learning_rates": {name: LEARNING_RATES.get(name) for name in settings.rules},
            "rules": {row.rule: row.as_data() for row in rows},
            **software,
        }
        folder.write_json("summary.json", content)
        return rows

    code = 0
    try:
        with bars(console) as progress:
            bar = progress.add_task(data, total=len(settings.rules) * settings.seeds)
            for name, _, accuracy in run(settings):
                accuracies[name].append(accuracy)
                write("running")
                progress.update(bar, advance=1, description=f"{data}, {name}")
    except KeyboardInterrupt:
        code = INTERRUPTED
    rows = write("interrupted" if code else "finished")
    table = Table(caption="difference from readout-only, paired by seed, with its 95 % interval")
    for heading in ("rule", "test accuracy (%)", "difference", "p"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(row.rule, row.accuracy_text(), *row.difference_text())
    console.table(table)
    console.say(str(folder.path / "summary.json"))
    if code:
        console.say("Stopped; what was done is written.", style="yellow")
    return code
