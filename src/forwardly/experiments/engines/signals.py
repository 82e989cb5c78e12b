"""Signals that a terminal sends to all processes of a command, of which one is to decide."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

STOP = signal.SIGINT, signal.SIGTERM


@contextmanager
def without_signals() -> Generator[None]:
    """Keep Ctrl-C and SIGTERM until after the block; a process begun in it never has them.

    Else one that is still importing would end with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ignoring_ctrl_c() -> Generator[None]:
    """Begin processes, by whatever thread, that do not hear Ctrl-C, nor does this one meanwhile."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def dask_setup(_: Any) -> None:
    """What Dask calls in a worker, so that one that is begun again later hears no Ctrl-C either."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
