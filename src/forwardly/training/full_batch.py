"""Full-batch training of many small networks at once, one a seed.

The readable rule is batched over the seeds by ``torch.vmap``, and an epoch is traced to a flat
graph. A rule that cannot be batched, as it asks for the values of tensors, takes one seed after the
other, untraced. An epoch is plain gradient descent: W ← W − rate · update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from forwardly.fast.engine import Batch, Errors
from forwardly.fast.sgd import Descent
from forwardly.rule import Rule
from forwardly.training.functional import State, step_of
from forwardly.training.tracing import flat


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
        self._parameters, self._moved = tuple(parameters), tuple(_moved(rule, train))
        self._state: tuple[Tensor, ...] = (
            *(weight.detach() for weight in parameters.values()),
            *(buffers[name] for name in self._moved),
        )
        names = *self._parameters, *self._moved
        descent = Descent(momentum=0.0, weight_decay=0.0, lr=learning_rate, nesterov=False)
        step = step_of(rule, dict.fromkeys(parameters, descent))

        def moved(values: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Tensor]:
            return step(State(values, {}), x, target)[0].values

        def predict(values: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(rule.model, values, (x,))

        def epoch(x: Tensor, target: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            values = {**buffers, **dict(zip(names, state, strict=True))}
            after = vmap(moved)(values, x, target)
            return tuple(after[name] for name in names)

        @torch.inference_mode(False)  # where a rule may differentiate
        @torch.no_grad()
        def one_by_one(x: Tensor, target: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            values = {**buffers, **dict(zip(names, state, strict=True))}
            after = [
                moved({name: value[i] for name, value in values.items()}, x[i], target[i])
                for i in range(len(x))
            ]
            return tuple(torch.stack([seed[name] for seed in after]) for name in names)

        def mae(x: Tensor, target: Tensor, *state: Tensor) -> tuple[Tensor]:
            values = {
                name.removeprefix("model."): value
                for name, value in zip(names, state, strict=True)
                if name.startswith("model.")
            }
            return ((vmap(predict)(values, x) - target).abs().mean((1, 2)),)

        try:
            self._step = flat(epoch, *train, *self._state)
        except RuntimeError:
            self._step = one_by_one
        self._train_mae = flat(mae, *train, *self._state)
        self._validation_mae = flat(mae, *validation, *self._state)

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
            (train,) = self._train_mae(*self._train, *self._state)
            (validation,) = self._validation_mae(*self._validation, *self._state)
            errors = map(_read, (train, validation))
            rows.append(Errors(self.epoch, *errors))
        return rows

    def weights(self, seed: int) -> list[NDArray[np.float64]]:
        """The weights of one seed's network (counted from 0), (n_l, n_{l−1}) each."""
        named = zip(self._parameters, self._state, strict=False)
        weights = (weight for name, weight in named if name.startswith("model."))
        return [_read(weight[seed]) for weight in weights]

    def _run(self, epochs: int) -> None:
        before, first = self._state, self.epoch
        for _ in range(epochs):
            self._state = self._step(*self._train, *self._state)
            self.epoch += 1
        if self._broken() - self.diverged.keys():
            # An epoch is a pure function: run them again to find the one at fault.
            after, self._state = self._state, before
            for epoch in range(first + 1, self.epoch + 1):
                self._state = self._step(*self._train, *self._state)
                for seed in self._broken():
                    self.diverged.setdefault(seed, epoch)
            self._state = after

    def _broken(self) -> set[int]:
        finite = [value.isfinite().reshape(len(value), -1).all(1) for value in self._state]
        alive = torch.stack(finite).all(0)
        return {seed for seed in range(len(alive)) if not alive[seed]}


def _read(values: Tensor) -> NDArray[np.float64]:
    """Off the device, which need not have float64."""
    return values.cpu().numpy().astype(np.float64)


def _moved(rule: Rule, train: Batch) -> list[str]:
    """The buffers that a step moves."""
    with torch.no_grad():
        return list(rule.run(train.x[0], train.target[0])[1])
