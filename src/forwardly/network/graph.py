"""A model that is no chain of modules: its operations, and where its synapses and units are.

    synapse    each call of a linear layer or convolution whose weight is a parameter
    a₀         the last value that every path from x to a synapse passes: its dominator
    z_l        the pre-activation of synapse l; where pre-activations are added up before anything
               else happens to them, as in tanh(W x + U h), their sum: those units are one
    h_l        from z_l on through elementwise operations and norms that depend on z_l alone and
               keep its shape, to the last that every path from z_l to the output passes: its
               post-dominator. So ``z * sigmoid(z)`` is one activation, and h_l ends where another
               pathway joins.

Operations are plain data, in the order in which they run; each says which values nothing needs
after it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from forwardly.network.diagonal import Diagonal
from forwardly.network.kinds import (
    ACTIVATIONS,
    ALL_ACTIVATIONS,
    ALL_DROPOUTS,
    ALL_NORMS,
    RESHAPES,
    UntraceableError,
)
from forwardly.network.stage import Part, Stage
from forwardly.network.trace import SAMPLES


class Value(NamedTuple):
    """What an operation made, in the arguments of another; x is number 0."""

    number: int


class Attribute(NamedTuple):
    """A tensor that a module has.

    Attributes:
        module: which.
        name: of the attribute.
        parameter: its name in the model, if it is a parameter; else empty.
    """

    module: nn.Module
    name: str
    parameter: str


class Constant(NamedTuple):
    """A tensor that forward makes of nothing."""

    tensor: Tensor


class Function(NamedTuple):
    """A function of torch's or the operators."""

    function: Callable[..., Any]

    def __reduce__(self) -> Any:
        """By name, as torch wraps some of its functions in others that pickle does not find."""
        name = name_of(self)
        for home in (functional, torch):
            if getattr(home, name, None) is self.function:
                return _function, (home.__name__, name)
        return Function, (self.function,)


def _function(home: str, name: str) -> Function:
    return Function(getattr(importlib.import_module(home), name))


class Method(NamedTuple):
    """A method of a tensor."""

    name: str


class Operation(NamedTuple):
    """One step of a pass.

    Attributes:
        number: of the value that it makes.
        call: what it is: a synapse, a module, a function, …
        arguments: numbers, ``Value``s, and tuples, lists, dicts and slices of these.
        options: likewise, by name.
        inputs: numbers of the values that these name.
        done: numbers of the values that nothing needs after it.
        elementwise: whether it does the same to each element of its inputs.
        makes_tensor: whether it makes one tensor, not several or none.
    """

    number: int
    call: Stage | Part | Attribute | Constant | Function | Method
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    inputs: tuple[int, ...]
    done: tuple[int, ...] = ()
    elementwise: bool = False
    makes_tensor: bool = True


class Site(NamedTuple):
    """Where a synapse and its units are.

    Attributes:
        pre: number of the value that enters the synapse.
        synapse: of what comes out of it.
        z: of its units' pre-activation: the same, or the sum that it is part of.
        h: of their activity.
        region: the operations from z to h.
        by_sample: whether z counts samples in its first dimension.
        is_readout: whether no other synapse lies between it and the output.
    """

    pre: int
    synapse: int
    z: int
    h: int
    region: tuple[Operation, ...]
    by_sample: bool
    is_readout: bool = False


class Graph(NamedTuple):
    """A model's forward pass.

    Attributes:
        preparation: operations that do not depend on a₀, but on x; and what they need.
        body: the others.
        a_0: number of the prepared input.
        output: of the output.
        around: of what goes from the preparation to the body beside a₀.
        sites: one a synapse, in the order of stages.
        taught: values that depend on a synapse, through which signals go back.
        moved: values that depend on a₀, through which its tangents go.
        shown: numbers of the stages (from 0) whose units are known after an operation, by its
            number; none before that of an earlier stage is.
        shape: of x without the batch, where the operations are for this one alone.
        not_by_sample: keys of the dropouts before which samples are not the first dimension.
    """

    preparation: tuple[Operation, ...]
    body: tuple[Operation, ...]
    a_0: int
    output: int
    around: tuple[int, ...]
    sites: tuple[Site, ...]
    taught: frozenset[int]
    moved: frozenset[int]
    shown: dict[int, tuple[int, ...]]
    shape: tuple[int, ...] | None
    not_by_sample: tuple[str, ...]


