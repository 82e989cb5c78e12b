"""Small functions as flat graphs of tensor operations, without Python's modules in the way.

For a network of a few neurons the time of a step is the time that Python takes to get from one
tensor operation to the next. Tracing a step once leaves nothing but those operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

_RESHAPES = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
)


def flat(
    function: Callable[..., tuple[Tensor, ...]], *examples: Tensor
) -> Callable[..., tuple[Tensor, ...]]:
    """``function`` as a graph for tensors of the shapes of ``examples``; the same results.

    The function must be pure. Tensors that it closes over are taken as constants.
    """
    module = make_fx(function)(*examples)
    for node in module.graph.nodes:
        if node.target in _RESHAPES and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()
    # Arguments and results are tensors already: no nested containers to take apart.
    module.graph.set_codegen(CodeGen())
    module.recompile()
    return module.forward


def _shape(node: Node) -> torch.Size:
    return node.meta["val"].shape
