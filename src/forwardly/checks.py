"""What every check of a user's input shares: when values may be looked at, how things are named."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    _get_current_dispatch_mode,  # pyright: ignore[reportPrivateUsage]
)

Option = TypeVar("Option")


def values_readable(*tensors: Tensor) -> bool:
    """Whether a check may depend on the values of ``tensors``.

    It may not where the call is being traced, compiled, batched, counted or captured: there the
    check would fail (a batched value is many values) or leave its own operations in the result. Nor
    has a tensor on the meta device values. Shapes can always be checked.
    """
    if torch.compiler.is_compiling():
        return False
    if any(tensor.is_cuda for tensor in tensors) and torch.cuda.is_current_stream_capturing():
        return False
    return _get_current_dispatch_mode() is None and all(map(_has_values, tensors))


def _has_values(tensor: Tensor) -> bool:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore
    return not (wrapped or tensor.is_meta)


def check_not_exported() -> None:
    """Refuse ``torch.export`` of what differentiates automatically.

    Raises:
        NotImplementedError: that says what can be exported.
    """
    # Of a graph that is compiled torch 2.8 says that it is exported.
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
        raise NotImplementedError(
            "torch.export cannot trace a backward pass, not even one through a single layer; rules "
            "with uses_autograd = False can be exported, on torch's own modules without hooks; "
            "fw.export writes the step of any rule as ONNX"
        )


def all_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite; one reduction where all is well."""
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())


def shape_of(tensor: Tensor) -> str:
    """The shape as people write it: ``(64, 784)``."""
    return str(tuple(tensor.shape))


def check_kind(name: str, given: object, *kinds: type) -> None:
    """Refuse an argument of another class than these; a TypeError names the first."""
    if not isinstance(given, kinds):
        what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise TypeError(f"{name} must be of class {kinds[0].__name__}; given is {what}")


def one_of(name: str, given: Option, options: tuple[Option, ...]) -> Option:
    """``given``, if it is one of the options; else a ValueError that names them."""
    if given not in options:
        known = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {known}; given {given!r}")
    return given
