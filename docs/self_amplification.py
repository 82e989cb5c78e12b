"""Measure how fast PEPITA's W₁F grows on CIFAR-10, beside what self-amplification.md says.

    python docs/self_amplification.py

writes records/self-amplification/growth.json and docs/self-amplification.svg, in a few minutes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor, nn

import forwardly as fw
from forwardly import files, models
from forwardly.experiments import figures
from forwardly.experiments.provenance import provenance

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "records" / "self-amplification" / "growth.json"
FIGURE = ROOT / "docs" / "self-amplification.svg"

RATE, MOMENTUM, BATCH, STEPS, HIDDEN = 0.01, 0.9, 64, 400, 1024
SCALES, SEEDS, EVERY = (0.05, 0.1, 0.2, 0.4), (0, 1, 2), 20


def growth(
    batches: Iterable[tuple[Tensor, Tensor]],
    rule: fw.PEPITA,
    *,
    learning_rate: float = RATE,
    momentum: float = MOMENTUM,
) -> list[tuple[float, float]]:
    """Train by a rule, and follow ‖W₁F‖ over what it was at first.

    Args:
        batches: to train on, x (n, d) with their targets.
        rule: on a network whose first synapse is linear.
        learning_rate: η.
        momentum: μ.

    Returns:
        After each step: what the formula predicts, exp of the sum over steps of
        ½ · η/(1 − μ) · ‖column of F‖² · mean e², and what it is.
    """
    optimizer = fw.LocalSGD(rule, lr=learning_rate, momentum=momentum)
    W, F = rule.network.stages[0].synapse.weight.detach(), rule.F
    column, first = float(F.square().sum(0).mean()), float((W @ F).norm())
    exponent, found = 0.0, list[tuple[float, float]]()
    for x, target in batches:
        e = optimizer.step(x, target).error
        exponent += learning_rate / (1 - momentum) / 2 * column * float(e.square().mean())
        found.append((math.exp(exponent), float((W @ F).norm()) / first))
    return found


def on_cifar10(
    dataset: fw.Dataset, term: str, scale: float, seed: int, steps: int = STEPS
) -> list[tuple[float, float]]:
    """The growth in the first steps of the papers' network, on centred inputs."""
    numbers = torch.Generator().manual_seed(seed)
    model = models.mlp(math.prod(dataset.sample_shape), (HIDDEN,), 10, generator=numbers)
    options: dict[str, Any] = {"presynaptic": term, "projection": fw.feedback.uniform(scale)}
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), generator=numbers, **options)
    order = torch.randperm(len(dataset.train), generator=numbers).split(BATCH)[:steps]
    return growth((dataset.train.batch(chosen, torch.float32) for chosen in order), rule)


def measure() -> dict[str, Any]:
    """The record: predicted and measured growth, a mean over seeds, of each term and scale of F."""
    curves: list[dict[str, Any]] = []
    dataset = fw.data.load("cifar10", centre=True)
    for term in ("modulated", "clean"):
        for scale in SCALES:
            runs = [on_cifar10(dataset, term, scale, seed)[EVERY - 1 :: EVERY] for seed in SEEDS]
            steps = zip(*runs, strict=True)
            over_seeds = [[mean(pair) for pair in zip(*step, strict=True)] for step in steps]
            predicted, measured = map(list, zip(*over_seeds, strict=True))
            curve = {"predicted": predicted, "measured": measured}
            rounded = {name: [round(v, 5) for v in values] for name, values in curve.items()}
            curves.append({"term": term, "scale": scale, **rounded})
    return {
        "settings": {
            "data": "cifar10, centred",
            "hidden": HIDDEN,
            "batch": BATCH,
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "seeds": len(SEEDS),
        },
        "steps": [EVERY * (i + 1) for i in range(STEPS // EVERY)],
        "curves": curves,
        **provenance(),
    }


def draw(record: dict[str, Any]) -> Figure:
    """Measured growth as lines, what is predicted dashed, the clean term's in black."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes, steps = figure.subplots(), record["steps"]
    ends: dict[str, Line2D] = {}
    for curve in record["curves"]:
        if curve["term"] == "clean":
            (line,) = axes.plot(steps, curve["measured"], color="black", linewidth=1)
            ends["clean, all four F"] = line
            continue
        (line,) = axes.plot(steps, curve["measured"], linewidth=1.6)
        axes.plot(steps, curve["predicted"], "--", color=line.get_color(), linewidth=1.1)
        ends[f"modulated, F {curve['scale']:g}"] = line
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("Step")
    axes.set_ylabel("Length of W₁F, of what it was at first (log scale)")
    figures.label_ends(axes, ends)
    axes.legend(
        handles=[
            Line2D([], [], color="grey", label="measured"),
            Line2D([], [], color="grey", linestyle="--", label="predicted, modulated term"),
        ],
        loc="upper left",
    )
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = measure()
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    files.write(RECORD, json.dumps(found, indent=1) + "\n")
    figures.save(draw(found), FIGURE)
