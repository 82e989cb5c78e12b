"""All that a captured step holds fast beside the values of tensors.

A graph reads and writes the addresses that it was captured with, and knows nothing of what Python
has said since. So before each launch what it hangs on is compared with what it was captured for.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from forwardly.fast.cuda import arithmetic
from forwardly.fast.sgd import Trained, layout
from forwardly.network import Network
from forwardly.rule import Rule

_PLAIN = (bool, int, float, str, type(None))


class Form(NamedTuple):
    """What two launches of one graph have in common.

    Attributes:
        network: as the rule has read it; a new one where modules, hooks or frozen parameters
            have changed.
        modules: of each module of the rule its plain attributes, such as a dropout's p and its
            mode, and where its tensors lie.
        descents: of each parameter that the optimizer trains, its settings but for the learning
            rate, which a graph reads from a tensor, and where its momentum lies.
        arithmetic: settings of torch's for all products.
    """

    network: Network
    modules: tuple[object, ...]
    descents: tuple[object, ...]
    arithmetic: tuple[object, ...]


def form_of(rule: Rule, trained: Trained) -> Form:
    """The present form of a step; called before each launch, it takes some microseconds."""
    modules: list[object] = []
    left: list[nn.Module] = [rule]
    while left:
        module = left.pop()
        own = vars(module)
        modules.append((id(module), *filter(_is_plain, own.values())))
        for tensors in (own["_parameters"], own["_buffers"]):
            modules += map(_place, tensors.values())
        left += filter(None, own["_modules"].values())
    descents = (
        (
            *(id(parameter), descent._replace(lr=0.0)),
            _place(None if trained.is_new(parameter) else trained.momentum(parameter)),
        )
        for parameter, descent in trained.descents.items()
    )
    return Form(rule.network, tuple(modules), tuple(descents), arithmetic.settings())


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))  # pyright: ignore[reportUnknownArgumentType]
    return isinstance(value, _PLAIN)


def _place(tensor: Tensor | None) -> object:
    return None if tensor is None else (tensor.data_ptr(), *layout(tensor))
