"""The contract: a rule assigns credit to the weights of a model for one batch.

``rule(x, target)`` is pure: it returns a ``Credit`` and changes nothing. ``rule.accumulate`` stands
where ``loss.backward()`` would: it adds the updates to ``.grad``, for any torch optimizer.
"""

from __future__ import annotations

import functools
import gc
import operator
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    _register_namedtuple,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)

from forwardly._typing import Float, Shaped
from forwardly.checks import all_finite, shape_of, values_readable
from forwardly.loss_value import LossValue
from forwardly.losses import OutputError, check_loss, mean_loss, output_error
from forwardly.network import Network, Stage, Step
from forwardly.network.alterations import has_backward_hook, is_hooked
from forwardly.network.diagonal import Diagonal
from forwardly.network.kinds import TRANSPOSED
from forwardly.network.reader import reading_of
from forwardly.network.share import Share
from forwardly.network.stage import Apply
from forwardly.network.step import NO_KERNELS, Kernels

Result = TypeVar("Result")
_ELSEWHERE = " (before what is perturbed, in operations that are not known, or not used at all)"
_HALF = (torch.float16, torch.bfloat16)


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
            shape with a gradient's sign and scale: to be subtracted, averaged over the batch. A
            parameter of the rule itself has the name ``rule.NAME``, see ``Rule.learned``.
        output: the model's output in the clean pass.
        loss: the loss module's value for the clean output; a scalar without a graph.
        error: e, the error of each sample's output in the clean pass, (n, k).
    """

    updates: dict[str, Tensor]
    output: Tensor
    loss: Float[Tensor, ""]
    error: Float[Tensor, "n k"]


# By this name a program that torch.export has saved finds the class again. Torch knows named
# tuples without it, and has no public name for giving them one.
_register_namedtuple(Credit, serialized_type_name="forwardly.Credit")


@contextmanager
def evaluating(rule: Rule) -> Generator[None]:
    """Evaluation mode, and after it each module's own mode again."""
    modes = [(module, module.training) for module in rule.modules()]
    rule.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def undisturbed(
    method: Callable[[Any, Tensor, Tensor], Result],
) -> Callable[[Any, Tensor, Tensor], Result]:
    """Shield a method (self, x, target) from inference mode and autocast.

    Tensors made in inference mode cannot serve as gradients outside it, and two passes that
    autocast rounds differently would differ by their rounding. What autocast has kept of the
    weights as they were is forgotten, or ``predict`` would go on with it.
    """

    @functools.wraps(method)
    def call(self: Any, x: Tensor, target: Tensor) -> Result:
        for name, given in (("x", x), ("the target", target)):
            if not isinstance(given, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"{name} must be a tensor; given is a {type(given).__name__}: torch.as_tensor "
                    "makes one of an array or a list"
                )
        compiling = torch.compiler.is_dynamo_compiling()  # a compiled graph cannot ask all
        if not compiling and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return call(self, _outside_inference(x), _outside_inference(target))
        kind = x.device.type
        available = compiling or torch.amp.is_autocast_available(kind)
        if available and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                result = method(self, x, target)
            if not compiling:
                torch.clear_autocast_cache()
            return result
        return method(self, x, target)

    return call


class Parallel(Protocol):
    """How several processes train on one batch; see ``forwardly.distributed``."""

    leads: bool
    """Whether this process is the one that writes files."""

    def run(self, rule: Rule, x: Tensor, target: Tensor) -> tuple[Credit, dict[str, Tensor]]:
        """``rule.run`` for a batch that was checked, the same in every process."""
        ...


