"""``forwardly train`` as users run it: options, wrong input, Ctrl-C, and kills at any moment."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import forwardly as fw
from forwardly.commands import console
from forwardly.experiments.run_folder import RunFolder
from forwardly.training import checkpoint
from test_cli import COMMAND, Command

pytestmark = pytest.mark.unchecked  # whole commands

SMALL = ["train", "--data", "digits", "--hidden", "16", "--threads", "1", "--seed", "4"]
# Without digits, which scikit-learn brings: its import takes as long as the training.
NUMBERS = ["train", "--data", "teacher-student", "--hidden", "8", "--learning-rate", "0.001"]
LONG = [*NUMBERS, "--epochs", "60", "--dropout", "0.2", "--milestones", "10", "30"]
LONG += ["--measure", "none"]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["rule"]


def test_trains_and_writes(tmp_path: Path, command: Command) -> None:
    options = ["--epochs", "3", "--out", "here", "--measure", "norms", "alignment", "angles"]
    done = command(*SMALL, *options)
    assert done.returncode == 0, done.stderr
    here = tmp_path / "here"
    names = {"config.json", "epochs.csv", "checkpoint.pt", "result.json", "curves.png"}
    names |= {"model.safetensors"}
    assert {path.name for path in here.iterdir()} == names
    for name in names - {"config.json"}:
        assert f"here/{name}" in done.stdout
    rows = list(csv.DictReader((here / "epochs.csv").read_text("utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"norm/1.weight", "alignment/1.weight", "angle/F"} <= rows[0].keys()
    result = json.loads((here / "result.json").read_text("utf-8"))
    assert f"{100 * result['test_accuracy']:.2f}" in done.stdout
    assert f"{100 * float(rows[-1]['validation_accuracy']):.2f}" in done.stdout
    config = json.loads((here / "config.json").read_text("utf-8"))
    assert (config["recipe"]["hidden"], config["run_seed"]) == ([16], 4)
    assert config["versions"]["torch"]


def test_every_option_reaches_the_recipe(tmp_path: Path, command: Command) -> None:
    options: dict[str, tuple[str, Any]] = {
        "rule": ("sign-pepita", "sign-pepita"),
        "hidden": ("8 9", [8, 9]),
        "epochs": ("2", 2),
        "batch": ("33", 33),
        "learning-rate": ("0.02", 0.02),
        "momentum": ("0.3", 0.3),
        "weight-decay": ("0.001", 0.001),
        "milestones": ("1 2", [1, 2]),
        "gamma": ("0.7", 0.7),
        "activation": ("tanh", "tanh"),
        "dropout": ("0.15", 0.15),
        "normalise": ("sample", "sample"),
        "initial": ("torch", "torch"),
        "validation": ("60", 60),
        "precision": ("float64", "float64"),
        "rule-options": ("sign=-1 projection=0.25", {"sign": -1, "projection": 0.25}),
    }
    given = [part for name, (text, _) in options.items() for part in (f"--{name}", *text.split())]
    done = command("train", "--data", "digits", "--out", "here", *given)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "here" / "config.json").read_text("utf-8"))["recipe"]
    for name, (_, value) in options.items():
        other = {"rule-options": "options", "precision": "dtype"}
        key = other.get(name, name.replace("-", "_"))
        assert recipe[key] == value, name


def test_regression(tmp_path: Path, command: Command) -> None:
    done = command(*NUMBERS, "--epochs", 2, "--out", "here")
    assert done.returncode == 0, done.stderr
    assert "test_accuracy" not in json.loads((tmp_path / "here" / "result.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rule pepito", "unknown rule 'pepito'; the known rules are"),
        ("--data minst", "data must be one of mnist, fashion-mnist"),
        (
            "--model cnn",
            "model must be one of mlp, conv, resmlp, resnet8, resnet20, vit, vit8; or",
        ),
        ("--epochs 0", "epochs must be at least 1; given 0"),
        ("--epochs many", '--epochs must be a whole number; given "many"'),
        ("--model conv", "needs images (c, h, w)"),
        ("--rule-options sign", "given as NAME=VALUE; given 'sign'"),
        ("--rule-options sign=3", "sign must be 1 or -1; given 3; the options of pepita are pro"),
        ("--rule-options colour=red", "pepita has no option 'colour'; the options of pepita are"),
        (
            "--rule time-local-pepita --rule-options learning_rate=-1",
            "learning_rate must be at least 0; given -1; the options of time-local-pepita are",
        ),
        ("--measure speed", "cannot measure 'speed'; what can be measured is norms, alignment"),
        ("--precision half", 'Choose from: "float32", "float64", "bf16"'),
        ("--rule backprop --precision bf16", "backprop on digits: bf16 is for rules that need no"),
        ("--threads 0", "threads must be at least 1; given 0"),
        ("--seed -1", "seed must be at least 0; given -1"),
        ("--resume", "--resume needs --out"),
        ("--resume --out taken", "no run to continue in taken, which has other files"),
        ("--out taken", "taken exists already, and nothing is overwritten"),
        ("--validation 2000", "validation must be 1 to 1496; given 2000"),
        ("--data mnist --data-root empty", "mnist is not in empty, and could not be downloaded"),
        ("--learning-rte 1", "Unknown option: --learning-rte. Did you mean --learning-rate?"),
    ],
)
@pytest.mark.unchecked
def test_mistakes(arguments: str, message: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    given = arguments.split()
    data = [] if "--data" in given else ["--data", "digits"]
    done = command("train", *data, *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_divergence_is_told(tmp_path: Path, command: Command) -> None:
    done = command(*SMALL, "--learning-rate", "1e30", "--out", "here")
    assert done.returncode == 1
    assert "diverged (NaN or infinity) in epoch 1 with learning rate 1e+30" in done.stdout
    assert json.loads((tmp_path / "here" / "result.json").read_text("utf-8"))["diverged"] == 1


def wait_for(happens: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def newer(path: Path, before: int | None) -> bool:
    return path.exists() and path.stat().st_mtime_ns != before


def test_stopping_keeps_what_was_done(tmp_path: Path) -> None:
    process = start(*NUMBERS, "--epochs", "100000", "--out", "here", cwd=tmp_path)
    wait_for((tmp_path / "here" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGTERM)  # which ends commands as Ctrl-C does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command with --out here --resume goes on from epoch" in out
    assert all(line.startswith("pepita on teacher-student: ") for line in err.splitlines())
    assert checkpoint.load(tmp_path / "here" / "checkpoint.pt")["rows"]


@pytest.mark.long
@pytest.mark.unchecked
def test_killed_again_and_again_it_ends_with_the_same_weights(
    tmp_path: Path, command: Command
) -> None:
    done = command(*LONG, "--out", "alone")
    assert done.returncode == 0, done.stderr
    moments = random.Random(0)
    saved = tmp_path / "killed" / "checkpoint.pt"
    kills = 0
    for resume in ((), ("--resume",)):
        before = saved.stat().st_mtime_ns if resume else None
        process = start(*LONG, "--out", "killed", *resume, cwd=tmp_path)
        wait_for(partial(newer, saved, before), process)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "result.json").exists() or process.returncode == 0
    assert kills
    done = command(*LONG, "--out", "killed", "--resume")
    assert done.returncode == 0, done.stderr
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "killed")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    tested = [
        json.loads((tmp_path / name / "result.json").read_text("utf-8"))["test_loss"]
        for name in ("alone", "killed")
    ]
    assert tested[0] == tested[1]


def test_resume_refuses_what_is_not_of_this_run(tmp_path: Path, command: Command) -> None:
    once = (*SMALL, "--epochs", "1", "--out", "here")
    assert command(*once).returncode == 0
    before = (tmp_path / "here" / "config.json").read_text("utf-8")
    done = command(*once, "--batch", "7", "--resume")
    assert done.returncode == 2
    assert "is of a run with other settings: batch 64 there, 7 here" in done.stderr
    assert (tmp_path / "here" / "config.json").read_text("utf-8") == before
    (tmp_path / "here" / "checkpoint.pt").write_bytes(b"half")
    done = command(*once, "--resume")
    assert done.returncode == 2
    assert "here/checkpoint.pt is not a checkpoint of forwardly" in done.stderr


def test_more_epochs_go_on_from_a_run_that_has_ended(tmp_path: Path, command: Command) -> None:
    assert command(*NUMBERS, "--epochs", "5", "--out", "alone").returncode == 0
    options = ("--out", "here", "--resume")
    first = command(*NUMBERS, "--epochs", "2", *options)  # there is no run yet: it is started
    assert first.returncode == 0, first.stderr
    longer = command(*NUMBERS, "--epochs", "5", *options)
    assert longer.returncode == 0, longer.stderr
    assert "Continuing here/checkpoint.pt after epoch 2." in longer.stdout
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "here")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    config = json.loads((tmp_path / "here" / "config.json").read_text("utf-8"))
    assert config["recipe"]["epochs"] == 5
    rows = list(csv.DictReader((tmp_path / "here" / "epochs.csv").read_text("utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    again = command(*NUMBERS, "--epochs", "3", *options)  # it has been longer: nothing to do
    assert again.returncode == 0
    assert checkpoint.load(tmp_path / "here" / "checkpoint.pt")["rows"][-1]["epoch"] == 5


def test_own_data_must_be_the_same_when_a_run_goes_on(tmp_path: Path, command: Command) -> None:
    table = "".join(f"{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("a,b,kind\n" + table, "utf-8")
    once = ("train", "--data", "t.csv", "--hidden", "4", "--epochs", "2", "--out", "here")
    assert command(*once).returncode == 0
    (tmp_path / "t.csv").write_text("a,b,kind\n" + table.replace("6,", "9,"), "utf-8")
    done = command(*(w if w != "2" else "3" for w in once), "--resume")
    assert done.returncode == 2
    assert "is of a run with other settings: data_sha256" in done.stderr


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, command: Command) -> None:
    assert command(*NUMBERS, "--epochs", "1", "--out", "here").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    with RunFolder(tmp_path / "here").alone():
        done = command(*NUMBERS, "--epochs", "2", "--out", "here", "--resume")
    assert done.returncode == 2
    assert "another process is at work in here: wait for it, or name another --out" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "here").iterdir()} == before


def test_what_a_kill_left_over_is_removed(tmp_path: Path, command: Command) -> None:
    """Before a run began, and in the middle of writing."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "lock").touch()
    (here / ".config.json.x7.part").write_text("half", "utf-8")
    done = command(*NUMBERS, "--epochs", "1", "--out", "here", "--resume")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in here.iterdir()}
    assert names == {
        *("config.json", "epochs.csv", "checkpoint.pt", "result.json", "curves.png"),
        "model.safetensors",
    }


