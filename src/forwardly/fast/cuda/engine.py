"""``Algebra`` on CUDA, its step captured as a graph and weights moved by one kernel.

A step is what ``Algebra`` does; that it is captured changes neither operations nor their order. The
first steps of a form are taken as they are, and check values as all others do; once there is a
graph, ``watch`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from forwardly.checks import values_readable
from forwardly.fast.algebra.engine import Algebra, Precision
from forwardly.fast.cuda import captured
from forwardly.fast.cuda.arithmetic import no_triton
from forwardly.fast.cuda.form import Form, form_of
from forwardly.fast.cuda.watch import Watch
from forwardly.fast.engine import Engine
from forwardly.fast.sgd import Outer, Trained, layout, whole
from forwardly.rule import Credit, Rule, undisturbed
from forwardly.rules import RULES

_MOST_SAMPLES = 256
"""Up to which the kernel is used: with more, a weight's step is mostly its product."""

_MOST_SHAPES = 4
"""Shapes of batches that have a graph, and its memory, at a time."""


class OnCuda(Algebra):
    """``Algebra``, whose learning rates are tensors, and large weights moved by ``kernel``."""

    def _descend(self, weight: Tensor, update: Outer, trained: Trained) -> bool:
        descent = trained.descents.get(weight)
        if descent is None or not _suits_kernel(weight, update) or no_triton():
            return False
        from forwardly.fast.cuda import kernel  # loads Triton

        is_new = trained.is_new(weight)
        kernel.descend(
            weight,
            trained.momentum(weight) if descent.momentum else None,
            *(update.post, update.pre, descent),
            trained.rates[weight],
            scale=update.scale,
            is_new=is_new,
        )
        return True


def _suits_kernel(weight: Tensor, update: Outer) -> bool:
    if not captured.can_capture(weight.device) or len(update.post) > _MOST_SAMPLES:
        return False
    of_type = all(t.dtype == torch.float32 for t in (weight, update.post, update.pre))
    return of_type and weight.is_contiguous()


class Graphs(Engine):
    """See the module docstring.

    Args:
        rule: what trains.
        precision: see ``Algebra``.

    Attributes:
        algebra: what takes a step.
        failed: why it could not be captured, if that was tried in vain.
    """

    name = "cuda_graph"
    checks_values = True

    def __init__(self, rule: Rule, precision: Precision) -> None:
        super().__init__(rule)
        self.algebra = OnCuda(rule, precision)
        self.failed = ""
        self._held: dict[object, _Held] = {}
        self._watch: Watch | None = None

    def why_not(self, x: Tensor, target: Tensor, trained: Trained) -> str:
        """What a graph could not see, or would keep as it was."""
        rule = self.rule
        if altered := self.algebra.why_not(x, target, trained):
            return altered
        if not captured.can_capture(x.device):
            return f"the batch is on {x.device}"
        if not values_readable(x, target):
            return "operations are traced, counted or captured"
        if type(rule) not in RULES.values():
            return f"{type(rule).__name__} is no rule of forwardly, and may do what no graph can"
        if rule.own_error is not None:
            return "error= is a function, which a graph would not call again"
        if not all(p.dtype in (torch.float32, torch.float64) for p in trained.descents):
            return "it is for weights in float32 and float64"
        return self.failed

    def without(self) -> dict[str, str]:
        """See ``Engine``."""
        return {"kernel": why} if (why := no_triton()) else {}

    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        """Values are checked here; the credit is the caller's, and no later step's."""
        if self._watch is None or self._watch.device != x.device:
            self._watch = Watch(x.device)
        self._watch.poll()
        shapes = layout(x), layout(target)
        held = self._held.pop(shapes, None)
        if held is None:
            if len(self._held) == _MOST_SHAPES:
                del self._held[next(iter(self._held))]  # not used for longest
            held = _Held(self, x, target, self._watch)
        self._held[shapes] = held
        return held.step(x, target, trained)

    def settle(self) -> None:
        """Wait for the device; raises what ``Watch.settle`` does."""
        if self._watch is not None:
            self._watch.settle()


class Launch:
    """Steps that are launched as one operation each.

    Args:
        engine: whose steps they are.
        batch: gives samples and targets. It is captured with the step, and so may only compute
            them from tensors that stay where they are.
        after: called with the credit, and captured too.
    """

    def __init__(
        self,
        engine: Graphs,
        batch: Callable[[], tuple[Tensor, Tensor]],
        after: Callable[[Credit], None],
    ) -> None:
        self._engine, self._batch, self._after = engine, batch, after
        self._form: Form | None = None

    def __call__(self, trained: Trained) -> None:
        """Take the step, as model and optimizer are now."""
        form = form_of(self._engine.rule, trained)
        rates = [descent.lr for descent in trained.descents.values()]
        if form != self._form:
            weight = next(iter(trained.descents))
            self._form, self._numbers = form, list[object]()
            self._rates = weight.new_empty(len(rates))
            self._captured = captured.Captured(self._work, weight.device)
        if rates != self._numbers:
            self._numbers = list[object](rates)
            found = torch.tensor(rates, dtype=self._rates.dtype, device="cpu")
            self._rates.copy_(found, non_blocking=True)
        if not self._captured.is_graph:
            self._trained = trained.at_rates(self._rates.unbind())
        try:
            self._captured()
        except captured.CannotCaptureError as problem:
            self._engine.failed = f"the step could not be captured: {problem}"
            self._work()

    def _work(self) -> None:
        credit = self._take(*self._batch())
        for name, update in credit.updates.items():
            self._trained.add(self._engine.rule.parameter(name), whole(update))
        self._after(credit._replace(updates={}))

    @undisturbed
    @torch.no_grad()
    def _take(self, x: Tensor, target: Tensor) -> Credit:
        return self._engine.algebra.step(x, target, self._trained)


class _Held:
    """Where batches of one shape lie, and the step on them."""

    def __init__(self, engine: Graphs, x: Tensor, target: Tensor, watch: Watch) -> None:
        self._rule, self._watch = engine.rule, watch
        self._x, self._target = torch.empty_like(x), torch.empty_like(target)
        self._credit: Credit | None = None
        self._launch = Launch(engine, self._batch, self._keep)

    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        self._x.copy_(x)
        self._target.copy_(target)
        self._launch(trained)
        credit = cast(Credit, self._credit)
        copies = (value.clone() for value in (credit.output, credit.loss, credit.error))
        return Credit({}, *copies)

    def _batch(self) -> tuple[Tensor, Tensor]:
        self._watch.count()
        x, target = self._x, self._target
        if values_readable(x, target):
            self._rule.check_values(x, target)
            return x, target
        classes = cast(Credit, self._credit).error.shape[1]  # of a step before there was a graph
        return x, self._watch.look(self._rule.loss, x, target, classes)

    def _keep(self, credit: Credit) -> None:
        self._credit = credit
