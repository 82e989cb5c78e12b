"""What is measured of learning: angles, update alignment, bias and variance, slowness, accuracy.

Those that accumulate over batches have ``update``, ``compute`` and ``reset``. They are no classes
of torchmetrics, whose collections take its own alone; see docs/with-other-tools.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from forwardly._typing import Float, Int
from forwardly.checks import check_kind, shape_of
from forwardly.feedback import chain
from forwardly.rule import Rule
from forwardly.rules.backprop import Backprop
from forwardly.rules.direct_feedback_alignment import DirectFeedbackAlignment
from forwardly.rules.direct_kolen_pollack import DirectKolenPollack
from forwardly.rules.feedback_alignment import FeedbackAlignment
from forwardly.rules.kolen_pollack import KolenPollack


def angle(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """The angle between two tensors as vectors, in degrees, 0 to 180; NaN as ``cosine``.

    Raises:
        ValueError: if they have different numbers of elements.
    """
    value = cosine(a, b)
    return value if math.isnan(value) else math.degrees(math.acos(max(-1.0, min(1.0, value))))


def cosine(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """The cosine of that angle, −1 to 1; NaN if one of the tensors is zero or not finite."""
    if a.numel() != b.numel():
        raise ValueError(
            f"tensors to compare need as many elements; given {tuple(a.shape)}, {tuple(b.shape)}"
        )
    # In float64, which not every device has; scaled, as squares overflow early.
    a, b = (part.detach().cpu().flatten().double() for part in (a, b))
    a, b = (part / part.abs().max() if part.numel() else part for part in (a, b))
    lengths = float(a.square().sum().sqrt() * b.square().sum().sqrt())
    return float(torch.dot(a, b)) / lengths if lengths > 0 else math.nan


def feedback_angle(rule: Rule) -> float:
    """The angle between the chained weights W₁ᵀW₂ᵀ…W_Lᵀ and F, in degrees.

    90 is what random matrices have. With ``sign=+1`` (x + F e) the two drift towards *opposite*
    directions, beyond 90 degrees up to 180, as a hidden layer then moves against W₁ F e; with
    ``sign=-1`` towards the same direction, below 90. (Dellaferrera & Kreiman 2022; Srinivasan et
    al. 2023.)

    Raises:
        TypeError: if the rule has no F, or a synapse is a convolution.
    """
    _look(rule)
    F = dict(rule.named_buffers()).get("F")
    if F is None:
        raise TypeError(f"{type(rule).__name__} has no feedback matrix F from output to input")
    return angle(chain([weight.T for weight in _linear_weights(rule)]), F)


def layer_angles(rule: Rule) -> dict[str, float]:
    """The angle between W and its feedback weight B, in degrees, by the names of synapses.

    For feedback alignment and Kolen–Pollack between W_l and B_l; for their direct forms between
    W_{l+1}ᵀ…W_Lᵀ and B_l of hidden layer l, where the layers above are linear and see all of it;
    for a factored F (``feedback.product``) between W_lᵀ and F_l, whose convention of signs
    ``feedback_angle`` explains.

    Raises:
        TypeError: if the rule has none of these.
    """
    _look(rule)
    if isinstance(rule, FeedbackAlignment | KolenPollack):
        synapses = {stage.name: stage.synapse for stage in rule.network.stages}
        return {name: angle(synapses[name].weight, B) for name, B in rule.B.items()}
    if isinstance(rule, DirectFeedbackAlignment | DirectKolenPollack):
        return _direct_angles(rule)
    buffers = dict(rule.named_buffers())
    if "F_1" not in buffers:
        raise TypeError(
            f"{type(rule).__name__} has no feedback matrix a layer; PEPITA has with "
            "projection=feedback.product()"
        )
    weights = _linear_weights(rule)
    return {
        stage.name: angle(weight.T, buffers[f"F_{l}"])
        for l, (stage, weight) in enumerate(zip(rule.network.stages, weights, strict=True), 1)
    }


def update_alignment(rule: Rule, x: Tensor, target: Tensor) -> dict[str, float]:
    """The cosine between a rule's update and backprop's, for each parameter that both train.

    1 is the direction of the gradient, 0 orthogonal to it. Both see the same dropout masks. Raises
    what calling the rule does.
    """
    _look(rule)
    ours, gradient = rule(x, target).updates, _gradient(rule, x, target)
    return {n: cosine(ours[n], gradient[n]) for n in ours if n not in rule.learned}


class BiasVariance(NamedTuple):
    """How a rule's update u of one parameter estimates the gradient g, over n draws; see below.

    Attributes:
        bias: ‖ū − g‖, where ū is the mean of the updates.
        variance: Σ‖u − ū‖² / (n − 1), summed over the parameter's elements.
        gradient: ‖g‖.
        draws: n.
    """

    bias: float
    variance: float
    gradient: float
    draws: int

    @property
    def standard_error(self) -> float:
        """√(variance / n): how far ū is from its limit, and so the bias that unbiased rules show.

        On average bias² is the true bias², that of infinitely many draws, plus standard_error².
        """
        return math.sqrt(self.variance / self.draws)

    @property
    def relative_squared_bias(self) -> float:
        """bias² / ‖g‖²; NaN where there is no gradient.

        With ``relative_variance`` it adds up to the mean of ‖u − g‖² / ‖g‖².
        """
        return self.bias**2 / self.gradient**2 if self.gradient else math.nan

    @property
    def relative_variance(self) -> float:
        """variance / ‖g‖²; NaN where there is no gradient."""
        return self.variance / self.gradient**2 if self.gradient else math.nan


def bias_and_variance(
    rule: Rule | Callable[[torch.Generator], Rule],
    x: Tensor,
    target: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
) -> dict[str, BiasVariance]:
    """Bias and variance of a rule's updates as estimates of the gradient.

    For each parameter of the model that it trains. On one batch and with the same weights, the
    update is drawn many times: with other random numbers of the rule's own, if it is a rule; with
    other feedback, if it is a function that builds rules. An estimate u of g is off by

        mean of ‖u − g‖²  =  ‖ū − g‖² + mean of ‖u − ū‖²  =  bias² + variance

    Backprop has neither. A rule of fixed feedback has a bias alone: which, with other feedback,
    varies. Under dropout each u is compared with the gradient through its own masks, so that these
    count for neither.

    Args:
        rule: a rule, or what builds one from a generator, all of them for one and the same model:
            ``lambda generator: fw.PEPITA(model, loss, generator=generator)``.
        x: see ``Rule``.
        target: see ``Rule``.
        draws: n, two or more.
        seed: of the draws; equal seeds draw the same, and nothing else is drawn from.

    Raises:
        ValueError: if there are fewer than two draws, or the rules built have several models; and
            what calling the rule does.
        TypeError: if it is no rule and builds none.
    """
    if draws < 2:
        raise ValueError(f"a variance needs two draws or more; given draws={draws}")
    if not isinstance(rule, Rule) and (isinstance(rule, nn.Module) or not callable(rule)):  # pyright: ignore[reportUnnecessaryIsInstance]
        check_kind("rule", rule, Rule)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, _Moments] = {}
    model: nn.Module | None = None
    gradient: dict[str, Tensor] = {}
    for _ in range(draws):
        drawn = rule if isinstance(rule, Rule) else rule(generator)
        _look(drawn)
        if model not in (None, drawn.model):
            raise ValueError(
                "the rules to compare must be of one model, so that only their feedback differs: "
                "make the model once, outside the function that builds them"
            )
        model, before = drawn.model, drawn.noise
        try:
            if before is not None and drawn is rule:
                drawn.noise = before.new_tensor(
                    [int(torch.randint(2**62, (), generator=generator)), 0]
                )
            ours = drawn(x, target).updates
            if not gradient or drawn.network.dropouts:  # else it is the same for all
                gradient = _gradient(drawn, x, target)
        finally:
            drawn.noise = before
        for name in ours:
            if name not in drawn.learned:
                found.setdefault(name, _Moments()).add(ours[name], gradient[name])
    return {name: moments.result() for name, moments in found.items()}


class _Moments:
    """Sums over draws of u − g, by Welford's method: without the loss of digits of Σu² − nū²."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._gradient = torch.zeros(())
        self._squares = 0.0

    def add(self, update: Tensor, gradient: Tensor) -> None:
        # In float64, which not every device has.
        u, g = (part.detach().cpu().double() for part in (update, gradient))
        self._n += 1
        from_old = u - g - self._mean
        self._mean = self._mean + from_old / self._n
        self._squares += float((from_old * (u - g - self._mean)).sum())
        self._gradient = self._gradient + (g - self._gradient) / self._n

    def result(self) -> BiasVariance:
        bias, gradient = (
            float(part.square().sum().sqrt()) for part in (self._mean, self._gradient)
        )
        return BiasVariance(bias, self._squares / (self._n - 1), gradient, self._n)


