"""Files that appear whole or not at all, and files that somebody else may have written.

May import ``errors`` and nothing else.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from forwardly.errors import UsageError
from forwardly.files.text import visible

_LONGEST = 200
"""Characters that are said of what is wrong with a file."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file to write to, which takes the place of ``path`` in one step when the block ends.

    A reader, or a run killed meanwhile, sees the old file or the new one, never a part. If the
    block raises, nothing has changed.

    Raises:
        OSError: if it cannot be written, or what has that name is no file.
    """
    part = _part_of(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_place(path: Path) -> None:
    """See now, before what is to be written is made, whether it can be.

    Raises:
        OSError: if it cannot.
    """
    _part_of(path).unlink()


def _part_of(path: Path) -> Path:
    """A new file beside ``path``."""
    if path.exists() and not path.is_file():  # /dev/null, say, would be replaced
        raise OSError(errno.EEXIST, "it is there, and is no file", str(path))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    return Path(name)


def write(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, replacing what stands there in one step."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as part:
        part.write_bytes(data)


def find(root: Path, name: str) -> list[Path]:
    """The folders under ``root`` that hold something of that name, sorted; hidden ones are not.

    Raises:
        UsageError: if there is no such folder, or one in it cannot be read.
    """
    if not os.path.isdir(root):  # noqa: PTH112, Path's raises OSError of a name that is too long
        raise UsageError(f"there is no folder {visible(str(root))}")
    found: list[Path] = []

    def stop(problem: OSError) -> NoReturn:
        refuse(Path(problem.filename), f"cannot be read: {problem.strerror}")

    for folder, folders, files in os.walk(root, onerror=stop):
        if name in files or name in folders:
            found.append(Path(folder))
        folders[:] = (name for name in folders if not name.startswith("."))
    return sorted(found)


def is_there(path: Path) -> bool:
    """Whether something has that name, be it a file that can be read or not."""
    return os.path.lexists(path)


def read(path: Path) -> bytes:
    """What is in a file.

    Raises:
        UsageError: if there is none, or it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            refuse(path, "is not a file")
        return path.read_bytes()
    except OSError as problem:
        refuse(path, f"cannot be read: {problem.strerror}")


def read_text(path: Path) -> str:
    """What is in a file of text.

    Raises:
        UsageError: if there is none, it cannot be read, or is no text.
    """
    try:
        return read(path).decode()
    except UnicodeDecodeError:
        refuse(path, "is no text in UTF-8")


def refuse(path: Path, what: str) -> NoReturn:
    """Say what is wrong with a file of records.

    Raises:
        UsageError: always, in one line.
    """
    what = visible(what)
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}…"  # it may quote the file
    raise UsageError(f"{visible(str(path))} {what}; restore it, or move its folder away")
