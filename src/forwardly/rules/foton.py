"""FOTON: PEPITA whose feedback is the network's own transpose, on orthogonal weights.

Caillon et al., "Forward Only Learning for Orthogonal Neural Networks of any Depth", ECAI 2025,
arXiv 2512.20668.

    feedback         F = W_1ᵀ W_2ᵀ … W_Lᵀ
    clean pass       a₀ = x               h_l     for l = 1 … L      e = error of the output
    modulated pass   a₀ᵉʳʳ = x − F e      h_lᵉʳʳ  for l = 1 … L
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ
    all layers       W_l ← W_l − ½ (W_l W_lᵀ − 1) W_l                the constraint (Björck)

In a linear network whose weights have orthonormal rows, W_l W_lᵀ = 1, h_l − h_lᵉʳʳ is
W_{l+1}ᵀ … W_Lᵀ e, and ΔW is backprop's. No signal runs backward through a layer during a step, yet
F is made of the transposed weights: it is weight transport all the same.

Orthonormal rows make no signal longer, so outputs are no longer than inputs, and a softmax of them
is certain of nothing. The authors' code takes e = softmax(T y) − t: with a ``temperature`` T above
one the network can say what it knows.

Shapes
    As for PEPITA: x (n, …) with d numbers a sample; e (n, k); F (d, k), made anew in each step.

Deviations
    The paper's text was not to be had in full; the equations are those of the authors' code.
    That has 20 iterations of Björck after each step, on weights divided by their largest singular
    value; here ΔW holds one, divided by the learning rate, which plain SGD of that rate undoes:
    slower where weights are far from orthogonal, it gets there. It is shortened to
    1/‖W_l W_lᵀ‖_∞ where that is below one, so that no weights are too long for it.
    F passes over what is elementwise. How the authors' convolutions are made orthogonal, and what
    pooling is to F, could not be found out: here a convolution's rows are its kernels, which does
    not make it an orthogonal map, and in F max pooling is the mean of its window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly.network import Activity, Step
from forwardly.network.stage import Synapse
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper
from forwardly.rules.pepita import perturbed


@final
class FOTON(Rule):
    """The transposed network projects the error to the input (Caillon et al. 2025).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        learning_rate: η, of the plain SGD that will apply the updates.
        orthogonalise: whether updates hold the Björck iteration.
        temperature: T, by which outputs are multiplied before the softmax of a cross-entropy. The
            loss stays that of the outputs as they are.
        input_shape: see ``Rule``; not needed.
        error: see ``Rule``.
        generator: see ``Rule``.

    Raises what ``Rule`` does, and ValueError if the learning rate or the temperature is not above
    0, or there is a temperature and no softmax.
    """

    paper = paper("caillon2025foton")
    uses_autograd = False
    forward_passes = 2
    feedback_path = "the transposed weights, from error to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = "its feedback is the product of the transposed layers"
    needs_whole_batch = ""
    compares_passes = True
    needs_learning_rate = True

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        learning_rate: float = 0.01,
        orthogonalise: bool = True,
        temperature: float = 1.0,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        if not 0 < learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be a number above 0; given {learning_rate}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a number above 0; given {temperature}")
        if temperature != 1 and not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(
                f"temperature is of the softmax of nn.CrossEntropyLoss; given {type(loss).__name__}"
            )
        self.learning_rate = learning_rate
        self.orthogonalise = orthogonalise
        self.temperature = temperature

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The two passes, and the updates of the module docstring."""
        a_0 = step.prepare(x)
        clean = list(step.activities(a_0))
        output = clean[-1].a
        e = self.error(self.temperature * output, target)

        a_0_err = perturbed(a_0, e, self._feedback(step, clean), sign=-1)
        modulated = list(step.activities(a_0_err))
        posts = [first.h - second.h for first, second in zip(clean, modulated, strict=True)]
        posts[-1] = e.reshape(clean[-1].z.shape)

        updates: dict[str, Tensor] = {}
        for stage, layer, post in zip(self.network.stages, clean, posts, strict=True):
            found = stage.synapse_update(post, layer.pre)
            name = f"{stage.name}.weight"
            if self.orthogonalise and name in found:
                found[name] = found[name] + bjorck(stage.synapse) / self.learning_rate
            updates |= found
        return Credit(updates, output, self.loss_value(output, target), e)

    def _feedback(self, step: Step, clean: list[Activity]) -> Tensor:
        """F, (d, k): each output's unit vector through the transposed layers."""
        y = clean[-1].a
        k = y[0].numel()
        signal = torch.eye(k, dtype=y.dtype, device=y.device).reshape(k, *y.shape[1:])
        for stage, layer in zip(reversed(self.network.stages), reversed(clean), strict=True):
            signal = step.transposed(stage, layer, signal)
        return signal.flatten(1).T


def bjorck(synapse: Synapse) -> Tensor:
    """What takes a weight towards orthonormal rows (or columns, where it has more rows).

    ½ (W Wᵀ − 1) W, of W's shape, shortened where W is long. The rows of a convolution are its
    kernels, in groups of their own.
    """
    groups = 1 if isinstance(synapse, nn.Linear) else synapse.groups
    W = synapse.weight.reshape(groups, len(synapse.weight) // groups, -1)
    gram = W @ W.mT
    # A bound of the square of W's largest singular value, that of orthonormal rows being one.
    bound = gram.abs().sum(2).amax(1).clamp_min(1)[:, None, None]
    return ((gram @ W - W) / (2 * bound)).reshape(synapse.weight.shape)
