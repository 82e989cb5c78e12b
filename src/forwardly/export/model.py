"""A graph of torch's core operations as an ONNX model, the same bytes for the same graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from torch import Tensor
from torch.fx import Node

from forwardly.export.graph import Graph, is_symbolic
from forwardly.export.operators import OPERATORS, unknown
from forwardly.export.step import NUMBERS

OPSET = 18
_IR = 9
_KINDS: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
    torch.float64: TensorProto.DOUBLE,
    torch.int32: TensorProto.INT32,
}
_ARRAYS: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.int64: np.int64,
    torch.bool: np.bool_,
    torch.float64: np.float64,
    torch.int32: np.int32,
}
STACKED = ("x", "target", *NUMBERS)
"""Inputs of which each of several steps has its own."""
_SAMPLES = "samples"
"""The name of a batch's dimension."""


def model_of(graph: Graph, inputs: Sequence[str]) -> ModelProto:
    """A model with these inputs, in this order, and the graph's outputs.

    Raises:
        UsageError: if the graph has an operation without a known ONNX form.
    """
    return _model(_Writing(graph).graph("step", inputs))


def steps_of(graph: Graph, inputs: Sequence[str], carried: Mapping[str, str]) -> ModelProto:
    """A model that takes a step for each batch of a stack: ONNX's Scan of the graph.

    What stays the same in all steps is carried along too, as not every runtime lets a body see
    what is around it.

    Args:
        graph: of one step.
        inputs: as for ``model_of``.
        carried: the input that each "new" output is of, in the next step.
    """
    given = [name for name in inputs if name in graph.inputs]
    stacked = [name for name in given if name in STACKED]
    fixed = [name for name in given if name not in (*stacked, *carried.values())]
    moved = [name for name, of in carried.items() if of in given]
    order = [*(carried[name] for name in moved), *fixed, *stacked]
    kept = [name for name in graph.outputs if name not in carried and name != "output"]
    writing = _Writing(graph)
    body = writing.graph("one_step", order)
    results = {value.name: value for value in body.output}
    for name in fixed:
        body.node.append(
            helper.make_node("Identity", [name], [f"{name}.same"], name=f"{name}.same")
        )
        results[f"{name}.same"] = writing.info(f"{name}.same", graph.inputs[name])
    outputs = [*moved, *(f"{name}.same" for name in fixed), *kept]
    del body.output[:]
    body.output.extend(results[name] for name in outputs)
    # Values of the body and of what is around it have names of their own.
    _rename(body, {name: f"step.{name}" for name in (*order, *outputs)})
    scan = helper.make_node(
        "Scan", order, outputs, name="steps", body=body, num_scan_inputs=len(stacked)
    )
    return _model(writing.around("steps", [scan], given, [*moved, *kept], [*stacked, *kept]))


def epochs_of(graph: Graph, inputs: Sequence[str], carried: Mapping[str, str]) -> ModelProto:
    """A model that takes a number of steps, the last input, on one batch: ONNX's Loop of the graph.

    Random numbers are a row for each step; all else that stays the same the body sees around it.

    Args:
        graph: of one step.
        inputs: as for ``model_of``.
        carried: the input that each "new" output is of, in the next step.
    """
    given = [name for name in inputs if name in graph.inputs]
    drawn = [name for name in given if name in NUMBERS]
    moved = [name for name, of in carried.items() if of in given]
    kept = [name for name in graph.outputs if name not in carried and name != "output"]
    writing = _Writing(graph)
    body = writing.graph("one_epoch", given)
    results = {value.name: value for value in body.output}
    rows = [
        helper.make_node("Gather", [name, "epoch"], [f"step.{name}"], name=f"row.{name}", axis=0)
        for name in drawn
    ]
    outputs = [*moved, *kept]
    own = {name: f"step.{name}" for name in (*drawn, *(carried[n] for n in moved), *outputs)}
    _rename(body, own)
    flags = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("on", "still_on")]
    on = helper.make_node("Identity", ["on"], ["still_on"], name="still_on")
    first = [*rows, on, *body.node]
    del body.node[:]
    body.node.extend(first)
    states = {value.name: value for value in body.input}
    del body.input[:], body.output[:]
    count = helper.make_tensor_value_info("epoch", TensorProto.INT64, [])
    body.input.extend([count, flags[0], *(states[own[carried[name]]] for name in moved)])
    body.output.extend([flags[1], *(results[name] for name in outputs)])
    # ONNX's own reference wants the condition, and stacks numbers as columns.
    true, flat = np.array(True), np.array([-1])
    loop = helper.make_node(
        "Loop",
        ["epochs", "true", *(carried[n] for n in moved)],
        [*moved, *(f"stacked.{name}" for name in kept)],
        name="epochs",
        body=body,
    )
    flattened = [
        helper.make_node("Reshape", [f"stacked.{n}", "flat"], [n], name=f"flat.{n}") for n in kept
    ]
    made = writing.around("epochs", [loop, *flattened], given, outputs, [*drawn, *kept])
    made.input.append(helper.make_tensor_value_info("epochs", TensorProto.INT64, []))
    made.initializer.extend(
        [numpy_helper.from_array(true, "true"), numpy_helper.from_array(flat, "flat")]
    )
    return _model(made)


