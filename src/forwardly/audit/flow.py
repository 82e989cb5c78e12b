"""What flows where: a walk over the traced graph, each value from its operation's inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, NamedTuple, cast

from torch.fx import Node
from torch.fx.node import map_arg

from forwardly.audit import ops
from forwardly.audit.trace import Traced


class Product(NamedTuple):
    """A signal carried through a layer's weight, by one operation."""

    node: Node
    layer: int
    direction: Literal["forward", "backward"]
    exact: bool


@dataclass
class Flow:
    """The followed graph.

    Attributes:
        traced: the graph.
        values: what is known of each node's value, in the graph's order.
        products: signals through weights, in the same order.
        feedback: products of a signal with other state, and the names of that state.
    """

    traced: Traced
    values: dict[Node, ops.Value] = field(default_factory=dict[Node, ops.Value])
    products: list[Product] = field(default_factory=list[Product])
    feedback: dict[Node, frozenset[str]] = field(default_factory=dict[Node, frozenset[str]])

    def descendants(self, nodes: set[Node], among: set[Node] | None = None) -> set[Node]:
        """The nodes and what depends on them, by way of ``among`` only."""
        found: set[Node] = set()
        for node in self.values:
            below = not found.isdisjoint(node.all_input_nodes)
            if node in nodes or (below and (among is None or node in among)):
                found.add(node)
        return found


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """The nodes and all that they depend on."""
    found: set[Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def follow(traced: Traced) -> Flow:
    """Follow all values from the inputs to the results."""
    flow = Flow(traced)
    errors = _same_value(traced, traced.error)
    outcomes: set[Node] = set()
    feedback = _feedback_state(traced)
    for node in traced.graph.nodes:
        if node.op == "call_function":
            value = _apply(flow, node)
        elif node.op != "output":
            is_target = node is traced.target
            value = ops.Value(
                _shape(node), signal=is_target or node is traced.x, broadcast=is_target
            )
            if node in traced.weights:
                value = ops.weight(_shape(node), *traced.weights[node])
        else:
            continue
        if value.broadcast and any(_made_of_weights(flow, one) for one in node.all_input_nodes):
            value = replace(value, broadcast=False)  # scaled by a number that is
        if _is_outcome(flow, node, value, outcomes):
            outcomes.add(node)
        told = node in errors or (node in outcomes and _is_verdict(flow, node))
        flow.values[node] = replace(value, broadcast=True) if told else value
        flow.products += [Product(node, *crossing) for crossing in value.crossings]
        names = (feedback.get(source, ()) for source in node.all_input_nodes)
        state = frozenset[str]().union(*names)
        if state and value.signal:
            flow.feedback[node] = state
    return flow


def _apply(flow: Flow, node: Node) -> ops.Value:
    inputs: list[ops.Value] = []

    def value_of(argument: Node) -> Any:
        inputs.append(flow.values[argument])
        return inputs[-1]

    args, kwargs = cast(Any, map_arg((node.args, node.kwargs), value_of))
    call = ops.Call(ops.packet_of(node.target), tuple(args), kwargs, inputs, _shape(node))
    return ops.transfer(node.target)(call)


def _is_outcome(flow: Flow, node: Node, value: ops.Value, outcomes: set[Node]) -> bool:
    """Whether a signal is an output, of any pass, or is made of outputs and the global signal."""
    if not value.signal or node is flow.traced.x:
        return False
    last = max(flow.traced.layers)
    if any(c.layer == last and c.direction == "forward" for c in value.crossings):
        return True
    return value.broadcast or all(
        source in outcomes if flow.values[source].signal else _is_constant(flow, source)
        for source in node.all_input_nodes
    )


def _made_of_weights(flow: Flow, node: Node) -> bool:
    """Whether a value without a signal has the model's state in it, if only its sum."""
    if flow.values[node].signal:
        return False
    above = ancestors([node])
    return any(name.startswith("model.") and of in above for name, of in flow.traced.state.items())


def _is_constant(flow: Flow, node: Node) -> bool:
    """Whether a value has neither weights nor feedback in it; random numbers are constants."""
    state = {n for n in flow.traced.state.values() if n.meta["val"].is_floating_point()}
    return state.isdisjoint(ancestors([node]))


def _is_verdict(flow: Flow, node: Node) -> bool:
    """Whether an outcome is one number a sample, or a batch, that depends on the global signal.

    Such as the loss, a reward, or what noise did to it.
    """
    samples = _shape(flow.traced.x)[0]
    return prod(_shape(node)) in (1, samples) and any(
        flow.values[source].broadcast for source in ancestors(node.all_input_nodes)
    )


def _feedback_state(traced: Traced) -> dict[Node, frozenset[str]]:
    """Values made of nothing but floating-point state outside the model, and of which."""
    made: dict[Node, frozenset[str]] = {}
    for name, node in traced.state.items():
        if not name.startswith("model.") and node.meta["val"].is_floating_point():
            made[node] = frozenset({name})
    for node in traced.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and made.keys() >= set(inputs):
            made[node] = frozenset[str]().union(*(made[source] for source in inputs))
    return made


def _same_value(traced: Traced, wanted: Node) -> set[Node]:
    """Nodes that compute what ``wanted`` does, or another view of it: by value numbering."""
    first: dict[str, Node] = {}
    same: dict[Node, Node] = {}
    for node in traced.graph.nodes:
        same[node] = node
        if node.op != "call_function":
            continue
        source = node.args[0] if ops.packet_of(node.target) in ops.VIEWS else None
        if isinstance(source, Node) and prod(_shape(source)) == prod(_shape(node)):
            same[node] = same[source]
        else:
            arguments = map_arg((node.args, node.kwargs), same.__getitem__)
            same[node] = first.setdefault(f"{node.target} {arguments}", node)
    return {node for node in same if same[node] is same[wanted]}


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))
