"""Which rank of a pipeline does what, of which microbatch, when.

A network is cut into as many parts as there are ranks, and a batch into microbatches. From a rule's
passes follows what waits for what. Of what it can do, each rank does first

    1  the update of a microbatch whose passes have all been there
    2  the first pass of a new microbatch, if fewer than a limit are under way
    3  a later pass, of the oldest microbatch

    limit  P            (ranks) if a pass waits for another, and all go forward
           P − p + 1    of rank p, if one comes back: the schedule that is called 1F1B
           1            if no pass waits

So a modulated pass of PEPITA finds its error there when it is its turn, on every rank. ``late``
turns the order round, with twice the limit: updates then fill gaps, as in the "zero bubble"
schedules of Qi et al. (2024, arXiv 2401.10241), which backprop gains by.

Weights change once a batch: a rank begins with a batch when it has had all updates of the one
before, be other ranks still at that. So no pass meets stale weights.

    unit  the multiply-adds of a pass of one microbatch through one rank. A forward pass takes one,
          a signal's way back one, each product post ⊗ pre of an update one

Ranks are taken to have equal shares and messages to take no time. F e, the error, what is
elementwise, and that no signal need come out of the first layer, are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from forwardly.rules.by_stage import Pass

UPDATE = "update"
"""What stands in a slot for an update; passes stand by their names."""

_BATCHES = 4
"""After how many each is like the one before, as tests see."""


class Slot(NamedTuple):
    """Something that a rank does.

    Attributes:
        rank: which, from 0.
        batch: from 0.
        microbatch: from 0 in each batch.
        what: the name of a pass, or ``UPDATE``.
        start: in units.
        end: likewise.
    """

    rank: int
    batch: int
    microbatch: int
    what: str
    start: int
    end: int


@dataclass(frozen=True)
class Timetable:
    """What all ranks do for some batches, the last of which is like all that follow.

    Attributes:
        slots: by rank, in time's order.
        microbatches: of a batch.
        units: of work that a microbatch is for each rank.
    """

    slots: tuple[tuple[Slot, ...], ...]
    microbatches: int
    units: int

    @property
    def period(self) -> float:
        """Units of time a microbatch, in the long run."""
        last = self._batch(0, -1)[-1].end, self._batch(0, -2)[-1].end
        return (last[0] - last[1]) / self.microbatches

    @property
    def idle(self) -> float:
        """The share of its time that a rank waits."""
        return 1 - self.units / self.period

    @property
    def held(self) -> int:
        """Microbatches of which a rank holds activities at a time: the most of any rank."""
        return max(map(self._held, range(len(self.slots))))

    def order(self, rank: int) -> tuple[Slot, ...]:
        """What a rank does for each batch, in that order."""
        return self._batch(rank, -1)

    def _batch(self, rank: int, which: int) -> tuple[Slot, ...]:
        batches = self.slots[rank][-1].batch + 1
        return tuple(slot for slot in self.slots[rank] if slot.batch == which % batches)

    def _held(self, rank: int) -> int:
        under_way: set[int] = set()
        most = 0
        for slot in self._batch(rank, -1):
            under_way.add(slot.microbatch)
            most = max(most, len(under_way))
            if slot.what == UPDATE:
                under_way.remove(slot.microbatch)
        return most


def timetable(
    passes: Sequence[Pass],
    ranks: int,
    microbatches: int,
    *,
    products: int = 1,
    late: bool = False,
) -> Timetable:
    """Make the timetable of a rule.

    Args:
        passes: of the rule, see ``ByStage``.
        ranks: P, how many parts the network has.
        microbatches: M, of a batch.
        products: what an update takes, in units.
        late: whether updates wait for a gap.

    Raises:
        ValueError: if a pass does not come after an earlier one that reaches the output.
    """
    for place, p in enumerate(passes):
        outputs = [q.name for q in passes[:place] if q.to_readout and not q.backward]
        if p.after and p.after not in outputs:
            raise ValueError(
                f"the pass {p.name!r} comes after {p.after!r}, which is no earlier pass that "
                f"reaches the output; these are {', '.join(outputs) or 'none'}"
            )
    plan = _Plan(passes, ranks, microbatches, products, late)
    now = 0
    while min(plan.batches) < _BATCHES:
        at_something = [plan.go_on(rank, now) for rank in range(ranks)]
        if not any(at_something):
            raise AssertionError("all ranks wait for each other")
        now += 1
    return Timetable(tuple(map(tuple, plan.slots)), microbatches, len(passes) + products)


class _Plan:
    """A timetable in the making."""

    def __init__(
        self, passes: Sequence[Pass], ranks: int, microbatches: int, products: int, late: bool
    ) -> None:
        self.passes, self.ranks, self.microbatches = passes, ranks, microbatches
        self.products, self.late = products, late
        self.slots: list[list[Slot]] = [[] for _ in range(ranks)]
        self.batches = [0] * ranks  # at which each rank is
        self._free = [0] * ranks
        self._done = [Counter[str]() for _ in range(ranks)]  # of that batch, in its order
        self._ends: dict[tuple[int, int, int, str], int] = {}
        returns = any(p.backward for p in passes)
        waits = any(p.after for p in passes)
        self._limits = [
            ((ranks - rank if returns else ranks) if waits else 1) * (2 if late else 1)
            for rank in range(ranks)
        ]

    def go_on(self, rank: int, now: int) -> bool:
        """Whether a rank is at something; if it is free it is given what there is to do."""
        if self._free[rank] > now:
            return True
        what = "" if self.batches[rank] == _BATCHES else self._choose(rank, now)
        if not what:
            return False
        batch, m = self.batches[rank], self._done[rank][what]
        end = now + (self.products if what == UPDATE else 1)
        self.slots[rank].append(Slot(rank, batch, m, what, now, end))
        self._free[rank] = self._ends[rank, batch, m, what] = end
        self._done[rank][what] += 1
        if self._done[rank][UPDATE] == self.microbatches:
            self.batches[rank] += 1
            self._done[rank].clear()
        return True

    def _choose(self, rank: int, now: int) -> str:
        first, *later = self.passes
        done = self._done[rank]
        begun, finished = done[first.name], min(done[p.name] for p in self.passes)
        update = UPDATE if done[UPDATE] < finished else ""
        if update and not self.late:
            return update
        has_room = begun < self.microbatches and begun - finished < self._limits[rank]
        begins = first.name if has_room and self._has_come(rank, begun, first, now) else ""
        ready = [p for p in later if done[p.name] < begun]
        ready = [p for p in ready if self._has_come(rank, done[p.name], p, now)]
        oldest = min(ready, key=lambda p: done[p.name]).name if ready else ""
        return (oldest or begins or update) if self.late else (begins or oldest)

    def _has_come(self, rank: int, m: int, p: Pass, now: int) -> bool:
        """Whether what a pass needs is at the rank."""
        start, before = (self.ranks - 1, rank + 1) if p.backward else (0, rank - 1)
        place, what = (self.ranks - 1, p.after) if rank == start else (before, p.name)
        end = self._ends.get((place, self.batches[rank], m, what), now + 1) if what else now
        return end <= now
