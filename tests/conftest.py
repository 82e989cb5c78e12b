"""Checks of annotations, and how a test says that it wants none; the command without a process."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jaxtyping
import pytest

# A test worker a core, so one thread a worker, and a process that a test starts: more would wait
# for each other. Read when torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"

_jaxtyped = jaxtyping.jaxtyped


def _once(function: Any, *, typechecker: Any) -> Any:
    """What the import hook wraps a function in; none that lies within another.

    It would be wrapped anew in each call of that one, which is nine tenths of a small step's time.
    """
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    return _jaxtyped(function, typechecker=typechecker)


jaxtyping.jaxtyped = partial(partial, _once)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """What is there by now stays, so collecting garbage need never look through it again."""
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None  # of the audit's costs, which freeze for themselves
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def _annotations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under pytest every call is checked against its annotations (see addopts in pyproject.toml).

    Tests marked ``unchecked`` run as users do; say, to see the library's own word on wrong types.
    """
    unchecked = request.node.get_closest_marker("unchecked") is not None
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command, which ends with its process otherwise, leaves them as that is to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CompletedProcess[str]]:
    """``forwardly`` in this process; one of its own takes seconds to import torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # Where a machine is slow, lines on standard error say how far a command is.
    monkeypatch.setattr("forwardly.commands.console._FIRST_PAUSE", 1e9)

    def command(*arguments: object) -> CompletedProcess[str]:
        from forwardly.cli import main

        given = ["forwardly", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return CompletedProcess(given, int(end.value.code or 0), *capsys.readouterr())

    return command
