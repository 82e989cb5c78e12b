"""``fit_seeds``: several runs of one form trained at once, as one batched step.

Networks, feedback, dropout and the order of the batches are each run's own, and so may be samples
and learning rates; all else is shared. The readable rule is batched over the runs by ``torch.vmap``
(docs/architecture.md says why a rule allows that), each ends where ``fit`` would take it, up to
rounding, and its row of every epoch is what ``fit`` would measure.

A small network leaves most of a GPU idle, and its steps take as long as their launches. So on CUDA
the third step is captured as a graph, and launched as one from then on: nothing in a step waits for
the processor. Samples lie on the device, where they were checked once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from forwardly.checks import check_kind, shape_of
from forwardly.data import Augmentation, Split
from forwardly.errors import UsageError, whole_number
from forwardly.fast.cuda.captured import Captured
from forwardly.metrics import correct
from forwardly.network.graph import Attribute, Constant, Operation, described
from forwardly.network.stage import Part, Stage
from forwardly.rule import Rule
from forwardly.training.batches import InMemory
from forwardly.training.functional import State, descents_of, load, run_of
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.run import Fit, Measure, Row, Run, Totals, begin

_SHARED = (
    *("rule", "rule_options", "loss", "optimizer", "scheduler", "batches", "validation_batches"),
    *("batch", "drop_last", "augment", "keep"),
)
"""Settings of a run that all have."""


def fit_seeds(
    rules: Sequence[Rule],
    data: Any,
    optimizers: Sequence[Optimizer],
    *,
    epochs: int,
    seeds: Sequence[int],
    batch: int = 64,
    validation: Any = None,
    schedulers: Sequence[LRScheduler | None] | None = None,
    measures: Sequence[Measure] = (),
    drop_last: bool = False,
    augment: Augmentation | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Fit]:
    """Train several runs of one form at once; the models are changed in place.

    Args:
        rules: one a run, all of one kind, with models of one form on one device.
        data: what ``fit`` takes, in memory, of all runs; or a list, with as many samples for each.
        optimizers: one a run, ``LocalSGD`` or ``torch.optim.SGD``, alike but for learning rates.
        epochs: passes over the training samples.
        seeds: one a run, of the order of its batches and which samples are put aside, see ``fit``.
        batch: samples a step of each run; the last batch of an epoch may be smaller.
        validation: see ``fit``; of all runs.
        schedulers: one a run, stepped after every epoch.
        measures: see ``fit``; called for each run after each epoch.
        drop_last: see ``fit``.
        augment: see ``fit``.
        on_batch: called after each batch with the number of those done in this epoch, and of all.
        on_epoch: called after each epoch with the rows of all runs.

    Returns:
        As ``fit`` would return for each run. ``seconds`` are its share of the time of all. A run
        that has diverged keeps its rows up to then, and the others go on.

    Raises:
        TypeError: if an argument is something else than what is asked for; what the rule raises.
        UsageError: if runs cannot be batched: of several kinds or forms, with settings that differ
            in more than the learning rate, with unequal numbers of samples, with data that comes
            from a loader, or with a rule or an optimizer whose step hangs on the values of tensors;
            and what ``fit`` refuses.
        ValueError: what the rule raises for samples that it cannot take.
    """
    epochs, batch = whole_number("epochs", epochs, 1), whole_number("batch", batch, 1)
    check_kind("rules", rules, Sequence)
    count = len(rules)
    each = cast(list[Any], data) if isinstance(data, list) else [data] * count
    schedulers = [None] * count if schedulers is None else schedulers
    one_a_run: dict[str, Sequence[Any]] = {
        "optimizers": optimizers,
        "seeds": seeds,
        "data": each,
        "schedulers": schedulers,
    }
    for name, given in one_a_run.items():
        check_kind(name, given, Sequence)
        if len(given) != count or not count:
            raise UsageError(
                f"fit_seeds takes one rule a run and as many {name}; given {count} rules and "
                f"{len(given)} {name}"
            )
    runs = [
        begin(
            rule,
            own,
            optimizer,
            batch=batch,
            seed=whole_number("seeds", seed),
            validation=validation,
            scheduler=scheduler,
            measures=measures,
            drop_last=drop_last,
            augment=augment,
        )
        for rule, own, optimizer, seed, scheduler in zip(
            rules, each, optimizers, seeds, schedulers, strict=True
        )
    ]
    for rows in epochs_at_once(runs, epochs, measures=measures, on_batch=on_batch):
        if on_epoch is not None:
            on_epoch(rows)
    return [run.fit for run in runs]


def epochs_at_once(
    runs: Sequence[Run],
    epochs: int,
    *,
    measures: Sequence[Measure] = (),
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[list[Row]]:
    """Train runs that have begun, all as far as each other, up to so many epochs in all.

    See ``fit_seeds``. After each epoch its rows are given, and the runs are as they are after it.

    Raises:
        UsageError: if they cannot be batched.
    """
    together = _Together(runs)
    while together.epochs < epochs and any(run.fit.diverged is None for run in runs):
        rows = list[Row]()
        for run, seen in zip(runs, together.epoch(on_batch), strict=True):
            if run.fit.diverged is None:
                rows.append(run.end_epoch(seen, measures, keep=False))
        yield rows


class _Together:
    """Runs as one: their tensors stacked, and the step of all.

    The step works in place on tensors that stay where they are, so it can be captured.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        _check(runs)
        self._runs = runs
        self.epochs = max(len(run.fit.rows) for run in runs)
        first = runs[0]
        self._rules = [run.rule for run in runs]
        self._place = next(first.rule.model.parameters())
        self._batches = [cast(InMemory, run.batches) for run in runs]
        self._samples = _Samples([batches.split for batches in self._batches], self._place)
        parameters, buffers = stack_module_state(cast(list[nn.Module], self._rules))
        self._values = {
            name: value.detach().clone() for name, value in {**parameters, **buffers}.items()
        }
        self._descents = descents_of(first.rule, first.optimizer)
        self._momenta = {
            name: self._momentum(name)
            for name, descent in self._descents.items()
            if descent.momentum
        }
        self._rates = {
            name: torch.empty(
                len(runs), *[1] * (self._values[name].dim() - 1), dtype=self._place.dtype
            ).to(self._place.device)
            for name in self._descents
        }
        device = self._place.device
        self._chosen = torch.zeros(
            len(runs), self._batches[0].batch, dtype=torch.int64, device=device
        )
        self._draws = torch.zeros(len(runs), 2, dtype=torch.int64, device=device)
        batches = self._batches[0].count or 0
        self._losses = torch.zeros(batches, len(runs), dtype=self._place.dtype, device=device)
        self._done = torch.zeros(1, dtype=torch.int64, device=device)
        self._right = torch.zeros(len(runs), dtype=torch.int64, device=device)
        self._counts_right = True
        self._updated: set[str] = set()
        self._launch = Captured(lambda: self._step(self._chosen), device)

    def _momentum(self, name: str) -> Tensor:
        """Of all runs; zero of one that has none yet, in whose first step M is the update."""
        momenta = torch.zeros_like(self._values[name])
        for run, momentum in zip(self._runs, momenta, strict=True):
            state = run.optimizer.state.get(run.rule.get_parameter(name), {})
            if state.get("momentum_buffer") is not None:
                momentum.copy_(state["momentum_buffer"])
        return momenta

    @torch.inference_mode(False)
    @torch.no_grad()
    def epoch(self, on_batch: Callable[[int, int], None] | None) -> list[Totals]:
        """Train for an epoch; the rules and optimizers are left as it ends."""
        began = time.perf_counter()
        self.epochs += 1
        device = self._place.device
        descents = [descents_of(run.rule, run.optimizer) for run in self._runs]
        for name, rates in self._rates.items():
            found = torch.tensor([of_run[name].lr for of_run in descents], dtype=rates.dtype)
            rates.copy_(found.reshape(rates.shape))
        order = torch.stack([batches.order() for batches in self._batches]).to(device)
        seeds = [Augmentation.draws(run.settings["seed"], self.epochs, 1) for run in self._runs]
        self._draws.copy_(torch.tensor(seeds))
        self._done.zero_()
        self._right.zero_()
        size, count = self._chosen.shape[1], len(self._losses)
        samples = 0
        for done in range(1, count + 1):
            chosen = order[:, samples : samples + size]
            samples += chosen.shape[1]
            if chosen.shape[1] == size:
                self._chosen.copy_(chosen)
                self._launch()
            else:
                self._step(chosen)
            if on_batch is not None:
                on_batch(done, count)
        losses: list[float] = self._losses.cpu().double().sum(0).tolist()  # pyright: ignore
        right: list[int] = self._right.tolist()  # pyright: ignore
        seconds = (time.perf_counter() - began) / len(self._runs)
        self._give_back()
        return [
            Totals(loss, found if self._counts_right else None, samples, seconds)
            for loss, found in zip(losses, right, strict=True)
        ]

    def _step(self, chosen: Tensor) -> None:
        rule, augment = self._rules[0], self._runs[0].augment
        run = run_of(rule)

        def one(
            values: Mapping[str, Tensor], x: Tensor, target: Tensor, draws: Tensor
        ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
            credit, buffers = run(values, augment.changed(x, draws), target)
            found = correct(credit.output, target)
            if found is None:
                self._counts_right = False
                found = torch.zeros((), dtype=torch.int64, device=x.device)
            return credit.updates, buffers, credit.loss, found

        rule.look()  # within the functional call not all of the model can be seen
        x, target = self._samples.batch(chosen)
        try:
            updates, buffers, loss, right = vmap(one)(self._values, x, target, self._draws)
        except RuntimeError as problem:
            if "vmap" not in str(problem):
                raise
            raise UsageError(
                f"{type(rule).__name__} cannot be batched, as its step, or the model's, asks for "
                "the values of tensors: train one run after the other with fit"
            ) from problem
        for update_of, update in updates.items():
            name = rule.place(update_of)
            if name in self._descents:
                self._descend(name, update)
        for name, value in buffers.items():
            self._values[name].copy_(value)
        self._losses.index_copy_(0, self._done, (loss * chosen.shape[1])[None])
        self._done += 1
        self._right += right
        self._draws[:, 1] += 1

    def _descend(self, name: str, update: Tensor) -> None:
        """``forwardly.fast.sgd.descend`` of all runs, in place."""
        keep, decay, _, nesterov, maximize, _ = self._descents[name]
        self._updated.add(name)
        weight, rate = self._values[name], self._rates[name]
        if maximize:
            update = -update
        if decay:
            update = update + decay * weight
        if keep:
            momentum = self._momenta[name]
            torch.add(update, momentum, alpha=keep, out=momentum)
            update = torch.add(update, momentum, alpha=keep) if nesterov else momentum
        weight.addcmul_(update, rate, value=-1)

    def _give_back(self) -> None:
        for i, run in enumerate(self._runs):
            if run.fit.diverged is not None:
                continue
            run.optimizer._opt_called = True  # pyright: ignore # as schedulers look for a step
            load(run.rule, State({name: value[i] for name, value in self._values.items()}, {}))
            for name in self._momenta.keys() & self._updated:
                momenta = self._momenta[name]
                state = run.optimizer.state[run.rule.get_parameter(name)]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.empty_like(momenta[i])
                state["momentum_buffer"].copy_(momenta[i])


class _Samples:
    """The samples of all runs on the device; once, where all runs share them."""

    def __init__(self, splits: Sequence[Split], place: Tensor) -> None:
        kept = [(split.x.data_ptr(), split.target.data_ptr()) for split in splits]
        distinct = dict(zip(kept, splits, strict=True))
        self._x = torch.cat([split.x.to(place.device) for split in distinct.values()])
        self._target = torch.cat([split.target.to(place.device) for split in distinct.values()])
        number = {where: i for i, where in enumerate(distinct)}
        begins = torch.tensor([number[where] * len(splits[0]) for where in kept])
        self._begins = begins.to(place.device)[:, None]
        self._dtype = place.dtype

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The samples (runs, n, …) and targets at ``chosen`` (runs, n), counted in each run's."""
        index = (chosen + self._begins).flatten()
        x, target = Split(self._x, self._target).batch(index, self._dtype)
        shape = tuple(chosen.shape)
        return x.reshape(*shape, *x.shape[1:]), target.reshape(*shape, *target.shape[1:])


def _check(runs: Sequence[Run]) -> None:
    """Refuse runs that are no batch."""
    first = runs[0]
    for run in runs:
        name = type(run.rule).__name__
        if not isinstance(run.batches, InMemory):
            raise UsageError(
                "runs at once take samples that are in memory; given is a loader: train one run "
                "after the other with fit"
            )
        if type(run.optimizer) not in (LocalSGD, SGD):
            raise UsageError(
                "runs at once descend by LocalSGD or torch.optim.SGD; given "
                f"{type(run.optimizer).__name__}: train one run after the other with fit"
            )
        if getattr(run.optimizer, "precision", "full") != "full":
            raise UsageError('runs at once have the precision "full"; given "bf16"')
        if run.rule.parallel is not None:
            raise UsageError(
                f"the rule of {name} shares out its batches over processes, which runs at once do "
                "not: train it by fit"
            )
        if _is_altered(run.rule):
            raise UsageError(
                f"the model of {name} has hooks, or methods of its own, which runs at once would "
                "not call for each: train one run after the other with fit"
            )
        if any(descent.dampening for descent in descents_of(run.rule, run.optimizer).values()):
            raise UsageError("runs at once have no dampening: leave it 0")
    for run in runs[1:]:
        ours, theirs = _form(first), _form(run)
        for what in (name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)):
            raise UsageError(
                "runs at once must be alike but for seeds, samples and learning rates; not so "
                f"their {what}: {ours.get(what)} and {theirs.get(what)}"
            )
    if len({len(run.fit.rows) for run in runs if run.fit.diverged is None}) > 1:
        raise UsageError("runs at once go on from the same epoch, and these are not as far")
    optimizers = [id(run.optimizer) for run in runs]
    models = [id(parameter) for run in runs for parameter in run.rule.parameters()]
    if len({*optimizers}) < len(runs) or len({*models}) < len(models):
        raise UsageError("each run has a model, a rule and an optimizer of its own")


