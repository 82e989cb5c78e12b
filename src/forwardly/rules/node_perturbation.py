"""Node perturbation: noise on every node, credited by what it does to the loss.

Werfel, Xie & Seung, "Learning Curves for Stochastic Gradient Descent in Linear Feedforward
Networks", NeurIPS 2003, for one linear layer.

    clean pass       z_l = W_l a_{l−1} + b_l                  for l = 1 … L;   E
    noisy pass       z̃_l = W_l ã_{l−1} + b_l + σ ξ_l          for l = 1 … L;   Ẽ        ξ ~ N(0, 1)
    all layers       δ_l = (Ẽ − E)/σ · ξ_l                    ΔW_l = δ_l a_{l−1}ᵀ

All that comes back from the output is one number a sample, whether the noise did harm. The mean of
δ_l over the noise tends to the derivative of E by z_l as σ → 0, so that of ΔW_l tends to
backprop's; its variance grows with the number of nodes, the output's among them.

Shapes
    x (n, …); E, Ẽ (n,); ξ_l as z_l: a draw for each sample, node and position of a convolution.

Deviations
    Any depth: the noise is on pre-activations, where the paper's linear nodes have it, of all
    layers in the same pass. The presynaptic activity is that of the clean pass.
    Ẽ − E is ½(e + ẽ)·(ỹ − y), from the errors at both outputs: the paper's squared error exactly,
    and other losses up to the third order of σ. So any loss will do whose error is known.
    What a sample's noise does to others through batch statistics is not credited.
    ``samples`` noisy passes may be averaged in a step; the paper has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


def rise(y: Tensor, e: Tensor, noisy: Tensor, e_noisy: Tensor) -> Tensor:
    """Ẽ − E of each sample, (n,), from outputs and errors of two passes.

    The integral of the error from one output to the other, by the trapezoidal rule.
    """
    return ((e + e_noisy) * (noisy - y).reshape(e.shape)).sum(1) / 2


def check_noise(sigma: float, samples: int) -> None:
    """Refuse noise of no size, and less or more draws than a step has random numbers for."""
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be a number above 0; given {sigma}")
    if not 1 <= samples <= 128:
        raise ValueError(f"samples must be 1 to 128; given {samples}")


def normal_of(
    shapes: Sequence[tuple[int, ...]], step: Step, draw: int, dtype: torch.dtype
) -> list[Tensor]:
    """Normal numbers of several shapes; others for each draw of a step.

    All are of one stream of the step's numbers, of which there are not many.
    """
    sizes = [math.prod(shape) for shape in shapes]
    parts = torch.split(step.normal(draw, (sum(sizes),), dtype), sizes)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@final
class NodePerturbation(Rule):
    """Noise on all pre-activations, credited by the rise of the loss (Werfel et al. 2003).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        sigma: σ, the noise's standard deviation.
        samples: how many noisy passes a step averages over, 1 to 128.
        input_shape: see ``Rule``; not needed.
        error: see ``Rule``.
        generator: where the seed of the noise is drawn from; torch's global generator if None.

    Raises what ``Rule`` does, and ValueError if an option is out of range.
    """

    paper = paper("werfel2003learning")
    uses_autograd = False
    forward_passes = 2
    feedback_path = ""
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    draws = True
    compares_passes = True
    output_update = "gradient"

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        sigma: float = 0.01,
        samples: int = 1,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        check_noise(sigma, samples)
        self.sigma = sigma
        self.samples = samples

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The clean pass, the noisy ones, and what they say of each node."""
        for stage in self.network.stages:
            self.network.check_by_sample(stage, type(self).__name__)
        a_0 = step.prepare(x)
        clean = list(step.activities(a_0))
        y = clean[-1].a
        e = self.error(y, target)

        deltas = [torch.zeros_like(layer.z) for layer in clean]
        for draw in range(self.samples):
            shapes = [step.of_all(tuple(delta.shape)) for delta in deltas]
            xi = [step.of_these(xi_l) for xi_l in normal_of(shapes, step, draw, y.dtype)]
            *_, last = step.activities(a_0, added=[self.sigma * xi_l for xi_l in xi])
            a = last.a
            slope = rise(y, e, a, self.error(a, target)) / (self.sigma * self.samples)
            deltas = [
                delta + slope.reshape(-1, *(1 for _ in delta.shape[1:])) * xi_l
                for delta, xi_l in zip(deltas, xi, strict=True)
            ]

        updates: dict[str, Tensor] = {}
        for stage, layer, delta in zip(self.network.stages, clean, deltas, strict=True):
            updates |= step.update(stage, delta, layer.pre)
        return Credit(updates, y, self.loss_value(y, target), e)
