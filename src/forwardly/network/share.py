"""What one process has of a batch that several of them train on together.

Everything in a step is of single samples, but for batch normalisation's statistics, so a process
needs to know of the others only which samples are its own and, for these, everyone's statistics:

    mean      μ = Σ_q (n_q / n) μ_q
    variance  v = Σ_q (n_q / n) (v_q + (μ_q − μ)²)          n_q samples of process q, n in all
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Stacked = Callable[[Tensor, float], Tensor]
"""(tensor, weight) → those of all processes, (processes, *shape).

Differentiable: what comes back of each process counts with the weight that it gave.
"""


@dataclass(frozen=True)
class Share:
    """Neighbouring samples of a batch.

    Where there are fewer samples than processes some have none: they compute with the first
    sample, so that all shapes are there, and it counts for nothing.

    Attributes:
        first: the place of its first sample in the whole batch.
        count: its samples.
        total: those of the whole batch.
        counts: those of each process, 0 where it has none; empty if there is but this one.
        process: which of these it is.
        stacked: see ``Stacked``; None if there is but this process.
        gathered: rows of all processes as the whole batch has them; given where local updates are
            computed from the factors of the whole batch, rather than summed over processes.
    """

    first: int
    count: int
    total: int
    counts: tuple[int, ...] = ()
    process: int = 0
    stacked: Stacked | None = None
    gathered: Callable[[Tensor], Tensor] | None = None

    def rows(self, whole: Tensor) -> Tensor:
        """Those of its samples."""
        return whole.narrow(0, self.first, self.count)

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape for the whole batch of what has this one for these samples."""
        return (self.total, *shape[1:])

    def moments(self, a: Tensor, *, of_mean: bool) -> tuple[Tensor, Tensor, int]:
        """Mean and (biased) variance of each channel of ``a`` over all processes; and of how many.

        Args:
            a: (n_q, channels, …).
            of_mean: whether what comes back is the derivative of a mean over the process's
                samples; else it is of each sample.
        """
        dims = [i for i in range(a.dim()) if i != 1]
        mean, variance = a.mean(dims), a.var(dims, correction=0)
        number = a.numel() // a.shape[1]
        if self.stacked is None:
            return mean, variance, number
        own = self.counts[self.process]
        means, variances = self.stacked(
            torch.stack([mean, variance]), own if of_mean else min(own, 1)
        ).unbind(1)
        parts = [count / self.total for count in self.counts]
        weights = torch.tensor(parts, dtype=a.dtype, device=a.device).unsqueeze(1)
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)
        return mean, variance, number * self.total // self.count
