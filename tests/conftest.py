"""Checks of annotations, and how a test says that it wants none; the command without a process."""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from subprocess import CompletedProcess
from types import FunctionType
from typing import Any

import jaxtyping
import pytest

# A test worker a core, so one thread a worker, and a process that a test starts: more would wait
# for each other. Read when torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"

_jaxtyped = jaxtyping.jaxtyped


class _Now:
    """Which test it is, and how many calls of each function are checked in it."""

    test = 0
    checked = 0.0


def _once(function: Any, *, typechecker: Any) -> Any:
    """What the import hook wraps a function in; none that lies within another.

    It would be wrapped anew in each call of that one, which is nine tenths of a small step's time.
    Of the others the first calls in each test are checked: to check all takes as long as the rest.
    """
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    checked = _jaxtyped(function, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return checked
    test = calls = 0

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal test, calls
        if test != _Now.test:
            test, calls = _Now.test, 0
        if calls >= _Now.checked:
            return function(*args, **options)
        calls += 1
        return checked(*args, **options)

    return call


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under pytest calls are checked against their annotations (see addopts in pyproject.toml).

    In tests marked ``checked`` all of them; those marked ``unchecked`` run as users do; say, to see
    the library's own word on wrong types. So do fixtures that a test is the first to need.
    """
    marks = {mark.name for mark in item.iter_markers()}
    unchecked = "unchecked" in marks
    jaxtyping.config.update("jaxtyping_disable", unchecked)  # of data classes
    _Now.test += 1
    _Now.checked = 0 if unchecked else math.inf if "checked" in marks else 3


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
