"""Whether a module does what its class says: the question before every closed form and fast path.

A subclass may compute something else, an instance may have a forward method of its own, and hooks
may change inputs and outputs. So ``isinstance`` alone decides nothing: ``alteration(module)`` says
how a module differs from torch's class. An altered module is called as it is, differentiated
automatically where a derivative is needed, and takes no fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from forwardly.network.kinds import (
    ALL_ACTIVATIONS,
    ALL_BATCH_NORMS,
    ALL_DROPOUTS,
    ALL_NORMS,
    ALL_SYNAPSES,
    LOSSES,
    SUPPORTED,
)

_KINDS: tuple[type[nn.Module], ...] = (
    *(*SUPPORTED, *ALL_SYNAPSES, *ALL_ACTIVATIONS, *ALL_NORMS, *ALL_BATCH_NORMS, *ALL_DROPOUTS),
    *(*LOSSES, nn.Sequential),
)
_FORWARDS: dict[type[nn.Module], object] = {kind: cast(Any, kind).forward for kind in _KINDS}
"""The classes' forward methods when this was imported."""

_OVERRIDABLE = (
    *("forward", "_conv_forward", "__call__", "__getattr__", "__getattribute__"),
    *("weight", "bias"),
)
"""Attributes that decide what a module computes."""

MODULE_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
"""Where torch's modules keep their hooks."""

_HOOKS_OF_ALL: list[dict[int, Any]] = [
    getattr(of_all_modules, f"_global{table}") for table in MODULE_HOOKS
]


def alteration(module: nn.Module) -> str:
    """How a module differs from torch's class of that name; empty if it does not.

    Args:
        module: an instance of a class in ``SUPPORTED``, or an ``nn.Sequential``, or of a subclass.
    """
    kind = type(module)
    if kind not in _FORWARDS:
        return f"is a {kind.__name__}, a class of its own"
    if kind.forward is not _FORWARDS[kind] or has_own_forward(module):
        return "has a forward method of its own"
    return "has a hook" if is_hooked(module) else ""


def overrides(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module may compute something else than ``kind``, a base class of its own."""
    own = type(module).__mro__[: type(module).__mro__.index(kind)]
    return (
        any(name in vars(base) for base in own for name in _OVERRIDABLE)
        or kind.forward is not _FORWARDS[kind]
        or has_own_forward(module)
    )


def has_own_forward(module: nn.Module) -> bool:
    """Whether the instance overrides an attribute that decides what it computes."""
    return not vars(module).keys().isdisjoint(_OVERRIDABLE)


def is_hooked(module: nn.Module) -> bool:
    """Whether something is called before or after its forward pass."""
    return any(getattr(module, table) for table in MODULE_HOOKS[:2])


def has_backward_hook(module: nn.Module) -> bool:
    """Whether something is to be called in a backward pass, which never comes."""
    return any(getattr(module, table) for table in MODULE_HOOKS[2:])


def has_gradient_hook(parameter: nn.Parameter) -> bool:
    """Whether something is to be called with the parameter's gradient, in a backward pass."""
    accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
    return bool(parameter._backward_hooks or accumulated)  # pyright: ignore[reportPrivateUsage]


def all_modules_are_hooked() -> bool:
    """Whether a user has put a hook on every module there is.

    Torch's own do not count: those of its counters only note which module is at work.
    """
    hooks = [hook for table in _HOOKS_OF_ALL for hook in table.values()]
    return any(not str(hook.__module__).startswith("torch.") for hook in hooks)


def between_hooks(module: nn.Module, function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """``function(a)`` in the place of the module's forward pass, its hooks before and after it."""
    if not is_hooked(module):
        return function(a)
    module.forward = function
    try:
        return module(a)
    finally:
        del module.forward
