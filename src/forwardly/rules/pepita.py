"""PEPITA: Present the Error to Perturb the Input To modulate Activity.

Dellaferrera & Kreiman, "Error-driven Input Modulation: Solving the Credit Assignment Problem
without a Backward Pass", ICML 2022, arXiv 2201.11665, Algorithm 1.

    clean pass       a₀ = x           h_l    for l = 1 … L    e = error of the output
    modulated pass   a₀ᵉʳʳ = x + F e  h_lᵉʳʳ for l = 1 … L    same weights and dropout masks
    hidden, l < L    ΔW_l = (h_l − h_lᵉʳʳ) (a_{l−1}ᵉʳʳ)ᵀ
    output           ΔW_L = e (a_{L−1}ᵉʳʳ)ᵀ

Updates are averaged over the batch and subtracted. No derivative of an activation appears anywhere.

Shapes
    x (n, …) with d numbers a sample; e (n, k); F (d, k); h_l as z_l, the output of synapse l.

Deviations
    Sources disagree on three points, which are options; the defaults follow the paper.
    ``output_error``: the paper (and its authors' convolutional code) update the output layer with
    the error of the clean pass; the authors' NumPy code, from which the published fully connected
    results come, with that of the modulated pass. ``presynaptic``: the paper remarks that the clean
    a_{l−1} serves as well. ``sign``: with −1 the input is x − F e, as in the code of Srinivasan et
    al. (2023, arXiv 2302.05440); the formulas stay as they are. A convolution's update is summed
    over the positions of its output; the authors' code divides by their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.checks import one_of
from forwardly.network import Activity, Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.by_stage import ByStage, Microbatch, Pass
from forwardly.rules.papers import paper


def register_projection(
    rule: Rule, projection: feedback.Initialiser | Tensor, generator: torch.Generator | None
) -> None:
    """Give a rule the buffer F, (d, k), and its factors F_1 … F_L where it is a product.

    Raises what ``feedback.drawn`` does.
    """
    sizes, weight = rule.network.sizes(rule.input_shape), rule.network.stages[0].synapse.weight
    feedback.check_number("F", sizes[0], sizes[-1])
    F, *factors = feedback.drawn(projection, sizes, generator, weight)
    if factors and rule.network.graph is not None:
        raise ValueError(
            "F can be a product of one factor a layer in a chain of layers only, and "
            f"{type(rule.model).__name__} is none: take feedback.uniform() or feedback.normal()"
        )
    rule.register_buffer("F", F)
    for layer, factor in enumerate(factors, start=1):
        rule.register_buffer(f"F_{layer}", factor)


def perturbed(a_0: Tensor, e: Tensor, F: Tensor, sign: int) -> Tensor:
    """a₀ ± F e, of a₀'s shape.

    Raises:
        ValueError: if F is for inputs or outputs of other sizes.
    """
    feedback.check_sizes("F", F, a_0, e.shape[1])
    return torch.addmm(a_0.flatten(1), e, F.T, alpha=sign).reshape(a_0.shape)


@final
class PEPITA(Rule, ByStage):
    """Two forward passes, the second on input plus error (Dellaferrera & Kreiman 2022).

    Args:
        model: see ``Rule``. Only synapses may have parameters that require a gradient.
        loss: see ``Rule``.
        projection: how F is drawn, or F itself, of shape (d, k).
        output_error: whether the output layer learns from the error of the first (clean) or the
            second (modulated) pass.
        presynaptic: whether updates take a_{l−1} of the modulated or of the clean pass.
        sign: +1 for x + F e, −1 for x − F e.
        input_shape: shape of x without the batch; needed only if the first synapse is a
            convolution.
        error: see ``Rule``.
        generator: where F is drawn from; torch's global generator if None.

    Raises:
        TypeError: if a module or the loss is not supported.
        ValueError: if an option or the shape of F does not fit; see also ``Rule``.
    """

    paper = paper("dellaferrera2022pepita")
    uses_autograd = False
    forward_passes = 2
    feedback_path = "F, from error to input"
    teacher = "error"
    trains = "synapses"
    needs_chain = ""
    needs_whole_batch = ""
    projection_scale = 0.05
    compares_passes = True
    updates_at_once = True
    passes = (Pass("clean"), Pass("modulated", after="clean"))
    F: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        projection: feedback.Initialiser | Tensor = feedback.uniform(projection_scale),
        output_error: Literal["first", "second"] = "first",
        presynaptic: Literal["modulated", "clean"] = "modulated",
        sign: Literal[1, -1] = 1,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, loss, input_shape=input_shape, error=error, generator=generator)
        self.output_error = one_of("output_error", output_error, ("first", "second"))
        self.presynaptic = one_of("presynaptic", presynaptic, ("modulated", "clean"))
        self.sign = one_of("sign", sign, (1, -1))
        if output_error == "second" and sum(s.is_readout for s in self.network.stages) > 1:
            raise ValueError(
                'output_error="second" needs one synapse whose units are the outputs; the model '
                'adds up several: leave output_error="first"'
            )
        register_projection(self, projection, generator)

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The two passes and the updates of the module docstring."""
        a_0 = step.prepare(x)
        first_pass = step.kept(a_0)
        output = first_pass.output
        e = self.error(output, target)

        clean = first_pass.layers()
        a_0_err = perturbed(a_0, e, self.F, self.sign)
        modulated = step.activities(a_0_err, keep_z=False)
        del a_0_err
        updates: dict[str, Tensor] = {}
        for stage in self.network.stages:
            first, second = next(clean), next(modulated)
            told = e if stage.is_readout else None
            updates |= self._update(stage, first, second, told, target, step)
            del first, second
        return Credit(updates, output, self.loss_value(output, target), e)

    def begin(self, passing: Pass, batch: Microbatch) -> Tensor:
        """See ``ByStage``."""
        a_0 = batch.step.prepare(batch.x)
        if not passing.after:
            return a_0
        return perturbed(a_0, self.error(batch.output, batch.target), self.F, self.sign)

    def learn(self, stage: Stage, batch: Microbatch) -> dict[str, Tensor]:
        """See ``ByStage``."""
        first, second = batch.left(stage, "clean"), batch.left(stage, "modulated")
        e = self.error(first.a, batch.target) if stage.is_readout else None
        return self._update(stage, first, second, e, batch.target, batch.step)

    def _update(
        self,
        stage: Stage,
        first: Activity,
        second: Activity,
        e: Tensor | None,  # of the clean pass, for a readout
        target: Tensor,
        step: Step,
    ) -> dict[str, Tensor]:
        if e is None:
            post = first.h - second.h
        elif self.output_error == "first":
            post = e.reshape(first.z.shape)
        else:
            post = self.error(second.a, target).reshape(first.z.shape)
        pre = second.pre if self.presynaptic == "modulated" else first.pre
        return step.update(stage, post, pre)
