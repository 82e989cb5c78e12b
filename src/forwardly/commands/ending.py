"""How a command ends, whatever happens: with an exit code, and a line where one is due.

  0  done
  1  not successful: training diverged, memory or disk were not enough
  2  a mistake in what was given
 70  a mistake of ours, whose traceback is kept in a file
130  Ctrl-C, 143 SIGTERM: what was done is kept
141  whoever read the output has gone, such as head
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING, Any

from forwardly.commands.console import INTERRUPTED, PlainConsole
from forwardly.errors import UsageError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

FAILED, MISTAKE, BUG, PIPE_CLOSED = 1, 2, 70, 141

_SIGNALS = signal.SIGINT, signal.SIGTERM
_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|out of memory|cannot allocate memory|"
    r"storage size calculation overflowed|array is too big|maximum allowed dimension",
    re.IGNORECASE,
)
"""What torch and NumPy say in RuntimeError and ValueError."""

_LONGEST = 300


def run(command: Callable[[], int]) -> int:
    """Call a command, and say what went wrong; the exit code."""
    stopped: list[int] = []
    for name in ("stdout", "stderr"):  # closed from the beginning, by >&- or a service
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    try:
        with _interruptible(stopped):
            code = command()
            if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
                sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = PIPE_CLOSED
    except UsageError as mistake:
        code = MISTAKE
        _say(str(mistake))
    except Exception as problem:
        if isinstance(problem.__cause__, KeyboardInterrupt):
            code = INTERRUPTED  # as Python up to 3.11 wraps what comes while a class is made
        else:
            outside = _outside(problem)
            code = BUG if outside is None else FAILED
            _say(_our_mistake(problem) if outside is None else outside)
    if code:
        _remove_empty_folders()
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return 128 + stopped[0] if stopped and code == INTERRUPTED else code


@contextmanager
def _interruptible(stopped: list[int]) -> Generator[None]:
    """Make KeyboardInterrupt of Ctrl-C and SIGTERM.

    After the block there is nothing left to keep: they end the process at once, without a word
    from Python, which is closing; where one has ended the command already, they change no more.

    Args:
        stopped: the signals are added to it.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    def stop_again(unraisable: UnraisableHookArgs) -> None:
        """Python drops what is raised in a destructor or a callback, and goes on."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            again = Timer(0.05, signal.raise_signal, [stopped[-1] if stopped else signal.SIGINT])
            again.daemon = True
            again.start()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, stop_again
    _listen(stop)
    try:
        yield
    finally:
        _listen(signal.SIG_IGN if stopped else signal.SIG_DFL)
        sys.unraisablehook = before


def _listen(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    with suppress(ValueError):  # not in the main thread
        for number in _SIGNALS:
            signal.signal(number, handler)


def _outside(problem: Exception) -> str | None:
    """What to say where the machine is to blame; None if it is not."""
    words = str(problem)
    if isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError | ValueError) and _MEMORY.search(words)
    ):
        wanted = re.search(r"allocate ([\d.]+ ?\w+)", words)
        size = f" ({wanted[1]} were asked for)" if wanted else ""
        return f"there is not enough memory{size}; try a smaller network, batch or data set"
    if isinstance(problem, OSError) and problem.errno:
        place = f"{problem.filename}: " if problem.filename else ""
        kept = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return f"{place}{problem.strerror}" + ("; what was written before is kept" if kept else "")
    if "PytorchStreamWriter failed" in words:
        return "a file could not be written, perhaps as the disk is full; the one before it is kept"
    if type(problem).__name__ == "BrokenProcessPool":
        return (
            "the process of a run was ended from outside, perhaps for want of memory; "
            "the same command goes on from the checkpoints"
        )
    return None


def _our_mistake(problem: Exception) -> str:
    """The line for what nobody foresaw; its traceback goes into a file, or after the line."""
    what = str(problem).partition("\n")[0]
    what = f"{type(problem).__name__}: {what}" if what else type(problem).__name__
    told = traceback.format_exc()
    try:
        handle, path = tempfile.mkstemp(prefix="forwardly-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\nPython {sys.version}\n\n{told}")
    except OSError:
        return f"this is a mistake of forwardly's, not yours; please report it:\n{told}"
    return (
        f"this is a mistake of forwardly's or of a rule from elsewhere, not yours ({what[:200]}); "
        f"please report it with the file {path}, which says where it happened"
    )


def _say(message: str) -> None:
    with suppress(OSError, ValueError):  # closed, or full
        PlainConsole(stderr=True).say(f"error: {message}", style="red")


def _remove_empty_folders() -> None:
    """Those that were made for a run that came to nothing."""
    if folders := sys.modules.get("forwardly.experiments.run_folder"):  # slow to import
        folders.RunFolder.remove_empty()


def _let_go(stream: Any) -> None:
    """Empty a stream; where that fails, have Python not try again when it closes."""
    if stream is None:  # closed from the beginning
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