def operators_in(model: ModelProto) -> set[str]:
    """The kinds of operators that a model is made of, those of a body too."""
    graphs, kinds = [model.graph], set[str]()
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            kinds.add(node.op_type)
            graphs += [part.g for part in node.attribute if part.HasField("g")]
    return kinds


def _model(graph: GraphProto) -> ModelProto:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="forwardly"
    )
    model.ir_version = _IR
    cast(Any, onnx.checker).check_model(model, full_check=True)
    return model


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def _stacked(info: ValueInfoProto, times: str) -> ValueInfoProto:
    kind = info.type.tensor_type
    sizes = [d.dim_param or d.dim_value for d in kind.shape.dim]
    return helper.make_tensor_value_info(info.name, kind.elem_type, [times, *sizes])


class _Writing:
    """One graph being written; it is a ``Writer``."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initial: list[TensorProto] = []
        self._values: dict[Node, str | list[str]] = {}
        self._casts: dict[tuple[str, torch.dtype], str] = {}

    def graph(self, name: str, inputs: Sequence[str]) -> GraphProto:
        """The graph with these inputs, those that it uses, and its outputs."""
        for given, node in self._graph.inputs.items():
            self._values[node] = given
        for node in self._graph.module.graph.nodes:
            if node.op == "call_function" and node.users:
                if node.target not in OPERATORS:
                    raise unknown(node)
                self._values[node] = OPERATORS[node.target](self, node)
            elif node.op == "get_attr":
                value = cast(Tensor, getattr(self._graph.module, str(node.target)))
                self._values[node] = self.constant(value.detach().numpy(), value.dtype)
        self._name_outputs()
        given = [self.info(n, self._graph.inputs[n]) for n in inputs if n in self._graph.inputs]
        results = [self.info(n, node) for n, node in self._graph.outputs.items()]
        return helper.make_graph(self._used(), name, given, results, self._used_constants())

    def around(
        self,
        times: str,
        nodes: Sequence[NodeProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        several: Sequence[str],
    ) -> GraphProto:
        """A graph of many steps; of ``several`` inputs and outputs each step has its own."""
        graph = self._graph
        given, results = (
            [_stacked(i, times) if i.name in several else i for i in infos]
            for infos in (
                [self.info(name, graph.inputs[name]) for name in inputs],
                [self.info(name, graph.outputs[name]) for name in outputs],
            )
        )
        return helper.make_graph(nodes, times, given, results)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self._nodes)}"
        if kind == "Cast":
            attributes["to"] = _KINDS[attributes["to"]]
        node = helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self._nodes)}")
        for key in sorted(attributes):
            node.attribute.append(helper.make_attribute(key, attributes[key]))
        self._nodes.append(node)
        return name

    def constant(self, value: Any, dtype: torch.dtype) -> str:
        array = np.ascontiguousarray(np.asarray(value).astype(_ARRAYS[dtype]))
        array = array.reshape(np.shape(value))
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            self._initial.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def get(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        if not isinstance(argument, Node):
            return self.constant(argument, dtype or torch.float32)
        name = cast(str, self._values[argument])
        value = argument.meta["val"]
        own = value.dtype if isinstance(value, Tensor) else _kind_of_size(value)
        if dtype is None or dtype == own:
            return name
        if (name, dtype) not in self._casts:
            self._casts[name, dtype] = self.op("Cast", name, to=dtype)
        return self._casts[name, dtype]

    def part(self, node: Node, index: int) -> str:
        return cast(list[str], self._values[node])[index]

    def info(self, name: str, node: Node) -> ValueInfoProto:
        value = cast(Tensor, node.meta["val"])
        sizes = [_SAMPLES if is_symbolic(size) else int(size) for size in value.shape]
        return helper.make_tensor_value_info(name, _KINDS[value.dtype], sizes)

    def _name_outputs(self) -> None:
        """Give values their names as outputs, by themselves or by a copy."""
        renamed: dict[str, str] = {}
        made = {name for node in self._nodes for name in node.output}
        for output, node in self._graph.outputs.items():
            value = cast(str, self._values[node])
            if value in made and value not in renamed:
                renamed[value] = output
            else:
                copied = renamed.get(value, value)
                self._nodes.append(helper.make_node("Identity", [copied], [output], name=output))
        for node in self._nodes:
            for values in (node.input, node.output):
                values[:] = [renamed.get(value, value) for value in values]

    def _used(self) -> list[NodeProto]:
        """Operators that an output hangs on."""
        wanted, found = set(self._graph.outputs), list[NodeProto]()
        for node in reversed(self._nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                found.append(node)
        self._nodes = found[::-1]
        return self._nodes

    def _used_constants(self) -> list[TensorProto]:
        wanted = {name for node in self._nodes for name in node.input}
        return [constant for constant in self._initial if constant.name in wanted]


def _kind_of_size(value: object) -> torch.dtype:
    return torch.float32 if isinstance(value, (float, torch.SymFloat)) else torch.int64
