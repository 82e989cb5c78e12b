"""What docs/install.md has a newcomer do is what make does; what it lists is what there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from forwardly.data import teacher_student

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
INSTALL = (ROOT / "docs" / "install.md").read_text("utf-8")


def section(title: str) -> str:
    """What stands under a heading of the page."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", INSTALL, re.MULTILINE | re.DOTALL)
    return found


def commands(lines: list[str]) -> list[list[str]]:
    """Words of those lines that do something to Python, in one spelling.

    Each is as ``python -m …``, whatever folder the environment is in; what only keeps pip quiet is
    left out.
    """
    found: list[list[str]] = []
    for line in lines:
        if re.match(r"touch|git clone|cd |source |\.venv\\Scripts|.*sys\.version_info", line):
            continue
        program, *words = shlex.split(line)
        program = program.removeprefix(".venv/bin/")
        if program == "forwardly":
            words = ["-m", "forwardly", *words]
        assert program in ("python", "python3", "py", "forwardly"), line
        found.append([w for w in words if w not in ("--quiet", "--disable-pip-version-check")])
    return found


def made(target: str) -> list[list[str]]:
    """What make would run where nothing is installed."""
    call = ["make", "--dry-run", "--always-make", "VENV=.venv", "PYTHON=python3", "PIP_ARGS="]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    said = subprocess.check_output([*call, target], cwd=ROOT, text=True, env=environment)
    return commands(said.replace("\\\n", " ").splitlines())


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_without_make_the_same_is_done() -> None:
    text = section("A clone, without make")
    blocks = [block.split("\n") for block in re.findall(r"(?:^    .+\n?)+", text, re.MULTILINE)]
    windows, macos, tests = ([line.strip() for line in block if line] for block in blocks)
    demo = made("demo")
    assert len(demo) == 3
    assert commands(windows) == commands(macos) == demo
    assert commands(tests) == [line for line in made("test") if line not in demo]
    assert len(commands(tests)) == 2


def test_every_dependency_and_extra_is_said_what_for() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| \S", section("What it needs, and for what"), re.MULTILINE)
    needed = [re.split(r"[><=~!;\[ ]", one)[0] for one in PROJECT["project"]["dependencies"]]
    assert len(needed) > 10
    assert rows == [*needed, *PROJECT["project"]["optional-dependencies"]]


def test_the_repositorys_address_is_one() -> None:
    """pyproject.toml says it; no document says another, as long as nobody moves the project."""
    address = PROJECT["project"]["urls"]["Repository"]
    assert f"repository-code: {address}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    documents = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    text = "\n".join(document.read_text("utf-8") for document in documents)
    ours = re.findall(r"https://[\w./]*/forwardly/?(?=[\s`)/\"'#]|$)", text)
    assert len(ours) > 8
    path = address.removeprefix("https://github.com/")
    mirrors = {address, f"https://raw.githubusercontent.com/{path}"}
    assert {one.rstrip("/") for one in ours} <= mirrors


def test_readmes_links_lead_somewhere_from_pypi() -> None:
    """As the build substitutes them; in HTML too, and pictures as pictures."""
    text = (
        "[a](docs/a.md) [b](#b) [c](https://c.org) ![d](d.png) [![e](e.png)](e.md) "
        '<img src="f.png"> <a href="f.md"> <source srcset="g.png">'
    )
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for one in hook["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    page = PROJECT["project"]["urls"]["Repository"] + "/blob/main/"
    raw = page.replace("github.com", "raw.githubusercontent.com").replace("blob/", "")
    assert text == (
        f"[a]({page}docs/a.md) [b](#b) [c](https://c.org) ![d]({raw}d.png) "
        f"[![e]({raw}e.png)]({page}e.md) "
        f'<img src="{raw}f.png"> <a href="{page}f.md"> <source srcset="{raw}g.png">'
    )


def test_arrays_come_from_matlab_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the page's own lines, of a file as MATLAB writes it: matrices, columns first."""
    monkeypatch.chdir(tmp_path)
    task = teacher_student.draw(teacher_student.TaskSettings(), np.random.default_rng(0))
    teacher_student.save(task, tmp_path / "here.npz")
    with np.load("here.npz") as here:
        scipy.io.savemat("my.mat", {name: np.asfortranarray(here[name]) for name in here.files})
    arrays = section("Arrays from Julia, MATLAB and R")
    (lines,) = re.findall(r"```python\n(.*?)```", arrays, re.DOTALL)
    exec(lines, {})
    found = teacher_student.load(tmp_path / "my.npz")
    ours, theirs = ([*t[:4], *t.weights, t.F] for t in (found, task))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
