"""Waiting for what other processes do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

SECONDS = 120


def until(done: Callable[[], bool], *processes: subprocess.Popen[bytes]) -> None:
    """Wait for it while these processes live."""
    end = time.monotonic() + SECONDS
    while not done():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end
        time.sleep(0.02)
