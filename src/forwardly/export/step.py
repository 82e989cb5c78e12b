"""A training step with everything that it needs by name: what goes in, and what comes out.

    in     state: parameters, buffers, momenta ("momentum.NAME"); x, target, learning_rate; numbers
    out    "new.NAME" of each tensor of the state that changes; loss, accuracy (of classes), output

Random numbers come from the host, uniform on [0, 1): ``uniform``, (n, numbers a sample), for what
is drawn for each sample, and ``uniform_step`` for what is drawn once a step. Those of ``noise``
would be 64-bit integers that wrap around, which some inference runtimes compute wrongly. Given
u + ½ modulo 1 for the numbers u of ``noise.uniform``, dropout is that of ``LocalSGD``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Optimizer

from forwardly.checks import check_kind, shape_of
from forwardly.errors import UsageError
from forwardly.fast.sgd import Descent
from forwardly.metrics import correct
from forwardly.network.step import NO_KERNELS, Kernels
from forwardly.rule import Rule, evaluating
from forwardly.training.functional import State, descents_of, state_of, step_of
from forwardly.training.local_sgd import LocalSGD

Tensors = dict[str, Tensor]
NUMBERS = ("uniform", "uniform_step")
"""Inputs of random numbers: for each sample, and for each step."""
MOMENTUM = "momentum."
NEW = "new."


class Stream(NamedTuple):
    """Where the numbers of one stream of a step lie.

    Attributes:
        source: "uniform", in whose columns, or "uniform_step".
        start: the first.
        size: how many a sample, or in all.
    """

    source: str
    start: int
    size: int


class Numbers:
    """Random numbers of a step from the host, in place of ``noise``'s.

    The first step, of tensors whose number of samples is a symbol, finds which streams there are.

    Attributes:
        streams: by the number of the stream, see ``noise``.
        given: the tensors, by name; set before each step.
    """

    def __init__(self) -> None:
        self.streams: dict[int, list[Stream]] = {}
        self.given: Mapping[str, Tensor] | None = None
        self._samples = 1

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers a sample, and a step, takes; those that take some."""
        streams = [stream for own in self.streams.values() for stream in own]
        widths: dict[str, int] = {}
        for stream in streams:
            end = stream.start + stream.size
            widths[stream.source] = max(widths.get(stream.source, 0), end)
        return widths

    def kernels(self) -> Kernels:
        """What has a rule take its numbers from here."""
        return Kernels(
            mask=self._mask, uniform=self._uniform, normal=self._normal, below=self._below
        )

    def _take(
        self, which: int, shape: tuple[int, ...], dtype: torch.dtype, part: int = 0
    ) -> Tensor:
        if self.given is None:
            return self._found(which, shape, part).to(dtype)
        stream = self.streams[which][part]
        numbers = self.given[stream.source]
        chosen = numbers.narrow(numbers.dim() - 1, stream.start, stream.size)
        return chosen.reshape(shape).to(dtype)

    def _found(self, which: int, shape: tuple[int, ...], part: int) -> Tensor:
        """Note a stream, and give tensors of its shape."""
        own = self.streams.setdefault(which, [])
        if part == len(own):
            numbers = torch.empty(shape)
            size = cast(Any, numbers.numel())
            by_sample = not isinstance(size, int)
            source = "uniform" if by_sample else "uniform_step"
            samples = self._samples if by_sample else 1
            count = int(size.node.hint if by_sample else size) // samples
            own.append(Stream(source, self.widths.get(source, 0), count))
        return torch.full(shape, 0.5)

    def find(self, samples: int) -> None:
        """Note in the next step, of so many samples, which streams there are."""
        self._samples, self.given = samples, None

    def _mask(
        self, _: Tensor, which: int, shape: tuple[int, ...], p: float, like: Tensor
    ) -> Tensor:
        if p >= 1:
            return torch.zeros(shape, dtype=like.dtype)
        return (self._take(which, shape, like.dtype) >= p).to(like.dtype) / (1 - p)

    def _uniform(self, _: Tensor, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._take(which, shape, dtype)

    def _normal(self, _: Tensor, which: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        radius, turn = (self._take(which, shape, dtype, part) for part in (0, 1))
        return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * turn)

    def _below(self, _: Tensor, which: int, shape: tuple[int, ...], end: int) -> Tensor:
        return (self._take(which, shape, torch.float32) * end).long().clamp(max=end - 1)


class NamedStep:
    """The step of a rule and its optimizer, on tensors by their names.

    Attributes:
        state: what the rule and the optimizer have now, momenta of zero where there are none yet.
        frozen: names of parameters that stay as they are.
        learning_rate: of the optimizer's first group.

    Args:
        rule: on the processor, in float32.
        optimizer: ``LocalSGD`` or ``torch.optim.SGD``.
        from_host: whether random numbers are an input, see the module docstring. Otherwise they
            are those of ``noise``, bit for bit, whose seed and count of steps are a part of the
            state.
        prepare: what is done to x first, a pure function of a batch; or None.

    Raises:
        TypeError: if an argument is something else.
        UsageError: if the optimizer or the rule is one whose step cannot be taken elsewhere.
    """

    def __init__(
        self,
        rule: Rule,
        optimizer: Optimizer,
        *,
        from_host: bool = True,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_kind("rule", rule, Rule)
        check_kind("optimizer", optimizer, LocalSGD, SGD)
        _check_form(rule, optimizer)
        self.rule = rule
        self._prepare = prepare
        self.numbers = Numbers() if from_host else None
        self._descents = _descents(rule, optimizer)
        self.learning_rate = next(iter(self._descents.values())).lr
        self._shares = _shares(self._descents, self.learning_rate)
        self.frozen = sorted(
            name
            for name, parameter in rule.named_parameters()
            if name not in self._descents or not parameter.requires_grad
        )
        values = state_of(rule).values
        values = {n: value for n, value in values.items() if n != "noise" or not from_host}
        self.state: Tensors = {
            **values,
            **{
                MOMENTUM + name: _momentum(optimizer, rule.get_parameter(name))
                for name, descent in self._descents.items()
                if descent.momentum and name not in self.frozen
            },
        }

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """What comes out; see the module docstring."""
        if self.numbers is not None:
            self.numbers.given = inputs
        return self._taken(inputs, inputs["learning_rate"])

    def find_numbers(self, inputs: Mapping[str, Tensor], samples: int) -> Tensors:
        """A step to see which random numbers it takes, of so many samples; see ``Numbers``."""
        if self.numbers is not None:
            self.numbers.find(samples)
        return self._taken(inputs, inputs["learning_rate"])

    def predict(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """The output of ``rule.predict``, in evaluation mode."""
        values = {f"rule.{n}": inputs[n] for n in self.state if not n.startswith(MOMENTUM)}
        with evaluating(self.rule):
            output = functional_call(_Predict(self.rule), values, (self.prepared(inputs["x"]),))
        return {"output": cast(Tensor, output)}

    def prepared(self, x: Tensor) -> Tensor:
        """Samples as the rule takes them, from such as the step does."""
        return x if self._prepare is None else self._prepare(x)

    @property
    def prepares(self) -> bool:
        """Whether something is done to x first."""
        return self._prepare is not None

    def settings(self) -> dict[str, Any]:
        """How each parameter descends, as plain data; learning rates as shares of the first."""
        each = {
            name: {**descent._asdict(), "lr": self._shares[name]}
            for name, descent in self._descents.items()
            if name not in self.frozen
        }
        return {"learning_rate": self.learning_rate, "parameters": each}

    def _taken(self, inputs: Mapping[str, Tensor], rate: Tensor) -> Tensors:
        values = {name: inputs[name] for name in self.state if not name.startswith(MOMENTUM)}
        momenta = {
            name.removeprefix(MOMENTUM): inputs[name]
            for name in self.state
            if name.startswith(MOMENTUM)
        }
        descents = {
            name: descent._replace(lr=cast(float, self._rate(rate, name)))
            for name, descent in self._descents.items()
        }
        own: Any = self.rule
        before = getattr(own, "learning_rate", None)
        try:
            if own.needs_learning_rate:
                own.learning_rate = rate
            kernels = NO_KERNELS if self.numbers is None else self.numbers.kernels()
            step = step_of(self.rule, descents, kernels)
            after, credit = step(
                State(values, momenta), self.prepared(inputs["x"]), inputs["target"]
            )
        finally:
            if own.needs_learning_rate:
                own.learning_rate = before
        new = {n: v for n, v in after.values.items() if v is not values.get(n)}
        new |= {MOMENTUM + n: v for n, v in after.momenta.items() if v is not momenta.get(n)}
        result = {NEW + name: new[name] for name in self.state if name in new}
        result["loss"] = credit.loss
        right = correct(credit.output, inputs["target"])
        if right is not None:
            result["accuracy"] = right.to(credit.loss.dtype) / credit.output.shape[0]
        result["output"] = credit.output
        return result

    def _rate(self, rate: Tensor, name: str) -> Tensor:
        share = self._shares[name]
        return rate if share == 1 else rate * share


@contextmanager
def explicit_padding(model: nn.Module) -> Generator[None]:
    """Have convolutions pad by an operation of its own, where they are told to by a word.

    Torch takes padding="same" apart in a way that holds for one number of samples only.
    """
    named = [part for part in model.modules() if isinstance(getattr(part, "padding", None), str)]
    zeros: list[Any] = [part for part in named if getattr(part, "padding_mode", "") == "zeros"]
    try:
        for part in zeros:
            part.padding_mode = "constant"
        yield
    finally:
        for part in zeros:
            part.padding_mode = "zeros"


class _Predict(nn.Module):
    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule.predict(x)


def _momentum(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """Zero before the first step, which then makes it the update, as dampening is refused."""
    found: Tensor | None = optimizer.state.get(parameter, {}).get("momentum_buffer")
    return torch.zeros_like(parameter.detach()) if found is None else found.detach()


def _shares(descents: Mapping[str, Descent], first: float) -> dict[str, float]:
    """Each parameter's learning rate as a share of the first group's."""
    rates = {name: descent.lr for name, descent in descents.items()}
    if first == 0 and any(rates.values()):
        raise UsageError(
            "the optimizer's first group has a learning rate of 0 and another has not, but rates "
            "are exported as shares of the first group's: put another group first"
        )
    return {name: rate / first if first else 1.0 for name, rate in rates.items()}


def _check_form(rule: Rule, optimizer: Optimizer) -> None:
    name = type(rule).__name__
    weight = next(rule.model.parameters())
    if weight.dtype != torch.float32:
        why = ""
        if rule.compares_passes and weight.dtype in (torch.float16, torch.bfloat16):
            why = f", and {name} subtracts two passes, whose difference half precision drowns"
        raise UsageError(
            f"steps are exported in float32{why}; the model is {weight.dtype}: call rule.float() "
            "and make the optimizer anew"
        )
    if weight.device.type != "cpu":
        raise UsageError(
            f"the rule is on {weight.device}; export takes it from the CPU: rule.cpu()"
        )
    if not rule.training:
        raise UsageError(
            "the rule is in evaluation mode, and a training step is wanted: rule.train()"
        )
    circular = [
        part for part in rule.model.modules() if getattr(part, "padding_mode", "") == "circular"
    ]
    if circular:
        raise UsageError(
            f"{circular[0]} pads by going round, which torch cannot trace for batches of any size: "
            'use padding_mode="zeros", "reflect" or "replicate"'
        )
    descents = _descents(rule, optimizer)
    if not descents:
        raise UsageError("the optimizer has no parameter of the rule: there is no step to export")
    for parameter, descent in descents.items():
        if descent.dampening and descent.momentum:
            raise UsageError(
                f"the optimizer dampens momentum (dampening={descent.dampening} for {parameter}), "
                "but for the first step, which a graph that always does the same cannot tell from "
                "others: give dampening=0"
            )
    if isinstance(optimizer, LocalSGD) and optimizer.precision != "full":
        raise UsageError(
            f"the optimizer has precision={optimizer.precision!r}; exported steps are in float32: "
            "make LocalSGD without it"
        )


def _descents(rule: Rule, optimizer: Optimizer) -> dict[str, Descent]:
    """``descents_of``, with a word where a parameter is not the rule's."""
    try:
        return descents_of(rule, optimizer)
    except KeyError:
        sizes = {p for group in optimizer.param_groups for p in group["params"]}
        foreign = next(p for p in sizes if all(p is not own for own in rule.parameters()))
        raise UsageError(
            f"the optimizer has a parameter of shape {shape_of(foreign)} that is not the rule's: "
            "make it of rule.parameters()"
        ) from None
