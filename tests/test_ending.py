"""How commands end: the machine's fault, ours, a signal, a pipe that nobody reads; any encoding."""

from __future__ import annotations

import errno
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forwardly.cli import main
from forwardly.commands import rules
from forwardly.experiments.run_folder import RunFolder
from test_bad_command_lines import Command
from test_cli import _started as started

pytestmark = pytest.mark.unchecked  # whole commands


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, command: Command) -> Callable[..., Any]:
    """Have a command do something instead of its work; how it ends."""

    def ends(work: Callable[[], object]) -> Any:
        monkeypatch.setattr(rules, "all_rules", work)
        return command("rules")

    return ends


def _raise(problem: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise problem

    return work


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (_raise(MemoryError()), "error: there is not enough memory; try a smaller"),
        (lambda: torch.empty(2**45), "error: there is not enough memory (140737488355328 bytes"),
        (lambda: torch.empty(2**60, 2**4), "error: there is not enough memory"),
        (lambda: np.empty(2**45), "error: there is not enough memory (256. TiB were asked for)"),
        (lambda: np.empty((2**60, 2**4)), "error: there is not enough memory"),
        (
            _raise(OSError(errno.ENOSPC, "No space left on device", "[red]run\x1b/a")),
            r"error: [red]run\x1b/a: No space left on device; what was written before is kept",
        ),
        (_raise(PermissionError(errno.EACCES, "Permission denied", "x")), "x: Permission denied"),
        (
            _raise(RuntimeError("[enforce fail at inline] . PytorchStreamWriter failed writing")),
            "error: a file could not be written, perhaps as the disk is full",
        ),
    ],
)
def test_the_machine_is_to_blame(work: Any, says: str, ends: Callable[..., Any]) -> None:
    done = ends(work)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(says) or says in done.stderr
    assert done.stderr.count("\n") == 1


def test_we_are_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Callable[..., Any]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = ends(_raise(KeyError("what\nnobody foresaw")))
    assert (done.returncode, done.stderr.count("\n")) == (70, 1)
    (path,) = tmp_path.glob("forwardly-*.txt")
    assert f"please report it with the file {path}" in done.stderr
    told = path.read_text("utf-8")
    assert "Traceback (most recent call last)" in told
    assert "['forwardly', 'rules']" in told
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert "Traceback (most recent call last)" in ends(_raise(KeyError("again"))).stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: signal.Signals, code: int, ends: Callable[..., Any]) -> None:
    done = ends(lambda: signal.raise_signal(number))
    assert (done.returncode, done.stderr) == (code, "")

    class Deaf:
        """As what Python drops: an exception in a destructor, or in a callback of numba's."""

        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> None:
        Deaf()
        for _ in range(500):
            time.sleep(0.01)
        raise AssertionError("it was lost")

    done = ends(work)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_signal_in_other_words(ends: Callable[..., Any]) -> None:
    """A class that is being made wraps what is raised in it; what goes wrong later is told."""

    class Named:
        def __set_name__(self, owner: type, name: str) -> None:
            signal.raise_signal(signal.SIGINT)

    def work() -> None:
        type("Formatter", (), {"locs": Named()})

    done = ends(work)
    assert (done.returncode, done.stderr) == (130, "")

    def fails() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")

    done = ends(fails)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_run_that_came_to_nothing_leaves_no_folder(
    tmp_path: Path, ends: Callable[..., Any]
) -> None:
    def work(*places: Path | None) -> None:
        for place in places:
            RunFolder.new(place, "x")
        raise MemoryError

    (tmp_path / "mine").mkdir()
    ends(lambda: work(None, tmp_path / "a" / "b", tmp_path / "mine", tmp_path / "mine" / "c"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not [*(tmp_path / "mine").iterdir()]

    def wrote() -> None:
        RunFolder.new(tmp_path / "kept", "x").write("file", "precious")
        work(tmp_path / "kept" / "empty")

    ends(wrote)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


# One process imports torch, and each command runs in a copy of it, to its very end.
PROGRAM = """
import os, sys
from forwardly.cli import main
for output, *arguments in (line.split() for line in sys.argv[1:]):
    print(output, *arguments, flush=True)
    child = os.fork()
    if not child:
        os.dup2(1, 2)
        if output == "gone":  # whoever would have read it
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, 1)
        elif output == "closed":
            os.close(1)
            sys.stdout = None
        else:
            os.dup2(os.open(output, os.O_WRONLY), 1)
        sys.argv = ["forwardly", *arguments]
        main()
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="pipes and devices as Linux has them")
def test_nobody_reads(tmp_path: Path) -> None:
    lines = ("gone rules", "gone train --help", "closed cite pepita", "/dev/full rules")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *lines], capture_output=True, text=True, cwd=tmp_path
    )
    full = "error: No space left on device; what was written before is kept"
    expected = [lines[0], "141", lines[1], "141", lines[2], "0", lines[3], full, "1"]
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


@pytest.mark.parametrize(
    "encoding", ["ascii", "latin-1", "cp1252", "cp037", "shift_jis", "koi8-r", "utf-16", "utf-7"]
)
def test_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for line in ("cite direct-feedback-alignment", "report [bold]é\u202e語/[/red]\udcff", "rules"):
        written = io.BytesIO()
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, io.TextIOWrapper(written, encoding))
        monkeypatch.setattr(sys, "argv", ["forwardly", *line.split()])
        with pytest.raises(SystemExit):
            main()
        said.append(written.getvalue().decode(encoding))
    cited, refused, listed = said
    assert "Arild}" in cited
    assert "error: there is no folder [bold]" in refused
    assert r"\u202e" in refused
    assert r"/[/red]\udcff" in refused
    assert "time-local-pepita" in listed


def test_ctrl_c_again_and_again_is_quiet(tmp_path: Path) -> None:
    """The second comes while results are written; the process ends at once, and says nothing."""
    process = started(tmp_path)
    for pause in (0.05, 0.3, 0):
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(line.endswith(" left") for line in stderr.splitlines())  # where it is slow
    assert not [*tmp_path.rglob("*.part")]
