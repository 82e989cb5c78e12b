"""What is measured of learning: angles, update alignment, slowness, accuracy.

Those that accumulate over batches have ``update``, ``compute`` and ``reset``. They are no classes
of torchmetrics, whose collections take its own alone; see docs/with-other-tools.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

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
    ours = rule(x, target).updates
    # From a generator of its own, as measuring must not change what is drawn next.
    own = torch.Generator()
    reference = Backprop(rule.model, rule.loss, error=rule.own_error, generator=own)
    reference.noise = rule.noise
    gradient = reference(x, target).updates
    return {n: cosine(ours[n], gradient[n]) for n in ours if n not in rule.learned}


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


def _look(rule: Rule) -> None:
    check_kind("rule", rule, Rule)
    rule.look()


def _direct_angles(rule: Rule) -> dict[str, float]:
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
    weights: list[Tensor] = []
    for stage in rule.network.stages:
        if not isinstance(stage.synapse, nn.Linear):
            raise TypeError(
                f"weights are chained of linear layers only; {stage.name!r} is {stage.synapse}"
            )
        weights.append(stage.synapse.weight.detach())
    return weights
