"""Run by test_transforms.py: compile rules as users do, without checks of annotations.

python compile_rule.py BACKEND:RULE:CASE…
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.testing import assert_close

from forwardly.testing import CASES, Case, build
from graphs import GRAPHS
from test_laws import FACTORIES

# Every kind of stage in one network.
WHOLE = Case(
    "whole",
    lambda: [
        *(nn.Conv2d(2, 4, 2, groups=2), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        *(nn.MaxPool2d(2, stride=1), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(16, 5, bias=False)),
        *(nn.LayerNorm(5, elementwise_affine=False), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)),
    ],
    (2, 4, 4),
    3,
)

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        backend, name, network = argument.split(":")
        (case,) = (case for case in (WHOLE, *CASES, *GRAPHS) if case.name == network)
        rule, (x, target) = build(FACTORIES[name], case), case.batch()
        torch.compiler.reset()
        compiled = torch.compile(rule, fullgraph=True, backend=backend)
        assert_close(compiled(x, target), rule(x, target), msg=argument)
