"""A training step as a pure function: (state, x, target) → (state, credit).

All other ways to take a step are held to this one: ``LocalSGD``'s engines, seeds at once. Being
pure, it can be batched over states by ``torch.vmap``, traced by ``make_fx``, and taken elsewhere.
How a weight descends is written in ``forwardly.fast.sgd.descend``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from forwardly.fast.sgd import Descent, descend
from forwardly.network.step import NO_KERNELS, Kernels
from forwardly.rule import Credit, Rule, undisturbed
from forwardly.training.local_sgd import descent_of


class State(NamedTuple):
    """All that training changes, by names in the rule.

    Attributes:
        values: parameters and buffers.
        momenta: M of each parameter that has one yet.
    """

    values: dict[str, Tensor]
    momenta: dict[str, Tensor]


Step = Callable[[State, Tensor, Tensor], tuple[State, Credit]]
"""(state, x, target) → the state after the step, and the credit that it took."""


def state_of(rule: Rule, momenta: Mapping[str, Tensor] | None = None) -> State:
    """The state that a rule is in: its own tensors, no copies."""
    values = {name: p.detach() for name, p in rule.named_parameters()}
    return State(values | dict(rule.named_buffers()), dict(momenta or {}))


@torch.no_grad()
def load(rule: Rule, state: State) -> None:
    """Give a rule the parameters and buffers of a state."""
    own = {**dict(rule.named_parameters()), **dict(rule.named_buffers())}
    for name, value in state.values.items():
        own[name].copy_(value)


def descents_of(rule: Rule, optimizer: Optimizer) -> dict[str, Descent]:
    """How an SGD's parameters descend, by their names in the rule."""
    names = {id(parameter): name for name, parameter in rule.named_parameters()}
    return {
        names[id(parameter)]: descent_of(group)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def run_of(
    rule: Rule, kernels: Kernels = NO_KERNELS
) -> Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Credit, dict[str, Tensor]]]:
    """``rule.run`` as a function (values, x, target), of parameters and buffers by their names.

    What the model is was last seen by ``rule.look()``: within the functional call not all of it can
    be seen.
    """
    whole = _Run(rule, kernels)

    def run(
        values: Mapping[str, Tensor], x: Tensor, target: Tensor
    ) -> tuple[Credit, dict[str, Tensor]]:
        given = {f"rule.{name}": value for name, value in values.items()}
        return cast(tuple[Credit, dict[str, Tensor]], functional_call(whole, given, (x, target)))

    return run


def step_of(rule: Rule, descents: Mapping[str, Descent], kernels: Kernels = NO_KERNELS) -> Step:
    """The step of a rule and its optimizer.

    Args:
        rule: its form and settings count; its tensors are neither read nor changed.
        descents: how each parameter descends, by its name in the rule; others stay as they are.
        kernels: what replaces modules, and where random numbers come from.

    Returns:
        A pure function. It raises what ``rule(x, target)`` raises.

    Raises:
        ValueError: if a descent is of no parameter of the rule.
    """
    if unknown := descents.keys() - dict(rule.named_parameters()).keys():
        raise ValueError(f"the rule has no parameters {', '.join(sorted(unknown))}")
    run = run_of(rule, kernels)

    def step(state: State, x: Tensor, target: Tensor) -> tuple[State, Credit]:
        rule.look()
        credit, buffers = run(state.values, x, target)
        values, momenta = {**state.values, **buffers}, dict(state.momenta)
        for update_of, update in credit.updates.items():
            name = rule.place(update_of)
            if name in descents:
                values[name], momentum = descend(
                    values[name], momenta.get(name), update, descents[name]
                )
                if momentum is not None:
                    momenta[name] = momentum
        return State(values, momenta), credit

    return step


class _Run(nn.Module):
    """``Rule.run`` as a forward pass, to be called with other tensors."""

    def __init__(self, rule: Rule, kernels: Kernels) -> None:
        super().__init__()
        self.rule = rule
        self.kernels = kernels

    @undisturbed
    def forward(self, x: Tensor, target: Tensor) -> tuple[Credit, dict[str, Tensor]]:
        return self.rule.run(x, target, self.kernels)
