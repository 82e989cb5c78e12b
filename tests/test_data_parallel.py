"""One run over several processes: real ones, which are also killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import forwardly as fw
import in_processes
from forwardly.errors import UsageError
from forwardly.testing import CASES, shares_add_up_to_the_batch
from forwardly.training import checkpoint
from test_laws import FACTORIES

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = [
    *("-m", "forwardly", "train", "--data", "teacher-student", "--learning-rate", "0.001"),
    *("--hidden", "8", "--dropout", "0.2", "--measure", "none", "--threads", "1"),
]
SECONDS = 300

Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(tmp_path: Path) -> Generator[Begin]:
    """Begin torchrun, which is killed in the end with all that it began."""
    with ExitStack() as left:

        def begun(*arguments: str) -> subprocess.Popen[str]:
            path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
            process = subprocess.Popen(
                [*TORCHRUN, *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
                cwd=tmp_path,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            left.callback(process.communicate)
            left.callback(_end, process)
            return process

        yield begun


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def output(process: subprocess.Popen[str]) -> str:
    out, problems = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + problems
    return out


ON_THREE = {"credit_is_the_whole_batchs", "graphs_are_shared_out_too"}


@pytest.mark.long
@pytest.mark.unchecked
@pytest.mark.parametrize("processes", [2, 3])
def test_in_processes(begin: Begin, processes: int) -> None:
    names = {check.__name__ for check in in_processes.CHECKS}
    named = sorted(names & ON_THREE if processes == 3 else names - ON_THREE)
    arguments = ("--nproc-per-node", str(processes), str(HERE / "in_processes.py"), *named)
    said = output(begin(*arguments)).splitlines()
    held = [line for line in said if line.startswith("holds ")]
    expected = [f"holds {name} {rank}" for name in named for rank in range(processes)]
    assert sorted(held) == sorted(expected), "\n".join(said)


@pytest.mark.parametrize("name", [n for n, rule in fw.RULES.items() if rule.needs_whole_batch])
def test_the_law_finds_what_needs_the_whole_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fw.RULES[name], "needs_whole_batch", "")
    dense = next(case for case in CASES if case.name == "dense")
    with pytest.raises(AssertionError):
        shares_add_up_to_the_batch(FACTORIES[name], dense)


def test_without_processes_there_is_nothing_to_share_out() -> None:
    rule = fw.PEPITA(nn.Sequential(nn.Linear(3, 2)), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="begin them by torchrun"):
        fw.distributed.DataParallel(rule)
    with (
        pytest.raises(UsageError, match="RANK is not set"),
        fw.distributed.joined(),
    ):
        pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["rule"]


@pytest.mark.long
@pytest.mark.unchecked
def test_the_command_on_two_processes(begin: Begin, tmp_path: Path) -> None:
    done = begin(
        *("--nproc-per-node", "2", *TRAIN, "--epochs", "2", "--out", "many"),
        *("--data-parallel", "exact"),
    )
    said = output(done)
    assert said.count("many/model.safetensors") == 1  # the first process alone says something
    config = json.loads((tmp_path / "many" / "config.json").read_text("utf-8"))
    assert config["processes"] == "2"
    alone = subprocess.run(
        [sys.executable, *TRAIN, "--epochs", "2", "--out", "one"],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    assert alone.returncode == 0
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-4, atol=1e-5)
    # One process can go on where several have been.
    more = [sys.executable, *TRAIN, "--epochs", "3", "--out", "many", "--resume"]
    assert subprocess.run(more, check=False, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.long
@pytest.mark.unchecked
def test_what_the_page_says_runs(begin: Begin, tmp_path: Path) -> None:
    page = (HERE.parent / "docs" / "scaling.md").read_text("utf-8")
    section = page.split("## One run over several processes")[1].split("\n## ")[0]
    (command,) = re.findall("^    torchrun (.+)$", section, re.MULTILINE)
    done = begin(*command.split())
    (program,) = re.findall("```python\n(.*?)```", section, re.DOTALL)
    imports, rest = program.split("\n\n", 1)
    made = """
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
x = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
dataset = x, x[:, :3].argmax(1)
"""
    (tmp_path / "program.py").write_text(imports + made + rest, "utf-8")
    output(done)
    assert (tmp_path / "runs" / "digits" / "result.json").exists()
    output(begin("--nproc-per-node", "2", "program.py"))
    assert (tmp_path / "run.pt").exists()


@pytest.mark.unchecked
def test_a_mistake_is_said_once(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    process = begin("--nproc-per-node", "2", *TRAIN, "--out", "full", "--data-parallel")
    _, problems = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert problems.count("exists already, and nothing is overwritten") == 1
    assert "please report it" not in problems


MIXES = """
from torch import nn


class Mixes(nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.first, self.head = nn.Linear(d, 8), nn.Linear(8, k)

    def forward(self, x):
        h = self.first(x).relu()
        return self.head(h - h.mean(0))


def build(input_shape, outputs):
    return Mixes(*input_shape, outputs)
"""


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "says", "folder"),
    [
        (("--rule", "time-local-pepita"), "cannot share out batches over processes", False),
        (("--model", "mixes.py:build"), "depends on the others of its batch", True),
    ],
)
def test_what_cannot_be_shared_out_is_said_once(
    options: tuple[str, ...], says: str, folder: bool, begin: Begin, tmp_path: Path
) -> None:
    (tmp_path / "mixes.py").write_text(MIXES, "utf-8")
    train = ("-m", "forwardly", "train", "--data", "digits", "--out", "run", "--data-parallel")
    process = begin("--nproc-per-node", "2", *train, *options)
    _, problems = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert problems.count(says) == 1
    assert "please report it" not in problems
    assert (tmp_path / "run").exists() == folder


@pytest.mark.long
@pytest.mark.unchecked
def test_a_killed_process_is_begun_again(begin: Begin, tmp_path: Path) -> None:
    options = [*TRAIN, "--epochs", "12", "--data-parallel", "--out"]
    output(begin("--nproc-per-node", "2", *options, "left-alone"))
    process = begin("--nproc-per-node", "2", "--max-restarts", "2", *options, "killed")
    for epochs, rank in ((2, 1), (5, 0)):
        number = _process(tmp_path / "killed", epochs, process, rank)
        os.kill(number, signal.SIGKILL)
    output(process)
    one, killed = weights(tmp_path / "left-alone"), weights(tmp_path / "killed")
    assert one.keys() == killed.keys()
    for name, value in one.items():
        assert torch.equal(killed[name], value), name


def _process(folder: Path, epochs: int, begun: subprocess.Popen[str], rank: int) -> int:
    """The number of a process of ``begun``, once so many epochs are done."""
    end = time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < end
        assert begun.poll() is None, begun.communicate()
        file = folder / "epochs.csv"
        if file.exists() and len(file.read_text("utf-8").splitlines()) > epochs:
            for number in _children(begun.pid):
                with suppress(OSError):
                    environment = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
                    if f"RANK={rank}".encode() in environment:
                        return number
        time.sleep(0.01)


def _children(parent: int) -> list[int]:
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(number) for path in lists for number in path.read_text().split()]
