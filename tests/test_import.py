"""Importing the library takes torch and numpy, and hardly longer than torch itself."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("rich", "cyclopts", "matplotlib", "scipy", "jaxtyping", "beartype", "pandas", "numba")

PROGRAM = f"""
import sys, time
import torch, numpy
before = set(sys.modules)
start = time.perf_counter()
import forwardly
print([name for name in {HEAVY} if name in set(sys.modules) - before])
print(forwardly.__version__)
"""


def test_import_takes_torch_and_numpy_only() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "[]"
