"""An SSH server of this machine for tests: on 127.0.0.1, with keys of its own, from a package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 30


def why_not() -> str:
    """Why there is none here; empty if there is."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "an SSH server is begun as root"
    lacking = [name for name in ("sshd", "ssh-keygen") if not _found(name)]
    return f"{', '.join(lacking)} not installed" if lacking else ""


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def server(root: Path, host: str) -> Generator[dict[str, str]]:
    """The environment in which that host name leads to it."""
    home = root / "home"
    (home / ".ssh").mkdir(parents=True)
    for key in ("host", "user"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key))
        subprocess.run(command, check=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": root / "host",
        "AuthorizedKeysFile": root / "user.pub",
        "PermitRootLogin": "yes",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
    }
    _write(root / "sshd_config", settings)
    _write(
        home / ".ssh" / "config",
        {"HostName": "127.0.0.1", "Port": port, "User": "root", "IdentityFile": root / "user"},
        f"Host {host}",
    )
    kind, key, *_ = (root / "host.pub").read_text("utf-8").split()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n", "utf-8")
    Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges
    program = _found("sshd")
    assert program is not None
    process = subprocess.Popen([program, "-D", "-e", "-f", str(root / "sshd_config")])
    try:
        end = time.monotonic() + SECONDS
        while not _is_open(port):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield {**os.environ, "HOME": str(home)}
    finally:
        process.terminate()
        process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def _write(path: Path, settings: dict[str, object], *first: str) -> None:
    lines = [*first, *(f"{name} {value}" for name, value in settings.items())]
    path.write_text("\n".join(lines) + "\n", "utf-8")
