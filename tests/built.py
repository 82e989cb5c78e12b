"""What was built holds what it should: ``python tests/built.py FOLDER``, as `make dist` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
LINK = re.compile(r'(?:\]\(|src="|href=")([^)"]+)')


def check(folder: Path) -> None:
    """Compare wheel and source archive with the files that git knows."""
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = set(subprocess.check_output(listed, cwd=ROOT, text=True).splitlines())

    with ZipFile(wheel) as opened:
        names = opened.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        text = opened.read(metadata).decode()
    package = {name for name in names if ".dist-info/" not in name}
    apart = package ^ {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    assert not apart, f"in the wheel or in src/, not in both: {sorted(apart)}"
    for name in ("py.typed", "rules/papers.bib", "files/templates/base.html.jinja"):
        assert f"forwardly/{name}" in package, name

    with tarfile.open(archive) as opened:
        source = {name.partition("/")[2] for name in opened.getnames()}
    apart = source ^ {*tracked, "PKG-INFO"}
    assert not apart, f"in the source archive or the checkout, not in both: {sorted(apart)}"

    links = LINK.findall(text)
    assert len(links) > 20
    relative = [link for link in links if not link.startswith(("https://", "#"))]
    assert not relative, f"these lead nowhere from PyPI: {relative}"
    print(f"{wheel.name} has {len(package)} files, {archive.name} {len(source)}")  # noqa: T201


if __name__ == "__main__":
    check(Path(sys.argv[1]))
