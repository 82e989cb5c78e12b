"""The passes of one training step through a network."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from forwardly import noise
from forwardly._typing import Int
from forwardly.checks import shape_of
from forwardly.network import local, program, transposed
from forwardly.network.activations import derivative
from forwardly.network.alterations import between_hooks, is_hooked
from forwardly.network.diagonal import normalised
from forwardly.network.kinds import (
    ACTIVATIONS,
    ALL_BATCH_NORMS,
    ALL_DROPOUTS,
    AVERAGE_POOLS,
    DROPOUTS,
    ELEMENTWISE,
    MAX_POOLS,
    NORMS,
)
from forwardly.network.share import Share
from forwardly.network.stage import Activity, Apply, Part, Stage, key_of

if TYPE_CHECKING:
    from forwardly.network.reader import Network

NO_CHAIN = (
    "the model is no chain of layers, so a pass does not go from one stage to the next: use "
    "step.activities, step.tangents or step.signals"
)

_STREAMS_OF_DROPOUTS = 128
"""Streams of random numbers below this are dropouts'; see ``noise``."""


class Kernels(NamedTuple):
    """What replaces torch's modules in parts of a pass, with the same results.

    Attributes:
        linear: a Wᵀ + b from a, W and b, for linear synapses.
        max_pool: two-dimensional max pooling.
        mask: dropouts' masks, as ``noise.mask``.
        uniform: random numbers of a rule's own, as ``noise.uniform``.
        normal: as ``noise.normal``.
        below: as ``noise.below``.
    """

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
    max_pool: Callable[[nn.MaxPool2d, Tensor], Tensor] | None = None
    mask: Callable[[Tensor, int, tuple[int, ...], float, Tensor], Tensor] = noise.mask
    uniform: Callable[[Tensor, int, tuple[int, ...], torch.dtype], Tensor] = noise.uniform
    normal: Callable[[Tensor, int, tuple[int, ...], torch.dtype], Tensor] = noise.normal
    below: Callable[[Tensor, int, tuple[int, ...], int], Tensor] = noise.below


NO_KERNELS = Kernels()
"""Torch's modules themselves."""


