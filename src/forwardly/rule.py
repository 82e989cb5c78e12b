"""The contract: a rule assigns credit to the weights of a model for one batch.

``rule(x, target)`` is pure: it returns a ``Credit`` and changes nothing. ``rule.accumulate`` stands
where ``loss.backward()`` would: it adds the updates to ``.grad``, for any torch optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from forwardly._typing import Float, Shaped
from forwardly.checks import all_finite, shape_of, values_readable
from forwardly.losses import OutputError, output_error
from forwardly.network import Network, Step


@dataclass(frozen=True)
class Paper:
    """Where a rule comes from."""

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    url: str
    bibtex: str


class Credit(NamedTuple):
    """What a rule returns for one batch of n samples and k outputs.

    Attributes:
        updates: for each parameter that the rule trains, by its name in the model, a tensor of its
            shape with a gradient's sign and scale: to be subtracted, averaged over the batch.
        output: the model's output in the clean pass.
        loss: the loss module's value for the clean output; a scalar without a graph.
        error: e, the error of each sample's output in the clean pass, (n, k).
    """

    updates: dict[str, Tensor]
    output: Tensor
    loss: Float[Tensor, ""]
    error: Float[Tensor, "n k"]


class Rule(nn.Module, ABC):
    """Assigns credit for a model's error to the model's weights.

    A subclass implements ``assign`` and sets the three class attributes; see ``rules/``.

    Args:
        model: an ``nn.Sequential`` of supported modules, see ``forwardly.network``. Parameters with
            ``requires_grad=False`` at this moment are left alone.
        loss: a loss module, see ``forwardly.losses``.
        input_shape: shape of x without the batch; needed only by rules whose feedback must know the
            sizes of layers, and only if the first synapse is a convolution.
        error: (output, target) → e of the output's shape, for a loss that is not known there.
        generator: where the seed of the dropout masks (and feedback matrices) are drawn from;
            torch's global generator if None.

    Raises:
        TypeError: if a module or the loss is not supported.
        ValueError: if the model has no weights, or has parameters that the rule cannot train.
    """

    paper: ClassVar[Paper]
    uses_autograd: ClassVar[bool]
    """Whether it differentiates automatically, if only through one layer."""
    forward_passes: ClassVar[int]
    """How often a training step carries a batch through the network."""
    feedback_path: ClassVar[str]
    """Its feedback matrices, in a few words; empty if it has none."""
    teacher: ClassVar[Literal["error", "target", "label"]]
    """What tells hidden layers how to change: the output error, the target itself, or a label shown
    as part of the input. Where it is the error, no error means no update."""
    trains: ClassVar[Literal["all", "synapses", "readout"]]
    """Parameters that get updates: all; the weights and biases of synapses, and a model with others
    is refused; or those of the last synapse, and the others are frozen by intent."""

    updates_at_once: ClassVar[bool] = False
    """Whether a layer's weights may change as soon as its update is known, before the next layer's,
    since nothing later in the step reads them. See ``LocalSGD``."""

    draws: ClassVar[bool] = False
    """Whether it needs random numbers in every step, beside those of dropout."""

    noise: Tensor | None
    """(seed, step) of the random numbers, int64; a buffer, where there are any to draw."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        input_shape: tuple[int, ...] | None = None,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the loss must be a module such as nn.CrossEntropyLoss(); given {loss!r}"
            )
        self.network = Network(model)
        self.model = model
        self.loss = loss
        self.input_shape = input_shape
        self.error_function: OutputError = output_error(loss) if error is None else error
        self.trained = self._trained_parameters()
        noise = None
        if self.network.dropouts or self.draws:
            seed = torch.randint(2**62, (1,), generator=generator, device=_device_of(generator))
            noise = torch.cat([seed.cpu(), torch.zeros(1, dtype=torch.int64, device="cpu")])
            noise = noise.to(next(model.parameters()).device)
        self.register_buffer("noise", noise)

    @abstractmethod
    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The rule itself: the credit for one batch, from passes through ``step``."""

    def forward(self, x: Shaped[Tensor, "n ..."], target: Shaped[Tensor, "n ..."]) -> Credit:
        """The credit for one batch; changes no parameter, buffer, input or random state.

        Args:
            x: n samples, of the dtype of the weights.
            target: n targets, as the loss takes them.

        Raises:
            TypeError: if the dtype of x does not fit the model.
            ValueError: if the batch is empty, a shape does not fit, x has a NaN or an infinity, or
                a class index is out of range.
        """
        credit, _ = self._run(x, target)
        return credit

    @torch.no_grad()
    def accumulate(self, x: Shaped[Tensor, "n ..."], target: Shaped[Tensor, "n ..."]) -> Credit:
        """Add the updates for one batch to ``.grad``, as ``loss.backward()`` would.

        Moves the model's batch-normalisation statistics too, and the dropout masks on to the next
        step. Raises what ``forward`` raises; then nothing has changed.
        """
        credit, statistics = self._run(x, target)
        for name, update in credit.updates.items():
            parameter = self.model.get_parameter(name)
            if parameter.grad is None:
                parameter.grad = update
            else:
                parameter.grad += update
        self.finish_step(statistics)
        return credit

    @torch.no_grad()
    def finish_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Move batch normalisation's statistics, and the dropout masks on to the next step."""
        for name, value in statistics.items():
            self.model.get_buffer(name).copy_(value)
        if self.noise is not None:
            self.noise[1] += 1

    @torch.no_grad()
    def predict(self, x: Shaped[Tensor, "n ..."]) -> Tensor:
        """The model's output, (n, k). For evaluation, after ``rule.eval()``."""
        return self.model(x)

    def error(self, output: Tensor, target: Tensor) -> Float[Tensor, "n k"]:
        """e, the error of each sample's outputs."""
        e = self.error_function(output, target)
        if e.shape != output.shape:
            raise ValueError(
                f"error= must return one error an output, {shape_of(output)}; "
                f"it returned {shape_of(e)}"
            )
        return e.flatten(1)

    def loss_value(self, output: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss module's value for reporting; its mean where the module does not reduce."""
        loss: Tensor = self.loss(output, target)
        return loss.mean() if loss.dim() else loss

    @torch.no_grad()
    def _run(self, x: Tensor, target: Tensor) -> tuple[Credit, dict[str, Tensor]]:
        self.check_batch(x, target)
        step = self.network.step(self.noise)
        return self.assign(x, target, step), step.statistics

    def check_batch(self, x: Tensor, target: Tensor) -> None:
        """Refuse a batch as ``forward`` does."""
        if x.dim() < 2 or x.shape[0] == 0:
            raise ValueError(
                f"x must be a batch of samples, its first dimension counting them, and not empty; "
                f"given is {shape_of(x)}"
            )
        if target.dim() < 1 or target.shape[0] != x.shape[0]:
            raise ValueError(
                f"x has {x.shape[0]} samples, so the target must have as many in its first "
                f"dimension; given is {shape_of(target)}"
            )
        for name, values in (("x", x), ("the target", target)):
            if values.is_floating_point() and values_readable(values) and not all_finite(values):
                bad = ~values.isfinite().reshape(len(values), -1).all(1)
                raise ValueError(
                    f"{name} has a NaN or an infinity, first in sample {int(bad.nonzero()[0])}: "
                    "clean the data, or drop that sample"
                )

    def _trained_parameters(self) -> frozenset[str]:
        """Names of the parameters that get updates; see ``trains``."""
        required = {name for name, p in self.model.named_parameters() if p.requires_grad}
        if self.trains == "all":
            return frozenset(required)
        stages = self.network.stages[-1:] if self.trains == "readout" else self.network.stages
        trained = {f"{stage.name}.{p}" for stage in stages for p in stage.trained}
        others = sorted(required - trained)
        if others and self.trains == "synapses":
            raise ValueError(
                f"{type(self).__name__} trains the weights and biases of synapses only, and this "
                f"model has other parameters: {', '.join(others)}. Build the layer without them "
                "(affine=False, elementwise_affine=False), or freeze them with "
                "parameter.requires_grad_(False)"
            )
        return frozenset(trained)


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