def test_keeping_the_best_is_told_and_kept(tmp_path: Path, command: Command) -> None:
    options = ("--epochs", "40", "--patience", "2", "--keep", "best", "--learning-rate", "1")
    done = command(*SMALL, *options, "--out", "here")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "here" / "result.json").read_text("utf-8"))
    rows = list(csv.DictReader((tmp_path / "here" / "epochs.csv").read_text("utf-8").splitlines()))
    figures = [(float(r["validation_accuracy"]), -float(r["validation_loss"])) for r in rows]
    best = max(range(len(rows)), key=figures.__getitem__) + 1
    assert (result["best_epoch"], len(rows)) == (best, best + 2)
    assert f"The model is that of epoch {best}, the best." in done.stdout
    assert f"Stopped early, after epoch {len(rows)}" in done.stdout
    state = checkpoint.load(tmp_path / "here" / "checkpoint.pt")
    model = fw.load(tmp_path / "here" / "model.safetensors").state_dict()
    assert all(torch.equal(value, model[name]) for name, value in state["best"].items())
    assert not all(torch.equal(value, model[name]) for name, value in state["rule"].items())


def test_where_there_is_no_terminal_lines_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.bars(console.PlainConsole(), "{task.fields[state]}") as progress:
        whole = progress.add_task("a on b", total=9, state="")
        part = progress.add_task("epoch", total=5, state="", quiet=True)
        for tenth in range(1, 2001):
            now[0] += 0.1
            progress.update(part, completed=tenth % 10)
            progress.update(whole, completed=tenth / 500, state="50 %" if tenth > 500 else "")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""  # which may be a pipe
    assert lines[0].startswith("a on b: 1 of 9, ")  # the first whole step
    assert lines[1].startswith("a on b: 2 of 9, 50 %, ")
    assert len(lines) == 4