class Rule(nn.Module, ABC):
    """Assigns credit for a model's error to the model's weights.

    A subclass implements ``assign`` and sets the class attributes that have no default; see
    ``rules/``. What it learns beside the model, such as feedback that adapts, is a parameter of its
    own, ``register_own("B", …, learned=True)``, whose update is named ``rule.B``; then optimizers
    are made of ``rule.parameters()``, the model's and these.

    The model may change between steps: parameters may be frozen, thawed or replaced, modules
    replaced by others of the same sizes. The next step sees it; what a rule cannot follow, such as
    other sizes than its feedback was drawn for, is refused there.

    Args:
        model: an ``nn.Sequential`` of supported modules, or, for rules that do not need a chain,
            any module that can be traced, see ``forwardly.network``. Parameters with
            ``requires_grad=False`` are left alone.
        loss: a loss module, see ``forwardly.losses``.
        input_shape: shape of x without the batch; needed only by rules whose feedback must know the
            sizes of layers, and only if the first synapse is a convolution; and if the model is no
            ``nn.Sequential``.
        error: (output, target) → e of the output's shape, for a loss that is not known there.
        generator: where the seed of the dropout masks (and feedback matrices) are drawn from;
            torch's global generator if None.

    Warns:
        UserWarning: if the model ends in an activation, and the output layer's update is not the
            gradient there; if two passes are to be compared in half precision.

    Raises:
        TypeError: if a module or the loss is not supported, or an argument of another kind.
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
    """Whether a layer's update may be applied as soon as it is known, before the next layer's, as
    nothing later in the step asks the layer's weights. See ``LocalSGD``."""

    redraws_masks: ClassVar[bool] = False
    """Whether each pass draws dropout masks again, from the same seed, and none is kept."""

    draws: ClassVar[bool] = False
    """Whether every step needs random numbers besides those of dropout."""

    compares_passes: ClassVar[bool] = False
    """Whether an update is the difference of two passes, too small for half precision."""

    projection_scale: ClassVar[float | None] = None
    """The scale with which F, from error to input, is drawn unless ``projection`` says otherwise;
    None where the rule has no such matrix."""

    needs_learning_rate: ClassVar[bool] = False
    """Whether it applies a part of the update within the step, and so has the option
    ``learning_rate``, which must be the optimizer's."""

    output_update: ClassVar[Literal["error", "gradient"]] = "error"
    """Whether the last synapse learns from the error itself, or from its vector–Jacobian product
    with what follows the synapse; the two differ where a model ends in an activation."""

    needs_chain: ClassVar[str] = "its author has not said that it takes models of another form"
    """Why it takes chains of layers alone; empty if it takes any model: it asks a stage whether
    ``is_readout``, and sends nothing from stage to stage but through ``Step``'s own passes."""

    needs_whole_batch: ClassVar[str] = (
        "its author has not said that the update for a batch is the mean of those for its samples"
    )
    """Why processes cannot each take a share of a batch; empty if the updates of shares, weighted
    by their samples, add up to the batch's, and so do the rule's buffers."""

    output_predicts: bool = True
    """Whether ``Credit.output`` and ``loss`` are of what ``predict`` gives; options may say so."""

    parallel: Parallel | None = None
    """How processes share out batches, where they do; see ``forwardly.distributed``."""

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
        if not (error is None or callable(error)):
            raise TypeError(f"error= must be a function (output, target) -> e; given {error!r}")
        if not isinstance(generator, torch.Generator | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"generator must be a torch.Generator; given {generator!r}. Make one with "
                "torch.Generator().manual_seed(...)"
            )
        try:
            shape = None if input_shape is None else tuple(map(operator.index, input_shape))
        except TypeError:
            shape = (0,)
        if shape is not None and min(shape, default=0) < 1:
            raise TypeError(
                "input_shape must be the shape of x without the batch, whole numbers above 0 such "
                f"as (3, 32, 32); given {input_shape!r}"
            )
        self.model = model
        self.loss = loss
        self.input_shape = shape
        self.own_error: OutputError | None = error
        self._seen_alone = False
        self._said: set[str] = set()
        self._read()
        if error is None:
            check_loss(loss)
        # Drawn in any case, so that feedback does not depend on whether there is dropout.
        device = torch.device("cpu") if generator is None else generator.device
        self._seed = int(torch.randint(2**62, (), generator=generator, device=device))
        self.register_buffer("noise", None)
        self._begin_noise()
        self._warn(stacklevel=4)

    @abstractmethod
    def assign(self, x: Tensor, target: Tensor, step: Step) -> Credit:
        """The rule itself: the credit for one batch, from passes through ``step``."""

    @undisturbed
    def forward(self, x: Shaped[Tensor, "n ..."], target: Shaped[Tensor, "n ..."]) -> Credit:
        """The credit for one batch; changes no parameter, buffer, input or random state.

        Args:
            x: n samples, of the dtype of the weights and on their device.
            target: n targets, as the loss takes them.

        Raises:
            TypeError: if the dtype of x does not fit the model.
            ValueError: if the batch is empty, a shape does not fit, x has a NaN or an infinity, or
                a class index is out of range; or if the model has changed in a way that the rule
                cannot follow.
        """
        return self.run(x, target)[0]

    @undisturbed
    @torch.no_grad()
    def accumulate(self, x: Shaped[Tensor, "n ..."], target: Shaped[Tensor, "n ..."]) -> Credit:
        """Add the updates for one batch to ``.grad``, as ``loss.backward()`` would.

        Also updates the model's batch-normalisation statistics, and advances the dropout seed to
        the next step. Raises what ``forward`` raises; then nothing has changed.
        """
        credit, buffers = self.run(x, target)
        self._check_cleared(credit.updates)
        for name, update in credit.updates.items():
            parameter = self.parameter(name)
            if parameter.grad is None:
                parameter.grad = update.clone()  # the credit is the caller's
            else:
                parameter.grad += update
        self.move_buffers(buffers)
        return credit._replace(loss=credit.loss.as_subclass(LossValue))

    @torch.no_grad()
    def run(
        self, x: Tensor, target: Tensor, kernels: Kernels = NO_KERNELS
    ) -> tuple[Credit, dict[str, Tensor]]:
        """The credit for one batch, and the new values of the buffers that a step changes.

        Pure, as ``forward``, which gives the credit alone. The buffers, by their names in the rule,
        are batch normalisation's statistics, the dropout seed, and what the rule itself moves: its
        ``assign`` puts new values into ``step.moved``.
        """
        self.check_batch(x, target)
        return self.run_checked(x, target, kernels)

    def run_checked(
        self, x: Tensor, target: Tensor, kernels: Kernels = NO_KERNELS
    ) -> tuple[Credit, dict[str, Tensor]]:
        """``run`` for a batch that was checked."""
        if self.parallel is not None:
            return self.parallel.run(self, x, target)
        step = self.begin_step(kernels)
        return self.assign(x, target, step), self.moved_buffers(step)

    @torch.no_grad()
    def run_share(
        self, x: Tensor, target: Tensor, share: Share
    ) -> tuple[Credit, dict[str, Tensor]]:
        """As ``run``, for a share of the samples of a batch that was checked."""
        step = self.begin_step(share=share)
        return self.assign(share.rows(x), share.rows(target), step), self.moved_buffers(step)

    def begin_step(
        self,
        kernels: Kernels = NO_KERNELS,
        apply: Apply | None = None,
        share: Share | None = None,
    ) -> Step:
        """A step through the network with this rule's random numbers; see ``Network.step``."""
        return self.network.step(
            self.noise,
            kernels=kernels,
            apply=apply,
            keep_masks=not self.redraws_masks,
            share=share,
        )

    def moved_buffers(self, step: Step) -> dict[str, Tensor]:
        """See ``run``."""
        buffers = {f"model.{name}": value for name, value in step.statistics.items()}
        buffers |= step.moved
        if self.noise is not None:
            buffers["noise"] = self.noise + torch.arange(2, device=self.noise.device)
        return buffers

    @torch.no_grad()
    def move_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Set the buffers of those names."""
        for name, value in buffers.items():
            self.get_buffer(name).copy_(value)

    def register_own(self, name: str, value: Tensor, *, learned: bool) -> None:
        """Give the rule a parameter that it learns, or a buffer that steps move.

        Both are written to, so they are ordinary tensors, be the rule built in inference mode.
        """
        with torch.inference_mode(False):
            value = value.clone()
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The rule's own parameters, by the names of their updates; most rules have none."""
        own: dict[str, nn.Parameter | None] = vars(self)["_parameters"]
        return {f"rule.{name}": own_one for name, own_one in own.items() if own_one is not None}

    def place(self, name: str) -> str:
        """The name in the rule of the parameter that has the update of that name."""
        own: dict[str, nn.Parameter | None] = vars(self)["_parameters"]
        within = name.removeprefix("rule.")
        return within if within != name and within in own else f"model.{name}"

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter that has the update of that name."""
        return self.get_parameter(self.place(name))

    def _check_cleared(self, updates: Mapping[str, Tensor]) -> None:
        """Refuse to add to gradients of the rule's own that an optimizer never saw."""
        if not self.learned:
            return
        left = [name for name in updates if self.parameter(name).grad is not None]
        if left and all(name in self.learned for name in left):
            raise ValueError(
                f"the gradients of the model were cleared, those of {', '.join(left)} were not: "
                "make the optimizer of rule.parameters(), which has the rule's own parameters too"
            )

    @torch.no_grad()
    def predict(self, x: Shaped[Tensor, "n ..."]) -> Tensor:
        """The model's output, (n, k). For evaluation, after ``rule.eval()``."""
        if not torch.compiler.is_compiling() and torch.is_autocast_cache_enabled():
            torch.clear_autocast_cache()  # of weights as they were before the last step
        own = any(getattr(module, "inplace", False) for module in self.model.modules())
        return self.model(x.clone() if own else x)  # the first module might write over it

    def error(self, output: Tensor, target: Tensor) -> Float[Tensor, "n k"]:
        """e, the error of each sample's outputs."""
        if output.shape[0] != target.shape[0]:
            raise ValueError(
                f"the model makes {shape_of(output)} of {target.shape[0]} samples, so outputs do "
                "not belong to samples: look for an nn.Flatten that begins before dimension 1"
            )
        if self.own_error is None:
            e = output_error(self.loss, output, target)
        else:
            e = self.own_error(output.clone(), target)  # which it may write over
        if not isinstance(e, Tensor) or e.shape != output.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
            given = shape_of(e) if isinstance(e, Tensor) else repr(e)  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"error= must return one error an output, {shape_of(output)}; it returned {given}"
            )
        return e.to(output.dtype).reshape(e.shape[0], -1)

    def loss_value(self, output: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The mean over the batch of what the loss module says, whatever its reduction."""
        return mean_loss(self.loss, output, target)

    def check_batch(self, x: Tensor, target: Tensor) -> None:
        """See the model as it is now, and refuse a batch, as ``forward`` does."""
        self.check_form(x, target)
        self.check_values(x, target)

    def check_form(self, x: Tensor, target: Tensor) -> None:
        """``check_batch`` without a look at values, for which a device would be waited for."""
        self._check_form_of_samples(x)
        if target.dim() < 1 or target.shape[0] != x.shape[0]:
            raise ValueError(
                f"x has {x.shape[0]} samples, so the target must have as many in its first "
                f"dimension; given is {shape_of(target)}"
            )
        self._check_place("the target", target)

    def check_values(self, x: Tensor, target: Tensor) -> None:
        """Refuse a batch with a NaN or an infinity, where values may be looked at."""
        _check_finite("x", x)
        _check_finite("the target", target)

    def check_samples(self, x: Tensor) -> None:
        """``check_batch`` of samples without targets."""
        self._check_form_of_samples(x)
        _check_finite("x", x)

    def _check_form_of_samples(self, x: Tensor) -> None:
        self.look()
        if x.dim() < 2 or x.shape[0] == 0:
            raise ValueError(
                f"x must be a batch of samples, its first dimension counting them, and not empty; "
                f"given is {shape_of(x)}"
            )
        self._check_place("x", x)

    def _check_place(self, name: str, values: Tensor) -> None:
        if values.device != self._weight.device:
            raise ValueError(
                f"{name} is on {values.device}, the model on {self._weight.device}: move one, "
                f"e.g. by .to({str(self._weight.device)!r})"
            )
        if values.requires_grad:
            raise ValueError(
                f"{name} requires a gradient, which it would never get, as there is no "
                f"backward pass to what it was computed from: pass it .detach()ed"
            )

    def look(self) -> None:
        """See the model as it is now.

        Raises:
            TypeError: if it is of another dtype or on another device than the feedback matrices,
                or has a module that is not supported; or the loss is not supported any more.
            ValueError: if it has changed in a way that the rule cannot follow.
        """
        if torch.compiler.is_dynamo_compiling():
            return  # compiled for the model as it was
        if self.own_error is None:
            check_loss(self.loss)
        reading = reading_of(self.model, modes=self.network.traced)
        if not self.network.reading.agrees(reading):
            _check_local(self.model)
            if None in reading.parameters:
                raise ValueError(
                    "the model has changed, and whether its parameters are frozen cannot be seen "
                    "in a functional call or a trace: call rule.look() before it"
                )
            self._read()
        if is_hooked(self) or has_backward_hook(self):
            raise ValueError(
                "the rule has a hook, which accumulate and LocalSGD would not call: register it on "
                "a module of the model, or look at the Credit"
            )
        own = vars(self)
        if replaced := own.keys() & {"assign", "error", "loss_value"}:
            raise ValueError(
                f"this rule's method {replaced.pop()} was replaced, which not every path would "
                "notice: pass error=, or write a rule of your own"
            )
        weight = self._weight
        if type(weight) is not nn.Parameter:
            _check_local(self.model)
            return  # of a functional call
        if not self._seen_alone:
            _check_alone(self.model)
            self._check_learned()
            self._seen_alone = True
        dtype, device = weight.dtype, weight.device
        buffers: dict[str, Tensor | None] = own["_buffers"]
        learned: dict[str, Tensor | None] = own["_parameters"]
        for name, buffer in (*buffers.items(), *learned.items()):
            if buffer is None:
                continue
            kind = buffer.dtype if buffer.is_floating_point() else dtype
            if (kind, buffer.device) != (dtype, device):
                raise TypeError(
                    f"the model is {dtype} on {device}, the rule's {name} {kind} on "
                    f"{buffer.device}: move the rule, not the model, e.g. "
                    f"rule.to({str(device)!r}, {dtype})"
                )
        if frozen := [
            name for name, value in learned.items() if not (value is None or value.requires_grad)
        ]:
            raise ValueError(
                f"{type(self).__name__} learns {frozen[0]} of its own, whatever its requires_grad "
                "says: to keep it as it is leave it out of the optimizer"
            )
        if self._is_news:
            self._check_learned()
            self._warn(stacklevel=6)

    def _check_learned(self) -> None:
        """Refuse names of updates that would mean two parameters."""
        names = {name for name, _ in self.model.named_parameters()}
        if taken := names & self.learned.keys():
            raise ValueError(
                f"the model has a parameter named {min(taken)!r}, which is the name of one of the "
                "rule's own: rename the model's module"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy, of another model of the same form."""
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType]
        self._read()

    def _read(self) -> None:
        """Read the model, for the first time or anew; nothing is changed if it is refused."""
        _check_local(self.model)
        network = Network(self.model, self.input_shape)
        if network.graph is not None and self.needs_chain:
            raise TypeError(
                f"{type(self).__name__} needs a chain of layers, an nn.Sequential of supported "
                f"modules, and {type(self.model).__name__} is none: {self.needs_chain}. "
                "Take a rule for any model, such as PEPITA or FeedbackAlignment"
            )
        before: Network | None = getattr(self, "network", None)
        sizes = [_size(stage) for stage in network.stages]
        if before is not None and sizes != self._sizes:
            raise ValueError(
                "the model has changed since the rule was built, which is for weights of "
                f"{_listed(self._sizes)}; they are {_listed(sizes)} now: build the rule anew"
            )
        for stage, size in zip(network.stages, sizes, strict=True):
            bias: Tensor | None = stage.synapse.bias
            other = isinstance(stage.part.module, (*TRANSPOSED, Diagonal))
            if bias is not None and not other and bias.shape != size[:1]:
                raise ValueError(
                    f"the bias of {stage.name!r} is {shape_of(bias)}, its weight {tuple(size)}"
                )
        trained = self._trained_parameters(network)
        _check_place(self.model)
        _check_alone(self.model)
        self.network = network
        self.trained = trained
        self._sizes = sizes
        self._is_news = True
        if before is not None:
            self._begin_noise()

    def _begin_noise(self) -> None:
        """Have random numbers, where the network has come to need some."""
        if self.noise is None and (self.network.dropouts or self.draws):
            device = self._weight.device
            with torch.inference_mode(False):  # it is written to in every step
                self.noise = torch.tensor([self._seed, 0], dtype=torch.int64, device=device)

    def _warn(self, stacklevel: int) -> None:
        """Say, once, what computes something else than a user may think."""
        self._is_news = False
        name, messages = type(self).__name__, list[str]()
        after = self.network.output_activation
        if after and self.output_update == "error":
            messages.append(
                f"the model ends in {after}: the output layer of {name} learns from the "
                "error itself, that of backprop from the error times its derivative, so the two "
                "do not compare. End the model with the synapse, e.g. with nn.BCEWithLogitsLoss() "
                "for a sigmoid"
            )
        if self.compares_passes and self._weight.dtype in _HALF:
            messages.append(
                f"{name} subtracts two passes, whose difference {self._weight.dtype} drowns in "
                'rounding: keep weights in float32, and use LocalSGD(precision="bf16") for speed'
            )
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                warnings.warn(message, stacklevel=stacklevel)

    @property
    def _weight(self) -> Tensor:
        """The first synapse's, whose dtype and device are those of all."""
        stages = self.network.stages
        if self.network.graph is None:  # asked for in every step
            return stages[0].synapse.weight
        return next(s.synapse.weight for s in stages if "weight" in dict(s.part.parameters))

    def _trained_parameters(self, network: Network) -> frozenset[str]:
        """Names of the parameters that get updates; see ``trains``."""
        if self.trains == "all":
            return frozenset(n for n, p in self.model.named_parameters() if p.requires_grad)
        readouts = [stage for stage in network.stages if stage.is_readout]
        stages = readouts if self.trains == "readout" else network.stages
        trained = {name for stage in stages for name in stage.updated}
        # In a chain a norm's may be a synapse's, too; in a graph updates of all uses are summed.
        places = self.model.named_parameters(remove_duplicate=network.graph is not None)
        others = sorted({name for name, p in places if p.requires_grad} - trained)
        if others and self.trains == "synapses":
            where = "" if network.graph is None else _ELSEWHERE
            raise ValueError(
                f"{type(self).__name__} trains the weights and biases of synapses only, and this "
                f"model has other parameters: {', '.join(others)}{where}. Build the layer without "
                "them (affine=False, elementwise_affine=False), or freeze them with "
                "parameter.requires_grad_(False)" + _freezing(others)
            )
        return frozenset(trained)


