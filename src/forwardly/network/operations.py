"""From a trace to operations: calls of torch's modules and functions, by what they mean.

A functional synapse becomes a module that borrows its weight, functional dropout a module of its
own, and what writes over a value becomes what makes a new one.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional

from forwardly.network.alterations import alteration
from forwardly.network.diagonal import WITH_PARAMETERS, Diagonal, Lender, has_channels
from forwardly.network.graph import (
    Attribute,
    Constant,
    Function,
    Method,
    Operation,
    Value,
    ends_of,
    is_elementwise,
    name_of,
    values_in,
)
from forwardly.network.kinds import ALL_SYNAPSES, DROPOUT_FUNCTIONS, UntraceableError
from forwardly.network.stage import Part, Stage
from forwardly.network.trace import Trace

_FUNCTIONAL: dict[Any, type[nn.Module]] = {
    functional.linear: nn.Linear,
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
    functional.conv_transpose1d: nn.ConvTranspose1d,
    functional.conv_transpose2d: nn.ConvTranspose2d,
    functional.conv_transpose3d: nn.ConvTranspose3d,
}
_WINDOW = ("kernel_size", "stride", "padding")
_MODULES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d, ("output_size",)),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "avg_pool1d": (nn.AvgPool1d, (*_WINDOW, "ceil_mode", "count_include_pad")),
    "avg_pool2d": (nn.AvgPool2d, (*_WINDOW, "ceil_mode", "count_include_pad")),
    "elu": (nn.ELU, ("alpha", "inplace")),
    "gelu": (nn.GELU, ("approximate",)),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope", "inplace")),
    "max_pool1d": (nn.MaxPool1d, (*_WINDOW, "dilation", "ceil_mode", "return_indices")),
    "max_pool2d": (nn.MaxPool2d, (*_WINDOW, "dilation", "ceil_mode", "return_indices")),
    "relu": (nn.ReLU, ("inplace",)),
    "sigmoid": (nn.Sigmoid, ()),
    "silu": (nn.SiLU, ("inplace",)),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "tanh": (nn.Tanh, ()),
}
"""For functions and methods the module that does the same, and the names of its arguments."""
_LOGIC = {"and_", "or_", "not_"}
"""Operators that are named as if they wrote over something."""
_CONVOLUTION = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


def operations_of(
    model: nn.Module, traced: Trace
) -> tuple[list[Operation], int, list[tuple[Any, Any]]]:
    """Operations in order, the number of the output, and the examples of every value.

    Stages among them do not know their places yet.

    Args:
        model: whose trace it is; operations refer to its modules.
        traced: of a copy.

    Raises:
        UntraceableError: if an operation cannot be part of a network.
    """
    return _Reader(model, traced).read()


class _Reader:
    def __init__(self, model: nn.Module, traced: Trace) -> None:
        self._model = model
        self._traced = traced
        self._numbers: dict[fx.Node, int] = {}
        self._operations: list[Operation] = []
        self._examples: list[tuple[Any, Any]] = []
        self._calls: dict[str, int] = {}
        self._parameters: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._parameters.setdefault(id(parameter), name)

    def read(self) -> tuple[list[Operation], int, list[tuple[Any, Any]]]:
        for node in self._traced.nodes:
            if node.op == "placeholder":
                self._numbers[node] = len(self._examples)
                self._examples.append(self._traced.values[node])
            elif node.op != "output":
                self._add(node)
        end = self._traced.nodes[-1].args[0]
        if not isinstance(end, fx.Node):
            raise UntraceableError(
                f"the model returns a {type(end).__name__}, and rules have one output, one tensor "
                "of one row a sample: wrap the model in a module that returns only that"
            )
        first = self._traced.values[end][0]
        if not isinstance(first, Tensor):
            raise UntraceableError(
                f"the model returns a {type(first).__name__}, and rules have one output, a tensor"
            )
        return self._operations, self._numbers[end], self._examples

    def _add(self, node: fx.Node) -> None:
        arguments = cast(tuple[Any, ...], self._converted(node.args))
        options = cast(dict[str, Any], self._converted(node.kwargs))
        target = node.target
        replaced: Any = None  # what is written over
        if node.op == "get_attr":
            call: Any = self._attribute(str(target))
        elif node.op == "call_module":
            call = self._module(str(target))
            if getattr(call.part.module if isinstance(call, Stage) else call.module, "inplace", 0):
                replaced = node.args[0]
        elif node.op == "call_method":
            call, replaced = self._method(str(target), node)
        else:
            call, arguments, options, replaced = self._function(target, node, arguments, options)
        if isinstance(call, Stage) and (len(arguments) != 1 or options):
            arguments, options = (arguments[0] if arguments else options["input"],), {}
        if isinstance(call, Part) and not arguments and len(options) == 1:
            arguments, options = (*options.values(),), {}
        if isinstance(call, Function | Method) and (stage := self._one_to_one(call, node)):
            mine = next(n for n in node.args if not self._is_parameter(n))
            call, arguments, options = stage, (self._converted(mine),), {}
        if isinstance(call, Function | Method):
            module = _module_for(name_of(call), arguments, options)
            if module is not None:
                call, arguments, options = Part(f"{node.name}()", module), arguments[:1], {}
            elif name_of(call) in {"view", "reshape"}:
                arguments = self._of_any_number(arguments)
        number = self._append(node, call, arguments, options)
        if isinstance(call, Part) and (scaling := _scaling_of(call)) is not None:
            self._operations[-1] = self._operations[-1]._replace(call=call._replace(plain=True))
            number = self._append(node, self._stage(scaling), (Value(number),), {})
        self._numbers[node] = number
        if isinstance(replaced, fx.Node):
            self._numbers[replaced] = number  # from here on it is the result

    def _append(
        self, node: fx.Node, call: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> int:
        number = len(self._examples)
        example = self._traced.values[node]
        inputs = dict.fromkeys(value.number for value in values_in((arguments, options)))
        self._operations.append(
            Operation(
                number,
                call,
                arguments,
                options,
                tuple(inputs),
                elementwise=is_elementwise(call),
                makes_tensor=isinstance(example[0], Tensor),
            )
        )
        self._examples.append(example)
        return number

    def _one_to_one(self, call: Any, node: fx.Node) -> Stage | None:
        """The synapse that a product with, or a sum of, one learned parameter is."""
        name = name_of(call)
        if name not in {"add", "mul"} or node.kwargs or len(node.args) != 2:
            return None
        for own, other in (node.args, node.args[::-1]):
            attribute = self._parameter(other)
            if attribute is None or not attribute.parameter or not isinstance(own, fx.Node):
                continue
            parameter = getattr(attribute.module, attribute.name)
            before, after = self._traced.values[own][1], self._traced.values[node][1]
            if not (parameter.requires_grad and isinstance(before, Tensor)):
                continue
            if before.shape != after.shape or not before.is_floating_point():
                continue
            lender = Lender(attribute.module, attribute.name)
            scale, shift = (lender, None) if name == "mul" else (None, lender)
            role = "weight" if name == "mul" else "bias"
            module = Diagonal(scale, shift, channels=False)
            part = Part(attribute.parameter, module, ((role, attribute.parameter),))
            return self._stage(part)
        return None

    def _of_any_number(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments of a reshaping, with −1 for the number of samples.

        It is the same, and says it for any number where a trace takes numbers as they are.
        """
        tensor, *sizes = arguments
        listed = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
        given: list[Any] = [*sizes[0]] if listed else sizes
        counting = [i for i, size in enumerate(given) if self._counts_samples(size)]
        if len(counting) != 1 or -1 in given:
            return arguments
        given[counting[0]] = -1
        return (tensor, tuple(given)) if listed else (tensor, *given)

    def _counts_samples(self, size: Any) -> bool:
        if not isinstance(size, Value):
            return False
        first, second = self._examples[size.number]
        return isinstance(first, int) and first != second

    def _converted(self, structure: Any) -> Any:
        """With values for nodes."""
        return _plain(map_arg(structure, lambda node: Value(self._numbers[node])))

    def _attribute(self, target: str) -> Attribute | Constant:
        if target in self._traced.constants:
            return Constant(self._traced.constants[target])
        path, _, name = target.rpartition(".")
        module = self._model.get_submodule(path)
        parameter = self._parameters.get(id(getattr(module, name)), "")
        return Attribute(module, name, parameter)

    def _module(self, name: str) -> Part | Stage:
        module = self._model.get_submodule(name)
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        own = tuple((n, self._parameters[id(p)]) for n, p in module.named_parameters())
        part = Part(name, module, own, alteration(module), call)
        return self._stage(part) if isinstance(module, ALL_SYNAPSES) else part

    def _method(self, name: str, node: fx.Node) -> tuple[Method, Any]:
        if not name.endswith("_") or name.endswith("__"):
            return Method(name), None
        if not hasattr(Tensor, name[:-1]):
            raise UntraceableError(
                f"{name} writes over a tensor, and has no form that makes a new one: passes of a "
                "step share tensors. Write the model without it"
            )
        return Method(name[:-1]), node.args[0]

    def _function(
        self, target: Any, node: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
        if target in DROPOUT_FUNCTIONS:
            return self._dropout(target, node, arguments, options)
        if target in _FUNCTIONAL:
            stage = self._functional(_FUNCTIONAL[target], node)
            if stage is not None:
                entering = arguments[0] if arguments else options["input"]
                return stage, (entering,), {}, None
        if target is functional.multi_head_attention_forward:
            raise UntraceableError(
                "multi_head_attention_forward(…) has synapses inside, where no rule can teach "
                "them: use nn.MultiheadAttention"
            )
        if "out" in options:
            raise UntraceableError(
                f"{name_of(Function(target))}(out=…) writes over a tensor: leave it"
            )
        name = getattr(target, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name not in _LOGIC:
            home = functional if hasattr(functional, name[:-1]) else torch
            if not hasattr(home, name[:-1]):
                raise UntraceableError(f"{name} writes over a tensor: write the model without it")
            return Function(getattr(home, name[:-1])), arguments, options, node.args[0]
        try:
            bound = inspect.signature(target).bind(*arguments, **options)
        except (TypeError, ValueError):
            return Function(target), arguments, options, None
        if bound.arguments.get("inplace") is True:
            bound.arguments["inplace"] = False
            return Function(target), bound.args, bound.kwargs, node.args[0]
        return Function(target), arguments, options, None

    def _dropout(
        self, target: Any, node: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
        names = ("input", "p", "train" if target is torch.dropout else "training", "inplace")
        given = dict(zip(names, arguments, strict=False)) | options
        p, training = given.get("p", 0.5), given.get(names[2], True)
        if isinstance(p, Value) or isinstance(training, Value):
            raise UntraceableError("dropout must have a fixed probability")
        module = DROPOUT_FUNCTIONS[target](p)
        module.training = bool(training)
        replaced = node.args[0] if given.get("inplace") else None
        return Part(f"{node.name}()", module), (given["input"],), {}, replaced

    def _functional(self, kind: type[nn.Module], node: fx.Node) -> Stage | None:
        """The synapse that a function is; None if its weight is no parameter."""
        transposed = kind.__name__.startswith("ConvTranspose")
        rest = _TRANSPOSED if transposed else _CONVOLUTION
        names = ("input", "weight", "bias", *(rest if kind is not nn.Linear else ()))
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        weight, bias = (self._parameter(given.get(name)) for name in ("weight", "bias"))
        where = f"{name_of(Function(cast(Any, node.target)))} of {self._scope(node)}"
        if not isinstance(weight, Attribute) or not weight.parameter:
            if isinstance(given["weight"], fx.Node) and self._is_learned(given["weight"]):
                raise UntraceableError(
                    f"the weight of {where} is computed from parameters, so its local update is "
                    "not known: make it a parameter of its own"
                )
            return None
        if given.get("bias") is not None and not isinstance(bias, Attribute):
            raise UntraceableError(
                f"the bias of {where} is computed: make it a parameter or a buffer"
            )
        settings = {name: given[name] for name in rest if name in given}
        if any(isinstance(value, fx.Node) for value in settings.values()):
            raise UntraceableError(f"{where} must have fixed settings")
        module = borrowed(kind, weight, bias, settings)
        own = [("weight", weight.parameter)]
        if bias is not None and bias.parameter:
            own.append(("bias", bias.parameter))
        name = weight.parameter.removesuffix(".weight")
        return self._stage(Part(name, module, tuple(own)))

    def _parameter(self, node: Any) -> Attribute | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        call = self._attribute(str(node.target))
        return call if isinstance(call, Attribute) else None

    def _is_parameter(self, node: Any) -> bool:
        attribute = self._parameter(node)
        return attribute is not None and bool(attribute.parameter)

    def _is_learned(self, node: fx.Node) -> bool:
        """Whether a value depends on a parameter."""
        left, seen = [node], set[fx.Node]()
        while left:
            one = left.pop()
            if one in seen:
                continue
            seen.add(one)
            attribute = self._parameter(one)
            if attribute is not None and attribute.parameter:
                return True
            left += one.all_input_nodes
        return False

    def _scope(self, node: fx.Node) -> str:
        stack = cast(dict[str, tuple[str, Any]], node.meta.get("nn_module_stack") or {})
        names = [name for name, _ in stack.values()]
        return repr(names[-1]) if names and names[-1] else "the model"

    def _stage(self, part: Part) -> Stage:
        own = {name: getattr(part.module, name) for name, _ in part.parameters}
        trained = frozenset(
            name for name, p in own.items() if name in ("weight", "bias") and p.requires_grad
        )
        return Stage(part, (), (), trained, 0, False, False, 0, 0)


def _plain(structure: Any) -> Any:
    """Without the immutable collections of ``torch.fx``, and named tuples as they are."""
    if isinstance(structure, tuple) and type(cast(object, structure)) is not tuple:
        return cast(object, structure)  # a Value, or another named tuple
    if isinstance(structure, dict):
        return {name: _plain(part) for name, part in cast(dict[str, Any], structure).items()}
    if isinstance(structure, tuple):
        return tuple(map(_plain, cast(tuple[Any, ...], structure)))
    if isinstance(structure, list):
        return list(map(_plain, cast(list[Any], structure)))
    if isinstance(structure, slice):
        return slice(*map(_plain, ends_of(structure)))
    return structure


def _scaling_of(part: Part) -> Part | None:
    """Scale and shift of a norm as a synapse of its own; None if there is nothing to learn."""
    module = part.module
    own = dict(part.parameters)
    if not isinstance(module, WITH_PARAMETERS) or part.altered or not own:
        return None
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return None
    scale, shift = (Lender(module, n) if n in own else None for n in ("weight", "bias"))
    diagonal = Diagonal(scale, shift, channels=has_channels(module))
    return Part(part.name, diagonal, part.parameters)


def _module_for(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> nn.Module | None:
    """The module that does what a function does; None if there is none."""
    if name not in _MODULES or not arguments or not isinstance(arguments[0], Value):
        return None
    kind, names = _MODULES[name]
    given = dict(zip(names, arguments[1:], strict=False)) | options
    known = len(arguments) - 1 <= len(names) and not given.keys() - {*names}
    if not known or any(isinstance(value, Value) for value in given.values()):
        return None
    return cast(Any, kind)(**given)


class Borrowed(nn.Module):
    """A synapse whose weight and bias are another module's, under other names."""

    lenders: tuple[Attribute, Attribute | None]

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the lender."""
        return cast(Tensor, getattr(self.lenders[0].module, self.lenders[0].name))

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the lender, if there is any."""
        lender = self.lenders[1]
        return None if lender is None else cast(Tensor, getattr(lender.module, lender.name))


class BorrowedLinear(Borrowed, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.linear``."""


class BorrowedConv1d(Borrowed, nn.Conv1d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv1d``."""


class BorrowedConv2d(Borrowed, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv2d``."""


class BorrowedConv3d(Borrowed, nn.Conv3d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv3d``."""


class BorrowedConvTranspose1d(Borrowed, nn.ConvTranspose1d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv_transpose1d``."""


class BorrowedConvTranspose2d(Borrowed, nn.ConvTranspose2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv_transpose2d``."""


class BorrowedConvTranspose3d(Borrowed, nn.ConvTranspose3d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``functional.conv_transpose3d``."""


_BORROWED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: BorrowedLinear,
    nn.Conv1d: BorrowedConv1d,
    nn.Conv2d: BorrowedConv2d,
    nn.Conv3d: BorrowedConv3d,
    nn.ConvTranspose1d: BorrowedConvTranspose1d,
    nn.ConvTranspose2d: BorrowedConvTranspose2d,
    nn.ConvTranspose3d: BorrowedConvTranspose3d,
}


def borrowed(
    kind: type[nn.Module], weight: Attribute, bias: Attribute | None, settings: dict[str, Any]
) -> nn.Module:
    """A synapse of torch's with the weight and bias of other modules."""
    shape = cast(Tensor, getattr(weight.module, weight.name)).shape
    made: Any = kind
    if kind is nn.Linear:
        module = made(shape[1], shape[0], bias=False, device="meta")
    else:
        groups = settings.get("groups", 1)
        transposed = kind.__name__.startswith("ConvTranspose")
        inputs, outputs = (
            (shape[0], shape[1] * groups)
            if transposed
            else (
                shape[1] * groups,
                shape[0],
            )
        )
        module = made(inputs, outputs, tuple(shape[2:]), **settings, bias=False, device="meta")
    cast(dict[str, Any], vars(module)["_parameters"]).clear()
    module.__class__ = _BORROWED[kind]
    module.lenders = (weight, bias)
    return cast(nn.Module, module)
