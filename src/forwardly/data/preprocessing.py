"""Shift and scale of samples, by statistics of the training part alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forwardly.errors import UsageError

Kind = Literal["centre", "standardise"]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """x → (x − mean) / scale, as it was fitted to training samples.

    Of images (channels, height, width) the statistics are of channels, of all other samples of
    each number by itself. A scale is the standard deviation over the training samples, or 1 where
    that is 0; of a model that was trained on centred samples it is 1 everywhere.

    Attributes:
        mean: float32 (or float64, where samples are), of a shape that broadcasts to a sample.
        scale: the same.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, kind: Kind) -> Preprocessing:
        """Fit to training samples (n, …)."""
        x = as_numbers(x)
        over = (0, 2, 3) if x.dim() == 4 else (0,)
        if kind == "standardise":
            variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
            scale = variance.sqrt()
            scale = torch.where(scale == 0, 1, scale)
        else:
            mean = x.mean(over, keepdim=True)
            scale = torch.ones_like(mean)
        if not (mean.isfinite().all() and scale.isfinite().all()):
            raise UsageError("samples are too large to be centred or standardised: scale them")
        return cls(mean[0], scale[0])

    def then(self, other: Preprocessing) -> Preprocessing:
        """This and after it another, as one."""
        return Preprocessing(self.mean + self.scale * other.mean, self.scale * other.scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Samples (n, …), prepared, as floating-point numbers."""
        x = as_numbers(x)
        return (x - self.mean.to(x)).div_(self.scale.to(x))


def as_numbers(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Samples as floating-point numbers; bytes stand for 0 to 1.

    Args:
        x: of any kind of real numbers.
        dtype: which kind; if None, float64 where they are, else torch's default.
    """
    if dtype is None:
        dtype = x.dtype if x.dtype == torch.float64 else torch.get_default_dtype()
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)
