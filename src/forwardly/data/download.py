"""Fetch a data set's original files from one of its mirrors, check them, convert them once."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from forwardly.data import npz
from forwardly.data.sources import SOURCES
from forwardly.errors import UsageError


def download(name: str, path: Path, progress: bool = False) -> None:
    """Make ``path``, the NAME.npz of a data set, from its original files.

    Files that lie in the folder ``originals/NAME`` beside it and have the right checksum are used
    as they are; those that had to be fetched are deleted in the end.

    Raises:
        UsageError: if no mirror has a good file, or the folder cannot be written to.
    """
    source = SOURCES[name]
    originals = path.parent / "originals" / name
    try:
        originals.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(
            f"cannot write to {originals}: {problem.strerror}; name another data folder"
        ) from None
    files = [originals / file for file in source.files]
    fetched = [file for file in files if not file.exists()]
    for file, checksum in zip(files, source.files.values(), strict=True):
        _fetch(name, file, checksum, path, progress)
    npz.write(path, source.read(files))
    for file in fetched:
        file.unlink()
    for folder in (originals, originals.parent):
        if not any(folder.iterdir()):
            folder.rmdir()


def _fetch(name: str, file: Path, checksum: str, path: Path, progress: bool) -> None:
    """Get one file from the first mirror that has it whole."""
    problems: list[str] = []
    for mirror in SOURCES[name].mirrors:
        problem = fetch(mirror + file.name, file, checksum, progress)
        if problem is None:
            return
        problems.append(f"{mirror}{file.name}: {problem}")
    raise UsageError(
        f"{name} is not in {path.parent}, and could not be downloaded:\n  "
        + "\n  ".join(problems)
        + f"\nPut the original file(s) {', '.join(SOURCES[name].files)} into {file.parent}, or "
        f"{path.name} (Keras' layout: uint8 x_train, y_train, x_test, y_test) into {path.parent}; "
        "or name the folder that has it with --data-root or the variable FORWARDLY_DATA"
    )


def fetch(address: str, file: Path, checksum: str, progress: bool = False) -> str | None:
    """Have a file that has a checksum, from an address if it is not there yet, perhaps with a bar.

    Returns:
        None, or in a few words why it could not be had.
    """
    import pooch  # pyright: ignore  # slow to import
    from requests import RequestException

    pooch.get_logger().setLevel(logging.WARNING)  # pyright: ignore
    with _bar(file.name) if progress else nullcontext() as bar:
        options: dict[str, Any] = {"progressbar": bar or False, "timeout": 30}
        downloader: Any = pooch.HTTPDownloader(**options)
        try:
            # Downloads beside the file and moves it there once its checksum is right.
            pooch.retrieve(  # pyright: ignore[reportUnknownMemberType]
                address,
                known_hash=checksum,
                fname=file.name,
                path=file.parent,
                downloader=downloader,
            )
        except RequestException as problem:
            return type(problem).__name__
        except ValueError:  # pooch's, of a wrong checksum
            return "not the file expected (wrong checksum)"
        except OSError as problem:
            return problem.strerror or str(problem)
    return None


class _bar:  # noqa: N801
    """A rich progress bar that looks to pooch like one of tqdm."""

    def __init__(self, description: str) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        )
        self._task = self._progress.add_task(description, total=None)
        self.total = 0

    def __enter__(self) -> _bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, size: int) -> None:
        """So many bytes more."""
        self._progress.update(self._task, advance=size, total=self.total)

    def reset(self) -> None:
        """Begin anew."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Done."""
