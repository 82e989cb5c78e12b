"""A model's forward pass as a list of operations, by ``torch.fx``, beside two examples of it.

Tracing by symbols alone ends at the first loop over a shape. Here each operation is also run, on a
copy of the model and on batches of two sizes, as it is recorded. So what depends on shapes alone is
known where Python asks for it (``range(x.shape[1])``, ``if x.dim() == 3``), and the shape of every
value is; what depends on the numbers in a tensor, or on how many samples there are, is refused.
"""

# Much of torch.fx has no types.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import Attribute
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from forwardly.errors import in_a_line
from forwardly.network.attention import written_out
from forwardly.network.kinds import DROPOUT_FUNCTIONS, SUPPORTED, UntraceableError

SAMPLES = 2, 3
"""How many each example has; they tell dimensions that count samples from others."""

_OF_SHAPES = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "get_device", "type"),
    *("is_floating_point", "is_contiguous", "element_size", "getattr", "is_complex"),
}
"""What makes of a tensor something that does not depend on its numbers."""


class Trace(NamedTuple):
    """What ``trace`` finds.

    Attributes:
        nodes: in the order in which they run; the last is the output.
        values: of each node, in both examples.
        by_shape: whether Python asked for a shape, so that the operations are for this one alone.
        constants: tensors that are neither parameters nor buffers, by the targets of their nodes.
    """

    nodes: list[fx.Node]
    values: dict[fx.Node, tuple[Any, Any]]
    by_shape: bool
    constants: dict[str, Tensor]


def trace(model: nn.Module, examples: tuple[Tensor, Tensor]) -> Trace:
    """Record what a model does with a batch.

    Args:
        model: it is copied, and stays as it is.
        examples: batches of ``SAMPLES``.

    Raises:
        UntraceableError: if it cannot be recorded.
    """
    copied = copy.deepcopy(model)
    forward = copied.forward
    # A forward method of one argument, whatever the model's others are: they keep their defaults.
    kind = type(copied)
    copied.__class__ = type(kind.__name__, (kind,), {"forward": lambda _, x: forward(x)})
    vars(copied).pop("forward", None)
    tracer = _Tracer(examples)
    with torch.no_grad(), undisturbed_randomness(examples[0]):
        try:
            graph = tracer.trace(copied)
        except UntraceableError:
            raise
        except Exception as failure:
            raise UntraceableError(_unreadable(model, failure)) from failure
    return Trace(list(graph.nodes), tracer.values, tracer.by_shape, tracer.constants)


def _unreadable(model: nn.Module, failure: Exception) -> str:
    return (
        f"{type(model).__name__}.forward cannot be read as a graph of operations "
        f"({in_a_line(failure)}): write it with tensor "
        "operations and modules alone, without assignments to parts of tensors"
    )


@contextmanager
def undisturbed_randomness(like: Tensor) -> Generator[None]:
    """The random state of torch's generators is afterwards what it was."""
    devices = [like.device] if like.is_cuda else []
    with torch.random.fork_rng(devices=devices):  # pyright: ignore[reportUnknownMemberType]
        yield


class WithoutDropout(TorchFunctionMode):
    """Within it, dropout of any tensor is the tensor itself, that of torch's attention too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's protocol."""
        if func in DROPOUT_FUNCTIONS:
            return args[0] if args else kwargs["input"]
        if func is functional.multi_head_attention_forward:  # which has one inside
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.arguments["dropout_p"] = 0.0
            return func(*bound.args, **bound.kwargs)
        return func(*args, **(kwargs or {}))


class _Known(fx.Proxy):
    """A value in a trace, which is also known in the examples."""

    def __getattr__(self, k: str) -> Attribute:
        return _Attribute(self, k)

    def __len__(self) -> int:
        return cast(_Tracer, self.tracer).length(self)

    def __index__(self) -> int:
        return operator.index(cast(_Tracer, self.tracer).known(self))

    def __int__(self) -> int:
        return int(cast(_Tracer, self.tracer).known(self))

    def __float__(self) -> float:
        return float(cast(_Tracer, self.tracer).known(self))

    def __iter__(self) -> Iterator[Any]:
        this: Any = self
        return iter([this[i] for i in range(len(self))])


class _Attribute(_Known, Attribute):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Such as ``x.shape``."""


class _Tracer(fx.Tracer):
    def __init__(self, examples: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.values: dict[fx.Node, tuple[Any, Any]] = {}
        self.constants: dict[str, Tensor] = {}
        self.by_shape = False
        self._examples = examples
        self._of_numbers: set[fx.Node] = set()
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Those of torch but for containers and attention, and what chains may have."""
        if written_out(m) is not None:
            return False
        return isinstance(m, SUPPORTED) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        written = written_out(m)
        if written is not None:
            forward = partial(written, m)
        return super().call_module(m, forward, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            owned = any(a is buffer for _, buffer in self.root.named_buffers())
            if not owned:
                name = f"constant {len(self.constants)}"
                self.constants[name] = a
                return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def create_node(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        if self._running:  # within an operation that is being run
            raise UntraceableError(f"{target} records operations of its own")
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        self.values[node] = cast(tuple[Any, Any], tuple(self._run(node, i) for i in (0, 1)))
        if self._depends_on_numbers(node):
            self._of_numbers.add(node)
        return node

    def _run(self, node: fx.Node, which: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda other: self.values[other][which])
        if node.op == "placeholder":
            return self._examples[which]
        if node.op == "output":
            return args[0]
        if node.target in self.constants:
            return self.constants[str(node.target)]
        self._running = True
        try:
            with WithoutDropout():
                if node.op == "get_attr":
                    return operator.attrgetter(str(node.target))(self.root)
                if node.op == "call_module":
                    return self.root.get_submodule(str(node.target))(*args, **kwargs)
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                return cast(Callable[..., Any], node.target)(*args, **kwargs)
        finally:
            self._running = False

    def _depends_on_numbers(self, node: fx.Node) -> bool:
        """Whether it is no tensor, but depends on the numbers in one."""
        if isinstance(self.values[node][0], Tensor) or node.op == "placeholder":
            return False
        if any(other in self._of_numbers for other in node.all_input_nodes):
            return True
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(self.values[node][0])):
            return False  # several tensors
        given = (self.values[other][0] for other in node.all_input_nodes)
        name = str(node.target) if node.op == "call_method" else _name_of(node.target)
        return name not in _OF_SHAPES and any(isinstance(value, Tensor) for value in given)

    def known(self, proxy: fx.Proxy) -> Any:
        """What Python asks for, where it is the same for all samples and any number of them."""
        first, second = self.values[proxy.node]
        what = f"{proxy.node.format_node()}"
        if isinstance(first, Tensor) or proxy.node in self._of_numbers:
            raise UntraceableError(
                f"the model decides by the numbers in a tensor what to do next ({what}), so its "
                "passes may not be the same function: use torch.where, or leave it out"
            )
        if first != second:
            raise UntraceableError(
                f"the model decides by the number of samples what to do next ({what}): pass "
                "x.shape[0] on to tensor operations only, or leave it out"
            )
        self.by_shape = True
        return first

    def length(self, proxy: fx.Proxy) -> int:
        first, second = self.values[proxy.node]
        if len(first) != len(second):
            raise UntraceableError(
                "the model goes through the samples one by one: write it for all at once"
            )
        if isinstance(first, Tensor):
            self.by_shape = True
        return len(first)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.known(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        this: Any = obj
        return iter([this[i] for i in range(self.length(obj))])


def _name_of(target: Any) -> str:
    return getattr(target, "__name__", str(target))
