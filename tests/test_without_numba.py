"""Where numba cannot be imported, all runs on the readable paths, and comes to the same."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from forwardly.cli import main
from forwardly.data import Dataset, Split

PROGRAM = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None  # importing them fails
sys.path.insert(0, sys.argv[1])
import torch
from test_without_numba import COMPARED, OTHERS, everything, refusals
torch.save((everything(*COMPARED, *OTHERS), refusals()), "found.pt")
"""

COMPARED = (
    "teacher-student --epochs 20 --log-every 10 --out taught",
    "train --data digits --hidden 1100 --epochs 1 --dropout 0.1 --out trained",
)
OTHERS = (
    "compare --rules pepita readout-only --seeds 2 --epochs 1 --out compared",
    "audit --rules pepita --hidden 4 3 --out audited",
    "bench --quick --threads 1 --cases limit online-small teacher-student seeds --out measured",
)


def layers(*sizes: int, dropout: float = 0.2) -> nn.Sequential:
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*made[:-2])


def everything(*commands: str) -> dict[str, Any]:
    """What the library comes to, by whatever path; commands write here."""
    torch.manual_seed(0)
    x, target = torch.rand(64, 512), torch.randint(10, (64,))
    found: dict[str, Any] = {}
    for name, make in fw.RULES.items():
        for sizes in [(512, 160, 256, 10), *[(512, 256, 10)] * (name == "pepita")]:
            torch.manual_seed(1)
            rule = make(layers(*sizes), nn.CrossEntropyLoss())
            optimizer = fw.LocalSGD(rule, lr=0.01, momentum=0.9)
            optimizer.prepare()
            steps = [optimizer.step(x, target) for _ in range(3)]
            found[f"{name} {len(sizes)}"] = [*steps[-1][1:], *rule.state_dict().values()]
    torch.manual_seed(2)
    rule = fw.PEPITA(layers(512, 256, 10), nn.CrossEntropyLoss())
    data = Dataset("made", 10, *(Split(x[i::3], target[i::3]) for i in range(3)))
    rows = fw.fit(rule, data, fw.LocalSGD(rule, lr=0.1, momentum=0.9), epochs=2, batch=8).rows
    found["fit"] = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    found["evaluate"] = fw.evaluate(rule, data.test)
    for command in commands:
        sys.argv = ["forwardly", *command.split()]
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, command
    return found


def refusals() -> list[str]:
    rule = fw.PEPITA(layers(4, 3, 2, dropout=0), nn.CrossEntropyLoss())
    with pytest.raises(TypeError) as raised:
        fw.CompiledTraining(rule)
    return [str(raised.value)]


def test_all_runs_on_the_readable_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process without it, for everything, and this one for comparison."""
    with_it, without = tmp_path / "with", tmp_path / "without"
    for folder in (with_it, without):
        folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=without, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    found, (refused,) = torch.load(without / "found.pt", weights_only=True)
    assert "numba, which compiles it, cannot be imported" in refused
    assert "Use it with LocalSGD or accumulate" in refused
    for left_out in ("online-small", "teacher-student", "seeds"):
        assert f"{left_out} left out: numba, which compiles it, cannot be" in done.stdout
    assert "limit" in json.loads((without / "measured" / "bench.json").read_text("utf-8"))["cases"]

    monkeypatch.chdir(with_it)
    expected = everything(*COMPARED)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for path in ("taught/metrics.csv", "trained/epochs.csv"):
        ours, theirs = (numbers_in(folder / path) for folder in (without, with_it))
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert {path.name for path in without.iterdir()} >= {"compared", "audited", "measured"}


def numbers_in(path: Path) -> Tensor:
    """All of a table but times."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if "second" not in name and name != "rule"]
    return torch.from_numpy(np.array([[float(row[name]) for name in names] for row in rows]))
