"""How feedback matrices are drawn, and how they may learn.

An initialiser takes the numbers of units d, h₁, …, k of the activities a₀ … a_L of one sample, and
gives the factors whose product is F, (d, k). Most give F itself, as the only factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor, nn

from forwardly.checks import all_finite, shape_of, values_readable
from forwardly.network import Stage
from forwardly.rule import Rule, evaluating

MOST_NUMBERS = 2**28
"""The most that a feedback matrix may have: 1 GiB in float32."""

Initialiser = Callable[[Sequence[int], torch.Generator | None], tuple[Tensor, ...]]
"""(sizes, generator) → factors of F, on the generator's device, in float64 where it has that."""


def uniform(scale: float = 0.05) -> Initialiser:
    """F ~ U(±scale·√(6/d)), d the input size: the choice of Dellaferrera & Kreiman (2022)."""
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        d, k = sizes[0], sizes[-1]
        return (_uniform((d, k), scale * math.sqrt(6 / d), generator),)

    return _named(draw, "uniform", scale)


def normal(scale: float = 0.05) -> Initialiser:
    """F ~ N(0, scale²·2/d), of the same variance as ``uniform(scale)``."""
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        d, k = sizes[0], sizes[-1]
        standard = torch.randn((d, k), generator=generator, **_where(generator))
        return (standard * (scale * math.sqrt(2 / d)),)

    return _named(draw, "normal", scale)


def product(scale: float = 0.05) -> Initialiser:
    """F = F₁F₂…F_L, one factor a layer, F_l of (n_{l−1}, n_l) units and uniform.

    The form that weight mirroring needs (Srinivasan et al. 2023). The factors are scaled alike, so
    that an element of F has the same variance as with ``uniform(scale)``.
    """
    _check_scale(scale)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        # He-uniform factors, of variance 2/n_{l−1}, multiply to a variance of 2^L/d.
        depth = len(sizes) - 1
        each = (scale**2 * 2 ** (1 - depth)) ** (1 / (2 * depth))
        return tuple(
            _uniform((before, after), each * math.sqrt(6 / before), generator)
            for before, after in pairwise(sizes)
        )

    return _named(draw, "product", scale)


