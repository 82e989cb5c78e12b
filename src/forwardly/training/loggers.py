"""Where the figures of each epoch go: a file, TensorBoard, Weights & Biases, MLflow.

    logger = loggers.TensorBoard("runs/mine")
    fw.fit(rule, data, optimizer, epochs=10, on_epoch=logger.log)
    logger.close()

Anything with these two methods is a ``Logger``.
"""

from __future__ import annotations

import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from forwardly import files
from forwardly.errors import UsageError
from forwardly.files.text import csv_table
from forwardly.training.settings import flat

Figures = Mapping[str, float]
"""An epoch's, by name; "epoch" is its number. See ``Fit.rows``."""

_SECONDS_BETWEEN_WRITES = 1.0
_PROJECT = "forwardly"


@runtime_checkable
class Logger(Protocol):
    """What ``fit`` feeds through ``on_epoch``."""

    def log(self, row: Figures) -> None:
        """Take the figures of an epoch."""
        ...

    def close(self) -> None:
        """Write what is not written yet; nothing comes any more."""
        ...


@final
class CSV:
    """A table, which is whole at any time: a line an epoch.

    Args:
        path: of the file.
        rows: those of earlier epochs, of a run that is resumed.
    """

    def __init__(self, path: Path | str, rows: Sequence[Figures] = ()) -> None:
        self._path = Path(path)
        _check_place(self._path)
        self._before, self._rows = list(rows), list[Figures]()
        self._next = 0.0

    def log(self, row: Figures) -> None:
        """See ``Logger``; the file follows at the latest with the first epoch a second later."""
        if not self._rows:  # epochs of a run that is resumed, up to the first that comes anew
            self._rows += [earlier for earlier in self._before if earlier["epoch"] < row["epoch"]]
        self._rows.append(row)
        if time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _SECONDS_BETWEEN_WRITES

    def close(self) -> None:
        """See ``Logger``."""
        if self._rows:
            self._write()

    def _write(self) -> None:
        files.write(self._path, table(self._rows, digits=10))


@final
class TensorBoard:
    """Event files for TensorBoard; ``pip install 'forwardly[tensorboard]'``.

    Args:
        folder: where to.
        purge: the epoch from which events of an earlier run in the folder no longer count.
    """

    def __init__(self, folder: Path | str, *, purge: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # pyright: ignore
        except ImportError as problem:
            raise _missing("tensorboard", problem) from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)  # pyright: ignore

    def log(self, row: Figures) -> None:
        """See ``Logger``."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """See ``Logger``."""
        self._writer.close()


@final
class Wandb:
    """A run of Weights & Biases; ``pip install 'forwardly[wandb]'``.

    Its own settings, such as WANDB_MODE=offline and WANDB_PROJECT, are obeyed.

    Args:
        folder: where its files go; a run that is resumed from the same folder is the same run.
        settings: what was chosen.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any] | None = None) -> None:
        try:
            import wandb  # pyright: ignore
        except ImportError as problem:
            raise _missing("wandb", problem) from None
        api: Any = wandb
        kept = _kept(folder, "wandb-run")
        name = files.read_text(kept) if kept.exists() else secrets.token_hex(4)
        files.write(kept, name)
        options: dict[str, Any] = {"id": name, "resume": "allow", "dir": str(folder)}
        options["config"] = dict(settings or {})
        options["project"] = os.environ.get("WANDB_PROJECT", _PROJECT)
        self._run: Any = _opened("wandb", lambda: api.init(**options))

    def log(self, row: Figures) -> None:
        """See ``Logger``."""
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        """See ``Logger``."""
        self._run.finish()


@final
class MLflow:
    """A run of MLflow; ``pip install 'forwardly[mlflow]'``.

    Its own settings, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, are obeyed.

    Args:
        folder: where the name of its run is kept, for a run that is resumed.
        settings: what was chosen.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any] | None = None) -> None:
        try:
            import mlflow  # pyright: ignore
        except ImportError as problem:
            raise _missing("mlflow", problem) from None
        self._api: Any = mlflow
        kept = _kept(folder, "mlflow-run")
        before = files.read_text(kept) if kept.exists() else None
        run = _opened("mlflow", lambda: self._api.start_run(run_id=before))
        try:
            files.write(kept, run.info.run_id)
            if before is None:
                _opened("mlflow", lambda: self._api.log_params(flat(settings or {})))
        except BaseException:
            self.close()
            raise

    def log(self, row: Figures) -> None:
        """See ``Logger``."""
        figures = {name: value for name, value in row.items() if name != "epoch"}
        self._api.log_metrics(figures, step=int(row["epoch"]))

    def close(self) -> None:
        """See ``Logger``."""
        self._api.end_run()


@final
class All:
    """Several at once; one that fails is left out from then on, with a warning.

    Args:
        loggers: which.
    """

    def __init__(self, *loggers: Logger) -> None:
        self._loggers = list(loggers)

    def add(self, logger: Logger) -> None:
        """One more."""
        self._loggers.append(logger)

    def log(self, row: Figures) -> None:
        """See ``Logger``."""
        for logger in list(self._loggers):
            self._try(logger, lambda logger=logger: logger.log(row))

    def close(self) -> None:
        """See ``Logger``."""
        for logger in list(self._loggers):
            self._try(logger, logger.close)

    def _try(self, logger: Logger, call: Callable[[], None]) -> None:
        if isinstance(logger, CSV):
            call()  # the disk is ours to complain of
            return
        try:
            call()
        except Exception as problem:  # of a service that is not there, anything
            self._loggers.remove(logger)
            warnings.warn(
                f"{type(logger).__name__} fails, and training goes on without it: {_line(problem)}",
                stacklevel=4,
            )


def table(rows: Sequence[Figures], digits: int = 6) -> str:
    """What epochs measured as CSV, to so many significant digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([f"{row[n]:.{digits}g}" if n in row else "" for n in names] for row in rows)
    return csv_table(names, cells)


def _check_place(path: Path) -> None:
    try:
        files.check_place(path)
    except (OSError, ValueError) as problem:
        said = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(f"cannot write to {path}: {said}") from None


def _kept(folder: Path | str, name: str) -> Path:
    """Where the name of a run is kept, in a folder that is made if need be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / name


def _opened(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as problem:  # whatever a service may raise
        raise UsageError(f"{name} cannot log: {_line(problem)}") from None


def _missing(name: str, problem: ImportError) -> UsageError:
    return UsageError(
        f"to log by {name} its package is needed ({_line(problem)}): pip install "
        f"'forwardly[{name}]'"
    )


def _line(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
