"""A function of named tensors as a graph of torch's core operations, for any number of samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from forwardly.errors import UsageError, in_a_line

SAMPLES = 7
"""In the batch that is traced: of one, say, torch would take as given that it is one."""


@dataclass(frozen=True)
class Graph:
    """What was traced.

    Attributes:
        module: its nodes have their value's shape and type in ``meta["val"]``.
        inputs: by name; those that the function uses.
        outputs: by name.
    """

    module: GraphModule
    inputs: dict[str, Node]
    outputs: dict[str, Node]


class Symbolic:
    """Tensors like given ones, without values, the number of samples a symbol.

    Args:
        tensors: by name.
        batched: which of them have a sample in each element of their first dimension.
    """

    def __init__(self, tensors: Mapping[str, Tensor], batched: frozenset[str]) -> None:
        # Slow to import, and only needed here.
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import (
            DimDynamic,
            ShapeEnv,
            StatelessSymbolicContext,
        )

        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            given = tensor
            if name in batched:  # any batch becomes one of so many samples
                given = tensor[:1].expand(SAMPLES, *tensor.shape[1:]).contiguous()
            dynamic = [
                DimDynamic.DYNAMIC if name in batched and dimension == 0 else DimDynamic.STATIC
                for dimension in range(given.dim())
            ]
            context = cast(Any, StatelessSymbolicContext)(dynamic_sizes=dynamic)
            self.tensors[name] = self.mode.from_tensor(given, symbolic_context=context)

    def check_free(self) -> None:
        """Refuse a function that has come to hold for one number of samples only."""
        n = cast(Any, self.tensors["x"].shape[0])
        env = cast(Any, self.mode.shape_env)
        if not env.replace(n.node.expr).is_symbol:
            raise UsageError(
                "the step does something else for each number of samples, which a graph for all "
                "batches cannot"
            )


def trace(
    function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], symbolic: Symbolic
) -> Graph:
    """Trace a pure function; what it closes over is taken as constant.

    Raises:
        UsageError: if it cannot be traced.
    """
    from forwardly.export.decompositions import decompositions

    names, outputs = list(symbolic.tensors), list[str]()

    def flat(*values: Tensor) -> list[Tensor]:
        result = function(dict(zip(names, values, strict=True)))
        outputs[:] = result
        return list(result.values())

    table, values = decompositions(), tuple(symbolic.tensors.values())
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True  # it prints stacks of what is refused below
    try:
        with symbolic.mode:
            module = make_fx(functionalize(flat, remove="mutations"), table)(*values)
            if any(map(_writes, module.graph.nodes)):  # what torch made of one operation does
                pure = functionalize(module, remove="mutations")
                module = make_fx(pure, table)(*values)
    except UsageError:
        raise
    except Exception as failure:
        raise UsageError(
            f"the step cannot be traced for export ({in_a_line(failure)}); modules and rules of "
            "torch's operations alone can be, if they never ask what a tensor's values are"
        ) from failure
    finally:
        log.disabled = before
    symbolic.check_free()
    graph = module.graph
    graph.eliminate_dead_code()
    (end,) = (node for node in graph.nodes if node.op == "output")
    found = [node for node in graph.nodes if node.op == "placeholder"]
    return Graph(
        module,
        {name: node for name, node in zip(names, found, strict=True) if node.users},
        dict(zip(outputs, cast(list[Node], end.args[0]), strict=True)),
    )


def _writes(node: Node) -> bool:
    """Whether an operation writes into a tensor that is there already."""
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def is_symbolic(size: object) -> bool:
    """Whether a size hangs on the number of samples."""
    return isinstance(size, torch.SymInt)
