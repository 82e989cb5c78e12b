"""Forward-Forward: layers learn to be active for true labels and inactive for wrong labels.

Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", 2022, arXiv 2212.13345,
section 3.3.

    label p          a₀ = x with s‖x‖ p in place of its first k numbers; ‖x‖ of those that stay
    three passes     ⁺ with the true label, ⁻ with a wrong one, and neutral: p = 1/k, k times
    hidden synapses  a_{l−1} ← a_{l−1} / √(mean of a_{l−1}²)      so that goodness is not passed on
    readout          a_{L−1} ← a_{L−1} / ‖a_{L−1}‖

    goodness, l < L  g = ‖h_l‖² − θ n_l                  n_l numbers of one sample's h_l
    loss of layer l  (log(1 + exp(−g⁺)) + log(1 + exp(g⁻))) / n_l
    hidden           δ⁺ = −sigmoid(−g⁺) · 2h⁺/n_l ⊙ σ′(z⁺)
                     δ⁻ = sigmoid(g⁻) · 2h⁻/n_l ⊙ σ′(z⁻)
                     ΔW_l = δ⁺ (a_{l−1}⁺)ᵀ + δ⁻ (a_{l−1}⁻)ᵀ
    output           ΔW_L = e a_{L−1}ᵀ                   of the neutral pass

    wrong label      "uniform": any other label, all as likely
                     "likely": label j with the probability that the neutral pass gives it,
                     softmax(y) without the true label; the network's own errors, mostly
    prediction       the label whose pass has the largest sum of ‖h_l‖² over l < L

Shapes
    x (n, …) with more than k numbers a sample; target (n,) class indices; p, y, e (n, k); g (n,).

Deviations
    Losses are divided by n_l, so that one learning rate serves layers of all widths, and the
    readout. The paper's label is 1; here it is s times as long as the sample, whatever the scale of
    inputs. The readout sees the last hidden layer, where the author's code has all but the first;
    goodness is summed over all hidden layers, where the paper leaves out the first, which in a
    network of one would leave none. There is no peer normalisation.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly._typing import Float, Shaped
from forwardly.checks import one_of, shape_of
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.by_stage import ByStage, Microbatch, Pass
from forwardly.rules.papers import paper


def _normalised(a: Tensor) -> Tensor:
    dims = list(range(1, a.dim()))
    return a / (a.square().mean(dims, keepdim=True).sqrt() + 1e-8)


def _of_length_one(a: Tensor) -> Tensor:
    return _normalised(a) / math.sqrt(a[0].numel())


@final
class ForwardForward(Rule, ByStage):
    """Forward passes with true, wrong and neutral labels (Hinton 2022).

    Args:
        model: see ``Rule``; its last layer has as many units as there are classes. Only synapses
            may have parameters that require a gradient.
        loss: ``nn.CrossEntropyLoss()``, which the readout makes smaller.
        threshold: θ, the goodness of a unit that separates true from wrong.
        label_scale: s, the length of a label as a share of the rest of the sample's.
        negatives: how wrong labels are drawn; "likely" is better and makes hidden layers wait for
            the neutral pass.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        generator: where the seed of wrong labels and dropout is drawn from.

    ``Credit.output`` and ``error`` are of the neutral pass, ``loss`` is the sum of all layers' own
    and the readout's. Evaluate with ``predict``: calling the model shows it no label.

    Raises what ``Rule`` does, and ValueError for another loss, a label_scale that is not above 0, a
    threshold that is not finite, or inputs of k numbers or fewer.
    """

    paper = paper("hinton2022forward")
    uses_autograd = False
    forward_passes = 3
    feedback_path = ""
    teacher = "label"
    trains = "synapses"
    needs_chain = "it hands on the direction of each layer's activity alone"
    needs_whole_batch = ""
    draws = True
    output_predicts = False
    products = 2

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        threshold: float = 1.0,
        label_scale: float = 0.5,
        negatives: Literal["uniform", "likely"] = "uniform",
        input_shape: tuple[int, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, generator=generator)
        if not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(
                "ForwardForward learns classes, so its loss must be nn.CrossEntropyLoss(); "
                f"given {loss}"
            )
        if not (0 < label_scale < math.inf and math.isfinite(threshold)):
            raise ValueError(
                "label_scale must be a length above 0, or no label shows, and threshold finite; "
                f"given {label_scale} and {threshold}"
            )
        self.threshold = threshold
        self.label_scale = label_scale
        self.negatives = one_of("negatives", negatives, ("uniform", "likely"))
        self.passes = (
            Pass("neutral"),
            Pass("true", to_readout=False),
            Pass("wrong", after="neutral" if negatives == "likely" else "", to_readout=False),
        )
        self.classes = self.network.sizes(input_shape)[-1]
        if self.classes < 2:
            raise ValueError(
                "ForwardForward shows wrong labels, so the model must have two outputs or more; "
                f"it has {self.classes}"
            )

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The three passes and the updates of the module docstring."""
        _check_target(target)
        last = self._read_out(x, step)
        e = self.error(last.a, target)
        loss = self.loss_value(last.a, target)
        updates: dict[str, Tensor] = {}
        *hidden, readout = self.network.stages
        positive = self._hidden(x, target, step)
        negative = self._hidden(x, self._wrong(last.a, target, step), step)
        for stage, good, bad in zip(hidden, positive, negative, strict=True):
            own_updates, own_loss = self._contrast(stage, good, bad, step)
            updates |= own_updates
            loss = loss + own_loss
        updates |= readout.synapse_update(e.reshape(last.z.shape), last.pre)
        return Credit(updates, last.a, loss, e)

    def begin(self, passing: Pass, batch: Microbatch) -> Tensor:
        """See ``ByStage``."""
        _check_target(batch.target)
        labels = None
        if passing.name == "true":
            labels = batch.target
        elif passing.name == "wrong":
            output = batch.output if passing.after else None
            labels = self._wrong(output, batch.target, batch.step)
        return self._input(batch.x, labels, batch.step)

    def carry(self, passing: Pass, stage: Stage, value: Tensor, batch: Microbatch) -> Tensor:
        """See ``ByStage``."""
        pre = _of_length_one(value) if stage.is_readout else _normalised(value)
        return super().carry(passing, stage, pre, batch)

    def learn(self, stage: Stage, batch: Microbatch) -> dict[str, Tensor]:
        """See ``ByStage``."""
        if not stage.is_readout:
            good, bad = batch.left(stage, "true"), batch.left(stage, "wrong")
            return self._contrast(stage, good, bad, batch.step)[0]
        last = batch.left(stage, "neutral")
        e = self.error(last.a, batch.target)
        return stage.synapse_update(e.reshape(last.z.shape), last.pre)

    def _contrast(
        self, stage: Stage, good: Activity, bad: Activity, step: Step
    ) -> tuple[dict[str, Tensor], Tensor]:
        """A hidden layer's updates and loss, from its passes with a true and a wrong label."""
        units = good.h[0].numel()
        g_good, g_bad = (_square(layer) - self.threshold * units for layer in (good, bad))
        own = functional.softplus(-g_good) + functional.softplus(g_bad)
        towards = _post(step, stage, good, -torch.sigmoid(-g_good))
        against = _post(step, stage, bad, torch.sigmoid(g_bad))
        updates = stage.synapse_update(towards, good.pre)
        away_from = stage.synapse_update(against, bad.pre)
        for name, update in updates.items():
            updates[name] = update + away_from[name]
        return updates, own.mean() / units

    @torch.no_grad()
    def predict(self, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """The goodness of each label, summed over hidden layers, (n, k). After ``rule.eval()``.

        Without hidden layers it is the readout's output.
        """
        step = self.network.step(self.noise)
        if len(self.network.stages) == 1:
            return self._read_out(x, step).a
        scores: list[Tensor] = []
        for label in range(self.classes):
            labels = torch.full((x.shape[0],), label, device=x.device)
            first, *others = (_square(layer) for layer in self._hidden(x, labels, step))
            scores.append(sum(others, first))
        return torch.stack(scores, dim=1)

    def _wrong(self, y: Tensor | None, target: Tensor, step: Step) -> Tensor:
        """Labels other than the true ones, (n,); y is not looked at if all are as likely."""
        n, k = target.shape[0], self.classes
        if self.negatives == "uniform" or y is None:
            return (target + 1 + step.of_these(step.below(0, step.of_all((n,)), k - 1))) % k
        # The largest of logits + Gumbel noise is label j with the probability softmax(y)_j.
        drawn = step.of_these(step.uniform(0, step.of_all((n, k)), y.dtype))
        noisy = y - (-torch.log1p(-drawn)).log()
        return noisy.masked_fill(self._shows(target), -torch.inf).argmax(1)

    def _read_out(self, x: Tensor, step: Step) -> Activity:
        """What the neutral pass records of the last stage."""
        hidden = self._hidden(x, None, step)
        a = hidden[-1].a if hidden else self._input(x, None, step)
        return step.through(self.network.stages[-1], _of_length_one(a))

    def _hidden(self, x: Tensor, labels: Tensor | None, step: Step) -> list[Activity]:
        """What a pass records of the hidden layers; nothing is computed beyond."""
        a_0 = _normalised(self._input(x, labels, step))
        activities = step.activities(a_0, between=_normalised)
        return list(islice(activities, len(self.network.stages) - 1))

    def _input(self, x: Tensor, labels: Tensor | None, step: Step) -> Tensor:
        return step.prepare(self._with_label(x, labels))

    def _with_label(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """x that shows labels, or (None) the neutral one."""
        flat, k = x.flatten(1), self.classes
        if flat.shape[1] <= k:
            raise ValueError(
                f"a label takes the first {k} numbers of a sample, and more must stay; given are "
                f"samples of {flat.shape[1]}, in x of shape {shape_of(x)}"
            )
        rest = flat[:, k:]
        p = x.new_full((k,), 1 / k) if labels is None else self._shows(labels).to(x.dtype)
        length = self.label_scale * rest.square().sum(1, keepdim=True).sqrt()
        return torch.cat([(length * p).to(x.dtype), rest], dim=1).reshape(x.shape)

    def _shows(self, labels: Tensor) -> Tensor:
        """Which number of a label is that of the class, (n, k)."""
        return labels.unsqueeze(1) == torch.arange(self.classes, device=labels.device)


def _check_target(target: Tensor) -> None:
    if target.dim() != 1:
        raise ValueError(f"ForwardForward needs class indices, (n,); given is {shape_of(target)}")


def _square(layer: Activity) -> Float[Tensor, "n"]:
    return layer.h.square().flatten(1).sum(1)


def _post(step: Step, stage: Stage, layer: Activity, slope: Tensor) -> Tensor:
    """δ: the derivative of the layer's loss with respect to z, from that to its goodness."""
    slope = slope.reshape(-1, *(1 for _ in layer.h.shape[1:]))
    units = layer.h[0].numel()
    return step.through_elementwise(stage, layer.z, slope * (2 / units) * layer.h)