def ends_of(given: Any) -> tuple[Any, Any, Any]:
    """Start, stop and step of a slice."""
    return given.start, given.stop, given.step


def values_in(structure: Any) -> Iterator[Value]:
    """All values in arguments."""
    if isinstance(structure, Value):
        yield structure
    elif isinstance(structure, dict):
        for part in cast(dict[str, Any], structure).values():
            yield from values_in(part)
    elif isinstance(structure, (tuple, list)):
        for part in cast(list[Any], structure):
            yield from values_in(part)
    elif isinstance(structure, slice):
        yield from values_in(ends_of(structure))


def filled(structure: Any, values: Callable[[int], Any]) -> Any:
    """Arguments with what is behind their values."""
    if isinstance(structure, Value):
        return values(structure.number)
    if isinstance(structure, dict):
        given = cast(dict[str, Any], structure)
        return {name: filled(part, values) for name, part in given.items()}
    if isinstance(structure, list):
        return [filled(part, values) for part in cast(list[Any], structure)]
    if isinstance(structure, tuple):
        return tuple([filled(part, values) for part in cast(tuple[Any, ...], structure)])
    if isinstance(structure, slice):
        return slice(*[filled(part, values) for part in ends_of(structure)])
    return structure


def name_of(call: Any) -> str:
    """What an operation is called, whether as a function, a method or in place."""
    if isinstance(call, Function):
        name = getattr(call.function, "__name__", str(call.function))
        in_place = name[:1] == "i" and name[1:] in {"add", "sub", "mul", "truediv"}
        return name[1:] if in_place else name.rstrip("_")
    return call.name.rstrip("_") if isinstance(call, Method) else ""


ELEMENTWISE = {
    *("relu", "relu6", "gelu", "silu", "mish", "tanh", "sigmoid", "hardtanh", "hardswish", "elu"),
    *("hardsigmoid", "celu", "selu", "leaky_relu", "prelu", "softplus", "softsign", "softshrink"),
    *("hardshrink", "tanhshrink", "threshold", "logsigmoid", "add", "sub", "mul", "div", "neg"),
    *("truediv", "pow", "square", "sqrt", "rsqrt", "exp", "exp2", "log", "log1p", "expm1", "sin"),
    *("cos", "abs", "clamp", "clamp_min", "clamp_max", "clip", "maximum", "minimum", "erf"),
    *("where", "reciprocal", "sign", "tan", "atan", "sinh", "cosh", "lerp", "true_divide"),
    *("gt", "lt", "ge", "le", "eq", "ne", "subtract", "multiply", "divide", "negative", "rsub"),
    *("contiguous", "clone", "to", "type_as", "float", "double", "masked_fill", "logit", "sinc"),
}
"""Names of functions and methods that do the same to each element."""
_NORMS = {
    *("softmax", "log_softmax", "layer_norm", "group_norm", "rms_norm", "normalize", "softmin"),
    *("instance_norm", "local_response_norm", "mean", "var", "std", "sum", "norm", "vector_norm"),
    *("amax", "amin", "logsumexp", "rsqrt", "var_mean", "std_mean", "getitem"),
}
"""And of what norms are made of: they depend on other units of the same layer."""
_RESHAPES = {
    *("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"),
    *("ravel", "view_as", "reshape_as"),
}


def is_elementwise(call: Any) -> bool:
    """``Operation.elementwise`` of a call."""
    if isinstance(call, Stage):
        return isinstance(call.part.module, Diagonal)
    if isinstance(call, Part):
        return isinstance(call.module, (*ACTIVATIONS, *ALL_DROPOUTS))
    return name_of(call) in ELEMENTWISE


