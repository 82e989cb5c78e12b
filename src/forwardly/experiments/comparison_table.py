"""The table of a comparison: what is compared, and a line for each rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from forwardly.experiments.statistics import Difference, difference, mean_and_sd, sd_text


class Metric(NamedTuple):
    """What is compared: accuracies from 0 to 1, shown in percent, or losses."""

    name: Literal["accuracy", "loss"]
    label: str
    scale: float

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another; NaN is worse than all."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(other) and not math.isnan(one)
        return one > other if self.name == "accuracy" else one < other

    def digits(self, values: Sequence[float]) -> int:
        """How many decimals show values: two of percent, three significant ones of a loss."""
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
        if self.name == "accuracy" or not largest:
            return 2
        return min(max(2 - math.floor(math.log10(largest)), 0), 12)


ACCURACY = Metric("accuracy", "test accuracy (%)", 100.0)
LOSS = Metric("loss", "test loss", 1.0)


class Row(NamedTuple):
    """One rule's line: test accuracies, 0 to 1, or losses, and the test against the control.

    NaN stands for a seed that diverged. Under stress there is the test against the rule itself in
    the clean condition too.
    """

    rule: str
    values: Sequence[float]
    over_control: Difference | None
    metric: Metric = ACCURACY
    from_clean: Difference | None = None

    @classmethod
    def of(
        cls,
        rule: str,
        test: Mapping[int, float],
        control: Mapping[int, float],
        metric: Metric,
        clean: Mapping[int, float] | None = None,
    ) -> Row:
        """The line of a rule from its values by seed; those that diverged have no pair."""
        change = _paired(test, control)
        return cls(rule, list(test.values()), change, metric, _paired(test, clean or {}))

    @property
    def finite(self) -> list[float]:
        """The values of the seeds that did not diverge, as they are shown."""
        return [self.metric.scale * value for value in self.values if math.isfinite(value)]

    def text(self) -> str:
        """Mean ± sd, and of how many seeds if some diverged; a dash of none."""
        if not self.finite:
            return "–"
        shown = sd_text(mean_and_sd(self.finite), self.metric.digits(self.finite))
        lost = len(self.finite) < len(self.values)
        return shown + f" ({len(self.finite)} of {len(self.values)})" * lost

    def difference_text(self) -> tuple[str, str]:
        """The difference with its interval, and p."""
        if self.over_control is None:
            return "–", "–"
        *shown, p = self.over_control
        mean, low, high = (self.metric.scale * value for value in shown)
        return Difference(mean, low, high, p).text(self._digits), f"{p:.2g}"

    def from_clean_text(self) -> str:
        """The mean difference from the clean condition."""
        if self.from_clean is None:
            return "–"
        return f"{self.metric.scale * self.from_clean.mean:+.{self._digits}f}"

    @property
    def _digits(self) -> int:
        return self.metric.digits(self.finite)

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a record."""
        change = None if self.over_control is None else self.over_control._asdict()
        name = "accuracies" if self.metric is ACCURACY else "losses"
        found: dict[str, Any] = {name: [finite_or_none(value) for value in self.values]}
        found["over_readout_only"] = change
        if self.from_clean is not None:
            found["from_clean"] = self.from_clean._asdict()
        return found


def _paired(test: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    both = [s for s in test if s in other and math.isfinite(test[s] - other[s])]
    return difference([test[s] for s in both], [other[s] for s in both])


def finite_or_none(value: float) -> float | None:
    """A value as JSON has it."""
    return value if math.isfinite(value) else None
