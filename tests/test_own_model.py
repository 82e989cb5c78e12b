"""Models of a user's own, by a function in a file: made, refused, trained, resumed, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly import saving
from forwardly.errors import UsageError
from forwardly.experiments.jobs import Job
from forwardly.experiments.recipe import Recipe, prepare
from forwardly.models import own
from test_cli import Command

pytestmark = pytest.mark.unchecked  # whole commands

MINE = """
import math
import random
import sys
from dataclasses import dataclass

import torch
from torch import nn

from beside import Block


@dataclass
class Sizes:
    width: int = 8


class Net(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.stem = nn.Linear(inputs, Sizes().width)
        self.block = Block(Sizes().width)
        self.head = nn.Linear(Sizes().width, outputs)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x.flatten(1)))))


def build(input_shape, classes):
    import later

    return Net(math.prod(input_shape), classes)


def chain(shape, k):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.ReLU(), nn.Linear(8, k))


def nothing(shape, k):
    return None


def fails(shape, k):
    raise KeyError("lost\\nand found")


def takes_one(shape):
    return chain(shape, 10)


def too_many(shape, k):
    return chain(shape, k + 1)


def other_shape(shape, k):
    return nn.Linear(7, k)


def pair(shape, k):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def by_python(shape, k):
    made = chain(shape, k)
    with torch.no_grad():
        made[1].bias += random.random()
    return made


def zero_at_first(shape, k):
    made = by_python(shape, k)
    torch.nn.init.zeros_(made[3].weight)
    torch.nn.init.zeros_(made[3].bias)
    return made


def hidden_numbers(shape, k):
    class Scaled(nn.Sequential):
        scale = random.random()

        def forward(self, x):
            return super().forward(x) * self.scale

    return Scaled(*chain(shape, k))


