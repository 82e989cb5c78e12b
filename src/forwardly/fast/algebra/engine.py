"""Any rule's step with quicker products, each update added to its momentum by its own product."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from forwardly.fast.algebra import ASSIGN
from forwardly.fast.algebra.pooling import max_pool
from forwardly.fast.algebra.products import InBFloat16, InFloat32
from forwardly.fast.engine import Engine
from forwardly.fast.sgd import Outer, Trained, whole
from forwardly.network import Stage
from forwardly.network.step import Kernels
from forwardly.rule import Credit, Rule

Precision = Literal["full", "bf16"]


class Algebra(Engine):
    """See the module docstring.

    Args:
        rule: what trains.
        precision: of products of activities and weights, see ``products``.

    Raises:
        ValueError: if the precision is bfloat16, which the processor does not have.
    """

    name = "algebra"

    def __init__(self, rule: Rule, precision: Precision) -> None:
        super().__init__(rule)
        self._products = InBFloat16 if precision == "bf16" else InFloat32
        self._products()  # says now if it cannot

    def why_not(self, x: Tensor, target: Tensor, trained: Trained) -> str:  # noqa: ARG002
        """What the model has of its own is called as it is."""
        return self.rule.network.altered

    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        """Each layer's update is applied as soon as the rule allows."""
        rule, products = self.rule, self._products()
        waiting: list[_Update] = []

        def apply(
            stage: Stage, post: Tensor, pre: Tensor, less: tuple[Tensor, Tensor] | None
        ) -> None:
            update = _Update(stage, post, pre, less)
            if rule.updates_at_once:
                self._apply(update, trained, products)
            else:
                waiting.append(update)

        step = rule.begin_step(self._kernels(products), apply)
        quicker = ASSIGN.get(type(rule))
        if quicker is None:
            credit = rule.assign(x, target, step)
        else:
            credit = quicker.function(rule, x, target, step)
        for update in waiting:
            self._apply(update, trained, products)
        rule.move_buffers(rule.moved_buffers(step))
        return credit

    def _kernels(self, products: InFloat32) -> Kernels:
        return Kernels(products.linear, max_pool)

    def _descend(self, weight: Tensor, update: Outer, trained: Trained) -> bool:  # noqa: ARG002
        """The whole step of a weight at once, if there is a way."""
        return False

    def _apply(self, update: _Update, trained: Trained, products: InFloat32) -> None:
        stage, n = update.stage, len(update.post)
        synapse = stage.synapse
        if not (isinstance(synapse, nn.Linear) and "weight" in stage.trained):
            for name, value in stage.synapse_update(*update[1:]).items():
                trained.add(self.rule.model.get_parameter(name), whole(value))
            return
        post, pre, less = update.flat()

        def update_weight(to: Tensor, keep: float, times: float) -> None:
            products.add_outer(to, post, pre, keep, times / n)
            if less is not None:
                products.add_outer(to, *less, 1.0, -times / n)

        one = None if less is not None else Outer(post, pre, 1 / n)
        if one is None or not self._descend(synapse.weight, one, trained):
            trained.add(synapse.weight, update_weight)
        if "bias" in stage.trained:
            total = post.sum(0) if less is None else post.sum(0) - less[0].sum(0)
            trained.add(synapse.bias, whole(total / n))


class _Update(NamedTuple):
    stage: Stage
    post: Tensor
    pre: Tensor
    less: tuple[Tensor, Tensor] | None

    def flat(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Of a linear synapse, each position a sample."""
        _, post, pre, less = self
        if post.dim() == 2:
            return post, pre, less
        flat = None if less is None else (less[0].flatten(0, -2), less[1].flatten(0, -2))
        return post.flatten(0, -2), pre.flatten(0, -2), flat
