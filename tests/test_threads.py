"""Where the environment gives fewer threads than torch asks for, compiled paths do all the work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch, forwardly as fw
from torch import nn
from forwardly.fast.cpu_step.descent import descend
from forwardly.fast.algebra.products import InFloat32
from forwardly.fast.threads import pool
from forwardly.fast.sgd import Descent, Outer, Weight

torch.set_num_threads(3)

# A product by oneDNN, which leaves out what the missing threads should have computed.
a, weight = torch.randn(74, 300), torch.randn(1024, 300)
with torch.no_grad():
    z = InFloat32().linear(a, weight, None)
torch.testing.assert_close(z, a @ weight.T, rtol=1e-4, atol=1e-3)

# All rows of a weight.
if pool() is not None:
    W, M = torch.zeros(64, 48), torch.zeros(64, 48)
    update = Outer(torch.ones(1, 64), torch.ones(1, 48), 1.0)
    assert descend(Weight(W, M, Descent(0.0, 0.0, 1.0, False)), update, pool())
    assert (W == -1).all(), W.sum(1)

# All units of PEPITA's step.
def weights(fast):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(600, 130, bias=False), nn.ReLU(), nn.Linear(130, 10, bias=False)
    )
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9, fast=fast)
    for _ in range(2):
        optimizer.step(torch.rand(66, 600), torch.arange(66) % 10)
    return list(model.parameters())
torch.testing.assert_close(weights(True), weights(False))
"""


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "2"}, {"OMP_DYNAMIC": "true"}], ids=str)
def test_fewer_threads_than_asked_for(limit: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env={**os.environ, **limit})
