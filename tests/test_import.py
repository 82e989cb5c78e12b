"""Importing the library takes torch and numpy; the command, nothing that only figures need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("rich", "cyclopts", "matplotlib", "scipy", "jaxtyping", "beartype", "pandas", "numba")

PROGRAM = f"""
import sys
import torch, numpy
before = set(sys.modules)
import forwardly
print([name for name in {HEAVY} if name in set(sys.modules) - before])
import forwardly.cli
print([name for name in ("matplotlib", "scipy.stats", "sklearn") if name in sys.modules])
"""


def test_imports_take_no_more_than_they_need() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]