number = 3
"""
BESIDE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.fc(x))
"""
FILES = {"mine.py": MINE, "beside.py": BESIDE, "later.py": "", "broken.py": "def build(:\n"}
FILES |= {
    "raises.py": "import nowhere_to_be_found\nfrom mine import chain\n",
    "ends.py": "import sys\nsys.exit(3)\n",
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(content, "utf-8")


def made(model: str, **options: Any) -> nn.Module:
    return own.build(model, (1, 2, 3), 4, **{"seed": 5, **options})


@pytest.mark.parametrize(
    ("text", "is_own"),
    [
        ("mine.py:build", True),
        ("../a b/mine.py:Net", True),
        ("C:\\models\\mine.py:build", True),
        ("mine.py", False),
        ("mine.py:", False),
        ("mine.py:1st", False),
        ("mine:build", False),
        ("mlp", False),
    ],
)
def test_what_names_a_function(text: str, is_own: bool) -> None:
    assert own.is_own(text) == is_own
    if not is_own and text != "mlp":
        with pytest.raises(UsageError, match=r"one of mlp, conv, .*FILE\.py:FUNCTION; given"):
            Recipe(model=text)


def test_it_is_made_as_asked_for() -> None:
    """From the seed, without a trace in the global random state; also by another path."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = made("mine.py:build", dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(torch.rand(3, 1, 2, 3, dtype=torch.float64)).shape == (3, 4)
    assert model.training
    same = made(own.absolute("mine.py:build"), dtype=torch.float64)
    other = made("mine.py:build", dtype=torch.float64, seed=6)
    first, second, third = (m.state_dict() for m in (model, same, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.weight"], third["stem.weight"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lost.py:build", r"there is no file lost\.py; a model of your own is named as FILE\.py"),
        ("mine.py:biuld", r"no function biuld in mine\.py; it has Sizes, Net, build, chain"),
        ("mine.py:number", r"no function number in mine\.py"),
        ("broken.py:build", r"broken\.py does not run: SyntaxError: invalid syntax"),
        ("raises.py:build", r"raises\.py does not run: ModuleNotFoundError: No module named"),
        ("ends.py:build", r"ends\.py does not run: SystemExit: it ends Python"),
        ("mine.py:nothing", r"mine\.py:nothing must return an nn\.Module; it returned None"),
        ("mine.py:fails", r"called with \(1, 2, 3\) and 4, .*, raises KeyError: 'lost"),
        ("mine.py:takes_one", r"takes_one, called with \(1, 2, 3\) and 4.* raises TypeError"),
        ("mine.py:too_many", r"must make 4 numbers of each sample; of two samples .* \(2, 5\)"),
        ("mine.py:other_shape", r"does not take two samples, \(2, 1, 2, 3\): RuntimeError"),
        ("mine.py:pair", r"must make a tensor; it makes \(tensor"),
        ("mine.py:by_python", r"mine\.py:by_python makes another model each time"),
        ("mine.py:zero_at_first", r"mine\.py:zero_at_first makes another model each time"),
        ("mine.py:hidden_numbers", r"mine\.py:hidden_numbers makes another model each time"),
    ],
)
def test_what_cannot_be_made(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        made(model)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_file() -> None:
    Path("folder.py").mkdir()
    with pytest.raises(UsageError, match=r"cannot read folder\.py"):
        made("folder.py:build")


def test_a_file_that_failed_is_run_again() -> None:
    with pytest.raises(UsageError, match="does not run"):
        made("raises.py:chain")
    Path("nowhere_to_be_found.py").write_text("", "utf-8")
    made("raises.py:chain")


def test_settings_of_other_models() -> None:
    with pytest.raises(UsageError, match=r"dropout is of the models mlp and conv, and mine\.py"):
        Recipe(model="mine.py:build", dropout=0.5)


def test_rules_train_it_as_any_model() -> None:
    """Bit for bit what the same model gives that is made by hand."""
    recipe = Recipe("pepita", "digits", model="mine.py:build", learning_rate=0.1)
    prepared = prepare(recipe, 3)
    x, target = prepared.dataset.train.batch(torch.arange(8), torch.float32)
    assert prepared.own is not None
    by_hand = own.build("mine.py:build", (64,), 10, seed=prepared.own.seed)
    F = prepared.rule.state_dict()["F"]
    rule = fw.PEPITA(by_hand, nn.CrossEntropyLoss(), projection=F, input_shape=(64,))
    ours, theirs = prepared.rule(x, target).updates, rule(x, target).updates
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


TRAIN = ("train", "--data", "digits", "--epochs", "1", "--threads", "1")


def test_trained_evaluated_and_gone_on_with(command: Command) -> None:
    done = command(*TRAIN, "--model", "mine.py:build", "--out", "run")
    assert done.returncode == 0, done.stderr
    config = json.loads(Path("run/config.json").read_text("utf-8"))
    assert config["recipe"]["model"] == "mine.py:build"
    assert config["model_function"] == "build"
    assert config["model_sha256"] == own.sha256("mine.py:build")
    accuracy = json.loads(Path("run/result.json").read_text("utf-8"))["test_accuracy"]

    done = command("evaluate", "run")
    assert done.returncode == 2
    assert "the weights of a model that mine.py:build makes" in done.stderr
    assert "evaluate and predict take that function as --model" in done.stderr
    done = command("evaluate", "run", "--model", "mine.py:chain")
    assert (done.returncode, "is not what made the model" in done.stderr) == (2, True)
    done = command("evaluate", "run", "--model", "mine.py:build", "--out", "evaluated")
    assert done.returncode == 0, done.stderr
    found = json.loads(Path("evaluated/evaluation.json").read_text("utf-8"))
    assert found["accuracy"] == pytest.approx(accuracy)
    np.savez("new.npz", x=np.zeros((3, 64), np.float32))
    done = command("predict", "run", "--data", "new.npz", "--model", "mine.py:build")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)

    Path("moved").mkdir()
    for name in FILES:
        shutil.move(name, "moved")
    more = (*TRAIN[:4], "2", *TRAIN[5:], "--out", "run", "--resume", "--model")
    done = command(*more, "moved/mine.py:build")
    assert done.returncode == 0, done.stderr
    changed = Path("moved/mine.py")
    changed.write_text(changed.read_text("utf-8") + "\n", "utf-8")
    done = command(*more, "moved/mine.py:build")
    assert (done.returncode, "model_sha256" in done.stderr) == (2, True)
    done = command("evaluate", "run", "--model", "moved/mine.py:build")
    assert (done.returncode, "is not what made the model" in done.stderr) == (2, True)


def test_what_is_in_the_file_needs_no_function(command: Command) -> None:
    """A chain of supported modules is saved whole, whoever made it."""
    done = command(*TRAIN, "--model", "mine.py:chain", "--out", "run")
    assert done.returncode == 0, done.stderr
    for name in FILES:
        Path(name).unlink()
    done = command("evaluate", "run", "--out", "evaluated")
    assert done.returncode == 0, done.stderr


def test_in_python_too() -> None:
    prepared = prepare(Recipe("backprop", "digits", model="mine.py:build"), 0)
    prepared.rule.accumulate(*prepared.dataset.train.batch(torch.arange(4), torch.float32))
    with pytest.raises(TypeError, match="could not be built again"):
        saving.save(prepared.rule, "model.safetensors", dataset=prepared.dataset)
    saving.save(prepared.rule, "model.safetensors", dataset=prepared.dataset, own=prepared.own)
    with pytest.raises(UsageError, match=r"forwardly\.saving\.read\(path, model\)"):
        fw.load("model.safetensors")
    again = saving.read("model.safetensors", "mine.py:build").rule
    x, _ = prepared.dataset.test.batch(torch.arange(4), torch.float32)
    assert torch.equal(again.predict(x), prepared.rule.predict(x))


def test_a_runs_checkpoint_is_of_the_file(tmp_path: Path) -> None:
    """So a trial of a search does not go on with another model."""
    recipe = Recipe("pepita", "digits", model=own.absolute("mine.py:build"))
    job = Job("e", "c", 0, recipe, tmp_path, tmp_path, None, 1)
    before = job.settings
    Path("mine.py").write_text(MINE + "\n", "utf-8")
    assert job.settings != before


SEARCH = ("tune", "--data", "digits", "--epochs", "2", "--trials", "2", "--model", "mine.py:build")


def test_not_on_other_machines(command: Command) -> None:
    done = command(*SEARCH, "--cluster", "tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert "the file of your model is on this machine: leave --cluster out" in done.stderr


def test_compared(command: Command) -> None:
    """By default by the rules that take it; the summary knows the file."""
    compare = ("compare", "--seeds", "1", "--epochs", "1", "--learning-rate", "0.01")
    done = command(*compare, "--model", "mine.py:build", "--out", "compared")
    assert done.returncode == 0, done.stderr
    summary = json.loads(Path("compared/summary.json").read_text("utf-8"))
    assert summary["rules"].keys() == {n for n, r in fw.RULES.items() if not r.needs_chain}
    assert summary["model_sha256"] == own.sha256("mine.py:build")
    done = command(*compare, "--model", "mine.py:build", "--hidden", "3", "--out", "other")
    assert (done.returncode, "hidden is of the models" in done.stderr) == (2, True)


def test_compared_in_a_residual_network(command: Command) -> None:
    rules = ("--rules", "readout-only", "pepita")
    done = command("compare", *rules, "--model", "resmlp", "--seeds", "1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
