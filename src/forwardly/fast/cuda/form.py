"""All that a captured step holds fast beside the values of tensors.

A graph reads and writes the addresses that it was captured with, and knows nothing of what Python
has said since. So before each launch what it hangs on is compared with what it was captured for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import nn

from forwardly.fast.cuda import arithmetic
from forwardly.fast.sgd import Trained
from forwardly.network import Network
from forwardly.rule import Rule

_PLAIN = frozenset({bool, int, float, str, type(None)})
_ELSEWHERE = frozenset({dict, OrderedDict, set})
"""Where modules keep what is not looked at as it is: modules, tensors and hooks."""


class Form(NamedTuple):
    """What two launches of one graph have in common.

    Attributes:
        network: as the rule has read it; a new one where modules, hooks or frozen parameters
            have changed.
        modules: of each module of the rule its plain attributes, such as a dropout's p and its
            mode, and where its tensors lie. (How those of the model lie, the network says.)
        descents: of each parameter that the optimizer trains, its settings but for the learning
            rate, which a graph reads from a tensor, and where its momentum lies.
        arithmetic: settings of torch's for all products.
    """

    network: Network
    modules: list[object]
    descents: list[object]
    arithmetic: tuple[object, ...]


def form_of(rule: Rule, trained: Trained) -> Form:
    """The present form of a step; called before each launch, it takes some microseconds."""
    modules: list[object] = []
    left: list[nn.Module] = [rule]
    while left:
        module = left.pop()
        own = vars(module)
        modules.append(id(module))
        modules += [
            value
            for value in own.values()
            if type(value) in _PLAIN or (type(value) not in _ELSEWHERE and _is_plain(value))
        ]
        for tensors in (own["_parameters"], own["_buffers"]):
            for tensor in tensors.values():
                modules.append(None if tensor is None else (id(tensor), tensor.data_ptr()))
        left += [module for module in own["_modules"].values() if module is not None]
    descents: list[object] = []
    for parameter, descent in trained.descents.items():
        momentum = trained.momentum_of(parameter)
        place = None if momentum is None else (id(momentum), momentum.data_ptr())
        descents += id(parameter), descent[:2], descent[3:], place
    return Form(rule.network, modules, descents, arithmetic.settings())


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))  # pyright: ignore[reportUnknownArgumentType]
    return isinstance(value, tuple(_PLAIN))