def slowness(accuracy: Sequence[float], *, chance: float = 0.0, epochs: int | None = None) -> float:
    """How slowly accuracy is gained: a of acc = acc_max · x / (a + x), fitted to x = 0, 1, 2, ….

    The measure of Dellaferrera & Kreiman (2022): chance level is put before the curve as epoch 0,
    acc_max is the curve's maximum, and a, in epochs, is where half of it is reached.

    Args:
        accuracy: test accuracy after each epoch, from the first.
        chance: accuracy without learning, e.g. 0.1 of ten classes, in the same unit.
        epochs: how many epochs to take; the paper takes those before the learning rate drops.

    Returns:
        a; NaN where no epoch is above chance, so that nothing is gained that could be slow.

    Raises:
        ValueError: if there are fewer than two epochs, or a value is not finite.
    """
    # Slow to import, and needed here only; it has no annotations.
    from scipy.optimize import curve_fit  # pyright: ignore

    curve = np.array([chance, *accuracy[:epochs]], dtype=np.float64)
    if len(curve) < 3 or (epochs is not None and epochs < 2) or not np.isfinite(curve).all():
        raise ValueError(
            f"slowness needs the finite accuracies of two epochs or more; given {list(accuracy)}"
        )
    largest = float(curve.max())
    if largest <= chance:
        return math.nan

    def model(x: np.ndarray, a: float) -> np.ndarray:
        return largest * x / (a + x)

    fitted = cast(
        tuple[np.ndarray, np.ndarray],
        curve_fit(model, np.arange(len(curve)), curve, p0=[1.0], bounds=(1e-9, np.inf)),
    )
    return float(fitted[0][0])


