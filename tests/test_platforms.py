"""What other systems lack: calls of Linux, folders that can be written to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from forwardly.benchmarks import cases
from forwardly.cli import app, main
from forwardly.errors import UsageError
from forwardly.experiments import run_folder
from forwardly.experiments.run_folder import RunFolder
from forwardly.fast import processors
from forwardly.fast.cpu_epochs.full_batch import CompiledFullBatchTraining


def test_processors_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processors.count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert processors.count() == 64
    assert cases._processors() == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # as where nobody knows
    assert processors.count() == 1


def test_the_default_command_runs_without_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.chdir(tmp_path)
    started: list[int] = []
    original = CompiledFullBatchTraining.prepare

    def prepare(training: CompiledFullBatchTraining) -> None:
        started.append(training._threads)
        original(training)

    monkeypatch.setattr(CompiledFullBatchTraining, "prepare", prepare)
    command = ["forwardly", "teacher-student", "--epochs", "20", "--log-every", "10"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert started == [os.cpu_count()] * 3


def test_processors_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Linux's list, where there is one, and where it tells."""

    def cpuinfo(text: str | None) -> None:
        def read(path: Path, *_: object) -> str:
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(Path, "read_text", read)

    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    for text, expected in (
        ("processor\t: 0\nmodel name\t: A: B (R)\nmodel name\t: other\n", "A: B (R)"),
        ("processor\t: 0\nmodel name\t: \n", "riscv64"),
        ("Hardware\t: Board\n", "riscv64"),
        ("", "riscv64"),
        (None, "riscv64"),
    ):
        cpuinfo(text)
        assert processors.name() == expected
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processors.name() == "arm"


def test_it_is_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "forwardly", "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:2] == ["Usage:", "forwardly"]
    commands = [name for name in app if not name.startswith("-")]
    assert len(commands) > 5
    assert set(commands) <= set(words)


def test_a_new_folder_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been written to, to see whether it can be; nobody has to clear up."""
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder.new(None, "x") for _ in range(2)]
    folders.append(RunFolder.new(tmp_path / "a" / "b", "x"))
    assert len({folder.path for folder in folders}) == 3
    assert not [path for folder in folders for path in folder.path.iterdir()]
    assert not set(":\\?*") & set("".join(folder.path.name for folder in folders))


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said at once, whoever would have failed to write to it; a full disk too."""
    monkeypatch.chdir(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", full)
    for out in (Path("here"), None):
        with pytest.raises(UsageError, match=r"cannot write to .*: No space left on device; name"):
            RunFolder.new(out, "x")
