"""``forwardly report``: one page of records, or of training runs."""

from __future__ import annotations

from pathlib import Path

from forwardly import files
from forwardly.commands.console import PlainConsole
from forwardly.errors import UsageError


def report(*records: Path, out: Path = Path("report.html")) -> int:
    """Make one self-contained page of records or training runs: tables, curves, settings, gaps.

    Records of published experiments stand beside the published figures. Runs of forwardly train
    stand side by side: in which settings they differ, how far each has come or how it ended, and
    their curves in one figure.

    Parameters
    ----------
    records
        Folders of records, or of runs of forwardly train, such as runs/train (default: records).
    out
        The page; one that is there is replaced.
    """
    try:
        files.check_place(out)
    except OSError as problem:
        raise _cannot_write(out, problem) from None
    from forwardly.experiments.report import (
        render,  # matplotlib is slow to import, and only needed here
    )

    console = PlainConsole()
    with console.status("reading records, drawing figures"):
        page = render(records or (Path("records"),))
    try:
        files.write(out, page)
    except OSError as problem:
        raise _cannot_write(out, problem) from None
    console.say(str(out))
    return 0


def _cannot_write(out: Path, problem: OSError) -> UsageError:
    return UsageError(f"cannot write to {out}: {problem.strerror}; name another --out")
