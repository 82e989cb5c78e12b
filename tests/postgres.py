"""A PostgreSQL of this machine, from Debian's package, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60
USER = "postgres"
"""Whom the package makes; it does not run as root."""


def why_not() -> str:
    """Why there is none here; empty if there is."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "PostgreSQL is begun by root as another user"
    return "" if _programs() else "PostgreSQL not installed"


def _programs() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def database(root: Path) -> Generator[str]:
    """The URL of an empty one, which listens on 127.0.0.1 alone."""
    programs = _programs()[-1].parent
    root.mkdir()
    shutil.chown(root, USER)
    for folder in root.parents:  # pytest's are their owner's
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    place = str(root / "data")

    as_user: dict[str, Any] = {"user": USER, "group": USER, "cwd": root}
    made = [str(programs / "initdb"), "-D", place, "--auth=trust", "--no-sync"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, **as_user)
    listening = f"-p {port} -c listen_addresses=127.0.0.1 -k {root}".split()
    with (root / "log").open("w") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), "-D", place, *listening], stderr=log, **as_user
        )
    try:
        end = time.monotonic() + SECONDS
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False, stdout=subprocess.DEVNULL).returncode:
            assert server.poll() is None, (root / "log").read_text("utf-8")
            assert time.monotonic() < end
            time.sleep(0.1)
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # which ends what clients are about
        server.wait()
