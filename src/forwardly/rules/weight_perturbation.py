"""Weight perturbation: noise on all weights at once, credited by what it does to the loss.

Cauwenberghs, "A Fast Stochastic Error-Descent Algorithm for Supervised Learning and Optimization",
NeurIPS 1992; as Werfel, Xie & Seung (NeurIPS 2003) compare it with node perturbation.

    clean pass       E                with θ = all weights and biases
    noisy pass       Ẽ                with θ + σ ψ             ψ ~ N(0, 1)
    all parameters   Δθ = (Ẽ − E)/σ · ψ

or with ``two_sided`` a second noisy pass with θ − σ ψ, and half the difference of the two for
Ẽ − E (Cauwenberghs). The mean of Δθ over the noise tends to the gradient as σ → 0; its variance
grows with the number of parameters.

Shapes
    x (n, …); E, Ẽ scalars, means over the batch; ψ as θ: one draw for the whole batch.

Deviations
    ψ is normal, as in Werfel et al.; in Cauwenberghs it is ±1.
    Ẽ − E from the errors at both outputs, and ``samples``, as in node perturbation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.node_perturbation import check_noise, normal_of, rise
from forwardly.rules.papers import paper


@final
class WeightPerturbation(Rule):
    """Noise on all parameters, credited by the rise of the loss (Cauwenberghs 1992).

    Args:
        model: see ``Rule``. Every parameter is trained, those of normalisations too.
        loss: see ``Rule``.
        sigma: σ, the noise's standard deviation.
        samples: how many draws of the noise a step averages over, 1 to 128.
        two_sided: whether each draw is tried with both signs, in a pass each.
        input_shape: see ``Rule``; not needed.
        error: see ``Rule``.
        generator: where the seed of the noise is drawn from; torch's global generator if None.

    Raises what ``Rule`` does, and ValueError if an option is out of range.
    """

    paper = paper("cauwenberghs1992fast")
    uses_autograd = False
    forward_passes = 2
    feedback_path = ""
    teacher = "error"
    trains = "all"
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
        two_sided: bool = False,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        check_noise(sigma, samples)
        self.sigma = sigma
        self.samples = samples
        self.two_sided = two_sided

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The clean pass, the noisy ones, and what they say of each parameter."""
        *_, last = step.activities(step.prepare(x))
        y = last.a
        e = self.error(y, target)
        theta = {name: p for name, p in self.model.named_parameters() if name in self.trained}

        def noisy(sigma: float, psi: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            moved = {name: p + sigma * psi[name] for name, p in theta.items()}
            *_, last = step.activities(step.prepare(x, moved), moved)
            return last.a, self.error(last.a, target)

        updates = {name: torch.zeros_like(p) for name, p in theta.items()}
        for draw in range(self.samples if theta else 0):
            drawn = normal_of([tuple(p.shape) for p in theta.values()], step, draw, y.dtype)
            psi = dict(zip(theta, drawn, strict=True))
            up = noisy(self.sigma, psi)
            if self.two_sided:
                difference = rise(*noisy(-self.sigma, psi), *up).mean() / 2
            else:
                difference = rise(y, e, *up).mean()
            slope = difference / (self.sigma * self.samples)
            updates = {name: update + slope * psi[name] for name, update in updates.items()}
        return Credit(updates, y, self.loss_value(y, target), e)
