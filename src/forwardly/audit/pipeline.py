"""What a pipeline would do with each rule: the timetables that ``distributed.Pipeline`` runs by.

Beside them stands backprop with its updates in gaps, the best of what backprop's pipelines do; it
is not run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from forwardly.distributed.timetable import UPDATE, Timetable, timetable
from forwardly.rule import Rule
from forwardly.rules.by_stage import ByStage

_SHOWN = 120
"""Units of time, of more than which a drawing is not."""


@dataclass(frozen=True)
class Schedules:
    """Of each rule that can be cut between stages.

    Attributes:
        ranks: P.
        microbatches: M.
        by_rule: timetables, by names.
        others: names of rules that nothing says it of.
    """

    ranks: int
    microbatches: int
    by_rule: dict[str, Timetable]
    others: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """Plain data, for audit.json."""
        figures = {
            name: {"units": t.period, "idle": t.idle, "held": t.held}
            for name, t in self.by_rule.items()
        }
        return {"ranks": self.ranks, "microbatches": self.microbatches, "rules": figures}


class Cell(NamedTuple):
    """A slot as a page draws it.

    Attributes:
        start: in units.
        length: likewise.
        kind: 0 for the first pass, 1 … for later ones, "update" for an update.
        what: its name.
        microbatch: from 1.
        batch: from 1.
    """

    start: int
    length: int
    kind: int | str
    what: str
    microbatch: int
    batch: int


def schedules(rules: Mapping[str, Rule], ranks: int, microbatches: int) -> Schedules:
    """The timetables of these rules, by their names."""
    found: dict[str, Timetable] = {}
    for name, rule in rules.items():
        if not isinstance(rule, ByStage):
            continue
        passes, products = rule.passes, rule.products
        found[name] = timetable(passes, ranks, microbatches, products=products)
        if any(p.backward for p in passes):
            in_gaps = timetable(passes, ranks, microbatches, products=products, late=True)
            found[f"{name}, updates in gaps"] = in_gaps
    others = tuple(name for name in rules if name not in found)
    return Schedules(ranks, microbatches, found, others)


def letters(t: Timetable) -> dict[str, str]:
    """A letter for each pass and for updates: the first of the name, if they differ."""
    names = names_of(t)
    initials = [name[0].upper() for name in names]
    if len({*initials}) < len(names):
        initials = [chr(ord("A") + place) for place in range(len(names))]
    return dict(zip(names, initials, strict=True))


def names_of(t: Timetable) -> list[str]:
    """The passes in the order in which the first rank begins them, and ``UPDATE``."""
    names = [slot.what for slot in t.slots[0]]
    return [*dict.fromkeys(name for name in names if name != UPDATE), UPDATE]


def text(t: Timetable, width: int) -> list[str]:
    """A line a rank, of a letter a unit; every second batch in small letters, gaps as points."""
    letter = letters(t)
    head = len(str(len(t.slots))) + 1
    lines: list[str] = []
    for rank, row in enumerate(t.slots, start=1):
        line = ""
        for slot in row:
            own = letter[slot.what] if slot.batch % 2 == 0 else letter[slot.what].lower()
            line = line.ljust(slot.start, ".") + own * (slot.end - slot.start)
        lines.append(f"{rank}".ljust(head) + line[: max(width - head, 1)])
    return lines


def cells(t: Timetable) -> list[list[Cell]]:
    """A row a rank, of what it begins in the time that is shown."""
    names = names_of(t)
    kinds = {name: "update" if name == UPDATE else place for place, name in enumerate(names)}
    return [
        [
            Cell(s.start, s.end - s.start, kinds[s.what], s.what, s.microbatch + 1, s.batch + 1)
            for s in row
            if s.end <= _SHOWN and s.batch < 3
        ]
        for row in t.slots
    ]
