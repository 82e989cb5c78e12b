"""How a network is seen: a chain of stages, each one synapse and what follows it.

    a_{l-1} → synapse → z_l → elementwise modules → h_l → reshaping modules → a_l

    a_{l-1}  presynaptic activity, what enters the synapse
    z_l      pre-activation, W_l a_{l-1} + b_l
    h_l      activity: z_l after the elementwise modules that follow it directly
    a_l      h_l after all that remains up to the next synapse

What stands before the first synapse prepares the input. Only this file knows that a model is an
``nn.Sequential``; rules see stages in order, and the activities that a pass records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn import functional
from torch.nn.grad import (
    conv1d_weight,  # pyright: ignore[reportUnknownVariableType]
    conv2d_weight,  # pyright: ignore[reportUnknownVariableType]
)
from torch.nn.parameter import is_lazy

from forwardly import noise, tangents
from forwardly._typing import Float, Int
from forwardly.activations import derivative
from forwardly.checks import shape_of
from forwardly.normalisation import Normalise

_STREAMS_OF_DROPOUTS = 128
"""Streams of random numbers below this are dropouts'; see ``forwardly.noise``."""

Synapse = nn.Linear | nn.Conv1d | nn.Conv2d
SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, Normalise)
ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU),
    *(nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    nn.Threshold,
)
ELEMENTWISE = (*ACTIVATIONS, *NORMS, *DROPOUTS)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
POOLS = (*MAX_POOLS, *AVERAGE_POOLS)
RESHAPES = (nn.Flatten, nn.Unflatten)
SUPPORTED = (*SYNAPSES, *ELEMENTWISE, *POOLS, *RESHAPES)


class Part(NamedTuple):
    """A module that is not a synapse, with its dotted name in the model."""

    name: str
    module: nn.Module


class Activity(NamedTuple):
    """What one pass records at one stage; the letters of the module docstring."""

    pre: Tensor  # a_{l-1}
    z: Tensor
    h: Tensor
    a: Tensor


@dataclass(frozen=True)
class Stage:
    """One synapse and what follows it up to the next one."""

    name: str
    synapse: Synapse
    elementwise: tuple[Part, ...]
    reshaping: tuple[Part, ...]
    trained: frozenset[str]  # those of "weight" and "bias" that required a gradient when read

    def synapse_update(self, post: Tensor, pre: Tensor) -> dict[str, Tensor]:
        """Mean over the batch of post ⊗ pre for the weight, and of post for the bias.

        For a convolution post ⊗ pre is their correlation, summed over the output's positions (as
        it is over any dimension between the first and the last of a linear layer's activity).

        Args:
            post: a factor for each postsynaptic unit, of z's shape.
            pre: the presynaptic activity.

        Returns:
            Updates of the weight's and the bias's shapes, by the model's parameter names. Frozen
            parameters have none.
        """
        updates: dict[str, Tensor] = {}
        n, mean_first = post.shape[0], isinstance(self.synapse, nn.Linear)
        if mean_first:  # the smaller tensor is divided: activities, or a convolution's weight
            post = post / n
        if "weight" in self.trained:
            updates[f"{self.name}.weight"] = self._correlation(post, pre)
        if "bias" in self.trained:
            positions = [i for i in range(post.dim()) if i != self.unit_dimension(post)]
            updates[f"{self.name}.bias"] = post.sum(positions)
        return updates if mean_first else {name: sum_ / n for name, sum_ in updates.items()}

    def send_back(self, post: Tensor, pre: Tensor, weight: Tensor) -> Tensor:
        """What arrives at the presynaptic side when ``post`` goes back through ``weight``.

        For a linear layer post · weight; the vector–Jacobian product of this synapse alone.

        Args:
            post: a signal of z's shape.
            pre: the presynaptic activity, for its shape.
            weight: of the synapse's weight's shape; its own, or a feedback weight.
        """

        def forward(a: Tensor) -> Tensor:
            return functional_call(self.synapse, {"weight": weight}, (a,))

        return _pull_back(forward, pre, post)

    def unit_dimension(self, z: Tensor) -> int:
        """Which dimension of z counts the synapse's units (channels, for a convolution)."""
        return z.dim() - 1 if isinstance(self.synapse, nn.Linear) else 1

    def _correlation(self, post: Tensor, pre: Tensor) -> Tensor:
        synapse = self.synapse
        if isinstance(synapse, nn.Linear):
            return post.flatten(0, -2).T @ pre.flatten(0, -2)
        padding: str | tuple[int, ...] = synapse.padding
        if synapse.padding_mode != "zeros" or isinstance(padding, str):
            sides = synapse._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
            mode = "constant" if synapse.padding_mode == "zeros" else synapse.padding_mode
            pre = functional.pad(pre, sides, mode=mode)
            padding = (0,) * len(synapse.kernel_size)
        correlate = cast(
            Callable[..., Tensor],
            conv1d_weight if isinstance(synapse, nn.Conv1d) else conv2d_weight,
        )
        options = (synapse.stride, padding, synapse.dilation, synapse.groups)
        return correlate(pre, synapse.weight.shape, post, *options)