def uniform_within(bound: float) -> Initialiser:
    """F ~ U(±bound), whatever the sizes."""
    _check_scale(bound)

    def draw(sizes: Sequence[int], generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return (_uniform((sizes[0], sizes[-1]), bound, generator),)

    return _named(draw, "uniform_within", bound)


@dataclass(frozen=True)
class PerChannel:
    """What ``per_channel`` makes.

    Attributes:
        scale: as for ``uniform``.
    """

    scale: float

    def __repr__(self) -> str:
        """As it is written."""
        return f"feedback.per_channel({self.scale:g})"


def per_channel(scale: float = 1.0) -> PerChannel:
    """One row of B_l a channel, shared by all places: for direct feedback to large maps.

        signal at channel c and place p of layer l:    Σ_j B_l[c, j] e_j,    j = 1 … k

    That is what a full B_l sends whose rows are equal within a channel, of as many times fewer
    numbers as the map has places. B_l ~ U(±scale·√(6/n_l)), n_l counting all units of the map, so
    that a number has the variance that it has with ``uniform(scale)``. It is stored with a 1 in
    place of each dimension that counts places: (c, 1, 1, k) for images, (1, c, k) for tokens, whose
    features are channels. A layer without places has a row a unit, as always.

    It is of our own making, as far as we know: papers on direct feedback give each unit of a map a
    row of its own. For ``DirectFeedbackAlignment``, its Kolen–Pollack form and ``DRTP``. No F is
    drawn so: what it adds to an image would be one colour.
    """
    _check_scale(scale)
    return PerChannel(scale)


def to_layer(
    name: str,
    given: Initialiser | PerChannel,
    stage: Stage,
    z: Tensor,
    outputs: int,
    generator: torch.Generator | None,
) -> Tensor:
    """B_l, from the output to the units of a stage: (n_l, k), or as ``per_channel`` says.

    Args:
        name: of the matrix, for messages.
        given: how it is drawn.
        stage: whose units they are.
        z: what a pass recorded of them.
        outputs: k.
        generator: see ``drawn``.

    Raises:
        ValueError: if it has more than ``MOST_NUMBERS``; what ``drawn`` raises.
    """
    units, unit = z[0].numel(), stage.unit_dimension(z)
    channels = z.shape[unit]
    if not isinstance(given, PerChannel):
        if channels < units:
            less = (
                f"feedback.per_channel(), which has {channels:,} × {outputs:,}; or take smaller "
                "samples"
            )
        else:
            less = "smaller samples"
        check_number(name, units, outputs, less)
        return drawn(given, (units, outputs), generator, z)[0]
    check_number(name, channels, outputs, "fewer channels")
    B = _uniform((channels, outputs), given.scale * math.sqrt(6 / units), generator).to(z)
    return B.reshape(*(n if i == unit else 1 for i, n in enumerate(z.shape) if i > 0), outputs)


def sent(name: str, B: Tensor, signal: Tensor, layer: Tensor) -> Tensor:
    """B_l e, or another signal in e's place, of the layer's shape.

    Args:
        name: of the matrix, for messages.
        B: as ``to_layer`` draws it.
        signal: (n, k).
        layer: an activity of its units, for its shape.

    Raises:
        ValueError: if B was drawn for other sizes.
    """
    check_sizes(name, B, layer, signal.shape[1])
    if B.dim() == 2:
        return (signal @ B.T).reshape(layer.shape)
    by_channel = (signal @ B.flatten(0, -2).T).reshape(-1, *B.shape[:-1])
    return by_channel.expand(layer.shape)


def correlation(B: Tensor, layer: Tensor, signal: Tensor) -> Tensor:
    """The sum over samples of an activity ⊗ a signal, of B's shape, and over the places of a row.

    Args:
        B: as ``to_layer`` draws it.
        layer: an activity of its units.
        signal: (n, k).
    """
    if B.dim() > 2:
        layer = layer.sum_to_size(layer.shape[0], *B.shape[:-1])
    return (layer.flatten(1).T @ signal).reshape(B.shape)


def drawn(
    given: Initialiser | Tensor,
    sizes: Sequence[int],
    generator: torch.Generator | None,
    like: Tensor,
) -> tuple[Tensor, ...]:
    """F, (d, k), drawn or given, then its factors if there are several; of like's dtype and device.

    Raises:
        TypeError: if it is neither an initialiser nor a tensor.
        ValueError: if F is not finite, or of another shape or kind.
    """
    if not isinstance(given, Tensor) and not callable(given):
        raise TypeError(
            "feedback is drawn by a function such as feedback.uniform(0.05), and PEPITA's F may "
            f"be a tensor; given is {given!r}"
        )
    factors = (given.detach().clone(),) if isinstance(given, Tensor) else given(sizes, generator)
    d, k, drawn = sizes[0], sizes[-1], chain(factors)
    if drawn.shape != (d, k) or not drawn.is_floating_point():
        raise ValueError(
            f"F must be a floating-point tensor of shape (d, k) = ({d}, {k}), for {d} inputs and "
            f"{k} outputs; given is {drawn.dtype} of shape {shape_of(drawn)}"
        )
    F = drawn.to(like)
    if values_readable(F) and not all_finite(F):
        raise ValueError(f"F must be finite; given is one with a NaN or an infinity in {F.dtype}")
    return F, *(factor.to(like) for factor in factors if len(factors) > 1)


def like_weight(
    initialiser: Initialiser, stage: Stage, generator: torch.Generator | None
) -> Tensor:
    """A feedback weight of the shape of a synapse's weight, drawn as a (fan-in, units) matrix."""
    weight = stage.synapse.weight.detach()
    F, *_ = drawn(initialiser, (weight[0].numel(), weight.shape[0]), generator, weight)
    return F.T.reshape(weight.shape)


def check_number(name: str, units: int, outputs: int, instead: str = "smaller samples") -> None:
    """Refuse a feedback matrix that would not fit in memory, before it is drawn.

    Args:
        name: of the matrix.
        units: how many rows it would have.
        outputs: how many columns.
        instead: what to take, for the message.

    Raises:
        ValueError: if it has more than ``MOST_NUMBERS``.
    """
    if units * outputs > MOST_NUMBERS:
        raise ValueError(
            f"{name} would have {units:,} × {outputs:,} = {units * outputs:,} numbers, one for "
            f"each unit and output, more than {MOST_NUMBERS:,}: take {instead}, or a rule whose "
            "feedback goes layer by layer, such as FeedbackAlignment"
        )


def check_sizes(name: str, matrix: Tensor, layer: Tensor, outputs: int) -> None:
    """Refuse a feedback matrix that was drawn for a layer, or outputs, of another size.

    It was drawn for one size of the input, while convolutions take any.
    """
    *places, k = matrix.shape
    if matrix.dim() == 2:
        fits = places == [layer.shape[1:].numel()]
    else:  # per channel, of maps of any size
        pairs = zip(places, layer.shape[1:], strict=False)
        fits = len(places) == layer.dim() - 1 and all(one in (1, n) for one, n in pairs)
    if not fits or k != outputs:
        d = math.prod(places)
        there = "inputs" if name == "F" else "maps"
        raise ValueError(
            f"{name} is {shape_of(matrix)}, for {there} of {d} numbers a sample and {k} outputs; "
            f"with {outputs} outputs, what it leads to is {shape_of(layer)}. Pass input_shape, the "
            "shape of x without the batch; of changed strides or paddings build the rule anew"
        )


def chain(factors: Sequence[Tensor]) -> Tensor:
    """The product of factors (n₀, n₁), (n₁, n₂), …: (n₀, n_L)."""
    result = factors[0]
    for factor in factors[1:]:
        result = result @ factor
    return result


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator | None) -> Tensor:
    unit = torch.rand(shape, generator=generator, **_where(generator))
    return (2 * unit - 1) * bound


