"""What a copy of a rule must hold: state of its own, and the same updates."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close

import forwardly as fw


def pickled(rule: fw.Rule) -> fw.Rule:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(rule, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


DUPLICATES = [copy.deepcopy, pickled]


def check_copy(
    rule: fw.Rule, x: Tensor, target: Tensor, duplicate: Callable[[fw.Rule], fw.Rule]
) -> None:
    """The copy does what the rule did, also when the rule's parameters are no more."""
    other, expected = duplicate(rule), rule(x, target)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.zero_()
    assert_close(other(x, target), expected, rtol=0, atol=0)
