"""Training steps by fewer and quicker operations of torch's, on any device.

``ASSIGN`` maps a rule to a function with the arguments of its ``assign``, and the rule before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from forwardly.fast.algebra import backprop, mem_pepita, pepita
from forwardly.network import Step
from forwardly.rule import Credit, Rule
from forwardly.rules.backprop import Backprop
from forwardly.rules.mem_pepita import MemPEPITA
from forwardly.rules.pepita import PEPITA


class Assign(NamedTuple):
    """A rule's credit by fewer operations.

    Attributes:
        function: what stands for the rule's ``assign``.
        weighs_differences: whether the difference of two passes goes through the weights, not each
            pass, so that products may be rounded.
    """

    function: Callable[[Any, Tensor, Tensor, Step], Credit]
    weighs_differences: bool = False


ASSIGN: dict[type[Rule], Assign] = {
    Backprop: Assign(backprop.assign),
    MemPEPITA: Assign(mem_pepita.assign),
    PEPITA: Assign(pepita.assign, weighs_differences=True),
}
