"""Data parallelism: several processes share out each batch, and all get the whole batch's credit.

    shares      process q of P has the samples q m … (q + 1) m − 1 of n,    m = n / P, rounded up
    updates     ΔW = Σ_q (n_q / n) ΔW_q                                     one all-reduce a step
    exact       post, pre of all n samples; from them ΔW, as one process    two gathers a layer
    outputs     y, e of all n samples                                       one gather a step

Nothing else is different from one process: dropout masks and other random numbers are those of a
sample's place in the whole batch, and batch normalisation takes its statistics over all processes
(see ``network.share``).

Gathering the factors is less to send than summing products where a batch has fewer samples than
layers have units: n (n_in + n_out) numbers a layer, once, for n_in · n_out, twice. Every process
then computes the same update from the same numbers.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from forwardly.checks import check_kind, shape_of, values_readable
from forwardly.errors import UsageError
from forwardly.network import Network
from forwardly.network.normalisation import Normalise
from forwardly.network.share import Share
from forwardly.rule import Credit, Rule

AnyRule = TypeVar("AnyRule", bound=Rule)

if TYPE_CHECKING or distributed.is_available():
    Group = distributed.ProcessGroup | None
    """Processes of torch's; all of them if None."""
else:  # a torch that was built without them
    Group = None


def DataParallel(rule: AnyRule, *, exact: bool = False, group: Group = None) -> AnyRule:
    """Have a rule share out its batches over processes, from now on; the rule itself is returned.

    Its contract stays: every process gives the same whole batch, and gets the whole batch's credit,
    equal to that of one process up to rounding. So whatever takes a rule takes it as before:
    ``accumulate`` with any optimizer, ``LocalSGD`` (whose fast paths are for one process alone),
    ``fit``. Processes begin with the first one's weights, feedback and random numbers.

    Args:
        rule: of which every process has one, on a model of the same form.
        exact: gather the two factors of each layer's local update instead of summing products. Then
            steps are bit for bit those of one process (``LocalSGD(fast=False)``), wherever a matrix
            product gives a row the same bits whatever rows are beside it. The first batch of each
            size is computed as a whole too, and a warning says if that does not hold. For chains of
            layers, and rules whose updates may be applied at once, see ``Rule.updates_at_once``.
        group: the processes; all if None.

    Raises:
        TypeError: if the rule is none; as ``CannotShareOutError``, also in the first step, if its
            update for a batch is not the mean of those for its samples, or the model has what mixes
            samples, other than batch normalisation; if ``exact`` cannot be had.
        ValueError: if there is no group of processes, or they have rules of other forms. In a step,
            if processes were given other batches, or have come to other weights.

    Warns:
        UserWarning: see ``exact``.
    """
    check_kind("rule", rule, Rule)
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError(
            "there are no processes to share batches out over: begin them by torchrun, and have "
            "each call torch.distributed.init_process_group(), or use "
            "forwardly.distributed.joined()"
        )
    rule.parallel = _Processes(rule, exact, group)
    return rule


class CannotShareOutError(UsageError, TypeError):
    """Why a rule's batches cannot be shared out; as text, what to do."""


def check_shares(rule: Rule, *, exact: bool) -> None:
    """Refuse a rule or model whose updates for shares of a batch do not add up to the batch's.

    Raises:
        CannotShareOutError: if it is such a one, or ``exact`` cannot be had.
    """
    kind, network = type(rule).__name__, rule.network
    if rule.needs_whole_batch:
        raise CannotShareOutError(
            f"{kind} cannot share out batches over processes: {rule.needs_whole_batch}"
        )
    for name, module in cast(Sequence[tuple[str, nn.Module]], [*rule.model.named_modules()]):
        if isinstance(module, Normalise) and module.over == "batch":
            raise CannotShareOutError(
                f"module {name!r}, {module}, divides by the length of the whole batch, of "
                'which a process has a share only: take Normalise(over="sample")'
            )
    if network.graph is not None and network.graph.not_by_sample:
        raise CannotShareOutError(
            f"the dropout {network.graph.not_by_sample[0]!r} is where samples are not the "
            "first dimension, so its mask cannot be shared out over processes: move it, or "
            "leave it out"
        )
    if exact and not (rule.updates_at_once and network.graph is None):
        raise CannotShareOutError(
            "exact=True is for chains of layers and rules whose updates are products of two "
            f"factors that may be applied at once, as PEPITA; given is {kind} on "
            f"{type(rule.model).__name__}: leave exact out, and updates are summed"
        )


