"""Local errors: a fixed random classifier on each hidden layer says what is wrong there.

Mostafa, Ramesh & Cauwenberghs, "Deep Supervised Learning Using Local Errors", Frontiers in
Neuroscience 12, 2018, arXiv 1711.06756.

    head of l < L    y_l = M_l a_l            e_l, the error of y_l as an output
    hidden, l < L    δ_l = (M_lᵀ e_l) ⊙ σ′(z_l)          ΔW_l = δ_l a_{l−1}ᵀ
    output           ΔW_L = e a_{L−1}ᵀ

M_l is fixed. No layer waits for a later one, and the readout is the only one that predicts.

Shapes
    e, y_l, e_l (n, k); M_l (k, n_l), n_l the numbers of one sample's a_l: after pooling, flattened.

Deviations
    The error is that of the loss that is given, for every layer alike. "⊙ σ′(z_l)" stands for the
    derivative of all that follows synapse l (pooling, dropout), the statistics of normalisations
    taken as constants. M_l ~ U(±√(6 / n_l)), as B_l of ``direct_feedback_alignment``; how the paper
    draws it is not known to us. A shorter M_l makes units more active, as what they are to reach is
    M_l a_l. The way back is M_lᵀ itself; the paper also tries other numbers of the same signs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.papers import paper


def drawn_heads(
    rule: Rule, heads: feedback.Initialiser, generator: torch.Generator | None
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """M_1 … M_{L−1}, (k, n_l) each, by name; and the shape of one sample's output."""
    *hidden, last = rule.network.probe(rule.input_shape)
    k = last.a[0].numel()
    drawn = {
        f"M_{l}": feedback.drawn(heads, (layer.a[0].numel(), k), generator, layer.a)[0]
        for l, layer in enumerate(hidden, start=1)
    }
    shape = tuple(last.a.shape[1:])
    return {name: M.T.contiguous() for name, M in drawn.items()}, shape


def head(rule: Rule, l: int, a: Tensor) -> tuple[Tensor, Tensor]:
    """M_l, and y_l for the activity ``a`` of layer l."""
    M: Tensor = getattr(rule, f"M_{l}")
    feedback.check_sizes(f"M_{l}ᵀ", M.T, a, M.shape[0])
    return M, a.flatten(1) @ M.T


def teach_locally(
    rule: Rule, shape: tuple[int, ...], x: Tensor, target: Tensor, step: Step, *, learn: bool
) -> Credit:
    """The equations above for one sample's outputs of ``shape``; with ``learn`` also ΔM_l."""
    updates: dict[str, Tensor] = {}
    activities = step.activities(step.prepare(x))
    for l, stage in enumerate(rule.network.stages, start=1):
        layer = next(activities)
        if stage is rule.network.stages[-1]:
            e = rule.error(layer.a, target)
            updates |= step.update(stage, e.reshape(layer.z.shape), layer.pre)
            return Credit(updates, layer.a, rule.loss_value(layer.a, target), e)
        M, y = head(rule, l, layer.a)
        e_l = rule.error(y.reshape(-1, *shape), target)
        signal = (e_l @ M).reshape(layer.a.shape)
        delta = step.through_following(stage, layer.z, signal)
        updates |= step.update(stage, delta, layer.pre)
        if learn:
            updates[f"rule.M_{l}"] = e_l.T @ layer.a.flatten(1) / x.shape[0]
        del layer, y, signal, delta
    raise AssertionError("a network has a last stage")


@final
class LocalErrors(Rule):
    """A fixed random classifier on each hidden layer teaches it (Mostafa et al. 2018).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``; also that of each head.
        heads: how the classifiers are drawn, from (n_l, k) of each layer.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``; also of each head's output.
        generator: where they are drawn from; torch's global generator if None.

    The buffers ``M_1`` … ``M_{L−1}`` are (k, n_l).

    Raises what ``Rule`` does.
    """

    paper = paper("mostafa2018local")
    uses_autograd = False
    forward_passes = 1
    feedback_path = "M, a classifier for each layer"
    teacher = "target"
    trains = "synapses"
    needs_chain = "it teaches each layer by a classifier of what it hands on"
    needs_whole_batch = ""
    updates_at_once = True

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        heads: feedback.Initialiser = feedback.uniform(1.0),
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        drawn, self._shape = drawn_heads(self, heads, generator)
        for name, M in drawn.items():
            self.register_buffer(name, M)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass; a hidden layer's update needs no more of it than that layer."""
        return teach_locally(self, self._shape, x, target, step, learn=False)
