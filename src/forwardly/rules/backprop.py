"""Backpropagation: the reference that every rule is compared with.

Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323,
1986. Computed by torch's automatic differentiation, for all parameters.

    Δθ = ∂/∂θ of the loss of a sample, averaged over the batch

Shapes
    x (n, …); e (n, k).

Deviations
    The derivative starts from the output error e of ``forwardly.losses``, as that of the other
    rules does. So with ``nn.MSELoss`` it is the gradient of ½‖output − target‖² of a sample, which
    is k/2 times the gradient of what the module reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, final

from torch import Tensor
from torch.func import vjp

from forwardly.checks import check_not_exported
from forwardly.network import Stage, Step
from forwardly.rule import Credit, Rule
from forwardly.rules.by_stage import ByStage, Microbatch, Pass
from forwardly.rules.papers import paper


@final
class Backprop(Rule, ByStage):
    """The gradient, by torch autograd (Rumelhart, Hinton & Williams 1986).

    Takes and raises what ``Rule`` does. Trains every parameter of the model, normalisation layers'
    too. Not for ``torch.export``, which traces no backward pass, but for ``fw.export``.
    """

    paper = paper("rumelhart1986backprop")
    uses_autograd = True
    forward_passes = 1
    feedback_path = "the transposed weights"
    teacher = "error"
    trains = "all"
    needs_chain = ""
    needs_whole_batch = ""
    output_update = "gradient"
    passes = (Pass("forward"), Pass("backward", after="forward", backward=True))

    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """One forward pass, and the vector–Jacobian product of the parameters with e / n."""
        check_not_exported()
        step.differentiates_mean()

        def forward(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            *_, last = step.activities(step.prepare(x, parameters), parameters)
            return last.a, step.statistics

        parameters = {name: p for name, p in self.model.named_parameters() if name in self.trained}
        output, pull_back, statistics = cast(
            tuple[Tensor, Callable[[Tensor], tuple[dict[str, Tensor]]], dict[str, Tensor]],
            vjp(forward, parameters, has_aux=True),
        )
        step.statistics.update(statistics)  # replaces the transform's wrapped tensors
        e = self.error(output, target)
        (updates,) = pull_back((e / x.shape[0]).reshape(output.shape))
        return Credit(updates, output, self.loss_value(output, target), e)

    def begin(self, passing: Pass, batch: Microbatch) -> Tensor:
        """See ``ByStage``."""
        if not passing.backward:
            return batch.step.prepare(batch.x)
        return self.error(batch.output, batch.target).reshape(batch.output.shape)

    def carry(self, passing: Pass, stage: Stage, value: Tensor, batch: Microbatch) -> Tensor:
        """See ``ByStage``; on the way back the vector–Jacobian product of a stage."""
        if not passing.backward:
            return super().carry(passing, stage, value, batch)
        layer = batch.left(stage, "forward")
        delta = batch.step.through_activation(stage, layer.z, value)
        batch.leave(stage, passing.name, delta)
        if stage.l == 1:
            return delta  # nothing lies before it
        return stage.send_back(delta, layer.pre, stage.synapse.weight)

    def learn(self, stage: Stage, batch: Microbatch) -> dict[str, Tensor]:
        """See ``ByStage``."""
        pre = batch.left(stage, "forward").pre
        return batch.step.update(stage, batch.left(stage, "backward"), pre)
