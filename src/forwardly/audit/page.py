"""``audit.html``: the answers, a timetable drawing a rule, and the evidence behind every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forwardly import __version__
from forwardly.audit import AuditReport
from forwardly.audit.questions import Needs
from forwardly.files import page

_STEP, _ROW, _LEFT, _TOP = 46, 40, 96, 34


@dataclass(frozen=True)
class Mark:
    """A mark of a timetable: what happens at a layer in a step, and where it is drawn."""

    kind: str  # "clean", "modulated" or "update"
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Timetable:
    """A drawing: layers from top to bottom, synaptic steps from left to right."""

    width: int
    height: int
    marks: list[Mark]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, int]]
    next_sample: float


def answers(report: AuditReport) -> dict[str, str]:
    """The four answers in a few words each."""
    a = report.answers
    transport = {
        "none": "no",
        "full": f"through W of {_layers(a.transport.layers)}",
        "partial": f"partial: through functions of W of {_layers(a.transport.layers)}",
    }[a.transport.answer]
    signals = sorted({s for needs in a.locality.layers.values() for s in needs.signals})
    locality = f"local, given the {_list(signals)}"
    if a.locality.answer == "non-local":
        locality = "non-local"
    frozen = {
        "frozen": "frozen",
        "modulated": "not frozen",
        "no hidden updates": "no hidden updates",
    }[a.frozen.answer]
    k = a.locking
    first = k.layers[min(k.layers)].update
    locking = "hidden layers do not learn"
    if first is not None:
        locked = "update-locked" if k.update_locked else "not locked"
        if k.backward_locked:
            locked += f", {_layers(k.backward_locked)} backward-locked"
        locking = f"layer 1 waits {first} step{'' if first == 1 else 's'}; {locked}"
    return {
        "weight transport": transport,
        "locality": locality,
        "frozen activity": frozen,
        "update locking": locking,
    }


def needs_text(layer: int, needs: Needs) -> str:
    """One layer's line of the locality evidence."""
    parts = [f"the {_list(needs.signals)}"] if needs.signals else ["no global signal"]
    parts += [f"W of {_layers(needs.weights)}"] if needs.weights else []
    parts += [f"activities of {_layers(needs.activities)}"] if needs.activities else []
    parts += [f"{_list(needs.feedback)}, on the way through later layers"] if needs.feedback else []
    return f"ΔW_{layer} needs {', '.join(parts)}"


def timetable(report: AuditReport) -> Timetable:
    """The drawing of a rule."""
    locking = report.answers.locking
    last = max(
        (t for times in locking.layers.values() for t in (*times.activities, times.update or 0)),
        default=1,
    )
    steps = max(last, 1)

    def x(step: int) -> float:
        return _LEFT + (step - 0.5) * _STEP

    marks: list[Mark] = []
    rows: list[tuple[float, str]] = []
    for place, (layer, times) in enumerate(locking.layers.items()):
        y = _TOP + (place + 0.5) * _ROW
        rows.append((y, f"layer {layer}"))
        for number, step in enumerate(dict.fromkeys(times.activities)):
            kind = "clean" if number == 0 else "modulated"
            marks.append(Mark(kind, x(step), y - 7, f"layer {layer}: {kind} pass, step {step}"))
        if times.update is not None:
            text = f"layer {layer}: update known after step {times.update}"
            marks.append(Mark("update", x(max(times.update, 1)), y + 10, text))
    return Timetable(
        round(_LEFT + steps * _STEP + 16),
        _TOP + len(rows) * _ROW + 8,
        marks,
        rows,
        [(x(step), step) for step in range(1, steps + 1)],
        x(locking.next_sample) + _STEP / 2,
    )


def render(
    reports: Mapping[str, AuditReport], model: str, checkpointed: tuple[int, int] | None
) -> str:
    """The page, self-contained.

    Args:
        reports: by rule's name.
        model: what was audited, in words.
        checkpointed: bytes and MACs of backprop with activation checkpointing on that model.
    """
    return page.render(
        "audit.html.jinja",
        reports=reports,
        answers={name: answers(report) for name, report in reports.items()},
        timetables={name: timetable(report) for name, report in reports.items()},
        needs={
            name: [needs_text(l, n) for l, n in report.answers.locality.layers.items()]
            for name, report in reports.items()
        },
        model=model,
        checkpointed=checkpointed,
        version=__version__,
    )


def _layers(layers: tuple[int, ...]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {_list(layers)}"


def _list(values: tuple[object, ...] | list[str]) -> str:
    texts = [str(value) for value in values]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
