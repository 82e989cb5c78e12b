"""Which software made a result."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Versions, and the git revision where the package runs from a checkout.

    Changes that count as uncommitted are those to the package: new records, say, decide nothing.
    """
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None
        if (status := _git("status", "--porcelain", "--", ".")) is None
        else bool(status),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of the packages that results hang on."""
    return {name: version(name) for name in ("forwardly", "torch", "numpy")}


def _git(*arguments: str) -> str | None:
    here = Path(__file__)
    # An installed copy may lie inside somebody else's repository, which does not track it.
    tracked = _run("ls-files", "--error-unmatch", here.name)
    return None if tracked is None else _run(*arguments)


def _run(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603, its arguments stand in this file
            [git, "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
