"""``forwardly audit``: what each rule does, measured on its operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import torch
from rich.table import Table
from torch import nn

from forwardly import models
from forwardly.audit import AuditReport, checkpointed_backprop
from forwardly.audit import audit as measure
from forwardly.audit.page import render
from forwardly.audit.pipeline import Schedules, letters, schedules, text
from forwardly.commands.console import PlainConsole, bars
from forwardly.errors import check_rules
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.settings import LAYERS, MOST_UNITS, Must, at_least, at_most, require
from forwardly.fast.devices import choose, multiply_adds
from forwardly.rule import Rule
from forwardly.rules import Backprop
from forwardly.rules.plugins import all_rules

_CLASSES = 10
_IMAGE = (1, 12, 12)
_MOST_RANKS, _MOST_PARTS = at_most(64), at_most(256)


def audit(
    *,
    rules: tuple[str, ...] = (),
    model: Literal["mlp", "conv"] = "mlp",
    hidden: tuple[int, ...] = (32, 32, 32),
    batch: int = 16,
    device: str = "cpu",
    pipeline: tuple[int, int] | None = None,
    out: Path | None = None,
) -> int:
    """Measure the four ways in which backprop is implausible in the brain, for each rule.

    Weight transport, locality, frozen activity and update locking are answered from the traced
    operations of a training step; so are its costs. Writes audit.json and audit.html.

    Parameters
    ----------
    rules
        Rules to audit, those of other installed packages too (default: all).
    model
        mlp, of 64 inputs and the hidden layers given; or conv, two convolutions and a hidden layer.
    hidden
        Sizes of the mlp's hidden layers; two at least tell rules apart that are one with one.
    batch
        Samples in the batch.
    device
        Where: cpu; or a GPU: cuda, cuda:1 (the second), xpu or mps; or auto, which takes a GPU if
        there is one and a batch's work is large.
    pipeline
        Ranks and microbatches, such as 4 4: shows also who does what when if the network is cut
        between that many processes and a batch into that many parts, for rules that allow it.
    out
        Folder to write to; it must not hold anything yet (default: runs/audit/TIME).
    """
    known, _ = all_rules()
    chosen = rules or tuple(known)
    check_rules(chosen, known)
    require(at_least(1), batch=batch)
    require(at_most(1_000_000), batch=batch)
    require(MOST_UNITS, hidden=hidden)
    require(Must("one or more sizes of at least 1", LAYERS.holds), hidden=hidden)
    shape = (64,) if model == "mlp" else _IMAGE
    for which, number in zip(("ranks", "microbatches"), pipeline or (), strict=False):
        require(at_least(1), **{f"pipeline's {which}": number})
        require(_MOST_RANKS if which == "ranks" else _MOST_PARTS, **{f"pipeline's {which}": number})
    generator, other = (torch.Generator().manual_seed(0) for _ in range(2))
    reference = Backprop(_model(model, hidden, other), nn.CrossEntropyLoss())
    taken = choose(device, multiply_adds(reference, shape, batch))
    where = taken.device
    folder = RunFolder.new(out, "audit")
    x = torch.rand(batch, *shape, generator=generator).to(where)
    target = torch.randint(_CLASSES, (batch,), generator=generator).to(where)
    reports: dict[str, AuditReport] = {}
    built: dict[str, Rule] = {}
    console = PlainConsole()
    if taken.why:
        console.say(f"Device: {taken}.")
    with bars(console) as progress:
        bar = progress.add_task("audit", total=len(chosen))
        for name in chosen:
            progress.update(bar, description=name)
            make = cast(Callable[..., Rule], known[name])
            rule = make(_model(model, hidden, generator), nn.CrossEntropyLoss(), input_shape=shape)
            reports[name] = measure(rule.to(where), x, target)
            built[name] = rule
            progress.advance(bar)
    checkpointed = checkpointed_backprop(reference.to(where), x, target)
    words = "two convolutions and a hidden layer"
    if model == "mlp":
        words = f"hidden layers of {', '.join(map(str, hidden))} units"
    content = {
        "model": str(reference.model),
        "batch": batch,
        "rules": {name: report.as_data() for name, report in reports.items()},
        "checkpointed_backprop": {"peak_bytes": checkpointed[0], "macs": checkpointed[1]},
        **taken.as_data(),
        **provenance(),
    }
    plan = None if pipeline is None else schedules(built, *pipeline)
    if plan is not None:
        content["pipeline"] = plan.as_data()
    page = render(reports, f"{words}, a batch of {batch} samples", checkpointed, plan)
    folder.write_json("audit.json", content)
    folder.write("audit.html", page)
    _show(reports, console)
    if plan is not None:
        _show_pipeline(plan, console)
    for name in ("audit.json", "audit.html"):
        console.say(str(folder.path / name))
    return 0


def _model(kind: str, hidden: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    if kind == "mlp":
        return models.mlp(64, hidden, _CLASSES, generator=generator)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 24, bias=False),
        nn.ReLU(),
        nn.Linear(24, _CLASSES, bias=False),
    )


def _show_pipeline(plan: Schedules, console: PlainConsole) -> None:
    """What a microbatch takes, and who does what when: a line a rank."""
    console.say(f"\nA pipeline of {plan.ranks} ranks, {plan.microbatches} microbatches a batch:")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("rule")
    for heading in ("units", "idle", "held"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, t in plan.by_rule.items():
        table.add_row(name, f"{t.period:.2f}", f"{t.idle:.0%}", str(t.held))
    console.table(table)
    console.say(
        "Units: time a microbatch, once the pipeline is full; a forward pass through one rank "
        "takes one. Held: microbatches whose activities a rank keeps."
    )
    for name, t in plan.by_rule.items():
        key = ", ".join(f"{letter} {what}" for what, letter in letters(t).items())
        console.say(f"\n{name}: {key}; small: every second batch")
        for line in text(t, console.width):
            console.say(line)
    if plan.others:
        console.say(
            f"\nNothing says how a step of these is cut between stages: {', '.join(plan.others)}."
        )


def _show(reports: dict[str, AuditReport], console: PlainConsole) -> None:
    """One line a rule; the page has the answers in full, and the evidence."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("rule", "weight\ntransport", "updates", "activity"):
        table.add_column(heading, no_wrap=True)
    for heading in ("layer 1\nwaits", "MACs", "kB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, report in reports.items():
        a, costs = report.answers, report.costs
        first = a.locking.layers[min(a.locking.layers)].update
        table.add_row(
            name,
            {"none": "no", "full": "yes"}.get(a.transport.answer, a.transport.answer),
            a.locality.answer,
            {"no hidden updates": "–"}.get(a.frozen.answer, a.frozen.answer),
            "–" if first is None else f"{first} of {a.locking.total}",
            f"{costs.macs / costs.forward_macs:.2f}×",
            f"{costs.peak_bytes / 1000:.1f}",
        )
    console.table(table)
    console.say(
        "Layer 1 waits for synaptic steps. MACs in forward passes. kB: the most alive at a time."
    )
    for name, report in reports.items():
        if own := report.answers.both_ways:
            console.say(
                f"{name} sends no signal back through the model's weights, but both ways through "
                f"its own {', '.join(own)}."
            )
