"""How much memory a training step takes: of its own tensors, and of the process."""

from __future__ import annotations

import re
from pathlib import Path

from forwardly.audit.costs import peak_bytes
from forwardly.benchmarks.steps import Step

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def activation_bytes(step: Step) -> int:
    """The most bytes alive at one time of what a step makes, without gradients that it leaves."""
    step()  # momentum is there from the first step on
    return peak_bytes(step.updates)


def process_bytes(step: Step) -> int | None:
    """How far the process's resident memory rises in three steps; None where it is not told."""
    try:
        before = _resident("VmRSS")
        _CLEAR.write_text("5")  # the peak begins anew
        for _ in range(3):
            step()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    if found is None:
        raise OSError(f"{_STATUS} has no {name}")
    return 1024 * int(found[1])
