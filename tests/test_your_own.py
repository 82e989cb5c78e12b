"""docs/your-own.md: its snippets run one after another, and its commands in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_iris

import forwardly as fw
from test_cli import Command

pytestmark = pytest.mark.unchecked

PAGE = (Path(__file__).parent.parent / "docs" / "your-own.md").read_text("utf-8")


def test_snippets_run_and_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        exec(snippet, names)
        if number == 0:
            assert fw.evaluate(names["rule"], names["data"].test)["accuracy"] > 0.75
            assert names["data"].labels == ("other", "same")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("epochs.csv", "model.safetensors", "weights.pt"),
    }
    assert str(names["again"]) == str(names["rule"])


def test_commands_run(tmp_path: Path, command: Command) -> None:
    data, target = load_iris(return_X_y=True)
    names = "setosa", "versicolor", "virginica"
    rows = [[*map(str, x), names[y]] for x, y in zip(data, target, strict=True)]
    head = ["a", "b", "c", "d"]
    for file, columns in (("iris.csv", 5), ("new.csv", 4)):
        lines = [[*head, "species"][:columns], *(row[:columns] for row in rows)]
        (tmp_path / file).write_text("\n".join(map(",".join, lines)), "utf-8")
    found = re.findall(r"^    forwardly (.*?)(?: {2,}#.*)?$", PAGE, re.MULTILINE)
    assert len(found) == 4
    for line in found:
        short = ["--seeds", "1", "--epochs", "2"] if line.startswith("compare") else []
        done = command(*shlex.split(line), *short)
        assert done.returncode == 0, (line, done.stderr)
    predicted = (tmp_path / "classes.csv").read_text("utf-8").splitlines()[1:]
    right = sum(line.split(",")[1] == row[-1] for line, row in zip(predicted, rows, strict=True))
    assert right > 120