class _Processes:
    """What a rule shares batches out over; see ``rule.Parallel``."""

    def __init__(self, rule: Rule, exact: bool, group: Group) -> None:
        self.exact = exact
        self._group = group
        self._rank = distributed.get_rank(group)
        self._count = distributed.get_world_size(group)
        self.leads = self._rank == 0
        self._looked_at: Network | None = None
        self._tried: set[int] = set()
        self._agreed = False
        self._check(rule)
        state = cast(dict[str, Tensor], rule.state_dict())
        form = [(name, tuple(value.shape), value.dtype) for name, value in state.items()]
        kinds = type(rule), type(rule.loss), exact
        self._agree(
            [zlib.crc32(repr((kinds, form)).encode())],
            next(rule.model.parameters()),
            "the processes have rules of other forms: build the same rule on the same model in all",
        )
        for value in state.values():
            first = value.detach().contiguous().clone()
            distributed.broadcast(first, group=group, group_src=0)
            with torch.no_grad():
                value.copy_(first)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Processes:
        """Itself, as processes cannot be copied."""
        return self

    def run(self, rule: Rule, x: Tensor, target: Tensor) -> tuple[Credit, dict[str, Tensor]]:
        """The credit of the whole batch, and the buffers that it moves; see ``Rule.run``."""
        if not values_readable(x, target):
            raise TypeError(
                "a rule whose batches are shared out over processes cannot be traced, compiled, "
                "exported or batched: build another rule on the model for that"
            )
        self._check(rule)
        if self._count == 1:
            return rule.run_share(x, target, Share(0, len(x), len(x)))
        if x.device.type == "cpu" or not self._agreed:  # a device would be waited for
            self._check_agreement(rule, x, target)
        self._try(rule, x, target)
        return self._run(rule, x, target)

    def _run(self, rule: Rule, x: Tensor, target: Tensor) -> tuple[Credit, dict[str, Tensor]]:
        share = self._share(len(x))
        credit, buffers = rule.run_share(x, target, share)
        output, e = credit.output, credit.error
        rows = self._rows(share, torch.cat([output.flatten(1), e], dim=1))
        output = rows[:, : -e.shape[1]].reshape(len(x), *output.shape[1:])
        e = rows[:, -e.shape[1] :].contiguous()
        self._check_error(rule, share, output, target)

        own = {
            name: value
            for name, value in buffers.items()
            if value.is_floating_point() and not name.startswith("model.")
        }
        sums = {**own, "loss": credit.loss.reshape(1)}
        if not self.exact:
            sums |= {f"update {name}": update for name, update in credit.updates.items()}
        summed = self._summed(sums, share.counts[self._rank] / len(x))
        buffers |= {name: summed[name] for name in own}
        updates = credit.updates
        if not self.exact:
            updates = {name: summed[f"update {name}"] for name in updates}
        # The mean of the losses is not what a loss with weights makes of all.
        as_label = rule.teacher == "label"
        loss = summed["loss"].reshape(()) if as_label else rule.loss_value(output, target)
        return Credit(updates, output, loss, e), buffers

    def _share(self, n: int) -> Share:
        """This process's of n samples."""
        most = -(-n // self._count)
        counts = tuple(min(max(n - q * most, 0), most) for q in range(self._count))
        mine = counts[self._rank]
        share = Share(
            self._rank * most if mine else 0,
            max(mine, 1),
            n,
            counts,
            self._rank,
            partial(cast(Any, _Stacked).apply, self._group),
        )
        if not self.exact:
            return share
        return replace(share, gathered=partial(self._rows, share))

    def _rows(self, share: Share, mine: Tensor) -> Tensor:
        """The rows of all processes, as the whole batch has them."""
        counts, rows = share.counts, mine.new_zeros((share.counts[0], *mine.shape[1:]))
        own = counts[self._rank]
        rows[:own] = mine[:own]
        whole = rows.new_empty((len(counts) * counts[0], *mine.shape[1:]))
        _gather(self._group, rows, [*torch.split(whole, counts[0])])
        return whole[: share.total]

    def _summed(self, values: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Σ over processes of weight · value; nothing comes of a value whose weight is 0."""
        flat = torch.cat([value.reshape(-1) for value in values.values()])
        flat = flat * weight if weight else torch.zeros_like(flat)
        _reduce(self._group, flat)
        parts = torch.split(flat, [value.numel() for value in values.values()])
        return {
            name: part.reshape(value.shape)
            for (name, value), part in zip(values.items(), parts, strict=True)
        }

    def _check(self, rule: Rule) -> None:
        """See ``check_shares``."""
        if self._looked_at is rule.network:
            return
        check_shares(rule, exact=self.exact)
        self._looked_at = rule.network
        self._tried.clear()

    def _check_agreement(self, rule: Rule, x: Tensor, target: Tensor) -> None:
        """Refuse batches and weights that are not the same in all processes."""
        form = repr([(shape_of(t), t.dtype, t.device.type) for t in (x, target)])
        self._agree(
            [zlib.crc32(form.encode()), *map(_fingerprint, (x, target))],
            x,
            "the processes were given other batches: give each of them the same whole batch, in "
            "the same order, without a DistributedSampler, as each takes its own share of it",
        )
        weights = torch.stack([p.detach().sum() for p in rule.parameters()])
        self._agree(
            [float(weights.sum()), float(weights.abs().sum())],
            x,
            "the processes have come to other weights: have all of them do the same to the model, "
            "with the same optimizer, on the same kind of processor",
        )
        self._agreed = True

    def _agree(self, numbers: Sequence[float], like: Tensor, otherwise: str) -> None:
        """Raise ValueError in all processes if one has other numbers."""
        mine = torch.tensor(numbers, dtype=torch.float64, device=like.device)
        # As bytes, so that NaN is equal to itself.
        all_of_them = [one.numpy(force=True).tobytes() for one in _stacked(self._group, mine)]
        for process, theirs in enumerate(all_of_them):
            if theirs != all_of_them[0]:
                raise ValueError(f"{otherwise} (process {process} has not what process 0 has)")

    def _check_error(self, rule: Rule, share: Share, output: Tensor, target: Tensor) -> None:
        """Refuse an error of one's own that is not of each sample by itself."""
        if rule.own_error is None:
            return
        whole, counts = rule.error(output, target), [count for count in share.counts if count]
        starts = accumulate(counts, initial=0)
        parts = [
            rule.error(output.narrow(0, start, count), target.narrow(0, start, count))
            for start, count in zip(starts, counts, strict=False)
        ]
        if not torch.allclose(torch.cat(parts), whole, rtol=1e-3, atol=1e-6, equal_nan=True):
            raise CannotShareOutError(
                "error= makes another error of a sample if others are beside it, so batches cannot "
                "be shared out: let it return the error of each sample, not averaged over the batch"
            )

    def _try(self, rule: Rule, x: Tensor, target: Tensor) -> None:
        """Compare a step with that of one process: what mixes samples would go unnoticed."""
        n = len(x) if self.exact else 2
        if n in self._tried or len(x) < n:
            return
        self._tried.add(n)
        x, target = x[:n], target[:n]
        credit, _ = self._run(rule, x, target)
        step = rule.begin_step()
        expected = rule.assign(x, target, step)
        tolerance = 10 * torch.finfo(credit.output.dtype).eps ** 0.5
        scale = expected.output.abs().max()
        if bool((credit.output - expected.output).abs().max() > tolerance * scale):
            raise CannotShareOutError(
                "the model's output for a sample depends on the others of its batch, of which each "
                "process has a share only: of such modules only batch normalisation is supported"
            )
        if self.exact and not all(
            torch.equal(update, expected.updates[name]) for name, update in credit.updates.items()
        ):
            warnings.warn(
                f"exact: of {n} samples over {self._count} processes, products have not the bits "
                "that one process has, so steps are equal up to rounding only. Shares of as many "
                "samples as a multiple of 8 are more likely to be",
                stacklevel=2,
            )


def _fingerprint(values: Tensor) -> float:
    """A number that depends on all values and their order."""
    n = len(values)
    rows = values.detach().reshape(n, -1).to(torch.float64).sum(1)
    return float(rows @ torch.arange(1, n + 1, dtype=torch.float64, device=rows.device))


def _stacked(group: Group, mine: Tensor) -> Tensor:
    """The tensors of all processes, (processes, *shape)."""
    processes = distributed.get_world_size(group)
    found = mine.new_empty((processes, *mine.shape))
    _gather(group, mine.contiguous(), [*found])
    return found


def _gather(group: Group, mine: Tensor, found: list[Tensor]) -> None:
    distributed.all_gather(found, mine, group=group)  # pyright: ignore[reportUnknownMemberType]


def _reduce(group: Group, values: Tensor) -> None:
    distributed.all_reduce(values, group=group)  # pyright: ignore[reportUnknownMemberType]


class _Stacked(torch.autograd.Function):
    """``_stacked``, differentiable in both modes; see ``network.share``."""

    @staticmethod
    def forward(group: Group, mine: Tensor, weight: float) -> Tensor:  # noqa: ARG004 # pyright: ignore
        return _stacked(group, mine)

    @staticmethod
    def setup_context(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, inputs: tuple[Group, Tensor, float], _: Tensor
    ) -> None:
        ctx.group, ctx.weight = inputs[0], inputs[2]

    @staticmethod
    def backward(ctx: Any, back: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore
        total = back.contiguous() * ctx.weight
        _reduce(ctx.group, total)
        mine = total[distributed.get_rank(ctx.group)]
        return None, mine / ctx.weight if ctx.weight else torch.zeros_like(mine), None

    @staticmethod
    def jvp(ctx: Any, _: None, change: Tensor, __: None) -> Tensor:  # pyright: ignore
        return _stacked(ctx.group, change)
