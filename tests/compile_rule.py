"""Run by test_transforms.py: compile a rule as users do, without checks of annotations.

python compile_rule.py RULE BACKEND CASE...
"""

from __future__ import annotations

import sys

import torch
from torch.testing import assert_close

from laws import build
from test_laws import FACTORIES
from zoo import CASES

if __name__ == "__main__":
    rule_name, backend, *names = sys.argv[1:]
    cases = [case for case in CASES if case.name in names]
    assert len(cases) == len(names) > 0
    for case in cases:
        rule, (x, target) = build(FACTORIES[rule_name], case), case.batch()
        torch.compiler.reset()
        compiled = torch.compile(rule, fullgraph=True, backend=backend)
        assert_close(compiled(x, target), rule(x, target))
