"""Passes through a model that is no chain, operation by operation.

Signals and tangents go through each operation by its own vector–Jacobian or Jacobian–vector
product, so that a synapse can send them through another weight, and what is used up is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from forwardly.checks import check_not_exported, shape_of
from forwardly.network.diagonal import Diagonal
from forwardly.network.graph import (
    Attribute,
    Constant,
    Function,
    Graph,
    Operation,
    described,
    filled,
)
from forwardly.network.kinds import SCALING_NORMS, SUPPORTED
from forwardly.network.stage import Activity, Part, Stage

if TYPE_CHECKING:
    from forwardly.network.step import Step

Parameters = Mapping[str, Tensor] | None


def prepare(step: Step, graph: Graph, x: Tensor, parameters: Parameters) -> Tensor:
    """a₀ of x; what goes around it is noted in the step."""
    if graph.shape is not None and tuple(x.shape[1:]) != graph.shape:
        raise ValueError(
            f"the model was read for samples of shape {graph.shape}, of which its operations "
            f"depend; given is {shape_of(x)}. Build the rule with that input_shape"
        )
    values: dict[int, Any] = {0: x}
    for operation in graph.preparation:
        values[operation.number] = _run(step, operation, values, parameters)
        for number in operation.done:
            del values[number]
    step.around = {number: values[number] for number in graph.around}
    return values[graph.a_0]


def activities(
    step: Step,
    graph: Graph,
    a_0: Tensor,
    parameters: Parameters,
    added: Sequence[Tensor] | None,
    keep: dict[int, Any] | None = None,
) -> Iterator[Activity]:
    """One forward pass; see ``Step.activities``. All values stay in ``keep``, if given."""
    values = {} if keep is None else keep
    values.update(step.around)
    values[graph.a_0] = a_0
    del a_0
    for operation in graph.body:
        made = _run(step, operation, values, parameters)
        if added is not None and isinstance(operation.call, Stage):
            made = made + added[operation.call.l - 1]
        values[operation.number] = made
        del made
        for l in graph.shown.get(operation.number, ()):
            given = [_activity(graph, l, values)]
            yield given.pop()
        if keep is None:
            for number in operation.done:
                del values[number]


def _activity(graph: Graph, l: int, values: Mapping[int, Any]) -> Activity:
    site = graph.sites[l]
    h = values[site.h]
    a = values[graph.output] if l == len(graph.sites) - 1 else h
    return Activity(values[site.pre], values[site.z], h, a)


def tangents(
    step: Step, graph: Graph, a_0: Tensor, tangent: Tensor
) -> Iterator[tuple[Activity, Tensor | None]]:
    """See ``Step.tangents``: values and their tangents, side by side."""
    values: dict[int, Any] = {**step.around, graph.a_0: a_0}
    changes: dict[int, Any] = {graph.a_0: tangent}
    del a_0, tangent
    for operation in graph.body:
        number = operation.number
        inputs = [n for n in operation.inputs if n in changes]
        if inputs and number in graph.moved:
            values[number], changes[number] = _tangent(step, operation, inputs, values, changes)
        else:
            values[number] = _run(step, operation, values, None)
        for l in graph.shown.get(operation.number, ()):
            change = None if graph.sites[l].is_readout else changes[graph.sites[l].h]
            shown = [(_activity(graph, l, values), change)]
            del change
            yield shown.pop()
        for used in operation.done:
            del values[used]
            changes.pop(used, None)


def _tangent(
    step: Step,
    operation: Operation,
    inputs: list[int],
    values: Mapping[int, Any],
    changes: Mapping[int, Any],
) -> tuple[Any, Any]:
    call = operation.call
    a, change = values[inputs[0]], changes[inputs[0]]
    if isinstance(call, Stage):  # a bias moves nothing
        return _run(step, operation, values, None), call.weigh(change)
    if _has_tangent(call):
        return _run(step, operation, values, None), step.tangent_of_part(call, a, change)
    function, primals = _as_function(step, operation, inputs, values)
    along = tuple(part for number in inputs for part in floating(changes[number]))
    with sdpa_kernel(SDPBackend.MATH):  # others have no tangents
        made, change = cast(tuple[Any, tuple[Tensor, ...]], jvp(function, primals, along))
    whole = made[0] if operation.makes_tensor else _run(step, operation, values, None)
    return whole, change[0] if len(change) == 1 else change


def _has_tangent(call: object) -> TypeGuard[Part]:
    """Whether the tangent is known in closed form."""
    return isinstance(call, Part) and isinstance(call.module, SUPPORTED) and not call.plain


def signals(
    step: Step,
    graph: Graph,
    values: Mapping[int, Any],
    e: Tensor,
    weights: Mapping[str, Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """See ``Step.signals``: (stage, counted from 0, and δ), the last first."""
    check_not_exported()
    signals: dict[int, Any] = {graph.output: e.reshape(values[graph.output].shape)}
    left = dict.fromkeys(range(len(graph.sites)))
    for operation in reversed(graph.body):
        signal = signals.pop(operation.number, None)
        if signal is None:
            continue
        if isinstance(operation.call, Stage):
            stage = operation.call
            del left[stage.l - 1]
            yield stage.l - 1, signal
            (pre,) = operation.inputs
            if pre in graph.taught:
                back = stage.send_back(signal, values[pre], _way_back(stage, weights))
                _add(signals, pre, back)
            continue
        inputs = [number for number in operation.inputs if number in graph.taught]
        if not inputs:
            continue
        function, primals = _as_function(step, operation, inputs, values)
        made, pull_back = cast(
            tuple[tuple[Tensor, ...], Callable[[Any], tuple[Tensor, ...]]],
            vjp(function, *primals),
        )
        back = list(pull_back(tuple(floating(signal)) if len(made) > 1 else (signal,)))
        for number in inputs:
            mine = [back.pop(0) for _ in floating(values[number])]
            _add(signals, number, mine[0] if len(mine) == 1 else tuple(mine))
    for stage in left:  # what only decides something, by a mask say
        yield stage, torch.zeros_like(values[graph.sites[stage].synapse])


def _way_back(stage: Stage, weights: Mapping[str, Tensor]) -> Tensor | None:
    """The weight through which a synapse sends signals; from a unit to itself its own."""
    module = stage.part.module
    return module.weight if isinstance(module, Diagonal) else weights[stage.name]


def _add(signals: dict[int, Any], number: int, signal: Any) -> None:
    if number in signals:
        signal = tree_map(torch.add, signals[number], signal)
    signals[number] = signal


def through_region(step: Step, graph: Graph, stage: Stage, z: Tensor, signal: Tensor) -> Tensor:
    """A signal at h_l to z_l; see ``Step.through_elementwise``.

    What is elementwise has a diagonal Jacobian, the same forward as backward: so the signal goes
    with z, as a tangent.
    """
    site = graph.sites[stage.l - 1]
    values: dict[int, Any] = {**step.around, site.z: z}
    changes: dict[int, Any] = {site.z: signal}
    for operation in site.region:
        inputs = [n for n in operation.inputs if n in changes]
        number = operation.number
        if not inputs:
            values[number] = _run(step, operation, values, None)
        elif isinstance(operation.call, Part) and isinstance(operation.call.module, SCALING_NORMS):
            (a,) = inputs
            values[number] = _run(step, operation, values, None)
            part = operation.call
            changes[number] = changes[a] * step.scale_of_norm(part, values[a])
        elif operation.elementwise:
            values[number], changes[number] = _tangent(step, operation, inputs, values, changes)
        else:
            raise TypeError(
                f"what follows the synapse {stage.name!r} has {described(operation)}, whose "
                "derivative is not that of one unit at a time: this rule needs elementwise "
                "operations and norms of torch there"
            )
    return changes[site.h]


def floating(value: Any) -> list[Tensor]:
    """The tensors of floating-point numbers in a value: several, after a split."""
    if isinstance(value, Tensor):
        return [value]
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def _as_function(
    step: Step, operation: Operation, inputs: list[int], values: Mapping[int, Any]
) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """An operation as a function of the floating-point numbers in some of its inputs; and these."""
    leaves, form = tree_flatten([values[number] for number in inputs])
    moving = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and _moves(leaf)]

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        parts = [*leaves]
        for i, part in zip(moving, given, strict=True):
            parts[i] = part
        taken = dict(zip(inputs, tree_unflatten(parts, form), strict=True))
        return tuple(floating(_run(step, operation, {**values, **taken}, None)))

    return function, tuple(leaves[i] for i in moving)


def _moves(leaf: Tensor) -> bool:
    return leaf.is_floating_point()


def _run(
    step: Step, operation: Operation, values: Mapping[int, Any], parameters: Parameters
) -> Any:
    call = operation.call
    if isinstance(call, Attribute):
        if parameters and call.parameter in parameters:
            return parameters[call.parameter]
        return getattr(call.module, call.name)
    if isinstance(call, Constant):
        return call.tensor
    arguments = filled(operation.arguments, values.__getitem__)
    if isinstance(call, Stage):
        call.check_presynaptic(arguments[0])
        return step.through_synapse(call, arguments[0], parameters)
    options = filled(operation.options, values.__getitem__)
    if isinstance(call, Part):
        return step.run_part(call, arguments, options, parameters)
    if isinstance(call, Function):
        return call.function(*arguments, **options)
    return getattr(arguments[0], call.name)(*arguments[1:], **options)
