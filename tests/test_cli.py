"""The command as users run it: in a process of its own, with wrong input, Ctrl-C and kills."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.unchecked  # whole commands

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [str(Path(sys.executable).with_name("forwardly"))]
QUICK = ("--epochs", "20", "--log-every", "10")
RULES = {"pepita", "readout-only", "backprop"}


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


@pytest.mark.long
def test_teacher_student_and_the_same_from_its_arrays(tmp_path: Path, command: Command) -> None:
    done = run("teacher-student", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "teacher-student").iterdir()
    for name in ("mae.png", "mae.svg", "network.svg", "metrics.csv"):
        assert str(Path("runs") / "teacher-student" / folder.name / name) in done.stdout
        assert (folder / name).stat().st_size > 0
    for text in ("rule", "train MAE", "validation MAE", "seconds", "pepita", "readout-only"):
        assert text in done.stdout
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert f"{summary['rules']['pepita']['final']['train_mae']:.4f}" in done.stdout

    (folder / "arrays.npz").rename(tmp_path / "given.npz")
    again = command("teacher-student", *QUICK, "--out", "b", "--arrays", "given.npz")
    assert again.returncode == 0, again.stderr
    first, second = (
        list(csv.DictReader((path / "metrics.csv").read_text("utf-8").splitlines()))
        for path in (folder, tmp_path / "b")
    )
    assert [row["epoch"] for row in first] == 3 * ["1", "2", "4", "8", "10", "20"]
    for one, other in zip(first, second, strict=True):
        for name in ("train_mae", "val_mae"):  # up to rounding, as one may have compiled
            assert float(one.pop(name)) == pytest.approx(float(other.pop(name)), rel=1e-9)
        assert one == other


def test_options_reach_the_run(tmp_path: Path, command: Command) -> None:
    options = "--rules backprop pepita --seeds 2 --seed 3 --hidden 4 6 --learning-rate 1e-4"
    more = f"--dtype float32 --log-every 5 --epochs 12 --threads 1 --out {tmp_path / 'here'}"
    done = command("teacher-student", *options.split(), *more.split())
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "here" / "config.json").read_text("utf-8"))["settings"]
    expected = {
        "rules": ["backprop", "pepita"],
        "seeds": 2,
        "seed": 3,
        "hidden": [4, 6],
        "learning_rate": 1e-4,
        "dtype": "float32",
        "log_every": 5,
        "epochs": 12,
    }
    assert {name: settings[name] for name in expected} == expected
    assert "±" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--rules hebb",
            "unknown rule 'hebb'; the known rules are adaptive-feedback-alignment, backprop",
        ),
        ("--epochs 0", "epochs must be at least 1; given 0"),
        ("--epochs -3", "epochs must be at least 1; given -3"),
        ("--epochs many", '--epochs must be a whole number; given "many"'),
        ("--dtype half", 'Choose from: "float64", "float32"'),
        ("--learning-rate -1", "learning_rate must be positive and at most 1e+30; given -1.0"),
        ("--threads 0", "threads must be at least 1; given 0"),
        ("--epoch 5", "Unknown option: --epoch. Did you mean --epochs? The options are --rules"),
        ("--arrays nowhere.npz", "there is no file nowhere.npz"),
        ("--arrays text.npz", "text.npz is not a readable .npz file"),
        ("--arrays few.npz", "few.npz has no array y_train"),
        ("--out full", "full exists already, and nothing is overwritten: name another --out"),
        ("--out text.npz", "text.npz exists already"),
        ("--out text.npz/below", "cannot write to text.npz"),
        ("--seeds 2 --arrays few.npz", "--arrays fixes data and weights, so --seeds cannot"),
        ("--hidden 3 --arrays few.npz", "so --hidden cannot"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: str, message: str, command: Command) -> None:
    (tmp_path / "text.npz").write_text("hello", "utf-8")
    np.savez(tmp_path / "few.npz", x_train=np.ones((3, 2)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept", "utf-8")
    before = sorted(tmp_path.rglob("*"))
    done = command("teacher-student", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run("teacher-student", *QUICK, "--out", "locked", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write to locked: Permission denied; name another --out" in done.stderr


def test_mistakes_show_no_traceback(tmp_path: Path) -> None:
    done = run("teach", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'error: unknown command "teach"; the commands are '
        "teacher-student, train, predict, evaluate, export, reproduce, report, compare, tune, "
        "audit, bench, rules, cite.\n"
    )


def test_help_shows_the_defaults(command: Command) -> None:
    done = command("teacher-student", "--help")
    assert done.returncode == 0
    for default in ("100000", "99", "0.0005", "float64", "backprop]", "TIME"):
        assert default in done.stdout
    for nothing in ("()", "None", "False", '""'):
        assert f"[default: {nothing}]" not in command("train", "--help").stdout


def test_divergence_is_told(tmp_path: Path, command: Command) -> None:
    done = command(
        *("teacher-student", "--learning-rate", 10, "--rules", "readout-only", "--epochs", 5000),
        *("--out", "d"),
    )
    assert done.returncode == 1
    summary = json.loads((tmp_path / "d" / "summary.json").read_text("utf-8"))
    (epoch,) = summary["rules"]["readout-only"]["diverged"].values()
    told = (
        f"readout-only diverged (NaN or infinity) with learning rate 10: seed 99 at epoch {epoch}"
    )
    assert told in done.stdout
    assert "Traceback" not in done.stderr


# As a user starts it, but that what was done is saved at once, and not after three seconds.
ENDLESS = """
from forwardly.cli import main
from forwardly.commands import teacher_student
teacher_student._SECONDS_BETWEEN_SAVES = 0
main()
"""


def _started(folder: Path) -> subprocess.Popen[str]:
    """An endless run, all of whose rules have been saved once."""
    arguments = ("teacher-student", "--epochs", "10000000", "--out", "out")
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    saved = folder / "out" / "metrics.csv"
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if saved.exists() and all(name in saved.read_text("utf-8") for name in RULES):
            return process
        time.sleep(0.1)
    raise AssertionError(f"{saved} was not written in a minute")


def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    process = _started(tmp_path)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "what was done is written" in stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["status"] == "interrupted"
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, rule in summary["rules"].items():
        assert rule["epochs"] >= 1
        last = [row for row in rows if row["rule"] == name][-1]
        assert int(last["epoch"]) == rule["epochs"]
    assert (tmp_path / "out" / "mae.png").exists()


def test_a_kill_loses_no_more_than_seconds(tmp_path: Path) -> None:
    process = _started(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["rule"] for row in rows} == RULES
    assert all(float(row["val_mae"]) > 0 for row in rows)
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["settings"]["seed"] == 99
    )
