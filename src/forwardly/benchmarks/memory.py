"""How much memory a training step takes: of its own tensors, and of the process.

What a process has given back its allocator keeps, and takes again for the next step; so a step's
share shows only in a process that has done nothing else: ``python -m forwardly.benchmarks.memory``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from forwardly.audit.costs import peak_bytes
from forwardly.benchmarks.cases import CASES
from forwardly.benchmarks.steps import Step

_STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Of Linux; what is written into the second has the peak begin anew."""


def activation_bytes(step: Step) -> int:
    """The most bytes alive at one time of what a step makes, without gradients that it leaves."""
    step()  # momentum is there from the first step on
    return peak_bytes(step.updates)


def process_bytes(case: str, subject: str, threads: int) -> int | None:
    """How far a new process's resident memory rises over what it holds before its first steps.

    That is momentum, gradients, activities and what operations and compiled code take, but not the
    weights and data. None where the operating system does not tell.
    """
    command = [sys.executable, "-m", __name__, case, subject, str(threads)]
    # In a session of its own, so that Ctrl-C is for the benchmark alone.
    done = subprocess.run(  # noqa: S603, this module with names that the caller knows
        command, capture_output=True, encoding="utf-8", start_new_session=True
    )
    return int(done.stdout) if done.returncode == 0 else None


def _rise(case: str, subject: str) -> int:
    (made,) = (known.make() for known in CASES if known.name == case)
    before = resident("VmRSS")
    CLEAR.write_bytes(b"5")  # the peak begins anew
    for _ in range(3):
        made[subject]()
    return max(0, resident("VmHWM") - before)


def resident(name: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at the peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text("utf-8"))
    if found is None:
        raise OSError(f"{_STATUS} has no {name}")
    return 1024 * int(found[1])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    sys.stdout.write(str(_rise(*sys.argv[1:3])))
