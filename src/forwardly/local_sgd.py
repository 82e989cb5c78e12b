"""``LocalSGD``: stochastic gradient descent for local rules, without gradient tensors.

A local update is an outer product, so it can be added to a layer's momentum, or its weights, by the
operation that computes it. The parameters end where ``rule.accumulate`` and ``torch.optim.SGD``
would take them, up to rounding.

    momentum μ, decay λ, rate η      M ← μM + mean of post ⊗ pre + λW        W ← W − ηM
    no momentum                      W ← (1 − ηλ)W − η · mean of post ⊗ pre
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forwardly.checks import one_of
from forwardly.fast import FAST
from forwardly.fast.masks import mask
from forwardly.fast.pooling import max_pool
from forwardly.fast.products import InBFloat16, InFloat32, can_descend
from forwardly.fast.shallow import Shallow
from forwardly.fast.updates import Descent, Outer, Weight
from forwardly.network import Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.pepita import PEPITA


class _Update(NamedTuple):
    stage: Stage
    post: Tensor
    pre: Tensor


class LocalSGD(Optimizer):
    """SGD that takes its updates from a rule, layer by layer; ``step(x, target)`` is all there is.

    It has the ``param_groups``, state and ``state_dict`` of ``torch.optim.SGD``, so schedulers work
    on it, and the one loads what the other saved.

    Args:
        rule: whose model is trained.
        lr: η, the learning rate.
        momentum: μ.
        weight_decay: λ, added to the update as λW.
        nesterov: whether to look ahead along the momentum.
        fast: whether to use a fast path of the rule where there is one (see ``forwardly.fast``).
        params: what to train, as for torch's optimizers, groups with rates of their own too; all of
            the model's parameters if None.
        precision: of activities and weights where they meet in linear layers: "full", their own, or
            "bf16", rounded to bfloat16, if they are float32. Updates, weights and momentum stay
            as they are; see ``forwardly.fast.products``.

    Raises:
        ValueError: if a number is negative, Nesterov is without momentum, or bfloat16 is wanted
            without fast paths, for a rule that needs a graph or compares passes other than PEPITA,
            or of a processor that does not have it.
    """

    def __init__(
        self,
        rule: Rule,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        fast: bool = True,
        params: Any = None,
        precision: Literal["full", "bf16"] = "full",
    ) -> None:
        if not (lr >= 0 and momentum >= 0 and weight_decay >= 0):
            raise ValueError(
                "lr, momentum and weight_decay must be at least 0; "
                f"given {lr}, {momentum}, {weight_decay}"
            )
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        one_of("precision", precision, ("full", "bf16"))
        if precision == "bf16" and not fast:
            raise ValueError('precision="bf16" is a fast path; given fast=False')
        if precision == "bf16" and rule.uses_autograd:
            raise ValueError("bf16 is for rules that need no graph, as pepita; use float32")
        if precision == "bf16" and rule.forward_passes > 1 and not isinstance(rule, PEPITA):
            raise ValueError(
                f"{type(rule).__name__} compares two passes, and rounded to bfloat16 one by one "
                'they differ by their rounding; "bf16" is for PEPITA and rules of one pass'
            )
        self._products = InBFloat16 if precision == "bf16" else InFloat32
        self._products()  # says now if it cannot
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": 0,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": False,
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }
        super().__init__(rule.model.parameters() if params is None else params, defaults)
        self.rule = rule
        self.fast = fast
        self._shallow = Shallow(rule)

    def prepare(self) -> None:
        """Have compiled what steps need: some seconds, once a machine, as it is kept.

        The first step does so too, without a word meanwhile.
        """
        trained = ((group, p) for group in self.param_groups for p in group["params"])
        if self.fast and any(group["momentum"] > 0 and can_descend(p) for group, p in trained):
            from forwardly.fast import descent  # loads numba

            descent.prepare()
            if self._products is InFloat32:
                self._shallow.prepare()

    @torch.no_grad()
    def step(self, x: Tensor, target: Tensor) -> Credit:  # pyright: ignore
        """Train on one batch.

        Args:
            x: n samples, as the rule takes them.
            target: n targets.

        Returns:
            The rule's credit, without the updates: these are applied.

        Raises:
            TypeError, ValueError: what the rule raises; then nothing has changed.
        """
        rule = self.rule
        rule.check_batch(x, target)
        groups = {p: group for group in self.param_groups for p in group["params"]}
        if self.fast and self._products is InFloat32:
            whole = self._shallow.step(x, target, lambda weight: self._weight(weight, groups))
            if whole is not None:
                return self._applied(whole, groups)
        products = self._products()
        waiting: list[_Update] = []

        def apply(stage: Stage, post: Tensor, pre: Tensor) -> None:
            update = _Update(stage, post, pre)
            if rule.updates_at_once:
                self._outer_product(update, groups, products)
            else:
                waiting.append(update)

        step = rule.network.step(rule.noise)
        step.apply = apply
        if self.fast:
            step.linear, step.max_pool, step.mask = products.linear, max_pool, mask
        credit = self._assign(x, target, step)
        for update in waiting:
            self._outer_product(update, groups, products)
        credit = self._applied(credit, groups)
        rule.finish_step(step.statistics)
        return credit

    def _applied(self, credit: Credit, groups: _Groups) -> Credit:
        """The credit, once the updates that it has are applied."""
        for name, update in credit.updates.items():
            self._add(self.rule.model.get_parameter(name), groups, _plain(update))
        return credit._replace(updates={})

    def _assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        fast = FAST.get(type(self.rule)) if self.fast else None
        if fast is None:
            return self.rule.assign(x, target, step)
        return fast(self.rule, x, target, step)

    def _outer_product(self, update: _Update, groups: _Groups, products: InFloat32) -> None:
        stage, post, pre = update
        synapse, n = stage.synapse, len(update.post)
        if not (isinstance(synapse, nn.Linear) and "weight" in stage.trained):
            for name, value in stage.synapse_update(post, pre).items():
                self._add(self.rule.model.get_parameter(name), groups, _plain(value))
            return
        if post.dim() > 2:
            post, pre = post.flatten(0, -2), pre.flatten(0, -2)

        def update_weight(to: Tensor, keep: float, times: float) -> None:
            products.add_outer(to, post, pre, keep, times / n)

        if not self._descend(synapse.weight, groups, Outer(post, pre, 1 / n), products):
            self._add(synapse.weight, groups, update_weight)
        if "bias" in stage.trained:
            self._add(synapse.bias, groups, _plain(post.sum(0) / n))

    def _descend(self, weight: Tensor, groups: _Groups, update: Outer, products: InFloat32) -> bool:
        """The whole step of a weight at once, where it has momentum and there is a fast path."""
        found = self._weight(weight, groups) if self.fast else None
        return found is not None and products.descend(found, update)

    def _weight(self, weight: Tensor, groups: _Groups) -> Weight | None:
        """What there is to know of a weight that is trained with momentum."""
        group = groups.get(weight)
        if group is None or group["momentum"] == 0:
            return None
        settings = Descent(*(group[name] for name in Descent._fields))
        return Weight(weight, self._momentum(weight), settings)

    def _add(self, parameter: Tensor, groups: _Groups, update: _Into) -> None:
        """One parameter's step, from an update that is added to something."""
        group = groups.get(parameter)
        if group is None:  # not this optimizer's
            return
        rate, momentum = group["lr"], group["momentum"]
        decay, nesterov = group["weight_decay"], group["nesterov"]
        if momentum == 0:
            update(parameter, 1 - rate * decay, -rate)
            return
        buffer = self._momentum(parameter)
        if nesterov:
            # W − η(g + μM), where g = M − μM_before: needs the old momentum once more.
            parameter.add_(buffer, alpha=rate * momentum)
            if decay:  # of the weights before that
                buffer.mul_(1 - rate * decay)
        update(buffer, momentum, 1.0)
        if decay:
            buffer.add_(parameter, alpha=decay)
        parameter.add_(buffer, alpha=-rate * (1 + momentum) if nesterov else -rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = cast(dict[str, Tensor], self.state[parameter])
        buffer = state.get("momentum_buffer")
        if buffer is None:  # torch's SGD saves None where it had no momentum
            buffer = state["momentum_buffer"] = torch.zeros_like(parameter)
        return buffer


_Groups = Mapping[Tensor, dict[str, Any]]
"""The parameter group of each parameter."""

_Into = Callable[[Tensor, float, float], object]
"""(to, keep, times): to ← keep · to + times · the update, in place."""


def _plain(update: Tensor) -> _Into:
    return lambda to, keep, times: to.mul_(keep).add_(update, alpha=times)
