"""The folder that a run leaves behind, be it of a command or a record: one kind for all.

What is written to it appears whole or not at all, the files one by one, a record as a folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from forwardly import files
from forwardly.errors import UsageError

MODEL = "model.safetensors"
"""The file of a trained model in a run's folder."""
CHECKPOINT = "checkpoint.pt"
"""The file that a run goes on from."""


class RunFolder:
    """A folder that is there.

    Args:
        path: where it is.
    """

    _made: ClassVar[list[Path]] = []
    """Folders that ``new`` made, parents first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, out: Path | None, command: str) -> RunFolder:
        """Make the folder ``out``, or one named after the time under ``runs/COMMAND``; it is empty.

        Raises:
            UsageError: if ``out`` holds something already, or cannot be made or written to.
        """
        path = Path("runs") / command if out is None else out
        try:
            cls._made += [place for place in (path, *path.parents) if not place.exists()][::-1]
            if out is None:
                path = _timed_folder(path)
                cls._made.append(path)
            elif out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UsageError(
                    f"{out} exists already, and nothing is overwritten: name another --out"
                )
            else:
                out.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _cannot_write(path, problem) from None
        return cls._writable(path)

    @classmethod
    def remove_empty(cls) -> None:
        """Take away what ``new`` made, as far as nothing is in it: the run came to nothing."""
        while cls._made:
            with suppress(OSError):
                cls._made.pop().rmdir()

    @classmethod
    def to_resume(cls, out: Path | None, command: str) -> RunFolder:
        """The folder of a run that was stopped; or a new one, if there is no run in it yet.

        Raises:
            UsageError: if it holds something else, or cannot be written to.
        """
        if out is None:
            raise UsageError("--resume needs --out, the folder of the run to continue")
        try:
            if (out / "config.json").is_file():
                return cls._writable(out)
            if out.is_dir() and all(map(_is_left_over, out.iterdir())):
                return cls._writable(out)  # killed before it began
        except OSError as problem:
            raise _cannot_write(out, problem) from None
        try:
            return cls.new(out, command)
        except UsageError as problem:
            if not files.is_there(out):
                raise problem from None
            what = "has other files and no config.json" if out.is_dir() else "is no folder"
            raise UsageError(
                f"there is no run to continue in {out}, which {what}: name another --out"
            ) from None

    @classmethod
    def _writable(cls, path: Path) -> RunFolder:
        """Show before training, not after it, whether a folder can be written to."""
        try:
            with tempfile.TemporaryFile(dir=path):
                return cls(path)
        except OSError as problem:
            raise _cannot_write(path, problem) from None

    @classmethod
    @contextmanager
    def whole(cls, place: Path) -> Generator[RunFolder]:
        """A folder that appears at ``place``, where there is nothing yet, when the block ends."""
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
        try:
            part.chmod(0o755)
            yield cls(part)
            part.rename(place)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep other processes off; see ``lock``.

        Raises:
            UsageError: if another process is at work here.
        """
        from filelock import Timeout

        with ExitStack() as held:
            try:
                held.enter_context(self.lock())
            except Timeout:
                raise UsageError(
                    f"another process is at work in {self.path}: wait for it, or name another --out"
                ) from None
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    self._lock.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Keep other processes off; what one left over that was killed is removed.

        Raises:
            filelock.Timeout: if another process is at work here.
        """
        from filelock import FileLock

        with FileLock(self._lock, timeout=0):
            for path in self.path.iterdir():
                if _is_left_over(path) and path != self._lock:
                    path.unlink(missing_ok=True)
            yield

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    def write(self, name: str, content: str) -> None:
        """Write a file, or replace it."""
        files.write(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write plain data."""
        self.write(name, json.dumps(content, indent=2) + "\n")


def _is_left_over(path: Path) -> bool:
    """Whether it is of a process that was killed: a lock, or a file that was being written."""
    return path.name == "lock" or (path.name.startswith(".") and path.suffix == ".part")


def check_places(**places: Path) -> None:
    """See before any work whether folders can be made, or written to if they are there.

    Raises:
        UsageError: that names the option and the folder which cannot.
    """
    for option, place in places.items():
        try:
            there = next(folder for folder in (place, *place.parents) if folder.exists())
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as problem:
            raise UsageError(
                f"cannot write to {place}: {problem.strerror}; name another --{option}"
            ) from None


def _cannot_write(folder: Path, problem: OSError) -> UsageError:
    return UsageError(f"cannot write to {folder}: {problem.strerror}; name another --out")


def _timed_folder(parent: Path) -> Path:
    name = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in count(1):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")
