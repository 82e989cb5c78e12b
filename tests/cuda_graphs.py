"""CUDA's graphs, played by the processor.

``Played`` notes the operations of some work as a capture does: each with the numbers that it was
given and the tensors, by their places. A replay does just these operations again, and puts what
they make where it was made first. So what Python would have decided anew, and what has moved
elsewhere, shows as it would on a GPU. What a capture forbids, such as asking for a value, raises.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "is_nonzero", "equal"}
"""Operations for which a device's stream would be waited for, or left."""


def waits(func: Any, args: Any) -> str:
    """What of an operation would wait for the device; empty if nothing."""
    name = func.overloadpacket.__name__
    if name in WAITS:
        return name
    by_mask = name.startswith("index") and any(
        isinstance(i, Tensor) and i.dtype == torch.bool
        for given in args
        if isinstance(given, list | tuple)
        for i in given
    )
    return f"{name} by a mask" if by_mask else ""


class CaptureError(RuntimeError):
    """As torch raises of what cannot be captured."""


class Played(TorchDispatchMode):
    """See the module docstring. A capture does nothing yet: what it wrote to is as before."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.replays = 0
        self._noted: list[tuple[Any, Any, Any, list[Tensor], list[Tensor]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: list[Tensor] = []
        try:
            with self, pytest.MonkeyPatch.context() as patch:
                for name in ("cpu", "item", "numpy", "tolist", "__bool__", "__float__", "__int__"):
                    patch.setattr(Tensor, name, partial(_refused, name))
                work()
        finally:
            for tensor, before in self._before.values():
                tensor.untyped_storage().copy_(before.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if what := waits(func, args):
            raise CaptureError(f"operation not permitted when stream is capturing: {what}")
        given = zip(func._schema.arguments, args, strict=False)
        written = [tensor for one, tensor in given if one.alias_info and one.alias_info.is_write]
        written += [
            kwargs[one.name]
            for one in func._schema.arguments
            if one.name in kwargs and one.alias_info and one.alias_info.is_write
        ]
        for tensor in tree_leaves(written):
            self._keep(tensor)
        inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_(t)}
        result = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(result) if is_(t)]
        fresh = [t for t in outputs if t.untyped_storage().data_ptr() not in inputs]
        self._made += outputs  # no address is used twice
        self._noted.append((func, args, kwargs, outputs, fresh))
        return result

    def _keep(self, tensor: Tensor) -> None:
        key = tensor.untyped_storage().data_ptr()
        if key not in self._before:
            plain = tensor.detach()
            with torch.utils._python_dispatch._disable_current_modes():
                copy = torch.empty(0, dtype=plain.dtype)
                copy.set_(plain.untyped_storage().clone())
            self._before[key] = plain, copy

    def __call__(self) -> None:
        """Replay."""
        self.replays += 1
        for func, args, kwargs, outputs, fresh in self._noted:
            with torch._C._AutoDispatchBelowAutograd():  # what was noted lies below it
                again = [t for t in tree_leaves(func(*args, **kwargs)) if is_(t)]
            for first, now in zip(outputs, again, strict=True):
                if any(first is one for one in fresh):
                    first.detach().copy_(now)


def _refused(name: str, *_: object) -> None:
    raise CaptureError(f"operation not permitted when stream is capturing: {name}")


def is_(value: object) -> bool:
    return isinstance(value, Tensor)


class Graphs(list[Played]):
    """Those that were captured."""

    @property
    def replays(self) -> int:
        return sum(graph.replays for graph in self)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """The processor has graphs, of this kind; in order of their capture."""
    made = Graphs()

    def graph_of(work: Callable[[], None], _: object) -> Callable[[], None]:
        made.append(Played(work))
        return made[-1]

    captured = "forwardly.fast.cuda.captured"
    monkeypatch.setattr(f"{captured}.graph_of", graph_of)
    monkeypatch.setattr(f"{captured}.aside", lambda work, _: work())
    monkeypatch.setattr(f"{captured}.can_capture", lambda _: True)
    # Which would step first on a processor.
    for engine in ("whole_step.WholeStep", "engine.CompiledParts"):
        monkeypatch.setattr(f"forwardly.fast.cpu_step.{engine}.why_not", lambda *_: "not asked")
    return made
