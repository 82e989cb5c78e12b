"""PEPITA beyond the papers' accuracy, beside other rules that are treated alike, on any images.

One hidden layer of 1024 rectifiers without biases, as in ``dellaferrera2022_table1``, but with
centred inputs, and for PEPITA the clean presynaptic term and a longer F, which
docs/self-amplification.md explains; without and with images that are changed at random.

Settings. Batches of 64, momentum 0.9, learning rate divided by ten after epochs 60 and 90 of 100,
dropout 0.5, or 0.3 where images are changed, which also keeps a network from learning them by
heart. Every rule has a learning rate of its own, the smallest of several within a standard error of
the best on the validation images of a seed that no result is of, after 15 epochs without changed
images and with dropout 0.3 (cells "rates/…", of which nobody looks at the test images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from forwardly.experiments.experiment import Cell, Experiment, trials
from forwardly.experiments.published import dellaferrera2022_table1 as table1
from forwardly.experiments.recipe import Recipe

RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
OPTIONS: dict[str, dict[str, float | int | str]] = {
    "pepita": {"presynaptic": "clean", "projection": 0.4},
    "adaptive-feedback-alignment": {"projection": 0.4},
    "backprop": {},
    "feedback-alignment": {},
    "direct-feedback-alignment": {},
    "readout-only": {},
}
_URL = "https://arxiv.org/abs/2201.11665"
_DROPOUT, _DROPOUT_OF_CHANGED = 0.5, 0.3


def recipe(data: str, rule: str, rate: float) -> Recipe:
    """How a rule is trained, but for changes of the images."""
    return Recipe(
        rule,
        data,
        OPTIONS[rule],
        dropout=_DROPOUT_OF_CHANGED,
        learning_rate=rate,
        epochs=100,
        milestones=(60, 90),
        preprocessing="centre",
    )


def unbound(
    data: str,
    title: str,
    chosen: Mapping[str, float],
    changed: tuple[str, Mapping[str, Any]],
    rates: Sequence[float] = RATES,
) -> Experiment:
    """The experiment on a data set.

    Args:
        data: its name.
        title: of the experiment.
        chosen: each rule's learning rate, as far as its trials are done.
        changed: what the column of changed images is called, and settings of the recipe that say
            how they are.
        rates: the learning rates that are tried for every rule.
    """
    table = f"fc-{data}"
    published = table1.EXPERIMENT.cells.get(f"{table}/pepita")
    cells: dict[str, Cell] = {}
    if published is not None:
        note = "raw inputs, modulated presynaptic term, F 0.05, dropout 0.1"
        shared = table1.EXPERIMENT.name, f"{table}/pepita"
        cells[f"{table}/pepita-as-published"] = replace(published, note=note, shared=shared)
    columns: dict[str, Mapping[str, Any]] = {
        table: {"dropout": _DROPOUT},
        f"{table}-{changed[0]}": changed[1],
    }
    for column, settings in columns.items():
        for rule, rate in chosen.items():
            cells[f"{column}/{rule}"] = Cell(replace(recipe(data, rule, rate), **settings))
    for rule in OPTIONS:
        of_rate = partial(recipe, data, rule)
        cells |= trials(f"rates/{rule}", of_rate, rates, epochs=15, milestones=(9, 13))
    name = f"unbound_{data.replace('-', '_')}"
    return Experiment(name, title, _URL, cells)