def _keeps_units(operation: Operation) -> bool:
    """Whether unit i of its output is unit i of its input."""
    call = operation.call
    if isinstance(call, Stage):
        return isinstance(call.part.module, Diagonal)
    if isinstance(call, Part):
        kinds = (*ALL_ACTIVATIONS, *ALL_NORMS, *ALL_DROPOUTS)
        return isinstance(call.module, kinds)
    return name_of(call) in ELEMENTWISE | _NORMS


def _reshapes(operation: Operation) -> bool:
    call = operation.call
    if isinstance(call, Part):
        return isinstance(call.module, (*RESHAPES, nn.Identity))
    return name_of(call) in _RESHAPES


class Analysis:
    """Finds a₀, sites and readouts in a list of operations.

    Args:
        operations: of the whole pass, in order, in which stages are those without their places.
        output: number of the output.
        examples: of every value, for both numbers of samples.
    """

    def __init__(
        self, operations: list[Operation], output: int, examples: list[tuple[Any, Any]]
    ) -> None:
        self.output = output
        self._examples = examples
        needed = {output}
        for operation in reversed(operations):
            if operation.number in needed:
                needed.update(operation.inputs)
        self.operations = [op for op in operations if op.number in needed]
        self._made_by = {op.number: op for op in self.operations}
        self.synapses = [op for op in self.operations if _is_synapse(op)]
        self._consumers: dict[int, list[Operation]] = {}
        for op in self.operations:
            for number in op.inputs if self._is_tensor(op.number) else ():
                if self._is_tensor(number):
                    self._consumers.setdefault(number, []).append(op)
        self._of_x = self._descendants({0}, lambda _: True)

    def prepared_input(self) -> int:
        """The number of a₀."""
        roots = self._roots()
        reached = self._descendants(roots, self._is_floating)
        dominators: dict[int, set[int]] = {root: {root} for root in roots}
        for op in self.operations:
            if op.number in reached and op.number not in roots:
                before = [dominators[number] for number in op.inputs if number in reached]
                dominators[op.number] = set[int].intersection(*before) | {op.number}
        for op in self.synapses:
            (pre,) = op.inputs
            if pre not in reached:
                raise UntraceableError(
                    f"what enters the synapse {_stage(op).name!r} does not depend on the samples, "
                    "so no rule can teach it: make it a buffer that is computed once"
                )
        entered = [dominators[op.inputs[0]] for op in self.synapses]
        common = [number for number in set[int].intersection(*entered) if self.by_sample(number)]
        if not common:
            raise UntraceableError(
                "there is no value of floating-point numbers, one row a sample, that every path "
                "from x to a synapse passes, so nothing that an error could be added to: join the "
                "inputs before the first synapse"
            )
        return max(common)

    def taught(self, a_0: int) -> list[Operation]:
        """The synapses, and those from each unit to itself that a₀ reaches, in order."""
        behind = self.behind({a_0})
        return [
            op
            for op in self.operations
            if _is_synapse(op) or (isinstance(op.call, Stage) and op.inputs[0] in behind)
        ]

    def sites(self, a_0: int) -> list[Site]:
        """One for each of the ``taught``."""
        found: list[Site] = []
        for op in self.taught(a_0):
            site = self._site(op)
            behind = self._descendants({op.number}, lambda _: True)
            if not any(other.inputs[0] in behind for other in self.synapses if other is not op):
                self._check_readout(site, behind, _stage(op).name)
                site = site._replace(is_readout=True)
            found.append(site)
        return found

    def behind(self, roots: set[int]) -> frozenset[int]:
        """Values of floating-point numbers that depend on others."""
        return frozenset(self._descendants(roots, self._is_floating))

    def split(self, a_0: int) -> tuple[list[Operation], list[Operation], tuple[int, ...]]:
        """Preparation, body, and what goes from the one to the other beside a₀."""
        behind = self._descendants({a_0}, lambda _: True)
        constant = {op.number for op in self.operations} - self._of_x
        body = [
            op
            for op in self.operations
            if op.number != a_0 and (op.number in behind or op.number in constant)
        ]
        made = {op.number for op in body}
        taken = {number for op in body for number in op.inputs} | {self.output}
        around = taken - made - {a_0}
        needed = around | {a_0}
        preparation: list[Operation] = []
        for op in reversed(self.operations):
            if op.number in needed and (op.number not in behind or op.number == a_0):
                preparation.insert(0, op)
                needed.update(op.inputs)
        return preparation, body, tuple(sorted(around))

    def _roots(self) -> set[int]:
        if self._is_floating(0):
            return {0}
        made = [op for op in self.operations if op.number in self._of_x]
        born = [
            op
            for op in made
            if self._is_floating(op.number)
            and not any(self._is_floating(n) and n in self._of_x for n in op.inputs)
        ]
        embedded = [op for op in born if _is_embedding(op)]
        return {op.number for op in embedded or born}

    def _site(self, op: Operation) -> Site:
        pre, z = op.inputs[0], op.number
        while True:
            consumers = self._consumers.get(z, [])
            if len(consumers) != 1 or not self._is_sum(consumers[0]):
                break
            z = consumers[0].number
        alone = {z}
        region = [z]
        for other in self.operations:
            mine = [n for n in other.inputs if n in self._of_x and self._is_tensor(n)]
            if mine and alone.issuperset(mine) and _keeps_units(other) and other.number != z:
                alone.add(other.number)
                region.append(other.number)
        shape = self._shape(z)
        ends = (
            number
            for number in reversed(region)
            if self._is_tensor(number)
            and self._shape(number) == shape
            and self._passed_by_all(z, number)
        )
        h = next(ends)
        needed = {h}
        path: list[Operation] = []
        for number in reversed(region):
            if number in needed and number != z:
                path.insert(0, self._made_by[number])
                needed.update(self._made_by[number].inputs)
        inside = {op.number for op in path}
        constants = needed - inside - {z}
        path = [op for op in self.operations if op.number in inside | self._all_of(constants)]
        return Site(pre, op.number, z, h, tuple(path), self.by_sample(op.number))

    def _all_of(self, numbers: set[int]) -> set[int]:
        """Those, and all that they are made of, none of which depends on x."""
        needed = set(numbers)
        for op in reversed(self.operations):
            if op.number in needed:
                needed.update(op.inputs)
        return needed - self._of_x

    def _is_sum(self, op: Operation) -> bool:
        """Whether it adds up pre-activations, or adds what does not depend on x to one."""
        if isinstance(op.call, Stage):
            module = op.call.part.module
            shifts = isinstance(module, Diagonal) and module.weight is None
            return shifts and self._is_pre_activation(op.inputs[0])
        if name_of(op.call) != "add" or op.options or len(op.arguments) != 2:
            return False
        shape = self._shape(op.number)
        mine = [n for n in op.inputs if n in self._of_x]
        return bool(mine) and all(
            self._is_pre_activation(n) and self._shape(n) == shape for n in mine
        )

    def _is_pre_activation(self, number: int) -> bool:
        op = self._made_by.get(number)
        if op is None or len(self._consumers.get(number, [])) != 1:
            return False
        return _is_synapse(op) or self._is_sum(op)

    def _passed_by_all(self, start: int, gate: int) -> bool:
        """Whether every path from a value to the output passes another."""
        if start == gate:
            return True
        seen, left = {start}, [start]
        while left:
            number = left.pop()
            if number == self.output:
                return False
            for op in self._consumers.get(number, []):
                if op.number != gate and op.number not in seen:
                    seen.add(op.number)
                    left.append(op.number)
        return True

    def _check_readout(self, site: Site, behind: set[int], name: str) -> None:
        """Refuse what mixes units between the last synapse and the output."""
        inside = {op.number for op in site.region}
        after = self._descendants({site.z}, lambda _: True)
        for op in self.operations:
            if op.number not in behind or op.number in {site.synapse, site.z}:
                continue
            if not (self._is_tensor(op.number) and op.number in after) or op.number in inside:
                continue
            joins = name_of(op.call) == "add" and not op.options
            if not (joins or _reshapes(op) or (op.elementwise and self._alone(op, after))):
                raise UntraceableError(
                    f"{described(op)} follows the last synapse, {name!r}, whose units must be the "
                    "model's outputs, one error each: only elementwise operations, reshaping and "
                    "sums may follow it. End the model with nn.Linear"
                )
        if self._shape(site.z).numel() != self._shape(self.output).numel():
            raise UntraceableError(
                f"the last synapse, {name!r}, makes {tuple(self._shape(site.z))} of {SAMPLES[1]} "
                f"samples and the model {tuple(self._shape(self.output))}, and they must have one "
                "error each: end the model with nn.Linear"
            )

    def _alone(self, op: Operation, allowed: set[int]) -> bool:
        return all(n in allowed for n in op.inputs if n in self._of_x and self._is_tensor(n))

    def _descendants(self, roots: set[int], through: Callable[[int], bool]) -> set[int]:
        found = set(roots)
        for op in self.operations:
            if through(op.number) and not found.isdisjoint(op.inputs):
                found.add(op.number)
        return found

    def _is_tensor(self, number: int) -> bool:
        return bool(_tensors(self._examples[number][0]))

    def _is_floating(self, number: int) -> bool:
        return any(tensor.is_floating_point() for tensor in _tensors(self._examples[number][0]))

    def _shape(self, number: int) -> torch.Size:
        example = self._examples[number][1]
        return example.shape if isinstance(example, Tensor) else torch.Size()

    def by_sample(self, number: int) -> bool:
        """Whether a value has a row for each sample."""
        pair = self._examples[number]
        return all(
            isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == n
            for value, n in zip(pair, SAMPLES, strict=True)
        )


