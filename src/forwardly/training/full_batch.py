"""Full-batch training of many small networks at once, one a seed.

The readable rule is batched over the seeds by ``torch.vmap``, and an epoch is traced to a flat
graph. An epoch is plain gradient descent: W ← W − rate · update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from forwardly.rule import Credit, Rule
from forwardly.training.tracing import flat


class Batch(NamedTuple):
    """The whole data of all seeds: x (seeds, n, d) and target (seeds, n, k)."""

    x: Tensor
    target: Tensor


class Errors(NamedTuple):
    """Mean absolute errors after ``epoch``: on the training and validation set, (seeds,) each."""

    epoch: int
    train: NDArray[np.float64]
    validation: NDArray[np.float64]


class FullBatchTraining:
    """One rule on one network a seed, all of the same form.

    Args:
        rules: the rule with the network of each seed. They are read, not changed.
        train: what they learn.
        validation: what they are only measured on.
        learning_rate: on updates averaged over the samples.

    Attributes:
        epoch: epochs done.
        diverged: for each seed (counted from 0) that has diverged, the first epoch after which one
            of its weights was NaN or infinite. The others are not affected.
    """

    def __init__(
        self, rules: Sequence[Rule], train: Batch, validation: Batch, *, learning_rate: float
    ) -> None:
        self.epoch = 0
        self.diverged: dict[int, int] = {}
        self._train, self._validation = train, validation
        rule = rules[0]
        parameters, buffers = stack_module_state(cast(list[nn.Module], rules))
        names = [name.removeprefix("model.") for name in parameters]
        self._weights: tuple[Tensor, ...] = tuple(w.detach() for w in parameters.values())

        def updates(state: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Tensor]:
            return cast(Credit, functional_call(rule, state, (x, target))).updates

        def predict(state: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(rule.model, state, (x,))

        def epoch(x: Tensor, target: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
            state = dict(zip(parameters, weights, strict=True))
            changes = vmap(updates)({**state, **buffers}, x, target)
            return tuple(
                weight - learning_rate * changes[name] if name in changes else weight
                for name, weight in zip(names, weights, strict=True)
            )

        def mae(x: Tensor, target: Tensor, *weights: Tensor) -> tuple[Tensor]:
            state = dict(zip(names, weights, strict=True))
            return ((vmap(predict)(state, x) - target).abs().mean((1, 2)),)

        self._step = flat(epoch, *train, *self._weights)
        self._train_mae = flat(mae, *train, *self._weights)
        self._validation_mae = flat(mae, *validation, *self._weights)

    def prepare(self) -> None:
        """Nothing to prepare: an epoch was traced in the beginning."""

    @torch.inference_mode()
    def advance(self, times: int, every: int) -> list[Errors]:
        """Run ``times`` times ``every`` more epochs, and measure after each ``every``.

        Returns:
            The errors. Seeds that diverged are entered in ``diverged``.
        """
        rows: list[Errors] = []
        for _ in range(times):
            self._run(every)
            (train,) = self._train_mae(*self._train, *self._weights)
            (validation,) = self._validation_mae(*self._validation, *self._weights)
            rows.append(Errors(self.epoch, train.double().numpy(), validation.double().numpy()))
        return rows

    def weights(self, seed: int) -> list[NDArray[np.float64]]:
        """The weights of one seed's network (counted from 0), (n_l, n_{l−1}) each."""
        return [weight[seed].double().numpy() for weight in self._weights]

    def _run(self, epochs: int) -> None:
        before, first = self._weights, self.epoch
        for _ in range(epochs):
            self._weights = self._step(*self._train, *self._weights)
            self.epoch += 1
        if self._broken() - self.diverged.keys():
            # An epoch is a pure function: run them again to find the one at fault.
            after, self._weights = self._weights, before
            for epoch in range(first + 1, self.epoch + 1):
                self._weights = self._step(*self._train, *self._weights)
                for seed in self._broken():
                    self.diverged.setdefault(seed, epoch)
            self._weights = after

    def _broken(self) -> set[int]:
        finite = torch.stack([w.isfinite().flatten(1).all(1) for w in self._weights]).all(0)
        return {seed for seed in range(len(finite)) if not finite[seed]}