class _Where(TypedDict):
    device: torch.device
    dtype: torch.dtype


def _where(generator: torch.Generator | None) -> _Where:
    device = torch.device("cpu") if generator is None else generator.device
    # Apple's MPS has no float64.
    return _Where(device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)


def _named(draw: Initialiser, name: str, scale: float) -> Initialiser:
    """``draw``, which as a default in signatures says what it is."""
    draw.__qualname__ = f"feedback.{name}({scale:g})"
    return draw


def _check_scale(scale: float) -> None:
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"the scale of a feedback matrix must be finite and ≥ 0; given {scale}")


class _Noise:
    """What mirrors share: the rule whose F learns, the noise that it learns from, and its norm."""

    def __init__(
        self, rule: Rule, noise: float, keep_norm: bool, generator: torch.Generator | None
    ) -> None:
        self.rule = rule
        self.noise = noise
        self._generator = generator
        self._norm: Tensor | None = _length(rule.get_buffer("F")) if keep_norm else None

    def state_dict(self) -> dict[str, Tensor]:
        """Its generator's state, if any, and the norm of F; F and factors are the rule's."""
        state: dict[str, Tensor] = {}
        if self._generator is not None:
            state["generator"] = self._generator.get_state()
        if self._norm is not None:
            state["norm"] = self._norm
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict``."""
        if self._generator is not None:
            self._generator.set_state(state["generator"])
        if self._norm is not None:
            self._norm = state["norm"].to(self._norm)

    def _draw(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers."""
        drawn = torch.randn(
            tuple(shape),
            generator=self._generator,
            dtype=like.dtype,
            device=like.device if self._generator is None else self._generator.device,
        )
        return drawn.to(like.device)


