"""A pipeline: each rank holds some stages of one network, and microbatches travel through them.

    torchrun --nproc-per-node 4 train.py

Who does what when is ``timetable``'s, and each rank goes through its own column of it: it waits for
what a pass brings, goes through its stages, and sends on what comes out. The updates of a batch are
the mean over its samples, added up in the order of its microbatches.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from forwardly.checks import shape_of
from forwardly.distributed.timetable import UPDATE, Timetable, timetable
from forwardly.loss_value import LossValue
from forwardly.network import Stage
from forwardly.network.kinds import ALL_BATCH_NORMS
from forwardly.network.normalisation import Normalise
from forwardly.network.reader import reading_of
from forwardly.network.share import Share
from forwardly.rule import Rule, undisturbed
from forwardly.rules import RULES
from forwardly.rules.by_stage import ByStage, Microbatch, Pass

_PLAIN = (bool, int, float, str)


class Pipeline:
    """Trains a rule's network, a part of its stages on each rank of ``torch.distributed``.

    Each rank builds the same rule, from the same seed, and gives ``accumulate`` the same batches.
    Until ``gather`` the weights of other ranks' stages have no values here (they are on torch's
    device "meta"), as they would be old ones; so the rule itself cannot be called.

    Args:
        rule: PEPITA, DRTP, ForwardForward or Backprop, or another that is ``ByStage``.
        microbatches: M, into how many parts a batch is cut; where it is at least the number of
            ranks, PEPITA lets none wait.
        layers: how many of the network's stages each rank has, in order; so that the largest
            share of the multiply-adds is as small as can be if None.

    Without a process group it is a pipeline of one rank: the same numbers, bit for bit.

    Attributes:
        rule: as given.
        layers: how many stages each rank has.
        rank: this one's place, from 0.
        timetable: who does what when.

    Raises:
        TypeError: if the rule cannot be cut between stages, the model is no chain of torch's own
            modules, or is not on the processor.
        ValueError: if a module mixes the samples of a batch, a parameter is trained that belongs to
            no synapse, there are more ranks than stages, an argument does not fit; or if ranks have
            built different rules.
    """

    def __init__(
        self, rule: Rule, microbatches: int, *, layers: Sequence[int] | None = None
    ) -> None:
        self.rank, self._ranks = _place()
        _check_rule(rule)
        if type(microbatches) is not int or microbatches < 1:
            raise ValueError(
                f"microbatches must be a whole number of at least 1; given {microbatches!r}"
            )
        self.rule = rule
        self._by_stage = cast(ByStage, rule)
        passes = self._by_stage.passes
        self.timetable: Timetable = timetable(
            passes, self._ranks, microbatches, products=self._by_stage.products
        )
        self._order = self.timetable.order(self.rank)
        self._passes = {p.name: p for p in passes}
        probed = rule.network.probe(rule.input_shape)
        _check_by_sample(rule, [layer.a for layer in probed])
        # Of a₀, a₁, …, a_L, for one sample.
        self._shapes = [tuple(a.shape[1:]) for a in (probed[0].pre, *(p.a for p in probed))]
        stages = rule.network.stages
        costs = [
            stage.synapse.weight[0].numel() * layer.z[0].numel()
            for stage, layer in zip(stages, probed, strict=True)
        ]
        self.layers = _shares(costs, self._ranks, layers)
        self._ends = [0, *accumulate(self.layers)]
        self._stages = stages[self._ends[self.rank] : self._ends[self.rank + 1]]
        self._sent: list[list[tuple[Any, Tensor]]] = [[], []]
        self._check_the_same()
        self._whole = True
        self._release()

    def parameters(self) -> list[nn.Parameter]:
        """Those that this rank trains, for an optimizer."""
        return [p for stage in self._stages for _, _, p in _trained(stage)]

    @undisturbed
    @torch.no_grad()
    def accumulate(self, x: Tensor, target: Tensor) -> Tensor | None:
        """Add the updates for one batch to ``.grad`` of this rank's parameters.

        Returns when this rank has done its share; the next batch may begin while others have not.

        Args:
            x: n samples, the same on every rank.
            target: their targets, likewise.

        Returns:
            On the last rank what the loss module says of the output of the first pass, a scalar; on
            the others, which need not wait for it, None.

        Raises:
            TypeError, ValueError: what the rule raises for a batch, on every rank alike.
            ValueError: if the batch has fewer samples than microbatches, a rank has been given
                another batch than the one before it, or the model has changed.
        """
        self._check(x, target)
        if self._whole:
            self._release()
        self._compare(x, target)
        batch = self._cut(x, target)
        totals: dict[str, Tensor] = {}
        outputs: list[Tensor] = []
        for slot in self._order:
            samples = batch[slot.microbatch]
            if slot.what == UPDATE:
                self._learn(samples, len(samples.x) / len(x), totals)
            else:
                self._carry(self._passes[slot.what], slot.microbatch, samples, outputs)
        for name, update in totals.items():
            parameter = self.rule.parameter(name)
            parameter.grad = update if parameter.grad is None else parameter.grad + update
        self.rule.move_buffers(self.rule.moved_buffers(self.rule.begin_step()))
        self._settle()
        if not self._is_last(self.rank):
            return None
        return self.rule.loss_value(torch.cat(outputs), target).as_subclass(LossValue)

    @torch.no_grad()
    def gather(self) -> None:
        """Bring all weights to all ranks, where the rule is whole until the next ``accumulate``.

        All ranks have to call it. Call it before the program ends, too, so that none leaves while
        others still wait for what it has sent.
        """
        # By messages, not a broadcast: a thread of gloo's may hold the values of one for a moment
        # longer, and if the program ends in that moment Python aborts it.
        for rank, (start, end) in enumerate(pairwise(self._ends)):
            for stage in self.rule.network.stages[start:end]:
                for module, own, parameter in _trained(stage):
                    if rank == self.rank:
                        self._send_to_all(parameter.detach())
                        continue
                    value = torch.empty_like(parameter, device="cpu").contiguous()
                    distributed.recv(value, rank, tag=0)
                    setattr(module, own, nn.Parameter(value))
        self._settle()
        self._settle()
        self._whole = True
        self._reading = reading_of(self.rule.model)

    def _release(self) -> None:
        """Let go of what other ranks train."""
        for stage in self.rule.network.stages:
            if stage not in self._stages:
                for module, own, parameter in _trained(stage):
                    setattr(module, own, nn.Parameter(parameter.to("meta")))
        self._whole = False
        self._reading = reading_of(self.rule.model)

    def _is_last(self, rank: int) -> bool:
        return rank == self._ranks - 1

    def _stages_of(self, p: Pass, rank: int) -> list[Stage]:
        """Those of a rank through which a pass goes, in its order."""
        stages = [*self.rule.network.stages[self._ends[rank] : self._ends[rank + 1]]]
        if not p.to_readout:
            stages = [stage for stage in stages if not stage.is_readout]
        return stages[::-1] if p.backward else stages

    def _carry(self, p: Pass, m: int, batch: Microbatch, outputs: list[Tensor]) -> None:
        """Take a pass of a microbatch through this rank."""
        stages = self._stages_of(p, self.rank)
        first, towards = (self._ranks - 1, -1) if p.backward else (0, 1)
        if self.rank == first:
            if p.after and first != self._ranks - 1:
                batch.output = self._receive(self._ranks - 1, -1, batch, p, m)
            value = self._by_stage.begin(p, batch)
        elif stages:
            cut = self._ends[self.rank + 1] if p.backward else self._ends[self.rank]
            value = self._receive(self.rank - towards, cut, batch, p, m)
        else:
            return
        for stage in stages:
            value = self._by_stage.carry(p, stage, value, batch)
        if 0 <= self.rank + towards < self._ranks:
            if self._stages_of(p, self.rank + towards):
                self._send(value, self.rank + towards, p, m)
            return
        if p.backward or not p.to_readout:
            return
        if p == self._by_stage.passes[0]:
            outputs.append(value)
        batch.output = value
        for later in self._by_stage.passes:
            if later.after == p.name and not later.backward and self._ranks > 1:
                self._send(value, 0, later, m)

    def _learn(self, batch: Microbatch, share: float, totals: dict[str, Tensor]) -> None:
        """Add the updates of a microbatch, as its share of the whole batch's."""
        for stage in self._stages:
            for name, update in self._by_stage.learn(stage, batch).items():
                part = share * update
                totals[name] = totals[name] + part if name in totals else part
        batch.forget()

    def _cut(self, x: Tensor, target: Tensor) -> list[Microbatch]:
        """The microbatches, of equal sizes or nearly, each with its rows of the random numbers."""
        parts = zip(
            *(t.tensor_split(self.timetable.microbatches) for t in (x, target)), strict=True
        )
        batch: list[Microbatch] = []
        first = 0
        for samples, their_target in parts:
            step = self.rule.begin_step(share=Share(first, len(samples), len(x)))
            batch.append(Microbatch(samples, their_target, step))
            first += len(samples)
        return batch

    # What is sent, and by which number it is told from others on its way.

    def _tag(self, p: Pass, m: int) -> int:
        return 1 + self._by_stage.passes.index(p) * self.timetable.microbatches + m

    def _send(self, value: Tensor, rank: int, p: Pass, m: int) -> None:
        value = value.contiguous()
        work = distributed.isend(value, rank, tag=self._tag(p, m))
        self._sent[-1].append((work, value))

    def _send_to_all(self, value: Tensor) -> None:
        value = value.contiguous()
        others = (rank for rank in range(self._ranks) if rank != self.rank)
        self._sent[-1] += [(distributed.isend(value, other, tag=0), value) for other in others]

    def _receive(self, rank: int, cut: int, batch: Microbatch, p: Pass, m: int) -> Tensor:
        """What a rank has sent: the activity (or its signal) behind stage ``cut``."""
        shape = (len(batch.x), *self._shapes[cut])
        value = torch.empty(shape, dtype=self._dtype)
        distributed.recv(value, rank, tag=self._tag(p, m))
        return value

    def _settle(self) -> None:
        """Wait until what was sent in the batch before has arrived; not for the present one's."""
        for work, _ in self._sent.pop(0):
            work.wait()
        self._sent.append([])

    @property
    def _dtype(self) -> torch.dtype:
        return self.rule.network.stages[0].synapse.weight.dtype

    def _check(self, x: Tensor, target: Tensor) -> None:
        """Refuse a batch on every rank alike, or one would wait for another for ever."""
        if not self._reading.agrees(reading_of(self.rule.model)):
            raise ValueError(
                "the model has changed since the pipeline was built or gathered: build it anew"
            )
        n, wanted = len(x) if x.dim() else 0, self.timetable.microbatches
        if n < wanted:
            raise ValueError(
                f"a batch of {wanted} microbatches needs at least {wanted} samples; given is x of "
                f"shape {shape_of(x)}"
            )
        if target.dim() < 1 or len(target) != n:
            raise ValueError(
                f"x has {n} samples, so the target must have as many in its first dimension; given "
                f"is {shape_of(target)}"
            )
        for name, given in (("x", x), ("the target", target)):
            if given.device.type != "cpu":
                raise ValueError(f"{name} is on {given.device}; a pipeline needs it on the cpu")
        self.rule.check_values(x, target)
        one = Microbatch(x[:1], target[:1], self.rule.begin_step(share=Share(0, 1, n)))
        for p in self._by_stage.passes:
            if not p.after:
                self._by_stage.begin(p, one)
        a_0 = one.step.prepare(one.x)
        if tuple(a_0.shape[1:]) != self._shapes[0]:
            raise ValueError(
                f"the pipeline was built for samples that reach the first synapse as "
                f"{self._shapes[0]}; these do as {tuple(a_0.shape[1:])}: give the rule their "
                "input_shape"
            )
        self.rule.error(torch.zeros(n, *self._shapes[-1], dtype=self._dtype), target)

    def _compare(self, x: Tensor, target: Tensor) -> None:
        """Refuse another batch than the rank before was given, without waiting for all."""
        mine = torch.tensor([len(x), zlib.crc32(_bytes(x)), zlib.crc32(_bytes(target))])
        if self.rank > 0:
            other = torch.empty_like(mine)
            distributed.recv(other, self.rank - 1, tag=0)
            if not torch.equal(mine, other):
                raise ValueError(
                    f"ranks {self.rank - 1} and {self.rank} were given different batches: "
                    "all must have the same, in the same order, so take no DistributedSampler, and "
                    "seed what shuffles"
                )
        if not self._is_last(self.rank):
            self._sent[-1].append((distributed.isend(mine, self.rank + 1, tag=0), mine))

    def _check_the_same(self) -> None:
        """Refuse rules that differ between ranks."""
        if self._ranks == 1:
            return
        settings = {k: v for k, v in vars(self.rule).items() if isinstance(v, _PLAIN)}
        digest = hashlib.sha256(repr((type(self.rule), self.rule.model, settings)).encode())
        digest.update(repr((self.timetable.microbatches, self.layers)).encode())
        for name, value in self.rule.state_dict().items():
            digest.update(name.encode())
            digest.update(_bytes(value))
        digests: list[Any] = [None] * self._ranks
        cast(Any, distributed).all_gather_object(digests, digest.hexdigest())
        if len(set(digests)) > 1:
            raise ValueError(
                "the ranks have built different rules: their classes, options, weights, feedback, "
                "dropout seed, microbatches or layers differ. Seed what draws weights and "
                "feedback, e.g. by torch.manual_seed(0), before the model and the rule are built"
            )


