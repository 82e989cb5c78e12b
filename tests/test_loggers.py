"""Where the figures of epochs go: each logger gets every epoch once, and none ends the training."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import forwardly as fw
from forwardly.errors import UsageError
from forwardly.training import loggers
from test_cli import Command

pytestmark = pytest.mark.unchecked

X, Y = torch.rand(20, 6), torch.arange(20) % 3


def fit(epochs: int, *made: loggers.Logger, **options: Any) -> fw.Fit:
    ours = fw.PEPITA(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), nn.CrossEntropyLoss()
    )
    logger = loggers.All(*made)
    try:
        return fw.fit(
            ours, (X, Y), fw.LocalSGD(ours, 0.1), epochs=epochs, on_epoch=logger.log, **options
        )
    finally:
        logger.close()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_a_table_has_every_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    first = fit(3, loggers.CSV(path))
    assert [float(row["loss"]) for row in table(path)] == pytest.approx(first.curve("loss"))
    fit(4, loggers.CSV(path, first.rows[:2]))  # a run that was resumed after the second
    rows = table(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[1]["loss"]) != pytest.approx(first.rows[1]["loss"])  # the later one counts


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="make test-examples installs it")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore
        EventAccumulator,
    )

    done = fit(3, loggers.TensorBoard(tmp_path))
    fit(4, loggers.TensorBoard(tmp_path, purge=1))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    events = read.Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert events[0].value != pytest.approx(done.rows[0]["loss"])
    assert "epoch" not in read.Tags()["scalars"]


class FakeService(ModuleType):
    """As much of wandb or mlflow as is called; that they take it was tried with the real ones."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any, **options: Any) -> Any:
            self.calls.append((name, given, options))
            return SimpleNamespace(
                log=lambda *g, **o: call_named("log", *g, **o),
                finish=lambda: call_named("finish"),
                info=SimpleNamespace(run_id="the-run"),
            )

        def call_named(other: str, *given: Any, **options: Any) -> None:
            self.calls.append((other, given, options))

        return call

    def steps(self, name: str) -> list[int]:
        return [options["step"] for called, _, options in self.calls if called == name]


def test_services_get_every_epoch_and_know_a_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow = FakeService(), FakeService()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    settings = {"recipe": {"rule": "pepita"}, "seed": 3}
    for _ in range(2):
        fit(2, loggers.Wandb(tmp_path, settings), loggers.MLflow(tmp_path, settings))
    assert wandb.steps("log") == mlflow.steps("log_metrics") == [1, 2, 1, 2]
    first, second = (options for name, _, options in wandb.calls if name == "init")
    assert first == second  # the same run
    assert (first["project"], first["resume"], first["config"]) == ("forwardly", "allow", settings)
    assert [o["run_id"] for n, _, o in mlflow.calls if n == "start_run"] == [None, "the-run"]
    assert [g for n, g, _ in mlflow.calls if n == "log_params"] == [
        ({"recipe.rule": "pepita", "seed": 3},)
    ]
    assert [n for n, *_ in wandb.calls].count("finish") == 2
    assert [n for n, *_ in mlflow.calls].count("end_run") == 2


class Failing:
    calls = 0

    def log(self, row: loggers.Figures) -> None:  # noqa: ARG002
        self.calls += 1
        raise ConnectionError("no route to host\nand more")

    def close(self) -> None:
        raise AssertionError("it was left out")


def test_a_service_that_fails_does_not_end_training(tmp_path: Path) -> None:
    failing = Failing()
    assert isinstance(failing, loggers.Logger)
    with pytest.warns(
        UserWarning, match=r"^Failing fails, and training goes on .*: no route to host$"
    ):
        done = fit(3, failing, loggers.CSV(tmp_path / "e.csv"))
    assert failing.calls == 1
    assert len(done.rows) == len(table(tmp_path / "e.csv")) == 3


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_what_is_missing_is_said_before_training(
    name: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    done = command("train", "--data", "digits", "--hidden", "4", "--log", name, "--out", "here")
    assert done.returncode == 2
    assert f"pip install 'forwardly[{name}]'" in done.stderr
    assert not (tmp_path / "here" / "checkpoint.pt").exists()


def test_a_service_that_refuses_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService()
    monkeypatch.setitem(sys.modules, "wandb", service)

    def init(**_: Any) -> None:
        raise RuntimeError("api_key not configured\nadvice")

    service.init = init
    with pytest.raises(UsageError, match=r"^wandb cannot log: api_key not configured$"):
        loggers.Wandb(tmp_path)
