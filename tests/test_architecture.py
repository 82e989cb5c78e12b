"""The house: rooms import only from those below them, and what is public is what is documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forwardly as fw

SOURCE = Path(fw.__file__).parent
DOCS = SOURCE.parent.parent / "docs"

ROOMS = (
    *("cli", "commands", "benchmarks", "experiments", "export", "audit", "sklearn"),
    *("distributed", "training", "fast"),
    *(
        "saving",
        "metrics",
        "models",
        "testing",
        "rules",
        "feedback",
        "rule",
        "losses",
        "loss_value",
        "network",
    ),
    *("data", "noise", "files", "errors", "checks", "_typing"),
)
"""From the roof down; a room may import from those that follow it."""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import in a file, those in functions and for type checks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "forwardly":
            found = [f"forwardly.{name.name}" for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            found = [node.module or ""]
        else:
            continue
        ours = (name for name in found if name.split(".")[0] == "forwardly")
        yield from ((node.lineno, room_of(name)) for name in ours if "__" not in name)


def wrong(path: Path) -> list[str]:
    """Imports of a file that point up."""
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    allowed = {own, *ROOMS[ROOMS.index(own) + 1 :]}
    return [
        f"{path.relative_to(SOURCE)}:{line} imports {room}"
        for line, room in imported(path)
        if room not in allowed
    ]


def test_imports_point_down() -> None:
    top = SOURCE / "__init__.py", SOURCE / "__main__.py"
    files = [path for path in SOURCE.rglob("*.py") if path not in top]
    assert [line for path in sorted(files) for line in wrong(path)] == []


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("from forwardly.training import fit", "training"),
        ("from forwardly import training", "training"),
        ("import forwardly.training.loop", "training"),
        ("def f():\n    from forwardly.training.loop import fit", "training"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from forwardly import cli",
            "cli",
        ),
    ],
)
def test_an_import_that_points_up_is_found(text: str, room: str, tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(text, "utf-8")
    assert [found for _, found in imported(tmp_path / "rule.py")] == [room]
    assert room not in ROOMS[ROOMS.index("rule") :]


def test_every_room_is_on_the_plan() -> None:
    places = [path for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()]
    names = {path.stem for path in places if not path.stem.startswith("__")}
    assert names == set(ROOMS)
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert set(ROOMS) - {"_typing"} <= set(re.findall(r"`([a-z_]+)(?:\.py|/)?`", page))


@pytest.mark.parametrize("name", [p.parent.name for p in SOURCE.glob("*/__init__.py")])
def test_every_room_says_what_it_may_import(name: str) -> None:
    page = ast.parse((SOURCE / name / "__init__.py").read_text(encoding="utf-8"))
    said = ast.get_docstring(page) or ""
    sentence = re.search(r"May import (.*?)\.(\s|$)", said, re.DOTALL)
    assert sentence is not None, "its docstring says: May import …."
    below = ROOMS[ROOMS.index(name) + 1 :]
    named = set(re.findall(r"``(\w+)``", sentence[1]))
    assert named <= set(below)


def test_public_names_are_the_documented_ones() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `fw\.(\w+)` \|", page, re.MULTILINE)
    assert documented == fw.__all__
    assert all(hasattr(fw, name) for name in fw.__all__)