class Mirror(_Noise):
    """Weight mirroring: factors of F that learn, from noise, to mirror the weights.

    Akrout, Wilson, Humphreys, Lillicrap & Tweed, "Deep Learning without Weight Transport", NeurIPS
    2019, arXiv 1904.05391; for PEPITA: Srinivasan et al., arXiv 2302.05440.

        noise        ξ ~ N(0, σ²) at the input of synapse l, its mean over the samples removed
        response     W_l ξ
        update       F_l ← F_l + η s_l · mean of ξ (W_l ξ)ᵀ − λ F_l

    As E[ξ (W_l ξ)ᵀ] = σ² W_lᵀ, a factor grows towards its layer's transposed weights without any
    weight being read. s_1 = −1 where errors are added to the input (``sign=+1``), else s_l = +1: so
    F turns as PEPITA's own dynamics turn it. ``step()`` belongs between training steps.

    Deviations: the papers' responses pass the layer's nonlinearity; here they are the synapse's
    alone, without bias, for which the expectation above is exact.

    With ``keep_norm`` F keeps the norm that it has when the mirror is made: all factors are scaled
    alike, so that only directions are learned. Without it, F grows with the weights and they with
    F, and training may diverge. (That each factor keeps its own norm is not enough: as factors turn
    towards each other, their product grows.)

    Args:
        rule: one whose F is factored, ``projection=feedback.product()``, on linear layers.
        learning_rate: η.
        decay: λ, of each step.
        noise: σ, the standard deviation of the noise.
        samples: noise vectors a step.
        keep_norm: whether F keeps its norm.
        generator: where the noise is drawn from; torch's global generator if None.

    Raises:
        TypeError: if F is not factored, or a synapse is not linear.
        ValueError: if a number is negative, or there is no sample.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        learning_rate: float = 0.01,
        decay: float = 1e-4,
        noise: float = 0.1,
        samples: int = 64,
        keep_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if "F_1" not in dict(rule.named_buffers()):
            raise TypeError(
                f"{type(rule).__name__} has no factors of F to train: build it with "
                "projection=feedback.product()"
            )
        for stage in rule.network.stages:
            if not isinstance(stage.synapse, nn.Linear):
                raise TypeError(
                    f"only linear layers are mirrored; {stage.name!r} is {stage.synapse}"
                )
        if not (learning_rate >= 0 and decay >= 0 and noise > 0 and samples >= 2):
            raise ValueError(
                "learning_rate and decay must be at least 0, noise above 0, samples at least 2; "
                f"given {learning_rate}, {decay}, {noise}, {samples}"
            )
        super().__init__(rule, noise, keep_norm, generator)
        self.learning_rate = learning_rate
        self.decay = decay
        self.samples = samples

    @torch.no_grad()
    def step(self, x: Tensor | None = None) -> None:  # noqa: ARG002
        """Send noise through every layer and update every factor, and so F.

        Args:
            x: samples, which it does not need.

        Raises what a step of the rule does, if the model has changed.
        """
        with _in_its_own_type(self.rule):
            self._step()

    def _step(self) -> None:
        self.rule.look()
        factors: list[Tensor] = []
        first_sign = -getattr(self.rule, "sign", 1)
        for l, stage in enumerate(self.rule.network.stages, start=1):
            W = stage.synapse.weight
            factor = self.rule.get_buffer(f"F_{l}")
            xi = self._draw((self.samples, W.shape[1]), W)
            xi = self.noise * (xi - xi.mean(0))
            towards = xi.T @ (xi @ W.T) / (self.samples - 1)  # unbiased, with the mean removed
            sign = first_sign if l == 1 else 1
            factor += self.learning_rate * sign * towards - self.decay * factor
            factors.append(factor)
        F = chain(factors)
        if self._norm is not None and self._norm > 0:
            scale = self._norm.to(F) / _length(F)
            F.mul_(scale)
            for factor in factors:
                factor *= scale ** (1 / len(factors))
        self.rule.get_buffer("F").copy_(F)


class JacobianMirror(_Noise):
    """Noise at the input, and what becomes of it at the output, turn F to the whole network.

    The noise of Akrout et al. (2019), through all layers at once. Weight mirroring (``Mirror``)
    needs linear layers and mirrors each by itself, as if no activation lay between. This mirrors
    what the network does from end to end, whatever it is made of: J(x), (k, d), the Jacobian of the
    outputs f(x) by the inputs.

        noise        ξ ~ N(0, σ²) at the input, one vector a sample
        response     r = (f(x + ξ) − f(x − ξ)) / 2, so that what is even in ξ falls out
        update       M ← M + ρ (mean of ξ rᵀ / σ² − M)
                     F = s ‖F‖ M / ‖M‖, s = −1 where errors are added to the input (``sign=+1``)

    As E[ξ rᵀ] → σ² E[J(x)]ᵀ for small σ, F turns to the transposed mean Jacobian, without a
    backward pass, and keeps the norm that it was drawn with. With such an F, to first order, layer
    l of PEPITA learns from J_l J_lᵀ δ_l instead of backprop's δ_l, J_l being the Jacobian of the
    layer by the input: a positive semidefinite matrix, so no layer's update opposes backprop's. A
    random F has no such property, and PEPITA's own dynamics give it to one hidden layer only.

    The two passes are in evaluation mode: without dropout, with batch normalisation's running
    statistics. As F's effect is the larger the better it is aligned, it should be shorter than one
    that stays as drawn: 0.04 to 0.1 instead of 0.4 for the clean presynaptic term.

    Attributes:
        mean: M, (d, k), the estimate of E[J(x)]ᵀ.

    Args:
        rule: one that has an F of (d, k).
        rate: ρ. M is the mean over some 2 / ρ steps; of d inputs, the cosine of F with what it
            estimates is about 1 / √(1 + d ρ / (2 n)), for steps of n samples.
        noise: σ, in the units of the input.
        generator: where the noise is drawn from; torch's global generator if None.

    Raises:
        TypeError: if the rule has no F, or one of factors.
        ValueError: if a number is not above 0, or ρ above 1.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        rate: float = 0.01,
        noise: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        buffers = dict(rule.named_buffers())
        if "F" not in buffers or "F_1" in buffers:
            what = "its F is a product" if "F" in buffers else "it has no F"
            raise TypeError(
                f"{type(rule).__name__} cannot be mirrored from end to end, as {what}: take a rule "
                "that adds F e to the input, such as PEPITA, with feedback.uniform()"
            )
        if not (0 < rate <= 1 and 0 < noise < math.inf):
            raise ValueError(
                f"rate must be above 0 and at most 1, noise above 0; given {rate}, {noise}"
            )
        super().__init__(rule, noise, True, generator)
        self.rate = rate
        self.mean = torch.zeros_like(buffers["F"])

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state, if any, the norm of F, and M."""
        return {**super().state_dict(), "mean": self.mean}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict``."""
        super().load_state_dict(state)
        self.mean = state["mean"].to(self.mean, copy=True)

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """Send noise through the network, around samples that it learns from, and turn F.

        Args:
            x: n samples, as the rule takes them.

        Raises:
            TypeError: if x is not of floating-point numbers.
            ValueError: if x is no batch, or has a NaN or an infinity; then nothing has changed.

        And what a step of the rule does, if the model has changed.
        """
        with _in_its_own_type(self.rule), evaluating(self.rule):
            self._step(x)

    def _step(self, x: Tensor) -> None:
        self.rule.check_samples(x)
        if not x.is_floating_point():
            raise TypeError(f"x must be of floating-point numbers, to add noise; given {x.dtype}")
        F = self.rule.get_buffer("F")
        xi = self._draw(x.shape, x).mul_(self.noise)
        response = (self.rule.predict(x + xi) - self.rule.predict(x - xi)) / 2
        seen = xi.flatten(1).T @ response.flatten(1) / (len(x) * self.noise**2)
        self.mean = self.mean.to(F).lerp_(seen.to(F).reshape(F.shape), self.rate)
        length = _length(self.mean)
        if self._norm is not None and length > 0:
            sign = -getattr(self.rule, "sign", 1)
            F.copy_(self.mean * (sign * self._norm.to(F) / length))


@contextmanager
def _in_its_own_type(rule: Rule) -> Generator[None]:
    """Without autocast, as F is learned in its own type."""
    kind = rule.get_buffer("F").device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            yield
    else:
        yield


def _length(factor: Tensor) -> Tensor:
    return factor.square().sum().sqrt()