def _check_finite(name: str, values: Tensor) -> None:
    if values.is_floating_point() and values_readable(values) and not all_finite(values):
        bad = ~values.isfinite().reshape(len(values), -1).all(1)
        raise ValueError(
            f"{name} has a NaN or an infinity, first in sample {int(bad.nonzero()[0])}: "
            "clean the data, or drop that sample"
        )


def _outside_inference(given: Tensor) -> Tensor:
    return given.clone() if given.is_inference() else given


def _freezing(names: list[str]) -> str:
    """The loop that freezes parameters, where there are many."""
    if len(names) == 1:
        return ""
    return f": for name in {names}: model.get_parameter(name).requires_grad_(False)"


def _size(stage: Stage) -> torch.Size:
    own = dict(stage.part.parameters)
    named: Tensor = getattr(stage.synapse, "weight" if "weight" in own else "bias")
    return named.shape


def _listed(shapes: list[torch.Size]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


def _check_place(model: nn.Module) -> None:
    """Refuse a model in several types or places."""
    first, *others = model.named_parameters()
    for name, parameter in others:
        if (parameter.dtype, parameter.device) != (first[1].dtype, first[1].device):
            raise TypeError(
                f"the model's parameters must be of one type on one device: {first[0]} is "
                f"{first[1].dtype} on {first[1].device}, {name} {parameter.dtype} on "
                f"{parameter.device}"
            )


def _check_alone(model: nn.Module) -> None:
    """Refuse a model that torch's data parallelism has wrapped, with processes to average over.

    Be it within another module, such as one of Lightning's.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if distributed.get_world_size() == 1:
        return
    wrappers = [torch.nn.parallel.DistributedDataParallel]
    if "torch.distributed.fsdp" in sys.modules:  # else there is no such model
        wrappers.append(sys.modules["torch.distributed.fsdp"].FullyShardedDataParallel)
    everything = gc.get_objects()
    # Few are of few kinds: a set of them takes a tenth of the time of a look at each.
    kinds = {kind for kind in set(map(type, everything)) if issubclass(kind, tuple(wrappers))}
    for found in everything if kinds else ():
        if type(found) in kinds and any(part is model for part in found.module.modules()):
            raise TypeError(
                f"the model is wrapped in {type(found).__name__}, which averages gradients in a "
                "backward pass, and there is none: replicas would drift apart. Build the rule on "
                "the model without it, and share out its batches by "
                "forwardly.distributed.DataParallel(rule)"
            )


def _check_local(model: nn.Module) -> None:
    """Refuse parameters of which this process has a part only, as of torch's ``fully_shard``."""
    if "torch.distributed.tensor" not in sys.modules:
        return  # then there are none
    kind = sys.modules["torch.distributed.tensor"].DTensor
    for name, parameter in model.named_parameters():
        if isinstance(parameter, kind):
            raise TypeError(
                f"the parameter {name!r} is a DTensor, as torch's fully_shard (FSDP2) and "
                "parallelize_module make them: a rule would train copies of it, and not it. Build "
                "the rule on the model as it was before, and share out its batches by "
                "forwardly.distributed.DataParallel(rule)"
            )
