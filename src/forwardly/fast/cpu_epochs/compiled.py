"""Whole epochs of small dense networks, compiled: PEPITA, backprop and readout-only.

For a network of a few neurons, or one sample at a time, the time of a step is Python's and the
tensor library's, not arithmetic's. Here numba compiles the loop over batches and epochs.

    forward      z_l = W_l a_{l−1} + b_l,  h_l = σ(z_l)
    PEPITA       z₁ᵉʳʳ = z₁ ± (W₁F) e;  δ_l = h_l − h_lᵉʳʳ and δ_L = e, with the modulated a_{l−1}
                 δ₁ (x ± F e)ᵀ = δ₁xᵀ ± (δ₁eᵀ) Fᵀ, where that is less work
    backprop     δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ σ′(z_l),  δ_L = e ⊙ σ′(z_L)
    update       W_l ← W_l − η · mean of δ_l ⊗ a_{l−1}

The readable rules are the reference: parameters agree with theirs, step by step, up to rounding.
A process that compiles may sum in another order than those that find the code compiled.
A network is trained by one thread, which lets go of Python's lock, so networks train side by side.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from forwardly.checks import shape_of
from forwardly.fast.compiling import no_numba
from forwardly.fast.cpu_epochs import layout
from forwardly.fast.cpu_epochs.layout import Array, Samples
from forwardly.losses import encoded
from forwardly.network import Stage
from forwardly.rule import Rule
from forwardly.rules.backprop import Backprop
from forwardly.rules.pepita import PEPITA
from forwardly.rules.readout_only import ReadoutOnly

_ACTIVATIONS: dict[type[nn.Module], int] = {
    nn.Identity: layout.IDENTITY,
    nn.ReLU: layout.RELU,
    nn.Tanh: layout.TANH,
    nn.Sigmoid: layout.SIGMOID,
}
_RULES: dict[type[Rule], int] = {
    PEPITA: layout.PEPITA,
    Backprop: layout.BACKPROP,
    ReadoutOnly: layout.READOUT_ONLY,
}
_LOSSES: dict[type[nn.Module], int] = {
    nn.MSELoss: layout.SQUARED,
    nn.CrossEntropyLoss: layout.CROSS_ENTROPY,
}


@contextmanager
def one_thread_a_product() -> Generator[None]:
    """Keep BLAS's own threads out: products are small, and networks have a thread each."""
    with _libraries().limit(limits=1, user_api="blas"):  # pyright: ignore[reportUnknownMemberType]
        yield


@cache
def _libraries() -> ThreadpoolController:
    import scipy.linalg.cython_blas  # pyright: ignore  # noqa: F401, the BLAS of numba's products

    return ThreadpoolController()


