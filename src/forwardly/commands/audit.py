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
from forwardly.errors import UsageError, check_rules
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
_CHAINS = "mlp", "conv"


def audit(
    *,
    rules: tuple[str, ...] = (),
    model: Literal["mlp", "conv", "resmlp", "resnet8", "vit"] = "mlp",
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
        Rules to audit, those of other installed packages too (default: all that take the model).
    model
        mlp, of 64 inputs and the hidden layers given; conv, two convolutions and a hidden layer;
        resmlp, whose hidden layers, all of one size, add to what they are given; resnet8; or vit,
        a transformer of two blocks.
    hidden
        Sizes of the hidden layers (mlp, resmlp); two at least tell rules apart that are one with
        one.
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
    taking = [name for name, kind in known.items() if model in _CHAINS or not kind.needs_chain]
    chosen = rules or tuple(taking)
    check_rules(chosen, known)
    if refused := [name for name in chosen if name not in taking]:
        raise UsageError(
            f"{refused[0]} takes chains of layers alone, the models mlp and conv; the rules that "
            f"take {model} are {', '.join(taking)}"
        )
    require(at_least(1), batch=batch)
    require(at_most(1_000_000), batch=batch)
    require(MOST_UNITS, hidden=hidden)
    require(Must("one or more sizes of at least 1", LAYERS.holds), hidden=hidden)
    if model == "resmlp":
        same = Must("sizes that are all the same", lambda sizes: len({*sizes}) == 1)
        require(same, hidden=hidden)
    shape = (64,) if model in {"mlp", "resmlp"} else _IMAGE
    if pipeline and model not in _CHAINS:
        raise UsageError(
            f"a pipeline is of chains of layers, the models mlp and conv; given {model}"
        )
    for which, number in zip(("ranks", "microbatches"), pipeline or (), strict=False):
        require(at_least(1), **{f"pipeline's {which}": number})
        require(_MOST_RANKS if which == "ranks" else _MOST_PARTS, **{f"pipeline's {which}": number})
    generator, other = (torch.Generator().manual_seed(0) for _ in range(2))
    reference = Backprop(_model(model, hidden, other), nn.CrossEntropyLoss(), input_shape=shape)
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
    checkpointed = None
    if model in _CHAINS:
        peak, macs = checkpointed_backprop(reference.to(where), x, target)
        checkpointed = {"peak_bytes": peak, "macs": macs}
    units = f"hidden layers of {', '.join(map(str, hidden))} units"
    words = {
        "mlp": units,
        "conv": "two convolutions and a hidden layer",
        "resmlp": f"{units}, which add to what they are given",
        "resnet8": "ResNet-8",
        "vit": "a vision transformer of two blocks",
    }[model]
    content = {
        "model": str(reference.model),
        "batch": batch,
        "rules": {name: report.as_data() for name, report in reports.items()},
        "checkpointed_backprop": checkpointed,
        **taken.as_data(),
        **provenance(),
    }
    plan = None if pipeline is None else schedules(built, *pipeline)
    if plan is not None:
        content["pipeline"] = plan.as_data()
    of_backprop = (checkpointed["peak_bytes"], checkpointed["macs"]) if checkpointed else None
    page = render(reports, f"{words}, a batch of {batch} samples", of_backprop, plan)
    folder.write_json("audit.json", content)
    folder.write("audit.html", page)
    _show(reports, console)
    if plan is not None:
        _show_pipeline(plan, console)
    for name in ("audit.json", "audit.html"):
        console.say(str(folder.path / name))
    return 0


def _model(kind: str, hidden: tuple[int, ...], generator: torch.Generator) -> nn.Module:
    if kind == "mlp":
        return models.mlp(64, hidden, _CLASSES, generator=generator)
    if kind not in _CHAINS:
        with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
            torch.default_generator.manual_seed(0)
            if kind == "resmlp":
                return models.ResidualMLP(64, hidden[0], len(hidden) - 1, outputs=_CLASSES)
            if kind == "resnet8":
                return models.ResNet(8, channels=1, outputs=_CLASSES)
            return models.VisionTransformer(
                _IMAGE[-1], width=16, depth=2, heads=2, channels=1, outputs=_CLASSES
            )
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