def _is_altered(rule: Rule) -> bool:
    """Whether a module of the model has hooks, or does not what torch's class does."""
    graph = rule.network.graph
    if graph is None:
        return bool(rule.network.altered)
    calls = [operation.call for operation in (*graph.preparation, *graph.body)]
    parts = [call.part if isinstance(call, Stage) else call for call in calls]
    return any(isinstance(part, Part) and part.altered for part in parts)


def _in_words(operation: Operation) -> str:
    """What an operation of a graph does, whatever the values of parameters and buffers."""
    call = operation.call
    if isinstance(call, Constant):
        return f"a constant of {call.tensor.tolist()}"  # pyright: ignore[reportUnknownMemberType]
    what = call.parameter or call.name if isinstance(call, Attribute) else described(operation)
    return f"{what} of {operation.arguments}, {operation.options}"


def _form(run: Run) -> dict[str, Any]:
    """What runs at once share, in words."""
    rule = run.rule
    form = {name: run.settings.get(name) for name in _SHARED}
    modules = cast(dict[str, nn.Module], dict(rule.model.named_modules()))  # pyright: ignore
    for name, module in modules.items():
        mode = "" if module.training else " in evaluation mode"
        form[f"module {name!r}"] = f"{type(module).__name__}({module.extra_repr()}){mode}"
    for name, tensor in {**dict(rule.named_parameters()), **dict(rule.named_buffers())}.items():
        form[name] = f"{shape_of(tensor)} {tensor.dtype} on {tensor.device}"
    for name, descent in descents_of(rule, run.optimizer).items():
        form[f"optimizer's settings of {name}"] = descent._replace(lr=0.0)
    graph = rule.network.graph
    for operation in () if graph is None else (*graph.preparation, *graph.body):
        form[f"operation {operation.number}"] = _in_words(operation)
    return form | {"trained parameters": sorted(rule.trained)}