def _place() -> tuple[int, int]:
    """This rank and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "there are several processes, but no process group: build the pipeline within "
                "forwardly.distributed.joined()"
            )
        return 0, 1
    backend = distributed.get_backend()
    if backend != "gloo":
        raise ValueError(
            "a pipeline sends by gloo, from the processor's memory; the process group is "
            f'"{backend}": build it within forwardly.distributed.joined()'
        )
    return distributed.get_rank(), distributed.get_world_size()


def _check_rule(rule: Rule) -> None:
    name, network = type(rule).__name__, rule.network
    if not isinstance(rule, ByStage):
        known = [kind.__name__ for kind in RULES.values() if issubclass(kind, ByStage)]
        raise TypeError(
            f"nothing says how a step of {name} is cut between stages, so that an update needs no "
            "more than its own stage has (see forwardly.rules.by_stage). Rules that can be cut: "
            f"{', '.join(known)}"
        )
    if rule.parallel is not None:
        raise TypeError(
            f"this {name} shares out its batches by DataParallel, and a pipeline cuts its layers: "
            "build another rule on the model"
        )
    rule.look()
    if network.graph is not None or network.altered:
        raise TypeError(
            f"a pipeline needs a chain of torch's own modules, without hooks: {network.altered}"
        )
    parts = [p for s in network.stages for p in (*s.elementwise, *s.reshaping)]
    for part in (*network.preparation, *parts):
        module = part.module
        over_batch = isinstance(module, Normalise) and module.over == "batch"
        if over_batch or isinstance(module, ALL_BATCH_NORMS):
            raise ValueError(
                f"module {part.name!r}, {module}, mixes the samples of a batch, and a microbatch "
                "has only some of them: normalise each sample, e.g. with nn.LayerNorm or "
                "fw.Normalise()"
            )
    synapses = {name for stage in network.stages for name in stage.updated}
    if others := sorted((rule.trained - synapses) | rule.learned.keys()):
        raise ValueError(
            f"a pipeline trains weights and biases of synapses only, and {name} trains others: "
            f"{', '.join(others)}. Freeze them with parameter.requires_grad_(False), or build the "
            "layer without them"
        )
    if network.stages[0].synapse.weight.device.type != "cpu":
        raise TypeError(
            f"a pipeline sends from the processor's memory; the model is on "
            f"{network.stages[0].synapse.weight.device}: move the rule by rule.to('cpu')"
        )


def _check_by_sample(rule: Rule, activities: list[Tensor]) -> None:
    """Refuse activities whose first dimension does not count samples; two were probed."""
    for stage, a in zip(rule.network.stages, activities, strict=True):
        if a.shape[0] != 2:
            raise ValueError(
                f"what follows {stage.name!r} makes {shape_of(a)} of two samples, so the first "
                "dimension no longer counts samples: begin an nn.Flatten at dimension 1"
            )


def _shares(costs: Sequence[int], ranks: int, layers: Sequence[int] | None) -> tuple[int, ...]:
    """How many stages each rank has."""
    if len(costs) < ranks:
        raise ValueError(
            f"a pipeline of {ranks} ranks needs as many synapses, and the model has {len(costs)}: "
            "begin fewer processes"
        )
    if layers is None:
        return balanced(costs, ranks)
    if len(layers) != ranks or min(layers) < 1 or sum(layers) != len(costs):
        raise ValueError(
            f"layers must be {ranks} numbers of at least 1, one a rank, that add up to the model's "
            f"{len(costs)} synapses; given {list(layers)}"
        )
    return tuple(layers)


def balanced(costs: Sequence[int], parts: int) -> tuple[int, ...]:
    """Cut a list into so many parts that the largest sum is as small as can be: their lengths.

    By dynamic programming over where the last part begins.
    """
    sums = [0, *accumulate(costs)]
    best: list[tuple[int, tuple[int, ...]]] = [(total, (n,)) for n, total in enumerate(sums)]
    for part in range(2, parts + 1):
        best = [
            min(
                (
                    (max(best[start][0], sums[end] - sums[start]), (*best[start][1], end - start))
                    for start in range(part - 1, end)
                ),
                default=(sums[-1], ()),
            )
            for end in range(len(sums))
        ]
    return best[-1][1]


def _trained(stage: Stage) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """What is trained of a stage's synapse, with its name there."""
    synapse = stage.part.module
    return [(synapse, own, synapse.get_parameter(own)) for own in sorted(stage.trained)]


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
