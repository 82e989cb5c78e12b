"""``forwardly compare``: all rules on one small task."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, Several, bars
from forwardly.experiments import comparison, results
from forwardly.experiments.provenance import provenance


def compare(
    *,
    data: Literal["digits"] = "digits",
    rules: Several[str] = (),
    hidden: Several[int] = (128,),
    activation: Literal["relu", "tanh"] = "relu",
    seeds: int = 5,
    seed: int = 0,
    epochs: int = 30,
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
    hidden
        Sizes of the hidden layers, separated by spaces.
    activation
        Of the hidden layers.
    seeds
        How many seeds.
    seed
        The first of them.
    epochs
        Passes over the training images.
    out
        Folder to write to; it must not hold anything yet (default: runs/compare/TIME).
    """
    settings = comparison.Digits(
        rules=rules or tuple(comparison.LEARNING_RATES),
        hidden=hidden,
        activation=activation,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
    )
    software = provenance()
    folder = results.new_folder(out, "compare")
    torch.set_num_threads(1)
    console = PlainConsole()
    accuracies: dict[str, list[float]] = {name: [] for name in settings.rules}
    status = "finished"
    try:
        with bars(console) as progress:
            bar = progress.add_task(data, total=len(settings.rules) * seeds)
            for name, _, accuracy in comparison.run(settings):
                accuracies[name].append(accuracy)
                results.write_comparison(folder, settings, _rows(accuracies), "running", software)
                progress.update(bar, advance=1, description=f"{data}, {name}")
    except KeyboardInterrupt:
        status = "interrupted"
    rows = _rows(accuracies)
    results.write_comparison(folder, settings, rows, status, software)
    table = Table(caption="difference from readout-only, paired by seed, with its 95 % interval")
    for heading in ("rule", "test accuracy (%)", "difference", "p"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(row.rule, row.accuracy_text(), *row.difference_text())
    console.table(table)
    console.say(str(folder / "summary.json"))
    if status == "interrupted":
        console.say("Stopped; what was done is written.", style="yellow")
        return INTERRUPTED
    return 0


def _rows(accuracies: dict[str, list[float]]) -> list[comparison.Row]:
    control = accuracies.get("readout-only", [])
    return [comparison.Row.of(name, values, control) for name, values in accuracies.items()]
