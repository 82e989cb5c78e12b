"""The processors of this machine: how many are ours to use, and what they are called."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def count() -> int:
    """Processors that this process may use; in a job of Slurm no more than it was given."""
    # macOS and Windows have no affinity.
    ours = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    for share in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        given = os.environ.get(share, "")
        ours.append(int(given) if given.isdecimal() else None)
    return min(filter(None, ours), default=1)


def name() -> str:
    """The model, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())
