"""The search for settings: where, by whom, what is kept, and that its best can be repeated."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

import postgres
from forwardly.commands import engines
from forwardly.errors import UsageError
from forwardly.experiments import tuning
from forwardly.experiments.jobs import Ended, Job, State
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.search import Among, Between, space, with_values
from forwardly.experiments.tuning import Search, command_of
from forwardly.rules import RULES
from test_cli import Command
from test_own_model import FILES
from test_reproduction import InTurn
from waiting import until

optuna = pytest.importorskip("optuna", reason="of the extra tune")
pytestmark = pytest.mark.unchecked

SMALL = ("--data", "digits", "--hidden", "16", "--epochs", "3")


def test_the_space_of_every_rule_is_one_that_it_takes() -> None:
    for name in RULES:
        recipe = Recipe(name, "digits")
        found = space(recipe)
        assert found["learning_rate"] == Between(1e-4, 1.0, log=True)
        for setting, where in found.items():
            ends = (where.low, where.high) if isinstance(where, Between) else where.values
            assert ends
            for end in ends:
                with_values(recipe, {setting: end})
    assert "learning_rate" not in space(Recipe("time-local-pepita"), ["projection"])


def test_the_space_of_pepita() -> None:
    recipe = Recipe("pepita", options={"sign": -1})
    assert space(recipe) == {
        "learning_rate": Between(1e-4, 1.0, log=True),
        "projection": Between(0.0025, 1.0, log=True),
        "output_error": Among(("first", "second")),
        "presynaptic": Among(("modulated", "clean")),
    }
    asked = ["learning-rate=0.01:0.1", "dropout=0:0.5", "batch=32,100", "flip", "sign=1"]
    assert space(recipe, asked) == {
        "learning_rate": Between(0.01, 0.1),
        "dropout": Between(0.0, 0.5),
        "batch": Among((32, 100)),
        "flip": Among((False, True)),
        "sign": Among((1,)),
    }
    made = with_values(recipe, {"dropout": 0.25, "projection": 0.1, "preprocessing": None})
    assert (made.dropout, made.options) == (0.25, {"sign": -1, "projection": 0.1})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("hidden=3", "'hidden' cannot be searched over; of pepita these can"),
        ("learning_rate=1:0.1", "a range is LOW:HIGH"),
        ("learning_rate=0:0.1:log", "above 0 with log"),
        ("learning_rate=a:b", "a range is LOW:HIGH"),
        ("dropout=0:2", "dropout must be below 1"),
        ("presynaptic=clean,dirty", "presynaptic must be modulated or clean"),
        ("presynaptic=0:1", "presynaptic is no number"),
        ("batch=0,3", "batch must be at least 1"),
        ("momentum=-1", "momentum must be at least 0"),
    ],
)
def test_what_cannot_be_searched(asked: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        space(Recipe("pepita"), [asked])
    with pytest.raises(UsageError, match="searched over once"):
        space(Recipe("pepita"), ["dropout", "dropout=0:0.1"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, command: Command) -> Command:
    """``forwardly tune`` on the digits, whose trials are in this process too."""
    monkeypatch.setattr(engines, "Processes", lambda _: InTurn())

    def call(*arguments: str) -> Any:
        return command("tune", *SMALL, *arguments)

    return call


def test_the_best_can_be_repeated(here: Command, command: Command, tmp_path: Path) -> None:
    done = here("--trials=4", "--seed=3", "--search", "learning_rate", "dropout", "projection")
    assert done.returncode == 0, done.stderr
    assert "Trials: 4 complete." in done.stdout
    shown = [
        float(figure) for figure in re.findall(r"([\d.]+) %", done.stdout.split("validation", 1)[1])
    ]
    assert len(shown) == 4
    assert shown == sorted(shown, reverse=True)
    line = done.stdout.rstrip().splitlines()[-1]
    again = command(*shlex.split(line)[1:], "--out=again")
    assert again.returncode == 0, again.stderr
    (table,) = (tmp_path / "again").glob("epochs.csv")
    head, *rows = [row.split(",") for row in table.read_text("utf-8").splitlines()]
    accuracy = float(rows[-1][head.index("validation_accuracy")])
    assert 100 * accuracy == pytest.approx(shown[0], abs=0.005)
    left = {path.name for path in (tmp_path / "runs" / "tune").rglob("*") if path.is_file()}
    assert left == {"pepita-digits.log"}


def test_a_search_goes_on(here: Command) -> None:
    first = here("--trials=2")
    assert "Trials: 2 complete." in first.stdout
    assert "Trials: 2 complete." in here("--trials=2").stdout
    third = here("--trials=3").stdout
    assert "Trials: 3 complete." in third
    assert len({*re.findall(r"^│ \d +│ ([\d.]+)", third, re.MULTILINE)}) == 3, "none comes twice"
    other = here("--trials=3", "--dropout=0.1")
    assert other.returncode == 2
    assert "is of another search (other: recipe)" in other.stderr
    assert here("--trials=1", "--dropout=0.1", "--study=other.log").returncode == 0


def searched(tmp_path: Path, **changes: Any) -> tuple[Search, Any]:
    settings: dict[str, Any] = {
        "recipe": Recipe("pepita", "digits", hidden=(8,), epochs=2),
        "space": space(Recipe("pepita"), ["learning_rate"]),
        "trials": 3,
        "seed": 0,
        "by_accuracy": True,
        "work": tmp_path,
        "data_root": None,
        "threads": 1,
    }
    search = Search(**settings | changes)
    return search, tuning.open_study(search, str(tmp_path / "study.log"), "study")


class Told:
    """An engine whose runs are made up: curves by number, one point an epoch."""

    def __init__(self, *curves: list[float]) -> None:
        self.curves, self.given_up = curves, list[int]()

    def train(
        self, jobs: Iterable[Job], given_up: Collection[int] = ()
    ) -> Generator[State | Ended]:
        for number, _ in enumerate(jobs):
            for epoch, accuracy in enumerate(self.curves[number], start=1):
                yield State(number, epoch, accuracy)
                if number in given_up:
                    self.given_up.append(number)
                    break
            yield Ended(number, "stopped")


def test_a_trial_that_lies_behind_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_STARTUP_TRIALS", 0)
    search, study = searched(tmp_path, trials=3)
    # Curves of finished trials are what the others are held to.
    for accuracy in (0.8, 0.9):
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
        trial.report(accuracy, 1)
        study.tell(trial, accuracy)
    engine = Told([0.5, 0.99])
    ends = [one for one in tuning.tune(search, study, engine) if isinstance(one, tuning.Told)]
    assert ends == [(0, "PRUNED")]
    assert engine.given_up == [0]
    assert [trial.value for trial in tuning.ranked(search, tuning.ended(study))] == [0.9, 0.8]


def test_test_samples_are_not_looked_at(here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: object) -> None:
        raise AssertionError("looked at")

    monkeypatch.setattr("forwardly.experiments.jobs.evaluate", evaluate)
    assert here("--trials=1").returncode == 0


def test_models_have_their_own_hidden_layers(here: Command) -> None:
    done = here("--trials=1", "--model=resmlp", "--study=of-resmlp.log", "--search=learning_rate")
    assert done.returncode == 0, done.stderr
    assert "--model resmlp --hidden 16" in done.stdout


def test_a_model_of_ones_own_in_worker_processes(command: Command) -> None:
    for name, content in FILES.items():
        Path(name).write_text(content, "utf-8")
    asked = ("tune", "--data", "digits", "--epochs", "2", "--trials", "2", "--model=mine.py:build")
    done = command(*asked, "--search", "learning_rate", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert f"--model {Path('mine.py').absolute()}:build" in done.stdout
    Path("mine.py").write_text(FILES["mine.py"] + "\n", "utf-8")
    done = command(*asked, "--search", "learning_rate", "--jobs", "2")
    assert done.returncode == 2
    assert "is of another search (other: model_sha256)" in done.stderr


def test_a_trial_that_diverges(here: Command) -> None:
    done = here("--trials=1", "--search", "learning_rate=1e29:1e30")
    assert done.returncode == 1
    assert "Trials: 1 diverged." in done.stdout


def test_numbers_are_learned_by_their_loss(command: Command) -> None:
    done = command(
        *("tune", "--data", "teacher-student", "--hidden", "8", "--epochs", "2"),
        *("--trials", "2", "--search", "learning_rate=0.0001:0.001", "--jobs", "1"),
    )
    assert done.returncode == 0, done.stderr
    losses = [float(x) for x in re.findall(r"│ +([\d.e-]+) +│\n", done.stdout)]
    assert len(losses) == 2
    assert losses == sorted(losses)
    assert "%" not in done.stdout


def test_command_lines_have_every_setting() -> None:
    recipe = Recipe(
        *("drtp", "my data.npz", {"backward": 0.5}),
        hidden=(3, 4),
        milestones=(1, 2),
        flip=True,
        preprocessing="centre",
        stress="noise:0.3",
    )
    assert command_of(recipe, 2) == (
        "forwardly train --rule drtp --data 'my data.npz' --hidden 3 4 --milestones 1 2 --centre "
        "--flip --stress noise:0.3 --rule-options backward=0.5 --seed 2"
    )
    assert command_of(Recipe("pepita", "mnist"), 0) == "forwardly train --rule pepita --data mnist"


KILLED = """
import sys
from forwardly.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="kills processes the POSIX way")
def test_killed_and_given_again(tmp_path: Path) -> None:
    """Trials that were under way are begun again, from their checkpoints; none is lost or twice."""
    program = tmp_path / "program.py"
    program.write_text(KILLED, "utf-8")
    arguments = ["tune", "--data", "digits", "--hidden", "8", "--epochs", "40", "--trials", "3"]
    process = subprocess.Popen([sys.executable, str(program), *arguments], cwd=tmp_path)
    until(lambda: len(list(tmp_path.rglob("checkpoint.pt"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    study = study_in(tmp_path)
    before = [trial.params for trial in study.trials]
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    study = study_in(tmp_path)
    kept = [trial for trial in study.trials if not trial.user_attrs.get("lost")]
    assert len(kept) == 3
    assert all(trial.state.is_finished() for trial in kept)
    tried = [json.dumps(trial.params) for trial in kept]
    assert len({*tried}) == 3
    assert {*map(json.dumps, before)} <= {*tried}


@pytest.mark.long
@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
def test_two_commands_share_a_study_in_a_database(tmp_path: Path) -> None:
    """A real PostgreSQL: each trial is one command's, and both see all of them."""
    pytest.importorskip("psycopg", reason="of the examples")
    arguments = [sys.executable, "-m", "forwardly", "tune", *SMALL, "--trials=6", "--jobs=1"]
    with postgres.database(tmp_path / "postgres") as url:
        both = [
            subprocess.Popen(
                [*arguments, "--study", url, "--work", str(tmp_path / name)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name in ("one", "other")
        ]
        said = [process.communicate(timeout=300)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        study = optuna.load_study(study_name="pepita-digits", storage=url)
        trials = study.trials
        study._storage._backend.engine.dispose()  # or its connections outlive the server
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({trial.user_attrs["process"] for trial in trials}) == 2
    assert len({json.dumps(trial.params) for trial in trials}) == len(trials), "none comes twice"
    assert 6 <= len(trials) <= 7, "both may begin a last one at a time"


def study_in(root: Path) -> Any:
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(root / "runs/tune/pepita-digits.log"))
    )
    return optuna.load_study(study_name="pepita-digits", storage=storage)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--trials 0", "trials must be at least 1; given 0"),
        ("--search hidden", "'hidden' cannot be searched over"),
        ("--study nowhere://x", "the study in nowhere://x cannot be opened"),
        ("--cluster local:2 --jobs 2", "leave --jobs out"),
        ("--rule nothing", "unknown rule"),
    ],
)
def test_mistakes(options: str, says: str, command: Command) -> None:
    done = command("tune", "--data", "digits", *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, here: Command) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = here()
    assert done.returncode == 2
    assert "to tune the package optuna is needed" in done.stderr
    assert "pip install 'forwardly[tune]'" in done.stderr


@pytest.mark.long
def test_on_a_cluster(command: Command) -> None:
    pytest.importorskip("distributed", reason="of the extra cluster")
    done = command("tune", *SMALL, "--trials=3", "--cluster=local:2")
    assert done.returncode == 0, done.stderr
    assert "Trials: 3 complete." in done.stdout