class CompiledTraining:
    """A rule's network, trained in compiled epochs of plain gradient descent.

        training = fw.CompiledTraining(rule)
        training.train(x, target, learning_rate=0.1, epochs=5, batch=1)
        training.write_back()

    Args:
        rule: PEPITA, Backprop or ReadoutOnly, with any of their options, on a stack of linear
            layers with ReLU, tanh, sigmoid or nothing behind each, in float32 or float64 on the
            processor, with ``nn.MSELoss`` or ``nn.CrossEntropyLoss``. Its parameters are copied
            now, and written by ``write_back``.

    Raises:
        TypeError: if it is not such a rule; ``why_not_compiled`` says why.
    """

    def __init__(self, rule: Rule) -> None:
        rule.look()
        why_not = why_not_compiled(rule)
        if why_not:
            raise TypeError(
                f"no compiled training for this rule: {why_not}. Use it with LocalSGD or accumulate"
            )
        self._rule = rule
        self._network_then = rule.network
        self._stages = rule.network.stages
        weights = [stage.synapse.weight for stage in self._stages]
        biases = [stage.synapse.bias for stage in self._stages]
        self._dtype = _array(weights[0]).dtype
        layers = np.zeros(len(weights), layout.LAYER)
        layers["units"], layers["inputs"] = np.array([weight.shape for weight in weights]).T
        layers["first_weight"][1:] = np.cumsum([weight.numel() for weight in weights])[:-1]
        layers["first_unit"][1:] = np.cumsum(layers["units"])[:-1]
        layers["has_bias"] = [bias is not None for bias in biases]
        layers["activation"] = [_activation(stage) for stage in self._stages]
        self._network = layout.Network(
            np.concatenate([_array(weight).ravel() for weight in weights]),
            np.concatenate(
                [
                    np.zeros(len(weight), self._dtype) if bias is None else _array(bias)
                    for weight, bias in zip(weights, biases, strict=True)
                ]
            ),
            layers,
        )
        self._settings = _settings(rule, self._dtype)

    def train(
        self,
        x: Tensor,
        target: Tensor,
        *,
        learning_rate: float,
        epochs: int = 1,
        batch: int | None = None,
        order: Tensor | None = None,
    ) -> int:
        """Train for whole epochs.

        Args:
            x: (n, d), of the weights' dtype.
            target: (n, k), or classes (n,).
            learning_rate: η, on updates averaged over a batch.
            epochs: passes over the samples.
            batch: samples a step, the last of an epoch maybe fewer; all of them if None.
            order: (epochs, n) indices, the order of the samples in each epoch; as they come if
                None.

        Returns:
            The first epoch, from 1, after which a weight was NaN or infinite, where training
            stops; 0 if there was none.

        Raises:
            ValueError: if a shape, a class or a setting is wrong, or an input not finite.
        """
        self._rule.check_batch(x, target)
        self._check_unchanged()
        if epochs < 1 or (batch is not None and batch < 1):
            raise ValueError(
                f"epochs and batch must be at least 1; given epochs={epochs}, batch={batch}"
            )
        orders = _checked_order(order, epochs, len(x))
        samples, rate = self.arrays(x, target), float(learning_rate)
        schedule = layout.Schedule(epochs, len(x) if batch is None else batch, rate, 0)
        with one_thread_a_product():
            *_, diverged = _loops().train(
                self._network, self._settings, samples, samples, orders, schedule
            )
        return int(diverged)

    def train_full_batch(
        self, train: Samples, validation: Samples, *, learning_rate: float, count: int, every: int
    ) -> tuple[Array, Array, int]:
        """Train for ``count`` times ``every`` epochs, measuring after each ``every``.

        Args:
            train: what is learned, from ``arrays``.
            validation: what is only measured, likewise.
            learning_rate: η, on updates averaged over the samples.
            count: measurements.
            every: epochs between two.

        Returns:
            The mean absolute errors of training and validation set, (count,) each, NaN from a
            divergence on; and as ``train``.
        """
        samples = train.x.shape[1]
        schedule = layout.Schedule(every, samples, float(learning_rate), count)
        as_they_come = _checked_order(None, every, samples)
        return cast(
            tuple[Array, Array, int],
            _loops().train(
                self._network, self._settings, train, validation, as_they_come, schedule
            ),
        )

    def mae(self, x: Tensor, target: Tensor) -> float:
        """The mean absolute error of the outputs for x (n, d) and target, as of now."""
        samples = self.arrays(x, target)
        with one_thread_a_product():
            return float(_loops().mean_absolute_error(self._network, samples))

    def weights(self) -> list[Array]:
        """Copies of the weights as of now, (n_l, n_{l−1}) each."""
        parts = np.split(self._network.weights, self._network.layers["first_weight"][1:])
        shapes = [tuple(stage.synapse.weight.shape) for stage in self._stages]
        return [part.reshape(shape).copy() for part, shape in zip(parts, shapes, strict=True)]

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the rule's model the weights and biases as of now.

        Raises:
            ValueError: if the model has changed since it was read.
        """
        self._rule.look()
        self._check_unchanged()
        biases = np.split(self._network.biases, self._network.layers["first_unit"][1:])
        for stage, weight, bias in zip(self._stages, self.weights(), biases, strict=True):
            stage.synapse.weight.copy_(torch.from_numpy(weight))  # pyright: ignore[reportUnknownMemberType]
            if stage.synapse.bias is not None:
                stage.synapse.bias.copy_(torch.from_numpy(bias))  # pyright: ignore[reportUnknownMemberType]

    def _check_unchanged(self) -> None:
        if self._rule.network is not self._network_then:
            raise ValueError(
                "the model has changed since its weights were copied: make CompiledTraining anew"
            )

    def arrays(self, x: Tensor, target: Tensor) -> Samples:
        """Samples as the compiled loops have them: (d, n) and (k, n), classes one-hot."""
        inputs, outputs = (
            int(self._network.layers[0]["inputs"]),
            len(self._stages[-1].synapse.weight),
        )
        x = x.flatten(1)
        if x.shape[1] != inputs:
            raise ValueError(
                f"x must be (n, {inputs}), as the first layer takes; given {shape_of(x)}"
            )
        target = encoded(self._rule.loss, target, (len(x), outputs), x.dtype)
        return Samples(
            np.ascontiguousarray(_array(x).T, self._dtype),
            np.ascontiguousarray(_array(target).T, self._dtype),
        )


def why_not_compiled(rule: Rule) -> str:
    """Why there is no compiled training for a rule; empty if there is."""
    if missing := no_numba():
        return missing
    if type(rule) not in _RULES:
        known = ", ".join(kind.__name__ for kind in _RULES)
        return f"{type(rule).__name__} is none of {known}"
    if type(rule.loss) not in _LOSSES:
        return f"the loss {rule.loss!r} is not compiled"
    if rule.own_error is not None:
        return "error= is a function of its own"
    if rule.network.altered:
        return rule.network.altered
    if not all(
        isinstance(part.module, nn.Flatten | nn.Identity) for part in rule.network.preparation
    ):
        return "the input is prepared by more than a Flatten"
    return next((why for stage in rule.network.stages if (why := _why_not_compiled(stage))), "")


def _loops() -> Any:
    from forwardly.fast.cpu_epochs import epochs  # loads numba

    return epochs


def _why_not_compiled(stage: Stage) -> str:
    name = f"layer {stage.name!r}"
    modules = [part.module for part in stage.elementwise]
    known = all(type(module) in _ACTIVATIONS for module in modules)
    if type(stage.synapse) is not nn.Linear or stage.reshaping or not known:
        return f"{name} is more than linear with ReLU, tanh or sigmoid"
    if sum(type(module) is not nn.Identity for module in modules) > 1:
        return f"{name} has several activations"
    if len(stage.trained) < len(list(stage.synapse.parameters())):
        return f"{name} is frozen in part"
    weight = stage.synapse.weight
    if weight.device.type != "cpu":
        return f"{name} is on {weight.device}, not on the processor"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"{name} is {weight.dtype}, neither float32 nor float64"
    return ""


def _settings(rule: Rule, dtype: np.dtype[Any]) -> layout.Settings:
    codes = _RULES[type(rule)], _LOSSES[type(rule.loss)]
    if not isinstance(rule, PEPITA):
        return layout.Settings(*codes, np.zeros((1, 1), dtype), dtype.type(1), False, False)
    F = np.ascontiguousarray(_array(rule.F).T, dtype)
    second, clean = rule.output_error == "second", rule.presynaptic == "clean"
    return layout.Settings(*codes, F, dtype.type(rule.sign), second, clean)


def _activation(stage: Stage) -> int:
    return max((_ACTIVATIONS[type(part.module)] for part in stage.elementwise), default=0)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()  # pyright: ignore[reportUnknownMemberType]


def _checked_order(order: Tensor | None, epochs: int, samples: int) -> Array:
    if order is None:
        return np.zeros((0, samples), np.int64)
    if tuple(order.shape) != (epochs, samples):
        raise ValueError(
            f"order must be (epochs, samples) = {(epochs, samples)}; given {tuple(order.shape)}"
        )
    if order.is_floating_point() or order.min() < 0 or order.max() >= samples:
        raise ValueError(f"order must hold indices from 0 to {samples - 1}")
    return np.ascontiguousarray(_array(order), np.int64)
