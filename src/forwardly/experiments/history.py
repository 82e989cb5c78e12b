"""What is logged of one rule's training: mean absolute errors over epochs, a column a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from forwardly.experiments.statistics import Array, mean_and_sd


@dataclass
class History:
    """Mean absolute errors (MAE) of one rule at the epochs that were logged.

    Attributes:
        rule: its name.
        seeds: the seeds, in the order of the columns.
        epochs: the logged epochs, (E,).
        train: training MAE, (E,) arrays of (seeds,).
        validation: validation MAE, likewise.
        diverged: for each seed that diverged, the epoch at which it did.
        seconds: spent in training, all seeds together.
        failure: what the rule raised, in a line, if it did; there its training ended.
    """

    rule: str
    seeds: tuple[int, ...]
    epochs: list[int] = field(default_factory=list[int])
    train: list[Array] = field(default_factory=list[Array])
    validation: list[Array] = field(default_factory=list[Array])
    diverged: dict[int, int] = field(default_factory=dict[int, int])
    seconds: float = 0.0
    failure: str | None = None

    def log(self, epoch: int, train: Array, validation: Array) -> None:
        """Add a row; (seeds,) each."""
        self.epochs.append(epoch)
        self.train.append(train)
        self.validation.append(validation)

    @property
    def alive(self) -> list[int]:
        """The columns of the seeds that have not diverged."""
        return [i for i, seed in enumerate(self.seeds) if seed not in self.diverged]

    @property
    def shown(self) -> list[int]:
        """The columns that means and figures are made of: the living, or all if none is."""
        return self.alive or list(range(len(self.seeds)))

    def curves(self, which: Literal["train", "validation"]) -> Array:
        """Errors over the logged epochs, (seeds, E); NaN from where a seed diverged."""
        ends = np.array([self.diverged.get(seed, np.inf) for seed in self.seeds])
        logged = np.array(getattr(self, which), dtype=float).reshape(len(self.epochs), -1)
        return np.where(np.array(self.epochs) < ends[:, None], logged.T, np.nan)

    def rows(self) -> Iterator[tuple[str, int, int, float, float]]:
        """(rule, seed, epoch, train MAE, validation MAE) until the end or the divergence."""
        for column, seed in enumerate(self.seeds):
            end = self.diverged.get(seed, float("inf"))
            for epoch, train, validation in zip(
                self.epochs, self.train, self.validation, strict=True
            ):
                if epoch < end:
                    yield self.rule, seed, epoch, float(train[column]), float(validation[column])

    def mean_and_sd(self, which: str, epoch: int = -1) -> tuple[float, float | None]:
        """Mean and standard deviation over seeds of a logged row; no deviation of one seed.

        Args:
            which: "train" or "validation".
            epoch: which of the logged rows.
        """
        return mean_and_sd(getattr(self, which)[epoch][self.shown])

    def summary(self) -> dict[str, Any]:
        """Final and best errors, over seeds and of each, as plain data."""
        failed = {} if self.failure is None else {"failed": self.failure}
        if not self.epochs:
            return {"seconds": self.seconds, "diverged": self.diverged, "epochs": 0, **failed}
        best = int(np.argmin(np.stack(self.validation)[:, self.shown].mean(1)))
        return {
            "epochs": self.epochs[-1],
            "seconds": self.seconds,
            "final": self._at(len(self.epochs) - 1),
            "best": self._at(best),
            "diverged": self.diverged,
            "seeds": {
                seed: {
                    "train_mae": float(self.train[-1][column]),
                    "val_mae": float(self.validation[-1][column]),
                    "best_val_mae": float(np.stack(self.validation)[:, column].min()),
                }
                for column, seed in enumerate(self.seeds)
                if seed not in self.diverged
            },
            **failed,
        }

    def _at(self, row: int) -> dict[str, float | int | None]:
        errors: dict[str, float | int | None] = {"epoch": self.epochs[row]}
        for name, which in (("train_mae", "train"), ("val_mae", "validation")):
            errors[name], errors[f"{name}_sd"] = self.mean_and_sd(which, row)
        return errors
