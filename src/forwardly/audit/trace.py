"""A rule's training step as a graph of tensor operations, with the line that each comes from.

The graph has the rule's state (parameters and buffers), x and the target as inputs, and is made of
ATen operations without mutations. Nothing is asked of the rule but to be called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call, functionalize
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from forwardly.network.diagonal import Diagonal
from forwardly.network.graph import depths
from forwardly.network.kinds import TRANSPOSED
from forwardly.network.stage import Part
from forwardly.rule import Rule

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Traced:
    """The graph, and what its inputs and outputs are.

    Attributes:
        graph: nodes have their value's shape in ``meta["val"]`` and their line in ``meta["line"]``.
        state: the input of each parameter and buffer, by its name in the rule.
        x: the input of the samples.
        target: the input of the targets.
        updates: the result for each parameter, by its name in the model.
        error: the result ``Credit.error``.
        layers: parameters and buffers of each layer, by their names in the rule. Counted from 1, in
            a graph by the longest way from a₀; all readouts are in the last.
        macs: multiply–accumulate operations of one run.
        weights: inputs that are a layer's weight, or have the same values as it or its transpose:
            (layer, whether transposed) of each.
    """

    graph: Graph
    state: Mapping[str, Node]
    x: Node
    target: Node
    updates: Mapping[str, Node]
    error: Node
    layers: Mapping[int, tuple[str, ...]]
    macs: int
    weights: Mapping[Node, tuple[int, bool]]

    def synapses(self, layer: int) -> list[Node]:
        """The inputs that are a layer's weights."""
        names = self.layers[layer]
        found = [self.state[name] for name in names if self.state[name] in self.weights]
        return [node for node in found if self.weights[node][0] == layer]


def trace(rule: Rule, x: Tensor, target: Tensor) -> Traced:
    """Trace one call of a rule.

    Raises:
        TypeError, ValueError: what the rule raises for the batch.
    """
    rule.check_batch(x, target)
    state: dict[str, Tensor] = {
        name: value.detach() for name, value in (*rule.named_parameters(), *rule.named_buffers())
    }
    names = list(state)
    update_names: list[str] = []

    def step(values: list[Tensor], x: Tensor, target: Tensor) -> list[Tensor]:
        with _Lines(type(rule)):
            credit = functional_call(rule, dict(zip(names, values, strict=True)), (x, target))
        update_names[:] = credit.updates
        return [*credit.updates.values(), credit.error]

    pure = cast(Callable[..., list[Tensor]], functionalize(step, remove="mutations"))
    module = make_fx(pure)(list(state.values()), x, target)
    with FlopCounterMode(display=False) as counter:
        module(list(state.values()), x, target)
    graph = module.graph
    graph.eliminate_dead_code()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in graph.nodes if node.op == "output")
    *updates, error = cast(list[Node], output.args[0])
    by_name = dict(zip(names, inputs[: len(names)], strict=True))
    layers, synapses = _layers(rule), _synapses(rule)
    values = {by_name[name]: value for name, value in state.items()} | {
        node: cast(Tensor, getattr(module, str(node.target)))
        for node in graph.nodes
        if node.op == "get_attr"
    }
    own = {by_name[name]: place for name, place in synapses.items()}
    return Traced(
        graph,
        by_name,
        inputs[-2],
        inputs[-1],
        dict(zip(update_names, updates, strict=True)),
        error,
        layers,
        counter.get_total_flops() // 2,
        _copies({name: state[name] for name in synapses}, synapses, values) | own,
    )


class _Lines(TorchDispatchMode):
    """Records for each new node of the graph the line of the rule that it comes from."""

    def __init__(self, rule: type[Rule]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        own = (kind for kind in rule.__mro__ if issubclass(kind, Rule) and kind is not Rule)
        self._modules = {kind.__module__ for kind in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode: Any = get_proxy_mode()
        nodes = cast(Graph, mode.tracer.graph).nodes
        last = next(iter(reversed(nodes)), None)
        result = func(*args, **(kwargs or {}))
        line = _line(self._modules)
        for node in takewhile(lambda node: node is not last, reversed(nodes)):
            node.meta.setdefault("line", line)
        return result


def _line(modules: set[str]) -> str:
    """The innermost line of these modules, as "file:line in function"; if none, outside torch."""
    outside = ""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE)) and "jaxtyping" not in file:
            line = f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_qualname}"
            if frame.f_globals.get("__name__") in modules:
                return line
            outside = outside or line
        frame = frame.f_back
    return outside


def _layers(rule: Rule) -> dict[int, tuple[str, ...]]:
    """What belongs to each layer: weights, biases, the modules behind its synapses."""
    network = rule.network
    known = dict(rule.named_parameters()) | dict(rule.named_buffers())
    layers: dict[int, list[str]] = {}
    parts = [
        (l, part)
        for l, stage in zip(network.layers(), network.stages, strict=True)
        for part in (stage.part, *stage.elementwise, *stage.reshaping)
    ]
    if network.graph is not None:
        depth = depths(network.graph)
        parts += [
            (max(1, depth[operation.number]), operation.call)
            for operation in network.graph.body
            if isinstance(operation.call, Part)
        ]
    for l, part in parts:
        mine = layers.setdefault(l, [])
        mine += [f"model.{name}" for _, name in part.parameters]
        mine += [name for name in known if name.startswith(f"model.{part.name}.")]
    return {l: tuple(dict.fromkeys(names)) for l, names in sorted(layers.items())}


def _synapses(rule: Rule) -> dict[str, tuple[int, bool]]:
    """The layer of each weight, and whether its first index is that of its inputs."""
    found: dict[str, tuple[int, bool]] = {}
    for stage, l in zip(rule.network.stages, rule.network.layers(), strict=True):
        if not isinstance(stage.part.module, Diagonal):
            name = f"model.{stage.parameter('weight')}"
            found[name] = l, isinstance(stage.part.module, TRANSPOSED)
    return found


def _copies(
    weights: Mapping[str, Tensor],
    places: Mapping[str, tuple[int, bool]],
    values: Mapping[Node, Tensor],
) -> dict[Node, tuple[int, bool]]:
    """Values that equal a layer's weight or its transpose: (layer, whether transposed)."""
    copies: dict[Node, tuple[int, bool]] = {}
    for name, weight in weights.items():
        l, turned = places[name]
        for transposed, candidate in ((turned, weight), (not turned, weight.transpose(0, 1))):
            for node, value in values.items():
                if value.shape == candidate.shape and value.any() and value.equal(candidate):
                    copies.setdefault(node, (l, transposed))
    return copies
