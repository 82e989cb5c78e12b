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
from forwardly.fast.algebra import FAST
from forwardly.fast.algebra.pooling import max_pool
from forwardly.fast.algebra.products import InBFloat16, InFloat32, can_descend
from forwardly.fast.cpu_step.masks import mask
from forwardly.fast.cpu_step.shallow import Shallow
from forwardly.fast.sgd import Descent, Outer, Weight
from forwardly.loss_value import LossValue
from forwardly.network import Stage, Step
from forwardly.network.step import NO_KERNELS, Kernels
from forwardly.rule import Credit, Rule, undisturbed
from forwardly.rules.pepita import PEPITA

_SETTINGS = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"}
_NO_MATTER = {
    *("params", "param_names", "name", "foreach", "fused", "differentiable"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr"),
    *("base_momentum", "max_momentum", "min_momentum"),
}
"""What else may stand in a group: how torch computes the same, and what schedulers note there."""


class _Update(NamedTuple):
    stage: Stage
    post: Tensor
    pre: Tensor


class LocalSGD(Optimizer):
    """SGD that takes its updates from a rule, layer by layer; ``step(x, target)`` is all there is.

    It has the ``param_groups``, state and ``state_dict`` of ``torch.optim.SGD``, so schedulers work
    on it, and the one loads what the other saved. Settings of a group are obeyed as torch obeys
    them, ``maximize`` and ``dampening`` too; what is none of SGD's is refused.

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
            as they are; see ``forwardly.fast.algebra.products``.

    Raises:
        ValueError: if a number is negative, Nesterov is without momentum, something is to be
            trained that is not the model's, or bfloat16 is wanted without fast paths, for a rule
            that needs a graph or compares passes other than PEPITA, or of a processor that does
            not have it.
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
            "lr": float(lr),  # NumPy's numbers would not load from a checkpoint
            "momentum": float(momentum),
            "dampening": 0,
            "weight_decay": float(weight_decay),
            "nesterov": nesterov,
            "maximize": False,
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }
        super().__init__(rule.model.parameters() if params is None else params, defaults)
        self.rule = rule
        self.fast = fast
        self._check_groups()
        self._shallow = Shallow(rule)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the rule as well, whose model has the parameters."""
        own = {name: getattr(self, name) for name in ("rule", "fast", "_products")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be what ``__getstate__`` was asked of, or take over settings and momenta alone."""
        super().__setstate__(state)
        self._shallow = Shallow(self.rule)

    def prepare(self) -> None:
        """Have compiled what steps need: some seconds, once a machine, as it is kept.

        The first step does so too, without a word meanwhile.
        """
        trained = ((group, p) for group in self.param_groups for p in group["params"])
        if self.fast and any(group["momentum"] > 0 and can_descend(p) for group, p in trained):
            from forwardly.fast.cpu_step import descent  # loads numba

            descent.prepare()
            if self._products is InFloat32:
                self._shallow.prepare()

    @undisturbed
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
        self._check_groups()
        fast = self.fast and not rule.network.altered
        groups = {p: group for group in self.param_groups for p in group["params"]}
        if fast and self._products is InFloat32:
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

        kernels = Kernels(products.linear, max_pool, mask) if fast else NO_KERNELS
        step = rule.begin_step(kernels, apply)
        credit = self._assign(x, target, step, fast)
        for update in waiting:
            self._outer_product(update, groups, products)
        credit = self._applied(credit, groups)
        rule.move_buffers(rule.moved_buffers(step))
        return credit

    def _applied(self, credit: Credit, groups: _Groups) -> Credit:
        """The credit, once the updates that it has are applied."""
        for name, update in credit.updates.items():
            self._add(self.rule.model.get_parameter(name), groups, _plain(update))
        return credit._replace(updates={}, loss=credit.loss.as_subclass(LossValue))

    def _check_groups(self) -> None:
        """Refuse settings that make no sense or are not SGD's, and parameters of another model."""
        own = set(self.rule.model.parameters())
        for group in self.param_groups:
            unknown = (group.keys() - _NO_MATTER) ^ _SETTINGS
            if unknown or group.get("differentiable"):
                raise ValueError(
                    f"a group of LocalSGD has the settings {', '.join(sorted(_SETTINGS))}; missing "
                    f"or unknown: {', '.join(sorted(unknown)) or 'differentiable'}"
                )
            for name in ("lr", "momentum", "weight_decay"):
                if not group[name] >= 0:
                    raise ValueError(f"{name} must be at least 0; given {group[name]}")
            if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
                raise ValueError("nesterov needs a momentum above 0, and no dampening")
            if not own.issuperset(group["params"]):
                raise ValueError(
                    "the optimizer holds a parameter that is not the model's, or is so no more, as "
                    "a module was replaced: make LocalSGD anew"
                )

    def _assign(self, x: Tensor, target: Tensor, step: Step, fast: bool) -> Credit:
        assign = FAST.get(type(self.rule)) if fast else None
        if assign is None:
            return self.rule.assign(x, target, step)
        return assign(self.rule, x, target, step)

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
        if group is None or group["momentum"] == 0 or group["maximize"] or group["dampening"]:
            return None
        momentum, decay, rate = (float(group[n]) for n in ("momentum", "weight_decay", "lr"))
        settings = Descent(momentum, decay, rate, bool(group["nesterov"]))
        return Weight(weight, self._momentum(weight), settings)

    def _add(self, parameter: Tensor, groups: _Groups, update: _Into) -> None:
        """One parameter's step, from an update that is added to something."""
        group = groups.get(parameter)
        if group is None:  # not this optimizer's
            return
        rate, momentum, decay = (float(group[n]) for n in ("lr", "momentum", "weight_decay"))
        sign = -1.0 if group["maximize"] else 1.0
        if momentum == 0:
            update(parameter, 1 - rate * decay, -sign * rate)
            return
        first = self.state[parameter].get("momentum_buffer") is None
        part = 1.0 if first else 1 - float(group["dampening"])
        buffer = self._momentum(parameter)
        if group["nesterov"]:
            # W − η(g + μM), where g = M − μM_before: needs the old momentum once more.
            parameter.add_(buffer, alpha=rate * momentum)
            if decay:  # of the weights before that
                buffer.mul_(1 - rate * decay)
        update(buffer, momentum, sign * part)
        if decay:
            buffer.add_(parameter, alpha=decay * part)
        parameter.add_(buffer, alpha=-rate * (1 + momentum) if group["nesterov"] else -rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = cast(dict[str, Tensor], self.state[parameter])
        buffer = state.get("momentum_buffer")
        if buffer is None:  # torch's SGD saves None where it had no momentum
            buffer = state["momentum_buffer"] = torch.zeros_like(parameter)
        elif (buffer.dtype, buffer.device) != (parameter.dtype, parameter.device):
            buffer = state["momentum_buffer"] = buffer.to(parameter)  # the rule was moved
        return buffer


_Groups = Mapping[Tensor, dict[str, Any]]
"""The parameter group of each parameter."""

_Into = Callable[[Tensor, float, float], object]
"""(to, keep, times): to ← keep · to + times · the update, in place."""


def _plain(update: Tensor) -> _Into:
    return lambda to, keep, times: to.mul_(keep).add_(update, alpha=times)
