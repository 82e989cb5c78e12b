"""``audit.html``: the answers, a timetable drawing a rule, and the evidence behind every answer."""

from __future__ import annotations

from collections.abc import Mapping

from forwardly import __version__
from forwardly.audit import AuditReport
from forwardly.audit.pipeline import Schedules, cells
from forwardly.audit.questions import Needs
from forwardly.files import page


def answers(report: AuditReport) -> dict[str, tuple[str, str]]:
    """The four answers: each in a word or two, and in a few words more."""
    a = report.answers
    through = f"through W of {_layers(a.transport.layers)}"
    transport = {
        "none": ("no", "no" + (f", but {_list(a.both_ways)} both ways" if a.both_ways else "")),
        "full": ("yes", through),
        "partial": ("partial", f"partial: {through.replace('W', 'functions of W', 1)}"),
    }[a.transport.answer]
    signals = sorted({s for needs in a.locality.layers.values() for s in needs.signals})
    local = f"local, given the {_list(signals)}" if a.locality.answer == "local" else "non-local"
    frozen = {
        "modulated": ("modulated", "not frozen"),
        "no hidden updates": ("–", "no hidden updates"),
    }.get(a.frozen.answer, (a.frozen.answer, a.frozen.answer))
    k = a.locking
    first = k.layers[min(k.layers)].update
    waits, locking = "–", "hidden layers do not learn"
    if first is not None:
        waits = f"{first} of {k.total}"
        locking = f"layer 1 waits {first} step{'' if first == 1 else 's'}; "
        locking += "update-locked" if k.update_locked else "not locked"
        if k.backward_locked:
            locking += f", {_layers(k.backward_locked)} backward-locked"
    return {
        "weight transport": transport,
        "locality": (a.locality.answer, local),
        "frozen activity": frozen,
        "update locking": (waits, locking),
    }


def summary(report: AuditReport) -> str:
    """The answers as a small table of HTML, for notebooks."""
    steps = {"update locking": "update locking: layer 1 waits"}
    rows = [
        (steps.get(name, name), short, "" if long == short else long)
        for name, (short, long) in answers(report).items()
    ]
    costs = report.costs
    multiple = f"{costs.macs / costs.forward_macs:.2f} × forward"
    rows += [
        ("products", multiple, f"{costs.macs:,} multiply–accumulate operations"),
        ("peak memory", f"{costs.peak_bytes / 1000:,.1f} kB", "of what one step makes"),
    ]
    caption = f"{report.rule}: audit of one step on {report.samples} samples"
    return page.table(caption, ("question", "answer", ""), rows)


def _needs(update: str, needs: Needs) -> str:
    """One update's line of the locality evidence."""
    parts = [f"the {_list(needs.signals)}"] if needs.signals else ["no global signal"]
    parts += [f"W of {_layers(needs.weights)}"] if needs.weights else []
    parts += [f"activities of {_layers(needs.activities)}"] if needs.activities else []
    parts += [f"{_list(needs.feedback)}, on the way through later layers"] if needs.feedback else []
    return f"{update} needs {', '.join(parts)}"


def render(
    reports: Mapping[str, AuditReport],
    model: str,
    checkpointed: tuple[int, int] | None,
    pipeline: Schedules | None = None,
) -> str:
    """The page, self-contained.

    Args:
        reports: by rule's name.
        model: what was audited, in words.
        checkpointed: bytes and MACs of backprop with activation checkpointing on that model.
        pipeline: what a pipeline would do with each rule.
    """
    return page.render(
        "audit.html.jinja",
        reports=reports,
        answers={name: answers(report) for name, report in reports.items()},
        needs_text=_needs,
        model=model,
        checkpointed=checkpointed,
        pipeline=pipeline,
        cells=cells,
        version=__version__,
    )


def _layers(layers: tuple[int, ...]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {_list(layers)}"


def _list(values: tuple[object, ...] | list[str]) -> str:
    texts = [str(value) for value in values]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