Apply = Callable[[Stage, Tensor, Tensor], None]
"""Takes a stage and the post and pre of its update."""

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""a Wᵀ + b from a, W and b."""


class Step:
    """What all passes of one training step share.

    The first pass through a dropout draws its mask, which later passes use again; the first pass
    through a batch normalisation gives its new running statistics, found in ``statistics`` by
    buffer name. Nothing of the model is changed.
    """

    def __init__(self, network: Network, seed_and_step: Int[Tensor, "2"] | None) -> None:
        self._network = network
        self._noise = seed_and_step
        self._masks: dict[str, Tensor] = {}
        self.keep_masks = True
        """Whether masks are kept for later passes, or made again from the noise."""
        self.statistics: dict[str, Tensor] = {}
        self.apply: Apply | None = None
        """What takes updates as they become known, in place of returning them; see ``update``."""
        self.linear: Linear | None = None
        """What computes products with linear weights, in place of the modules themselves."""
        self.max_pool: Callable[[nn.MaxPool2d, Tensor], Tensor] | None = None
        """What computes max pooling, likewise."""
        self.mask: Callable[[Tensor, int, tuple[int, ...], float, Tensor], Tensor] = noise.mask
        """What computes dropouts' masks."""

    def update(self, stage: Stage, post: Tensor, pre: Tensor) -> dict[str, Tensor]:
        """``stage.synapse_update(post, pre)``; nothing, where an optimizer applies it by itself."""
        if self.apply is None:
            return stage.synapse_update(post, pre)
        self.apply(stage, post, pre)
        return {}

    def prepare(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """a₀: the input after what stands before the first synapse."""
        a_0 = self._through(self._network.preparation, x, parameters)
        self._network.check_prepared(a_0)
        return a_0

    def activities(
        self,
        a_0: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        between: Callable[[Tensor], Tensor] | None = None,
        first_z: Tensor | None = None,
        keep_z: bool = True,
    ) -> Iterator[Activity]:
        """One forward pass from ``a_0``, a stage at a time; what is not kept is freed.

        Args:
            a_0: the prepared (perhaps perturbed) input.
            parameters: tensors to use in place of the model's own, by parameter name.
            between: what a stage's activity goes through before it enters the next one.
            first_z: z₁, where it is known already.
            keep_z: if not, rectifiers may write over z, and what is recorded of it means nothing.
        """
        pre = a_0
        for stage in self._network.stages:
            layer = self.through(stage, pre, parameters, z=first_z, keep_z=keep_z)
            first_z = None
            yield layer
            pre = layer.a if between is None else between(layer.a)
            del layer

    def through(
        self,
        stage: Stage,
        pre: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        z: Tensor | None = None,
        keep_z: bool = True,
    ) -> Activity:
        """One stage of a pass; see ``activities``.

        Args:
            stage: which.
            pre: its presynaptic activity.
            parameters: see ``activities``.
            z: its pre-activation, where it is known already.
            keep_z: see ``activities``.
        """
        _check_presynaptic(stage, pre)
        if z is None:
            z = self.through_synapse(stage, pre, parameters)
        following = stage.elementwise
        if not keep_z and following and isinstance(following[0].module, nn.ReLU):
            z, following = functional.relu_(z), following[1:]
        h = self._through(following, z, parameters)
        return Activity(pre, z, h, self._through(stage.reshaping, h, parameters))

    def through_synapse(
        self, stage: Stage, pre: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """z_l from a_{l−1}; see ``activities``."""
        synapse = stage.synapse
        if self.linear is not None and isinstance(synapse, nn.Linear) and parameters is None:
            hooks = synapse._forward_hooks or synapse._forward_pre_hooks  # pyright: ignore
            if not hooks:
                return self.linear(pre, synapse.weight, synapse.bias)
        return _call(Part(stage.name, synapse), pre, parameters)

    def product(self, stage: Stage, a: Tensor) -> Tensor:
        """W a, without the bias, of a linear synapse."""
        return (self.linear or functional.linear)(a, stage.synapse.weight, None)

    def uniform(self, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random numbers on [0, 1) of this step, for rules that need some of their own.

        Args:
            which: a number that tells several streams of one rule apart, from 0.
            shape: of the result.
            dtype: of the result.
        """
        return noise.uniform(self._drawing(), _STREAMS_OF_DROPOUTS + which, shape, dtype)

    def below(self, which: int, shape: tuple[int, ...], end: int) -> Tensor:
        """Random integers from 0 to ``end`` − 1, otherwise as ``uniform``."""
        return noise.below(self._drawing(), _STREAMS_OF_DROPOUTS + which, shape, end)

    def _drawing(self) -> Tensor:
        if self._noise is None:
            raise TypeError("a rule that draws random numbers must set draws = True")
        return self._noise

    def after_synapse(self, stage: Stage, z: Tensor) -> Tensor:
        """a_l from z_l: all that follows the synapse, as in the pass that z is from."""
        h = self._through(stage.elementwise, z, None)
        return self._through(stage.reshaping, h, None)

    def through_activation(self, stage: Stage, z: Tensor, signal: Tensor) -> Tensor:
        """δ_l: a signal at a_l taken back to z_l; a vector–Jacobian product of this stage alone."""
        return _pull_back(lambda z: self.after_synapse(stage, z), z, signal)

    def slope(self, stage: Stage, z: Tensor) -> Tensor:
        """σ′(z_l): the derivative of each h_l by its own z_l, of z's shape.

        Normalisations count with the statistics that they have, as if these were constants; dropped
        units have a slope of zero.
        """
        slope = torch.ones_like(z)
        for part in stage.elementwise:
            if isinstance(part.module, ACTIVATIONS):
                slope = slope * derivative(part.module, z)
            else:
                slope = slope * self._scale(part, z)
            z = self._through((part,), z, None)
        return slope

    def tangent(self, stage: Stage, layer: Activity, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """How h_l and a_l change to first order when a_{l−1} changes by ``tangent``.

        Args:
            stage: the stage.
            layer: what a pass recorded there.
            tangent: of the shape of ``layer.pre``.
        """
        bias = stage.synapse.bias
        change = _call(Part(stage.name, stage.synapse), tangent, None)
        if bias is not None:  # W ȧ, without b
            change = change - bias.reshape(_beside(stage.unit_dimension(change), change))
        h_change = self._tangent_through(stage.elementwise, layer.z, change)
        return h_change, self._tangent_through(stage.reshaping, layer.h, h_change)

    def _tangent_through(self, parts: tuple[Part, ...], a: Tensor, change: Tensor) -> Tensor:
        for part in parts:
            change = self._tangent_of(part, a, change)
            a = self._through((part,), a, None)
        return change

    def _tangent_of(self, part: Part, a: Tensor, change: Tensor) -> Tensor:
        if isinstance(part.module, ACTIVATIONS):
            return derivative(part.module, a) * change
        if isinstance(part.module, DROPOUTS):
            return self._drop(part, change)
        if isinstance(part.module, MAX_POOLS):
            return tangents.of_max_pool(part.module, a, change)
        if isinstance(part.module, NORMS):
            return tangents.of_norm(part.module, a, change, self._scale(part, a))
        return part.module(change)  # average pooling and reshaping are linear

    def _scale(self, part: Part, a: Tensor) -> Tensor:
        """What dropout or a normalisation multiplies each unit by."""
        if isinstance(part.module, DROPOUTS):
            return self._drop(part, torch.ones_like(a))
        if isinstance(part.module, Normalise):
            return part.module.scale(a)
        if isinstance(part.module, nn.LayerNorm):
            dims = [-1 - i for i in range(len(part.module.normalized_shape))]
            scale = (a.var(dims, correction=0, keepdim=True) + part.module.eps).rsqrt()
            return scale if part.module.weight is None else scale * part.module.weight  # pyright: ignore[reportUnnecessaryComparison]
        module = cast(nn.BatchNorm1d | nn.BatchNorm2d, part.module)
        dims = [i for i in range(a.dim()) if i != 1]
        if module.training or module.running_var is None:
            variance = a.var(dims, correction=0)
        else:
            variance = module.running_var
        scale = (variance + module.eps).rsqrt()
        if module.affine:
            scale = scale * module.weight
        return scale.reshape(1, -1, *(1 for _ in dims[1:]))

    def _through(
        self, parts: tuple[Part, ...], a: Tensor, parameters: Mapping[str, Tensor] | None
    ) -> Tensor:
        for part in parts:
            if isinstance(part.module, DROPOUTS):
                a = self._drop(part, a)
            elif isinstance(part.module, nn.BatchNorm1d | nn.BatchNorm2d):
                a = self._batch_norm(part.name, part.module, a, parameters)
            elif self.max_pool is not None and isinstance(part.module, nn.MaxPool2d):
                a = self.max_pool(part.module, a)
            else:
                a = _call(part, a, parameters)
        return a

    def dropout_mask(self, part: Part, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """What a dropout multiplies an activity of ``shape`` by; None where it drops nothing.

        Args:
            part: a dropout of the network.
            shape: of the activity.
            like: has the mask's dtype and device.
        """
        module = cast(nn.Dropout | nn.Dropout1d | nn.Dropout2d, part.module)
        if not module.training or module.p == 0 or self._noise is None:
            return None
        if part.name in self._masks:
            return self._masks[part.name]
        # Dropout1d and 2d drop whole channels.
        whole = isinstance(module, nn.Dropout)
        shape = shape if whole else (*shape[:2], *(1 for _ in shape[2:]))
        which = self._network.dropouts.index(part.name)
        mask = self.mask(self._noise, which, shape, module.p, like)
        if self.keep_masks:
            self._masks[part.name] = mask
        return mask

    def _drop(self, part: Part, a: Tensor) -> Tensor:
        mask = self.dropout_mask(part, tuple(a.shape), a)
        return a if mask is None else a * mask

    def _batch_norm(
        self,
        name: str,
        module: nn.BatchNorm1d | nn.BatchNorm2d,
        a: Tensor,
        parameters: Mapping[str, Tensor] | None,
    ) -> Tensor:
        """The module's forward pass, but with the new running statistics beside, not inside it."""
        own = parameters or {}
        weight = own.get(f"{name}.weight", module.weight)
        bias = own.get(f"{name}.bias", module.bias)
        mean, variance = module.running_mean, module.running_var
        if mean is not None and variance is not None:
            if not module.training:
                return functional.batch_norm(a, mean, variance, weight, bias, eps=module.eps)
            if f"{name}.running_mean" not in self.statistics:
                self._record_statistics(name, module, a, mean, variance)
        return functional.batch_norm(a, None, None, weight, bias, training=True, eps=module.eps)

    def _record_statistics(
        self,
        name: str,
        module: nn.BatchNorm1d | nn.BatchNorm2d,
        a: Tensor,
        mean: Tensor,
        variance: Tensor,
    ) -> None:
        count = cast(Tensor, module.num_batches_tracked) + 1
        weight = 1 / count.to(a.dtype) if module.momentum is None else module.momentum
        dims = [i for i in range(a.dim()) if i != 1]
        self.statistics[f"{name}.num_batches_tracked"] = count
        self.statistics[f"{name}.running_mean"] = mean + weight * (a.mean(dims) - mean)
        self.statistics[f"{name}.running_var"] = variance + weight * (a.var(dims) - variance)


class Network:
    """An ``nn.Sequential`` (nested ones too) read as stages.

    Args:
        model: the model; it is kept, not copied.

    Raises:
        TypeError: if the model or a module in it is not supported.
        ValueError: if the model has no weights, or uses one layer twice.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = list(_parts(model))
        positions = [i for i, part in enumerate(parts) if isinstance(part.module, SYNAPSES)]
        if not positions:
            raise ValueError(
                "the model has no weights to learn: it needs at least one nn.Linear, nn.Conv1d or "
                f"nn.Conv2d; given {model}"
            )
        self.preparation: tuple[Part, ...] = tuple(parts[: positions[0]])
        self.stages: tuple[Stage, ...] = tuple(
            _stage(parts[start:stop])
            for start, stop in zip(positions, [*positions[1:], len(parts)], strict=True)
        )
        self.dropouts: tuple[str, ...] = tuple(
            part.name for part in parts if isinstance(part.module, DROPOUTS)
        )
        self._check_no_sharing()
        self._check_output_stage()

    def step(self, seed_and_step: Int[Tensor, "2"] | None = None) -> Step:
        """Begin a training step; its random numbers are those of the (seed, step number)."""
        return Step(self, seed_and_step)

    def probe(self, input_shape: tuple[int, ...] | None = None) -> list[Activity]:
        """The activities of two samples of zeros, for their shapes.

        Args:
            input_shape: the shape of x without the batch; needed only if the first synapse is a
                convolution, whose input may have any size.

        Raises:
            ValueError: if it is needed and missing, or does not fit the network.
        """
        first = self.stages[0].synapse
        step = self.step()
        with torch.no_grad():
            # Two samples, as batch normalisation in training mode refuses one.
            if input_shape is not None:
                a_0 = step.prepare(first.weight.new_zeros(2, *input_shape))
            elif isinstance(first, nn.Linear):
                a_0 = first.weight.new_zeros(2, first.in_features)
            else:
                raise ValueError(
                    f"the first synapse is a convolution, {first}, whose input may have any size: "
                    "pass input_shape, the shape of x without the batch, e.g. (3, 32, 32)"
                )
            return list(step.activities(a_0))

    def sizes(self, input_shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Numbers of units d, …, k of a₀, a₁, …, a_L for one sample; see ``probe``."""
        layers = self.probe(input_shape)
        return (layers[0].pre[0].numel(), *(layer.a[0].numel() for layer in layers))

    def check_prepared(self, a_0: Tensor) -> None:
        """Refuse an input of a shape or dtype that the first synapse does not take."""
        _check_presynaptic(self.stages[0], a_0)
        weight = self.stages[0].synapse.weight
        if a_0.dtype != weight.dtype:
            raise TypeError(
                f"the input is {a_0.dtype}, the model's weights are {weight.dtype}: convert one, "
                f"e.g. x.to({weight.dtype}) or rule.to({a_0.dtype})"
            )

    def _check_no_sharing(self) -> None:
        owner: dict[int, str] = {}
        for stage in self.stages:
            other = owner.setdefault(id(stage.synapse.weight), stage.name)
            if other != stage.name:
                raise ValueError(
                    f"the synapses {other!r} and {stage.name!r} share one weight, which a local "
                    "update cannot serve: give each layer weights of its own"
                )

    def _check_output_stage(self) -> None:
        for part in self.stages[-1].reshaping:
            if not isinstance(part.module, RESHAPES):
                raise TypeError(
                    f"module {part.name!r}, {part.module}, follows the last synapse, whose units "
                    "must be the model's outputs, one error each: only elementwise modules, "
                    "nn.Flatten and nn.Unflatten may follow it. End the model with nn.Linear"
                )


def _parts(model: nn.Module) -> Iterator[Part]:
    if not _is_sequential(model):
        raise TypeError(
            f"the model must be an nn.Sequential; given {type(model).__name__}. "
            "Wrap its layers: nn.Sequential(nn.Flatten(), nn.Linear(...), ...)"
        )
    named = cast(Iterator[tuple[str, nn.Module]], model.named_modules(remove_duplicate=False))
    for name, module in named:
        if _is_sequential(module):
            continue
        _check_supported(name, module)
        yield Part(name, module)


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and not _overrides_forward(module, nn.Sequential)


def _overrides_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    return type(module).forward is not kind.forward


def _check_supported(name: str, module: nn.Module) -> None:
    if not isinstance(module, SUPPORTED):
        names = ", ".join(kind.__name__ for kind in SUPPORTED)
        raise TypeError(
            f"module {name!r}, {module}, is not supported. Supported are nested nn.Sequential of: "
            f"{names}"
        )
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ValueError(
            f"module {name!r}, {module}, has no sizes yet: run the model once on a batch"
        )
    for kind in SYNAPSES:
        if isinstance(module, kind) and _overrides_forward(module, kind):
            raise TypeError(
                f"module {name!r}, a {type(module).__name__}, changes the forward pass of "
                f"nn.{kind.__name__}, so its local update is not known: use nn.{kind.__name__}"
            )
    if getattr(module, "return_indices", False):
        raise ValueError(f"module {name!r}, {module}: return_indices=True is not supported")


def _stage(parts: list[Part]) -> Stage:
    synapse = cast(Synapse, parts[0].module)
    following = parts[1:]
    split = next(
        (i for i, part in enumerate(following) if not isinstance(part.module, ELEMENTWISE)),
        len(following),
    )
    return Stage(
        name=parts[0].name,
        synapse=synapse,
        elementwise=tuple(following[:split]),
        reshaping=tuple(following[split:]),
        trained=frozenset(
            name
            for name, parameter in synapse.named_parameters()
            if name in ("weight", "bias") and parameter.requires_grad
        ),
    )


def _beside(dimension: int, z: Tensor) -> tuple[int, ...]:
    """The shape in which a vector of units broadcasts against z."""
    return tuple(-1 if i == dimension else 1 for i in range(z.dim()))


def _pull_back(function: Callable[[Tensor], Tensor], at: Tensor, signal: Tensor) -> Tensor:
    if torch.compiler.is_exporting():
        raise NotImplementedError(
            "torch.export cannot trace a backward pass, not even one through a single layer; rules "
            "with uses_autograd = False can be exported"
        )
    _, pull_back = cast(
        tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], vjp(function, at.detach())
    )
    return pull_back(signal)[0]


def _call(part: Part, a: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
    if getattr(part.module, "inplace", False):
        a = a.clone()  # nobody's recorded activity may be overwritten
    if not parameters:
        return part.module(a)
    own = ((name, f"{part.name}.{name}") for name, _ in part.module.named_parameters())
    replaced = {name: parameters[full] for name, full in own if full in parameters}
    return functional_call(part.module, replaced, (a,))


def _check_presynaptic(stage: Stage, pre: Float[Tensor, "..."]) -> None:
    synapse = stage.synapse
    if isinstance(synapse, nn.Linear):
        if pre.dim() >= 2 and pre.shape[-1] == synapse.in_features:
            return
        expected = f"(samples, {synapse.in_features})"
    else:
        positions = len(synapse.kernel_size)
        if pre.dim() == 2 + positions and pre.shape[1] == synapse.in_channels:
            return
        expected = f"(samples, {synapse.in_channels}, {', '.join('hw'[2 - positions :])})"
    raise ValueError(
        f"synapse {stage.name!r}, {synapse}, needs an input of shape {expected}; "
        f"what reaches it is {shape_of(pre)}. Check the shape of x and the layers before it"
    )