class Step:
    """What all passes of one training step share.

    The first pass through a dropout draws its mask, which later passes reuse; the first pass
    through a batch normalisation puts its new running statistics into ``statistics``, by buffer
    name; a rule whose own buffers move puts their new values into ``moved``, by theirs. Nothing of
    the model or the rule is changed.

    Args:
        network: what the passes go through.
        seed_and_step: the dropout seed, see ``noise``; without it dropouts drop nothing.
        kernels: what replaces modules; those that are altered are called all the same.
        apply: called with each update as it becomes known, instead of returning it.
        keep_masks: whether dropout masks are kept for later passes, or drawn again from the seed.
        share: the samples that these passes have of a larger batch; None if they have all.
    """

    def __init__(
        self,
        network: Network,
        seed_and_step: Int[Tensor, "2"] | None,
        kernels: Kernels,
        apply: Apply | None,
        keep_masks: bool,
        share: Share | None = None,
    ) -> None:
        self._network = network
        self._noise = seed_and_step
        self._kernels = kernels
        self._apply = apply
        self._keep_masks = keep_masks
        self._share = share
        self._of_mean = False
        self._masks: dict[str, Tensor] = {}
        self._recorded: set[str] = set()
        self._sums: dict[str, Tensor] = {}
        self._samples: int | None = None
        self.around: dict[int, Any] = {}
        self.statistics: dict[str, Tensor] = {}
        self.moved: dict[str, Tensor] = {}

    def update(
        self,
        stage: Stage,
        post: Tensor,
        pre: Tensor,
        less: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """``stage.synapse_update(post, pre, less)``; empty where ``apply`` takes it.

        Of a parameter that several synapses share, the sum of what this step has had so far.
        """
        if self._apply is not None:
            self._apply(stage, post, pre, less)
            return {}
        if self._share is not None and self._share.gathered is not None:
            gathered = self._share.gathered
            post, pre = gathered(post), gathered(pre)
            less = None if less is None else (gathered(less[0]), gathered(less[1]))
        if not self._network.shared:
            return stage.synapse_update(post, pre, less, self._samples)
        self.add(self._sums, stage, post, pre, less)
        return {name: self._sums[name] for name in stage.updated}

    def add(
        self,
        updates: dict[str, Tensor],
        stage: Stage,
        post: Tensor,
        pre: Tensor,
        less: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add ``stage.synapse_update(post, pre, less)`` to those of other uses of a parameter."""
        for name, update in stage.synapse_update(post, pre, less, self._samples).items():
            updates[name] = updates[name] + update if name in updates else update

    def weight_update(self, stage: Stage, post: Tensor, pre: Tensor) -> Tensor:
        """``stage.weight_update(post, pre)``, averaged over this step's batch."""
        return stage.weight_update(post, pre, self._samples)

    def prepare(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """a₀: the input after what comes before the first synapse."""
        graph = self._network.graph
        if graph is not None:
            self._samples = x.shape[0]
            a_0 = program.prepare(self, graph, x, parameters)
            self._network.check_prepared(a_0)
            return a_0
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
        added: Sequence[Tensor] | None = None,
    ) -> Iterator[Activity]:
        """One forward pass from ``a_0``, stage by stage; what the caller drops is freed.

        Args:
            a_0: the prepared (perhaps perturbed) input.
            parameters: tensors to use in place of the model's own, by parameter name.
            between: what a stage's activity goes through before it enters the next one.
            first_z: z₁, where it is known already.
            keep_z: if False, a ReLU may overwrite z in place, and the recorded z is invalid.
            added: what is added to what comes out of each synapse.
        """
        graph = self._network.graph
        if graph is not None:
            if between is not None or first_z is not None:
                raise TypeError(NO_CHAIN)
            yield from program.activities(self, graph, a_0, parameters, added)
            return
        pre = a_0
        del a_0
        for stage in self._network.stages:
            if added is not None:
                first_z = self.through_synapse(stage, pre, parameters) + added[stage.l - 1]
            layer = self.through(stage, pre, parameters, z=first_z, keep_z=keep_z)
            first_z = None
            pre = layer.a if between is None else between(layer.a)
            given = [layer]
            del layer
            yield given.pop()  # nothing of it is held here

    def kept(self, a_0: Tensor, first_z: Tensor | None = None) -> Kept:
        """A pass to come back to; see ``Kept`` and ``activities``."""
        return Kept(self, self._network, a_0, first_z)

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

        Raises:
            TypeError: if the network is no chain, where nothing comes from one stage alone.
        """
        self._check_chain()
        stage.check_presynaptic(pre)
        if z is None:
            z = self.through_synapse(stage, pre, parameters)
        following = stage.elementwise
        if not keep_z and following and _is_rectifier(following[0]):
            z, following = functional.relu_(z), following[1:]
        h = self._through(following, z, parameters)
        if h.shape != z.shape:
            raise ValueError(
                f"what follows the synapse {stage.name!r} must be elementwise, but makes "
                f"{shape_of(h)} of {shape_of(z)}"
            )
        return Activity(pre, z, h, self._through(stage.reshaping, h, parameters))

    def through_synapse(
        self, stage: Stage, pre: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """z_l from a_{l−1}; see ``activities``."""
        synapse, linear = stage.synapse, self._kernels.linear
        if stage.part.altered and is_hooked(synapse):
            return _watched(stage, pre, parameters)
        if self._network.graph is not None:
            return _weighed(stage, pre, parameters)
        if linear is not None and isinstance(synapse, nn.Linear) and parameters is None:
            return linear(pre, synapse.weight, synapse.bias)
        return _call(stage.part, pre, parameters)

    def product(self, stage: Stage, a: Tensor) -> Tensor:
        """W a, without the bias, of a linear synapse."""
        return (self._kernels.linear or functional.linear)(a, stage.synapse.weight, None)

    def uniform(self, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random numbers on [0, 1) of this step, for rules that need some of their own.

        They are those of the whole batch: a rule that needs some for each sample draws them in the
        shape that ``of_all`` says, and takes those of its samples by ``of_these``.

        Args:
            which: a number that tells several streams of one rule apart, from 0.
            shape: of the result.
            dtype: of the result.
        """
        which += _STREAMS_OF_DROPOUTS
        return self._kernels.uniform(self._drawing(), which, shape, dtype)

    def normal(self, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Standard normal random numbers, otherwise as ``uniform``."""
        which += _STREAMS_OF_DROPOUTS
        return self._kernels.normal(self._drawing(), which, shape, dtype)

    def below(self, which: int, shape: tuple[int, ...], end: int) -> Tensor:
        """Random integers from 0 to ``end`` − 1, otherwise as ``uniform``."""
        which += _STREAMS_OF_DROPOUTS
        return self._kernels.below(self._drawing(), which, shape, end)

    def of_all(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape for the whole batch of what has ``shape`` for the samples of this step."""
        return shape if self._share is None else self._share.whole(shape)

    def of_these(self, values: Tensor) -> Tensor:
        """Of values for the whole batch, a row a sample, those of the samples of this step."""
        return values if self._share is None else self._share.rows(values)

    def differentiates_mean(self) -> None:
        """Say that a rule will pull back the derivative of a mean over the samples, not of each.

        Batch normalisation must know if the samples of several processes are not as many.
        """
        self._of_mean = True

    def after_synapse(self, stage: Stage, z: Tensor) -> Tensor:
        """a_l from z_l: all modules that follow the synapse."""
        self._check_chain()
        h = self._through(stage.elementwise, z, None)
        return self._through(stage.reshaping, h, None)

    def through_activation(self, stage: Stage, z: Tensor, signal: Tensor) -> Tensor:
        """δ_l from a signal at a_l: the vector–Jacobian product of what follows the synapse."""
        return local.vector_jacobian(lambda z: self.after_synapse(stage, z), z, signal)

    def through_elementwise(self, stage: Stage, z: Tensor, signal: Tensor) -> Tensor:
        """δ_l from a signal at h_l: signal ⊙ σ′(z_l), of z's shape.

        The statistics of normalisations count as constants; dropped units pass nothing on. Modules
        that a user has altered are differentiated automatically.
        """
        graph = self._network.graph
        if graph is not None:
            return program.through_region(self, graph, stage, z, signal)
        return self._back_through(stage.elementwise, z, signal)

    def through_following(self, stage: Stage, z: Tensor, signal: Tensor) -> Tensor:
        """δ_l from a signal at a_l, through pooling and reshaping too; see ``through_elementwise``.

        ``through_activation`` differentiates automatically, through statistics as well.
        """
        self._check_chain()
        return self._back_through((*stage.elementwise, *stage.reshaping), z, signal)

    def slope(self, stage: Stage, z: Tensor) -> Tensor:
        """σ′(z_l): the elementwise derivative of h_l; see ``through_elementwise``."""
        return self.through_elementwise(stage, z, torch.ones_like(z))

    def tangents(
        self, first: Kept, a_0: Tensor, tangent: Tensor
    ) -> Iterator[tuple[Activity, Tensor | None]]:
        """The stages' activities with the tangents of h_l: a Jacobian–vector product, in one pass.

        Args:
            first: a pass from ``a_0``.
            a_0: the prepared input.
            tangent: of a₀, of its shape.

        Yields:
            What the pass recorded at each stage, and the tangent of h_l; None for readouts.
        """
        graph = self._network.graph
        if graph is not None:
            yield from program.tangents(self, graph, a_0, tangent)
            return
        layers = first.layers()
        for stage in self._network.stages:
            layer, h_tangent = next(layers), None
            if not stage.is_readout:
                h_tangent, tangent = self.tangent(stage, layer, tangent)
            given = [(layer, h_tangent)]
            del layer, h_tangent
            yield given.pop()

    def recorded(self, a_0: Tensor) -> Recorded:
        """A pass of which all is kept that a way back needs; see ``signals``."""
        graph = self._network.graph
        if graph is not None:
            values: dict[int, Any] = {}
            layers = list(program.activities(self, graph, a_0, None, None, keep=values))
            return Recorded(layers, values, layers[-1].a)
        layers = list(self.activities(a_0))
        return Recorded(layers, {}, layers[-1].a)

    def signals(
        self, recorded: Recorded, e: Tensor, weights: Mapping[str, Tensor]
    ) -> Iterator[tuple[Stage, Activity, Tensor]]:
        """The derivative of the loss by z_l, the last stage first, with other weights on the way.

        A vector–Jacobian product of the whole network, but that synapses send signals back through
        ``weights``; in what lies between them the derivatives are true.

        Args:
            recorded: a pass.
            e: the error of its output, (n, k).
            weights: by names of synapses, of their weights' shapes.

        Yields:
            A stage, what the pass recorded there, and δ_l.
        """
        layers, graph = recorded.layers, self._network.graph
        if graph is not None:
            for l, delta in program.signals(self, graph, recorded.values, e, weights):
                yield self._network.stages[l], layers[l], delta
            return
        signal = e.reshape(layers[-1].a.shape)
        for stage, layer in zip(reversed(self._network.stages), reversed(layers), strict=True):
            delta = self.through_activation(stage, layer.z, signal)
            yield stage, layer, delta
            if stage.l > 1:
                signal = stage.send_back(delta, layer.pre, weights[stage.name])

    def tangent(self, stage: Stage, layer: Activity, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """The tangents of h_l and a_l for a ``tangent`` of a_{l−1}: a Jacobian–vector product.

        Args:
            stage: the stage.
            layer: what a pass recorded there.
            tangent: of the shape of ``layer.pre``.
        """
        change = stage.weigh(tangent)
        h_change = self._tangent_through(stage.elementwise, layer.z, change)
        return h_change, self._tangent_through(stage.reshaping, layer.h, h_change)

    def transposed(self, stage: Stage, layer: Activity, signal: Tensor) -> Tensor:
        """A signal at a_l through the transpose of what is linear in a stage, to a_{l−1}.

        Of the synapse and the reshaping modules, see ``network.transposed``; the elementwise
        modules are passed over.

        Args:
            stage: the stage.
            layer: what a pass recorded there, for its shapes.
            signal: (m, *a_l), for any number m of signals.
        """
        self._check_chain()
        a = layer.h[:1]
        shapes: list[tuple[int, ...]] = []
        for part in stage.reshaping:
            shapes.append(tuple(a.shape[1:]))
            if not (part.altered or isinstance(part.module, ELEMENTWISE)):
                a = part.module(a)
        for part, shape in zip(reversed(stage.reshaping), reversed(shapes), strict=True):
            signal = transposed.of_reshaping(part, signal, shape)
        return transposed.of_synapse(stage, signal, tuple(layer.pre.shape[1:]))

    def dropout_mask(self, part: Part, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """The mask of a dropout for an activity of ``shape``; None where it drops nothing.

        Args:
            part: a dropout of the network.
            shape: of the activity.
            like: has the mask's dtype and device.
        """
        module = cast("nn.Dropout | nn.Dropout1d | nn.Dropout2d", part.module)
        if not module.training or module.p == 0 or self._noise is None:
            return None
        if key_of(part) in self._masks:
            return self._masks[key_of(part)]
        # Dropout1d, 2d and 3d drop whole channels.
        whole = isinstance(module, nn.Dropout)
        shape = shape if whole else (*shape[:2], *(1 for _ in shape[2:]))
        which = self._network.dropouts.index(key_of(part))
        if self._share is None:
            mask = self._kernels.mask(self._noise, which, shape, module.p, like)
        else:
            first = self._share.first * math.prod(shape[1:])
            mask = noise.mask(self._noise, which, shape, module.p, like, first)
        if self._keep_masks:
            self._masks[key_of(part)] = mask
        return mask

    def tangent_of_part(self, part: Part, a: Tensor, change: Tensor) -> Tensor:
        """The tangent of what a module makes of ``a``, in closed form; of one that chains have."""
        return self._tangent_of(part, a, change)

    def scale_of_norm(self, part: Part, a: Tensor) -> Tensor:
        """The factor of each unit in a normalisation of ``a``; see ``local.scale_of_norm``."""
        module = part.module
        if self._share is None or not _takes_statistics(module):
            return local.scale_of_norm(module, a, plain=part.plain)
        _, variance, _ = self._share.moments(a, of_mean=False)
        scale = (variance + module.eps).rsqrt()
        if module.affine and not part.plain:
            scale = scale * module.weight
        return scale.reshape(1, -1, *(1 for _ in a.shape[2:]))

    def run_part(
        self,
        part: Part,
        arguments: Sequence[Any],
        options: dict[str, Any],
        parameters: Mapping[str, Tensor] | None,
    ) -> Any:
        """What a module makes of its arguments, dropout and norms as all passes share them."""
        if len(arguments) == 1 and not options and isinstance(arguments[0], Tensor):
            return self._run(part, arguments[0], parameters)
        own, given = _replaced(part, parameters), tuple(arguments)
        if not own:
            return part.module(*given, **options)
        return functional_call(part.module, own, given, options)

    def _check_chain(self) -> None:
        if self._network.graph is not None:
            raise TypeError(NO_CHAIN)

    def _drawing(self) -> Tensor:
        if self._noise is None:
            raise TypeError("a rule that draws random numbers must set draws = True")
        return self._noise

    def _back_through(self, parts: tuple[Part, ...], a: Tensor, signal: Tensor) -> Tensor:
        inputs: list[Tensor] = [a]
        for part in parts[:-1]:
            inputs.append(self._run(part, inputs[-1]))
        for part, a in zip(reversed(parts), reversed(inputs[: len(parts)]), strict=True):
            signal = self._back_through_part(part, a, signal)
        return signal

    def _back_through_part(self, part: Part, a: Tensor, signal: Tensor) -> Tensor:
        if part.altered:
            return local.vector_jacobian(lambda a: self._run(part, a), a, signal)
        if isinstance(part.module, ACTIVATIONS):
            return signal * derivative(part.module, a)
        if isinstance(part.module, DROPOUTS):
            return self._drop(part, signal)
        if isinstance(part.module, NORMS):
            return signal * self.scale_of_norm(part, a)
        if isinstance(part.module, MAX_POOLS):
            return local.back_through_max_pool(part.module, a, signal)
        if isinstance(part.module, AVERAGE_POOLS):
            return local.back_through_average_pool(part.module, a, signal)
        return signal.reshape(a.shape)

    def _tangent_through(self, parts: tuple[Part, ...], a: Tensor, change: Tensor) -> Tensor:
        for number, part in enumerate(parts, start=1):
            change = self._tangent_of(part, a, change)
            if number < len(parts):
                a = self._run(part, a)
        return change

    def _tangent_of(self, part: Part, a: Tensor, change: Tensor) -> Tensor:
        if part.altered or (self._share is not None and _takes_statistics(part.module)):
            return local.jacobian_vector(lambda a: self._run(part, a), a, change)
        if isinstance(part.module, ACTIVATIONS):
            return derivative(part.module, a) * change
        if isinstance(part.module, DROPOUTS):
            return self._drop(part, change)
        if isinstance(part.module, MAX_POOLS):
            return local.tangent_of_max_pool(part.module, a, change)
        if isinstance(part.module, NORMS):
            return local.tangent_of_norm(part.module, a, change)
        return part.module(change)  # average pooling and reshaping are linear

    def _through(
        self, parts: tuple[Part, ...], a: Tensor, parameters: Mapping[str, Tensor] | None
    ) -> Tensor:
        for part in parts:
            a = self._run(part, a, parameters)
        return a

    def _run(self, part: Part, a: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        module, max_pool = part.module, self._kernels.max_pool
        if isinstance(module, ALL_DROPOUTS):
            return between_hooks(module, lambda a: self._drop(part, a), _own(part, a))
        if isinstance(module, ALL_BATCH_NORMS):
            own = _replaced(part, parameters)
            return between_hooks(
                module, lambda a: self._batch_norm(part, module, a, own), _own(part, a)
            )
        if part.plain:
            return normalised(module, a)
        if max_pool is not None and isinstance(module, nn.MaxPool2d) and not part.altered:
            return max_pool(module, a)
        return _call(part, a, parameters)

    def _drop(self, part: Part, a: Tensor) -> Tensor:
        mask = self.dropout_mask(part, tuple(a.shape), a)
        return a if mask is None else a * mask

    def _batch_norm(
        self,
        part: Part,
        module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
        a: Tensor,
        own: Mapping[str, Tensor],
    ) -> Tensor:
        """The module's forward pass, its new running statistics put into ``statistics``."""
        weight, bias = own.get("weight", module.weight), own.get("bias", module.bias)
        if part.plain:
            weight = bias = None
        mean, variance = module.running_mean, module.running_var
        if not _takes_statistics(module):
            return functional.batch_norm(a, mean, variance, weight, bias, eps=module.eps)
        share = self._share
        samples = a.shape[0] if share is None else share.total
        if samples == 1 and a.numel() == a.shape[1]:
            raise ValueError(
                f"batch normalisation {part.name!r} needs more than one sample in training: take "
                "another batch size, or leave out a last batch of one sample (drop_last=True)"
            )
        is_first = key_of(part) not in self._recorded and mean is not None and variance is not None
        self._recorded.add(key_of(part))
        if share is None:
            if is_first:
                dims = [i for i in range(a.dim()) if i != 1]
                self._record_statistics(part.name, module, a.mean(dims), a.var(dims))
            return functional.batch_norm(a, None, None, weight, bias, training=True, eps=module.eps)
        mean, variance, number = share.moments(a, of_mean=self._of_mean)
        if is_first:
            unbiased = variance * (number / (number - 1))
            self._record_statistics(part.name, module, mean, unbiased)
        of_channels = (1, -1, *(1 for _ in a.shape[2:]))
        scale = (variance + module.eps).rsqrt()
        normal = (a - mean.reshape(of_channels)) * scale.reshape(of_channels)
        if weight is not None:
            normal = normal * weight.reshape(of_channels)
        return normal if bias is None else normal + bias.reshape(of_channels)

    def _record_statistics(
        self,
        name: str,
        module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
        of_mean: Tensor,
        of_variance: Tensor,
    ) -> None:
        # A module that is called several times has moved them before.
        count, mean, variance = (
            cast(Tensor, self.statistics.get(f"{name}.{own}", getattr(module, own)))
            for own in ("num_batches_tracked", "running_mean", "running_var")
        )
        count = count + 1
        weight = 1 / count.to(of_mean.dtype) if module.momentum is None else module.momentum
        self.statistics[f"{name}.num_batches_tracked"] = count
        self.statistics[f"{name}.running_mean"] = mean + weight * (of_mean - mean)
        self.statistics[f"{name}.running_var"] = variance + weight * (of_variance - variance)


class Recorded(NamedTuple):
    """A pass of which all is kept.

    Attributes:
        layers: what it recorded, stage by stage.
        values: of all operations, where the network is no chain.
        output: a_L.
    """

    layers: list[Activity]
    values: dict[int, Any]
    output: Tensor


class Kept:
    """A pass of which z_l alone is kept; what follows a synapse is computed again when asked for.

    That is as much as a backward pass keeps, and half of all that the pass has recorded. A network
    that a user has altered is not run again, and all is kept.

    Attributes:
        output: a_L.
    """

    output: Tensor

    def __init__(
        self, step: Step, network: Network, a_0: Tensor, first_z: Tensor | None = None
    ) -> None:
        self._step = step
        self._a_0 = a_0
        self._stages = network.stages
        self._layers: deque[Activity | Tensor] = deque()
        for layer in step.activities(a_0, first_z=first_z):
            self._layers.append(layer if network.altered else layer.z)
            self.output = layer.a
            del layer

    def layers(self) -> Iterator[Activity]:
        """The stages' activities, once; each is let go when the next is asked for."""
        pre = self._a_0
        for stage in self._stages:
            kept = self._layers.popleft()
            is_whole = isinstance(kept, Activity)
            layer = kept if is_whole else self._step.through(stage, pre, z=kept)
            pre = layer.a
            given = [layer]
            del kept, layer
            yield given.pop()  # nothing of it is held here


def _weighed(stage: Stage, pre: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
    """z_l of a synapse that may be a function."""
    own = _replaced(stage.part, parameters)
    weight, bias = (own.get(name, getattr(stage.synapse, name)) for name in ("weight", "bias"))
    return stage.weigh(pre, weight, bias)


def _takes_statistics(
    module: nn.Module,
) -> TypeGuard[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]:
    """Whether it is a batch normalisation by the batch at hand, not by running statistics."""
    if not isinstance(module, ALL_BATCH_NORMS):
        return False
    return module.training or module.running_mean is None or module.running_var is None


def _is_rectifier(part: Part) -> bool:
    return isinstance(part.module, nn.ReLU) and not part.altered


def _call(part: Part, a: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
    a, own = _own(part, a), _replaced(part, parameters)
    return functional_call(part.module, own, (a,)) if own else part.module(a)


def _own(part: Part, a: Tensor) -> Tensor:
    """``a``, or a copy if the module might overwrite it: recorded activities must not change."""
    return a.clone() if part.altered or getattr(part.module, "inplace", False) else a


def _replaced(part: Part, parameters: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Replacements for parameters of the module, by their names in it."""
    if not parameters:
        return {}
    return {own: parameters[name] for own, name in part.parameters if name in parameters}


def _watched(stage: Stage, pre: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
    """z_l of a synapse with hooks, which may look at its input and output but not change them."""
    own = _replaced(stage.part, parameters)
    weight, bias = (own.get(name, getattr(stage.synapse, name)) for name in ("weight", "bias"))
    seen: list[tuple[Tensor, Tensor, int]] = []
    before = _version(pre)

    def forward(a: Tensor) -> Tensor:
        z = stage.weigh(a, weight, bias)
        seen.append((a, z, _version(z)))
        return z

    result = between_hooks(stage.synapse, forward, pre)
    ((a, z, version),) = seen
    if a is not pre or result is not z or (before, version) != (_version(pre), _version(z)):
        raise TypeError(
            f"a hook changes what goes into or comes out of the synapse {stage.name!r}, so its "
            "local update would be wrong: let it only look, or register it on the module before "
            "or behind, an nn.Identity() if need be"
        )
    return z


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to in place."""
    return 0 if tensor.is_inference() else tensor._version
