"""Forward-Forward: layers learn to be active for true labels and inactive for wrong labels.

Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", 2022, arXiv 2212.13345.

    positive pass    a₀ = x with its label in place of its first k numbers       h_l⁺
    negative pass    a₀ = x with a wrong label there                             h_l⁻
    between layers   a_l ← a_l / √(mean of a_l²)         so that goodness is not passed on
    goodness         g = ‖h_l‖² / n_l                    n_l numbers of one sample's h_l
    loss of layer l  log(1 + exp(θ − g⁺)) + log(1 + exp(g⁻ − θ))
    update           δ⁺ = −sigmoid(θ − g⁺) · 2h⁺/n_l ⊙ σ′(z⁺)
                     δ⁻ = sigmoid(g⁻ − θ) · 2h⁻/n_l ⊙ σ′(z⁻)
                     ΔW_l = δ⁺ (a_{l−1}⁺)ᵀ + δ⁻ (a_{l−1}⁻)ᵀ
    prediction       the label with the largest sum of goodness over layers

Shapes
    x (n, …) with at least k numbers a sample; target (n,) class indices; g (n,).

Deviations
    Goodness is the mean, not the sum, of squares: the paper's with the logistic function's slope
    divided by n_l, so that one threshold θ serves layers of all widths. Every synapse is such a
    layer, the last one too. The prediction sums all layers; the paper leaves out the first, which
    in a network of two would leave one.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly._typing import Float, Shaped
from forwardly.checks import shape_of
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


def _normalised(a: Tensor) -> Tensor:
    dims = list(range(1, a.dim()))
    return a / (a.square().mean(dims, keepdim=True).sqrt() + 1e-8)


def _goodness(layer: Activity) -> Float[Tensor, "n"]:
    return layer.h.square().flatten(1).mean(1)


@final
class ForwardForward(Rule):
    """Two forward passes, with true and with wrong labels (Hinton 2022).

    Args:
        model: see ``Rule``; its last layer has as many units as there are classes. Only synapses
            may have parameters that require a gradient.
        loss: ``nn.CrossEntropyLoss()``, which says that targets are classes; it is not minimised.
        threshold: θ, the goodness that separates true from wrong.
        label_scale: the number that a label shows where its class is; the others are 0.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        generator: where the seed of wrong labels and dropout is drawn from.

    ``Credit.output`` and ``error`` are of the positive pass, ``loss`` is the sum over layers of
    their own. Evaluate with ``predict``: calling the model shows it no label.

    Raises what ``Rule`` does, and ValueError for another loss, or inputs of fewer than k numbers.
    """

    paper = paper("hinton2022forward")
    uses_autograd = False
    forward_passes = 2
    feedback_path = ""
    teacher = "label"
    trains = "synapses"
    draws = True
    output_predicts = False

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        threshold: float = 2.0,
        label_scale: float = 1.0,
        input_shape: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        if not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(
                "ForwardForward learns classes, so its loss must be nn.CrossEntropyLoss(); "
                f"given {loss}"
            )
        self.threshold = threshold
        self.label_scale = label_scale
        self.classes = self.network.sizes(input_shape)[-1]
        if self.classes < 2:
            raise ValueError(
                "ForwardForward shows wrong labels, so the model must have two outputs or more; "
                f"it has {self.classes}"
            )

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The two passes and the updates of the module docstring."""
        if target.dim() != 1:
            raise ValueError(
                f"ForwardForward needs class indices, (n,); given is {shape_of(target)}"
            )
        n, k = x.shape[0], self.classes
        # A label other than the true one, all of them equally likely.
        away = 1 + step.below(0, (n,), k - 1)
        positive = list(self._pass(x, target, step))
        negative = list(self._pass(x, (target + away) % k, step))
        e = self.error(positive[-1].a, target)

        theta = self.threshold
        loss = e.new_zeros(())
        updates: dict[str, Tensor] = {}
        for stage, good, bad in zip(self.network.stages, positive, negative, strict=True):
            g_good, g_bad = _goodness(good), _goodness(bad)
            loss = (
                loss
                + (functional.softplus(theta - g_good) + functional.softplus(g_bad - theta)).mean()
            )
            towards = self._post(step, stage, good, -torch.sigmoid(theta - g_good))
            against = self._post(step, stage, bad, torch.sigmoid(g_bad - theta))
            away_from = stage.synapse_update(against, bad.pre)
            for name, update in stage.synapse_update(towards, good.pre).items():
                updates[name] = update + away_from[name]
        return Credit(updates, positive[-1].a, loss, e)

    @torch.no_grad()
    def predict(self, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """The goodness of each label, summed over layers, (n, k). After ``rule.eval()``."""
        step = self.network.step(self.noise)
        scores: list[Tensor] = []
        for label in range(self.classes):
            labels = torch.full((x.shape[0],), label, device=x.device)
            first, *others = (_goodness(layer) for layer in self._pass(x, labels, step))
            scores.append(sum(others, first))
        return torch.stack(scores, dim=1)

    def _pass(self, x: Tensor, labels: Tensor, step: Step) -> list[Activity]:
        a_0 = step.prepare(self._with_label(x, labels))
        return list(step.activities(a_0, between=_normalised))

    def _with_label(self, x: Tensor, labels: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] < self.classes:
            raise ValueError(
                f"a label takes the first {self.classes} numbers of a sample; given are samples "
                f"of {flat.shape[1]}, in x of shape {shape_of(x)}"
            )
        classes = torch.arange(self.classes, device=x.device)
        label = ((labels.unsqueeze(1) == classes).to(x.dtype) * self.label_scale).to(x.dtype)
        return torch.cat([label, flat[:, self.classes :]], dim=1).reshape(x.shape)

    def _post(self, step: Step, stage: Stage, layer: Activity, slope: Tensor) -> Tensor:
        """δ: the derivative of the layer's loss with respect to z, from that to its goodness."""
        units = layer.h[0].numel()
        slope = slope.reshape(-1, *(1 for _ in layer.h.shape[1:]))
        return step.through_elementwise(stage, layer.z, slope * (2 / units) * layer.h)
