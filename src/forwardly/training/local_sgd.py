"""``LocalSGD``: stochastic gradient descent for local rules, without gradient tensors.

A local update is an outer product, so it can be added to a layer's momentum, or its weights, by the
operation that computes it. The parameters end where ``rule.accumulate`` and ``torch.optim.SGD``
would take them, up to rounding.

    momentum μ, decay λ, rate η      M ← μM + mean of post ⊗ pre + λW        W ← W − ηM
    no momentum                      W ← (1 − ηλ)W − η · mean of post ⊗ pre
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from forwardly.checks import check_kind, one_of, shape_of
from forwardly.fast.cuda.engine import Launch
from forwardly.fast.find import Engines, Path, Precision
from forwardly.fast.sgd import Descent, Trained, whole
from forwardly.loss_value import LossValue
from forwardly.network import Network
from forwardly.rule import Credit, Rule, undisturbed

_SETTINGS = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"}
_NO_MATTER = {
    *("params", "param_names", "name", "foreach", "fused", "differentiable"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr"),
    *("base_momentum", "max_momentum", "min_momentum"),
}
"""What else may stand in a group: how torch computes the same, and what schedulers note there."""

_OF_ALL = vars(import_module("torch.optim.optimizer"))
_HOOKS_OF_ALL = "_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"


class LocalSGD(Optimizer):
    """SGD that takes its updates from a rule, layer by layer; ``step(x, target)`` is all there is.

    It has the ``param_groups``, state and ``state_dict`` of ``torch.optim.SGD``, so schedulers work
    on it, and the one loads what the other saved. Settings of a group are obeyed as torch obeys
    them, ``maximize`` and ``dampening`` too; what is none of SGD's is refused.

    Attributes:
        path: which engine took the last step, and why no quicker one did, see
            ``forwardly.fast.find``; None before the first step.

    Args:
        rule: whose model is trained.
        lr: η, the learning rate.
        momentum: μ.
        weight_decay: λ, added to the update as λW.
        nesterov: whether to look ahead along the momentum.
        fast: whether to use a fast path of the rule where there is one (see ``forwardly.fast``).
        params: what to train, as for torch's optimizers, groups with rates of their own too; all of
            the model's parameters, and the rule's own, if None.
        precision: of activities and weights where they meet in linear layers: "full", their own, or
            "bf16", rounded to bfloat16, if they are float32. Updates, weights and momentum stay
            as they are; see ``forwardly.fast.algebra.products``.

    Raises:
        TypeError: if the first argument is no rule, or a setting no number.
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
        precision: Precision = "full",
    ) -> None:
        check_kind("rule", rule, Rule)
        one_of("precision", precision, ("full", "bf16"))
        self._engines = Engines(rule, fast=fast, precision=precision)
        defaults: dict[str, Any] = {
            "lr": _number("lr", lr),
            "momentum": _number("momentum", momentum),
            "dampening": 0,
            "weight_decay": _number("weight_decay", weight_decay),
            "nesterov": nesterov,
            "maximize": False,
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }
        super().__init__(rule.parameters() if params is None else params, defaults)
        self.rule = rule
        self.fast = fast
        self.precision: Precision = precision
        self.path: Path | None = None
        self._own: tuple[Network, set[Tensor]] | None = None
        self._check_groups()
        self._trained()

    # torch decorates these so that torch.compile leaves them alone, and the first call of one
    # imports all of torch._dynamo, a fifth of what a short training takes. Here they are as if
    # undecorated.
    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)

    def state_dict(self) -> dict[str, Any]:
        """As torch's; it raises what ``settle`` does."""
        self.settle()
        return unwrap(Optimizer.state_dict)(self)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the rule as well, whose model has the parameters."""
        own = {name: getattr(self, name) for name in ("rule", "fast", "precision", "path")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be what ``__getstate__`` was asked of, or take over settings and momenta alone."""
        for parameter, own in state["state"].items():
            momentum = own.get("momentum_buffer")
            if momentum is not None and momentum.shape != parameter.shape:
                raise ValueError(
                    "the state is of another model: it has a momentum of shape "
                    f"{shape_of(momentum)} for a parameter of shape {shape_of(parameter)}"
                )
        super().__setstate__(state)
        self._own = None
        self._engines = Engines(self.rule, fast=self.fast, precision=self.precision)

    def prepare(self) -> None:
        """Have compiled what steps need: some seconds, once a machine, as it is cached.

        The first step does so too, without a word meanwhile.
        """
        self._engines.prepare(self._trained())

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
            TypeError, ValueError: what the rule raises; then nothing has changed. But where steps
                are launched as graphs (see ``path``) values are looked at without waiting for the
                device, and what is wrong with them is raised some steps later, by a step, by
                ``state_dict`` or by ``settle``, when the weights have been trained on them.
        """
        self.rule.check_form(x, target)
        self._check_groups()
        trained = self._trained()
        engine, self.path = self._engines.find(x, target, trained)
        if not engine.checks_values:
            self.rule.check_values(x, target)
        credit = engine.step(x, target, trained)
        for name, update in credit.updates.items():
            trained.add(self.rule.parameter(name), whole(update))
        return credit._replace(updates={}, loss=credit.loss.as_subclass(LossValue))

    def settle(self) -> None:
        """Wait for steps that are under way on a device.

        Raises:
            ValueError: if a batch since the last call had values that nothing can be learned from;
                it is named by its number since then.
        """
        if self._engines.graphs is not None:
            self._engines.graphs.settle()

    @torch.no_grad()
    def launched(
        self, batch: Callable[[], tuple[Tensor, Tensor]], after: Callable[[Credit], None]
    ) -> Callable[[], None]:
        """Steps on what ``batch`` gives, each a single launch where there are graphs; see ``fit``.

        Args:
            batch: gives samples whose values were checked, and targets, computed from tensors that
                stay where they are.
            after: called with each credit, whose tensors the next step may write over; it may only
                write to tensors that stay where they are.

        Returns:
            What takes the next step. It raises what ``step`` raises.
        """
        graphs = self._engines.graphs
        launch = None if graphs is None else Launch(graphs, batch, after)

        def take() -> None:
            self.rule.look()
            self._check_groups()
            trained = self._trained()
            one = next(iter(trained.descents))
            if (
                graphs is None
                or launch is None
                or self._is_hooked()
                or self.rule.parallel is not None
                or graphs.why_not(one, one, trained)
            ):
                after(self.step(*batch()))
                return
            self.path = Path(graphs.name, graphs.without())
            launch(trained)
            self._opt_called = True  # pyright: ignore # as schedulers look for a step

        return take

    def _is_hooked(self) -> bool:
        """Whether something is to be called before or after each step."""
        own = self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks
        return any((*own, *map(_OF_ALL.get, _HOOKS_OF_ALL)))

    def _trained(self) -> Trained:
        groups = ((descent_of(group), group["params"]) for group in self.param_groups)
        return Trained({p: descent for descent, params in groups for p in params}, self.state)

    def _parameters(self) -> set[Tensor]:
        """The model's, found anew where it has changed since the last step."""
        if self._own is None or self._own[0] is not self.rule.network:
            self._own = self.rule.network, {*self.rule.parameters()}
        return self._own[1]

    def _check_groups(self) -> None:
        """Refuse settings that are not SGD's, and parameters of another model."""
        own = self._parameters()
        for group in self.param_groups:
            unknown = (group.keys() - _NO_MATTER) ^ _SETTINGS
            if unknown or group.get("differentiable"):
                raise ValueError(
                    f"a group of LocalSGD has the settings {', '.join(sorted(_SETTINGS))}; missing "
                    f"or unknown: {', '.join(sorted(unknown)) or 'differentiable'}"
                )
            if not own.issuperset(group["params"]):
                raise ValueError(
                    "the optimizer holds a parameter that is not the model's, or is so no more, as "
                    "a module was replaced: make LocalSGD anew"
                )


def _number(name: str, given: Any) -> float:
    """As Python's, since NumPy's would not load from a checkpoint."""
    try:
        number = float(given)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number; given {given!r}") from None
    any_sign = name == "dampening"
    if not (math.isfinite(number) and (any_sign or number >= 0)):
        must = "finite" if any_sign else "at least 0"
        raise ValueError(f"{name} must be {must}; given {given}")
    return number


def descent_of(group: Mapping[str, Any]) -> Descent:
    """The settings of a group, refused if they make no sense."""
    momentum, decay, rate, dampening = (
        _number(name, group[name]) for name in ("momentum", "weight_decay", "lr", "dampening")
    )
    nesterov = bool(group["nesterov"])
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError("nesterov needs a momentum above 0, and no dampening")
    return Descent(momentum, decay, rate, nesterov, bool(group["maximize"]), dampening)