def correct(output: Tensor, target: Tensor) -> Tensor | None:
    """How many samples' largest output is their class; a scalar, on the output's device.

    None where there is no such class: targets are numbers, or a sample has a single output. A NaN
    among the outputs is never right.
    """
    if target.is_floating_point() or output.dim() != 2 or output.shape[1] < 2:
        return None
    if target.shape != output.shape[:1]:
        return None
    largest, predicted = output.max(1)  # NaN, where there is one
    return ((predicted == target) & (largest == largest)).sum()


class Accuracy:
    """The fraction of samples whose largest output is their class, 0 to 1, over batches.

    ``update(output, target)`` takes outputs or scores (n, k) and class indices (n,);
    ``compute()`` is NaN before the first batch; ``reset()`` starts over.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._right = 0
        self._seen = 0

    def update(self, output: Float[Tensor, "n k"], target: Int[Tensor, "n"]) -> None:
        """Count a batch.

        Raises:
            ValueError: if the shapes are others.
        """
        right = correct(output, target)
        if right is None:
            raise ValueError(
                "accuracy is of outputs (n, k) and class indices (n,); given are "
                f"{shape_of(output)} and {target.dtype} of shape {shape_of(target)}"
            )
        self._right += int(right)
        self._seen += len(target)

    def compute(self) -> float:
        """The accuracy so far."""
        return self._right / self._seen if self._seen else math.nan


class UpdateAlignment:
    """The mean over batches of ``update_alignment``, for each parameter.

    ``update(rule, x, target)`` measures a batch; ``compute()`` gives the means by parameter name;
    ``reset()`` starts over. A batch in which an update is zero is left out for that parameter.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._values: dict[str, list[float]] = {}

    def update(self, rule: Rule, x: Tensor, target: Tensor) -> None:
        """Measure a batch."""
        for name, value in update_alignment(rule, x, target).items():
            if not math.isnan(value):
                self._values.setdefault(name, []).append(value)

    def compute(self) -> Mapping[str, float]:
        """The mean cosines so far."""
        return {name: sum(values) / len(values) for name, values in self._values.items()}


def _gradient(rule: Rule, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Backprop's updates, under the rule's dropout masks."""
    # From a generator of its own, as measuring must not change what is drawn next.
    own = torch.Generator()
    reference = Backprop(
        rule.model, rule.loss, input_shape=rule.input_shape, error=rule.own_error, generator=own
    )
    reference.noise = rule.noise
    return reference(x, target).updates


def _look(rule: Rule) -> None:
    check_kind("rule", rule, Rule)
    rule.look()


def _check_chain(rule: Rule) -> None:
    if rule.network.graph is not None:
        raise TypeError(
            "weights are chained from layer to layer in a chain of layers only, and "
            f"{type(rule.model).__name__} is none: take update_alignment"
        )


def _direct_angles(rule: Rule) -> dict[str, float]:
    _check_chain(rule)
    angles: dict[str, float] = {}
    way: Tensor | None = None  # from the output to the layer, as backprop goes
    stages = rule.network.stages
    for l in range(len(stages) - 1, 0, -1):
        weight, B = stages[l].synapse.weight, cast(Tensor, getattr(rule, f"B_{l}"))
        if weight.dim() > 2:
            break
        way = weight.T if way is None else weight.T @ way
        if way.shape != B.shape:  # pooling in between
            break
        angles[stages[l - 1].name] = angle(way, B)
    return dict(reversed(angles.items()))


def _linear_weights(rule: Rule) -> list[Tensor]:
    _check_chain(rule)
    weights: list[Tensor] = []
    for stage in rule.network.stages:
        if not isinstance(stage.synapse, nn.Linear):
            raise TypeError(
                f"weights are chained of linear layers only; {stage.name!r} is {stage.synapse}"
            )
        weights.append(stage.synapse.weight.detach())
    return weights
