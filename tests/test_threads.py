"""Where the environment gives fewer threads than torch asks for, compiled paths do all the work."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from forwardly.fast import threads
from forwardly.fast.threads import pool

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


OTHERS = """
import sklearn.linear_model  # which brings an OpenMP of its own, and before torch's
import torch
from threadpoolctl import threadpool_info
from forwardly.fast.threads import pool

torch.set_num_threads(3)
paths = [one["filepath"] for one in threadpool_info() if one["user_api"] == "openmp"]
found = pool()
assert torch.get_num_threads() == 3
import ctypes
for path in paths:
    ours = ctypes.CDLL(path).omp_get_thread_num
    same = ctypes.cast(ours, ctypes.c_void_p).value == (found and found.thread_number)
    print(path, same)
"""


@pytest.mark.skipif(pool() is None, reason="needs an OpenMP with GNU's entries")
def test_it_is_torchs_of_several() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHERS], check=True, capture_output=True, text=True
    )
    said = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert [path for path, same in said.items() if same == "True"] == [
        path for path in said if "scikit" not in path
    ]
    assert len(said) > 1 or sys.platform != "linux"


@pytest.mark.parametrize("entries", [True, False])
def test_a_library_of_another_maker(entries: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM's has GNU's entries, in whichever folder; who has not is not taken."""
    library = SimpleNamespace(
        omp_get_thread_num=1, omp_get_num_threads=2, omp_get_dynamic=int, omp_get_thread_limit=int
    )
    if entries:
        library.GOMP_parallel, library.GOMP_barrier = SimpleNamespace(), 3
    controller = SimpleNamespace(
        filepath="/opt/env/lib/libomp.dylib", get_num_threads=torch.get_num_threads
    )
    controllers = SimpleNamespace(select=lambda **_: SimpleNamespace(lib_controllers=[controller]))
    monkeypatch.setattr("threadpoolctl.ThreadpoolController", lambda: controllers)
    monkeypatch.setattr(threads.ctypes, "CDLL", {controller.filepath: library}.__getitem__)
    monkeypatch.setattr(threads, "_address", lambda entry: entry)
    found = threads.pool.__wrapped__()
    assert (found is not None) == entries
    assert found is None or found[1:4] == (1, 2, 3)
    controller.get_num_threads = lambda: 2
    assert threads.pool.__wrapped__() is None  # it is not torch's
