"""Importing the library takes torch and numpy, and so does training; the help, rules and cite take
what prints them, and teacher-student what compiles, before its first epoch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from forwardly.cli import COMMANDS

HEAVY = (
    *("rich", "cyclopts", "matplotlib", "scipy", "jaxtyping", "beartype", "pandas", "numba"),
    *("sklearn", "forwardly.distributed"),
)
NOT_FOR_HELP = (
    *("matplotlib", "scipy", "numba", "sklearn", "jinja2", "pandas", "pooch", "requests"),
    *("filelock", "forwardly.experiments", "forwardly.benchmarks", "forwardly.audit.page"),
)
NOT_FOR_TRAINING = ("matplotlib", "scipy", "numba", "sklearn", "pandas", "sympy", "torch._dynamo")

PROGRAM = f"""
import sys
import torch, numpy
before = set(sys.modules)
import forwardly
print([name for name in {HEAVY} if name in set(sys.modules) - before])
import forwardly.cli
for arguments in (["--help"], ["rules"], ["rules", "pepita"], ["cite", "pepita"]):
    sys.argv = ["forwardly", *arguments]
    try:
        forwardly.cli.main()
    except SystemExit:
        pass
print()
print([name for name in {NOT_FOR_HELP} if name in set(sys.modules) - before])
digits = forwardly.data.load("digits")
from forwardly import models
rule = forwardly.PEPITA(models.mlp(64, (8,), 10), torch.nn.CrossEntropyLoss())
optimizer = forwardly.LocalSGD(rule, lr=0.1, fast=False)
forwardly.fit(rule, digits.train, optimizer, epochs=1)
optimizer.load_state_dict(optimizer.state_dict())
print([name for name in {NOT_FOR_TRAINING} if name in set(sys.modules) - before])
"""


WITHOUT_COLLECTIVES = """
import sys
import torch
sys.modules["torch._C._distributed_c10d"] = None
del torch.distributed.ProcessGroup
torch.distributed.is_available = lambda: False
import forwardly
import forwardly.commands.audit, forwardly.commands.train
rule = forwardly.PEPITA(torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.nn.CrossEntropyLoss())
print(forwardly.distributed.Pipeline(rule, 1).rank)
try:
    forwardly.distributed.DataParallel(rule)
except ValueError as problem:
    print(problem)
"""


def test_a_torch_without_collectives() -> None:
    """As some are built, for boards: all but several processes is there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COLLECTIVES], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0\nthere are no processes to share batches out over")


def test_imports_take_no_more_than_they_need() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library, *shown, command, training = done.stdout.splitlines()
    assert (library, command, training) == ("[]", "[]", "[]")
    assert "teacher-student" in "".join(shown)


NOT_BEFORE_EPOCHS = (
    *("matplotlib", "sklearn", "pandas", "sympy", "torch._dynamo", "jinja2", "pooch", "requests"),
    *("scipy.optimize", "scipy.stats", "forwardly.audit.page", "forwardly.benchmarks"),
)
TEACHER_STUDENT = f"""
import sys
import torch, numpy
before = set(sys.modules)
import forwardly.cli
from forwardly.commands import teacher_student

def train(run, *_):
    assert run.trainings.keys() == {{"pepita", "readout-only", "backprop"}}
    print([name for name in {NOT_BEFORE_EPOCHS} if name in set(sys.modules) - before])
    raise SystemExit

teacher_student._train = train
sys.argv = ["forwardly", "teacher-student"]
forwardly.cli.main()
"""


def test_the_posts_experiment_begins_with_little(tmp_path: Path) -> None:
    """In a process that finds its loops compiled, most of its time would be imports."""
    pytest.importorskip("numba", exc_type=ImportError, reason="nothing is compiled without it")
    done = subprocess.run(
        [sys.executable, "-c", TEACHER_STUDENT], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(("place", "summary"), COMMANDS.items())
def test_summaries_are_the_docstrings(place: str, summary: str) -> None:
    """They stand in the list of commands too, which imports none of them."""
    module, _, function = place.partition(":")
    command = getattr(importlib.import_module(f"forwardly.commands.{module}"), function)
    assert summary == " ".join(command.__doc__.split("\n\n")[0].split())
