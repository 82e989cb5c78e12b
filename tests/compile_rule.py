"""Run by test_transforms.py: compile rules as users do, without checks of annotations.

python compile_rule.py BACKEND CASE… RULE…
"""

from __future__ import annotations

import sys

import torch
from torch.testing import assert_close

from forwardly.testing import CASES, build
from test_laws import FACTORIES

if __name__ == "__main__":
    backend, *names = sys.argv[1:]
    cases = [case for case in CASES if case.name in names]
    rules = [name for name in FACTORIES if name in names]
    assert cases
    assert len(cases) + len(rules) == len(names)
    for rule_name in rules:
        for case in cases:
            rule, (x, target) = build(FACTORIES[rule_name], case), case.batch()
            torch.compiler.reset()
            compiled = torch.compile(rule, fullgraph=True, backend=backend)
            assert_close(compiled(x, target), rule(x, target), msg=f"{rule_name}, {case}")
