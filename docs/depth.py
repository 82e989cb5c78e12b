"""Draw what depth does to each rule, and measure why: how well each layer's updates are aligned.

    python docs/depth.py

writes records/depth/alignment.json, in some minutes. The figure docs/depth.svg is drawn from that
and from the records of ``forwardly reproduce unbound_depth``, by ``python docs/generate.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import forwardly as fw
from forwardly import files, models
from forwardly.experiments import figures
from forwardly.experiments.provenance import provenance
from forwardly.experiments.published import unbound_depth
from forwardly.experiments.recipe import load_data, prepare
from forwardly.experiments.records import Record
from forwardly.experiments.report import columns
from forwardly.training.measures import MEASURES

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "records" / "depth" / "alignment.json"
FIGURE = ROOT / "docs" / "depth.svg"

COLUMNS = tuple(unbound_depth.RATES)
EPOCHS, SEED = 5, 101
STEPS, EVERY = 750, 50
SLOPES = (-1.0, 0.0, 0.25, 0.5)  # of activations
EXPLODES, EXPLODED = 0.005, 50.0  # a learning rate, and a loss
LAYERS = unbound_depth.LAYERS
_ALIGNED = ("pepita", "mem-pepita", "direct-feedback-alignment")


def alignment(column: str, rule: str, epochs: int = EPOCHS) -> list[list[float]]:
    """The cosine of each layer's update with backprop's, after each epoch, five hidden layers."""
    rate = unbound_depth.rate_of(column, rule, LAYERS[-1])
    recipe = unbound_depth.recipe(column, rule, LAYERS[-1], rate)
    made = prepare(replace(recipe, epochs=epochs, milestones=()), SEED)
    fitted = made.fit(measures=[MEASURES["alignment"]])
    return [
        [round(value, 4) for name, value in row.items() if name.startswith("alignment/")]
        for row in fitted.rows
    ]


def first_steps(slope: float, steps: int = STEPS) -> list[dict[str, Any]]:
    """PEPITA's first steps with five hidden layers, until the loss explodes, over ``EXPLODED``.

    Args:
        slope: of the activation below 0: 0 is a rectifier, −1 the absolute value.
        steps: at most.

    Returns:
        Every ``EVERY`` steps: the step, the loss of its batch, and each layer's cosine with
        backprop's update on validation images.
    """
    recipe = unbound_depth.recipe("plain", "pepita", LAYERS[-1], EXPLODES)
    dataset = load_data(recipe, SEED)
    numbers = torch.Generator().manual_seed(SEED)
    model = models.mlp(math.prod(dataset.sample_shape), recipe.hidden, 10, generator=numbers)
    for i, module in enumerate(model):
        if isinstance(module, nn.ReLU):
            model[i] = nn.LeakyReLU(slope)
    scale = float(recipe.options["projection"])
    rule = fw.PEPITA(
        model,
        nn.CrossEntropyLoss(),
        presynaptic="clean",
        projection=fw.feedback.uniform(scale),
        generator=numbers,
    )
    optimizer = fw.LocalSGD(rule, lr=recipe.learning_rate, momentum=recipe.momentum)
    x, target = dataset.validation.batch(torch.arange(512), torch.float32)
    found: list[dict[str, Any]] = []
    order = torch.randperm(len(dataset.train), generator=numbers)
    for step, chosen in enumerate(order.split(recipe.batch)[:steps]):
        batch, wanted = dataset.train.batch(chosen, torch.float32)
        loss = float(optimizer.step(batch, wanted).loss)
        exploded = not loss < EXPLODED
        if step % EVERY == 0 or step == steps - 1 or exploded:
            cosines = fw.metrics.update_alignment(rule, x, target).values()
            rounded = [round(cosine, 4) for cosine in cosines]
            found.append({"step": step, "loss": round(loss, 4), "cosines": rounded})
        if exploded:
            break
    return found


def measure() -> dict[str, Any]:
    """The record: by column and rule, epochs of cosines, one a layer, from the first on; and
    PEPITA's first steps by the activation's slope below 0.
    """
    return {
        "layers": LAYERS[-1],
        "seed": SEED,
        "alignment": {
            column: {rule: alignment(column, rule) for rule in _ALIGNED} for column in COLUMNS
        },
        "first_steps": {
            "learning_rate": EXPLODES,
            "steps": STEPS,
            "slopes": {f"{slope:g}": first_steps(slope) for slope in SLOPES},
        },
        **provenance(),
    }


Accuracies = dict[str, dict[int, list[float]]]
"""By rule and number of hidden layers: test accuracies in percent, one a seed."""


def accuracies(found: Sequence[Record]) -> dict[str, Accuracies]:
    """Those of each column, without seeds that diverged."""
    made: dict[str, Accuracies] = {}
    for column in columns(unbound_depth.EXPERIMENT, found):
        for line in column.recorded:
            rule, _, layers = line.name.rpartition("-")
            of_rule = made.setdefault(column.name, {}).setdefault(rule, {})
            of_rule[int(layers)] = list(line.accuracies.values())
    return made


def draw(
    made: dict[str, Accuracies],
    aligned: dict[str, dict[str, list[list[float]]]],
) -> Figure:
    """Above, accuracy over layers; below, the alignment of each layer; a column of panels each."""
    figure = Figure(figsize=(8.4, 6.4), layout="constrained")
    panels = figure.subplots(2, len(COLUMNS), sharey="row")
    colours = figures.colours_of(list(unbound_depth.RULES))
    for column, (above, below) in zip(COLUMNS, panels.T, strict=True):
        _accuracies(above, made.get(column, {}), colours)
        above.set_title("without normalisation" if column == "plain" else "normalised activities")
        for rule, epochs in aligned.get(column, {}).items():
            last = epochs[-1]
            if len(last) <= LAYERS[-1] or rule not in made.get(column, {}):
                continue
            below.plot(range(1, len(last) + 1), last, "o-", color=colours[rule], markersize=4)
        below.axhline(0, color="grey", linewidth=0.6)
        below.set_xlabel("Layer, from the input; the last is the output")
    panels[0][0].set_ylabel("Test accuracy (%)")
    panels[1][0].set_ylabel("Cosine with backprop's update")
    rules: dict[str, Artist] = {}
    for axes in panels[0]:  # a rule may be in one of them only
        handles, labels = axes.get_legend_handles_labels()
        rules |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(rules.values()), list(rules), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def _accuracies(axes: Axes, made: Accuracies, colours: dict[str, str]) -> None:
    for rule, of_rule in made.items():
        reached = [of_rule.get(layers, []) for layers in LAYERS]
        axes.errorbar(
            LAYERS,
            [mean(seeds) if seeds else math.nan for seeds in reached],
            yerr=[stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in reached],
            fmt="o-",
            color=colours[rule],
            markersize=4,
            label=rule,
        )
    axes.set_xticks(LAYERS)
    axes.set_xlabel("Hidden layers of 256")
    axes.grid(axis="y", linewidth=0.4)


def save(found: Sequence[Record]) -> None:
    """Write the figure."""
    record = json.loads(RECORD.read_text("utf-8"))
    figures.save(draw(accuracies(found), record["alignment"]), FIGURE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    files.write(RECORD, json.dumps(measure(), indent=1) + "\n")