def depths(graph: Graph) -> dict[int, int]:
    """The most synapses that a way from a₀ to each value passes."""
    found = {graph.a_0: 0}
    for op in graph.body:
        before = max((found.get(number, 0) for number in op.inputs), default=0)
        found[op.number] = before + _is_synapse(op)
    return found


def with_liveness(
    operations: Iterable[Operation], kept: Iterable[int], shown: dict[int, set[int]]
) -> tuple[Operation, ...]:
    """Operations that say what is done with after them.

    Args:
        operations: in order.
        kept: numbers of values that are needed after all of them.
        shown: numbers of values that are needed until an operation has run, by its number.
    """
    needed = set(kept)
    done: list[Operation] = []
    for op in reversed([*operations]):
        used = {*op.inputs, op.number, *shown.get(op.number, ())}
        done.append(op._replace(done=tuple(sorted(used - needed))))
        needed |= used
        needed.discard(op.number)
    return tuple(reversed(done))


def _is_synapse(op: Operation) -> bool:
    """Whether it is a synapse between different units."""
    return isinstance(op.call, Stage) and not isinstance(op.call.part.module, Diagonal)


def _stage(op: Operation) -> Stage:
    return cast(Stage, op.call)


def _tensors(example: Any) -> list[Tensor]:
    if isinstance(example, Tensor):
        return [example]
    return [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]


def _is_embedding(op: Operation) -> bool:
    if isinstance(op.call, Part):
        return isinstance(op.call.module, (nn.Embedding, nn.EmbeddingBag))
    return name_of(op.call) in {"embedding", "embedding_bag"}


def described(operation: Operation) -> str:
    """What an operation is called in messages."""
    call = operation.call
    if isinstance(call, Stage):
        return f"{call.synapse} ({call.name!r})"
    if isinstance(call, Part):
        return f"{call.module} ({call.name!r})"
    return f"{name_of(call)}(…)"


def changes_values(operation: Operation) -> bool:
    """Whether it is more than a copy, or a tensor that others add."""
    call = operation.call
    if isinstance(call, Part):
        return not isinstance(call.module, (nn.Identity, *ALL_DROPOUTS))
    unchanging = {"add", "contiguous", "clone", "to", "float", "double", "type_as", ""}
    return name_of(call) not in unchanging
