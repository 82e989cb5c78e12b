"""Images changed at random, anew in each epoch: flips, shifts and crops of a whole batch at once.

What happens to an image is a function of (seed, epoch, batch, place in the batch), read from the
sequence of ``forwardly.noise``. So a run that is continued sees the images that it would have seen,
bit for bit, and runs with the same seed see the same ones, whatever the rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forwardly import noise
from forwardly.checks import check_kind
from forwardly.errors import UsageError

_FLIP, _DOWN, _RIGHT, _SIDE, _CENTRE_X, _CENTRE_Y = range(6)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images (n, channels, height, width), in the order crop, shift, flip.

    Attributes:
        flip: mirror every other image, left to right.
        shift: move by up to so many pixels, each number of them as likely, down or up and left or
            right; zeros come in, which are the mean of centred images.
        crop: cut out a window whose sides are at least this share of the image's, any share up to
            1 as likely, anywhere in the image, and enlarge it to the image's size (bilinear).

    Raises:
        TypeError: if a setting is of another kind.
        UsageError: if a number makes no sense.
    """

    flip: bool = False
    shift: int = 0
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_kind("flip", self.flip, bool)
        check_kind("shift", self.shift, int)
        check_kind("crop", self.crop, float, int)
        if self.shift < 0:
            raise UsageError(f"shift must be at least 0 pixels; given {self.shift}")
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop must be above 0 and at most 1; given {self.crop}")

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self != Augmentation()

    def __call__(self, x: Tensor, seed: int, epoch: int, batch: int) -> Tensor:
        """The images of a batch, changed; the given ones stay as they are.

        Args:
            x: (n, channels, height, width), floating-point.
            seed: of a run.
            epoch: counted from 1.
            batch: in the epoch, below 2²⁴.

        Raises:
            UsageError: if samples are no images.
        """
        if not self:
            return x
        self.check(tuple(x.shape[1:]))
        return self.changed(x, torch.tensor(self.draws(seed, epoch, batch), device=x.device))

    @staticmethod
    def draws(seed: int, epoch: int, batch: int) -> tuple[int, int]:
        """Where a batch's random numbers begin, for ``changed``; that of the next batch is at + 1.

        Returns:
            (seed, at), two integers of 64 bits.
        """
        signed = (seed + 2**63) % 2**64 - 2**63  # torch's generators take up to 2⁶⁴ − 1 too
        return signed, ((epoch - 1) << 24) + batch

    def changed(self, x: Tensor, draws: Tensor) -> Tensor:
        """As a call, of images that are known to be some.

        Args:
            x: (n, channels, height, width), floating-point.
            draws: ``draws`` as a tensor on the device of x.
        """
        if self.crop < 1:
            x = _cropped(x, self.crop, draws)
        if self.shift:
            x = _shifted(x, self.shift, draws)
        if self.flip:
            flipped = noise.below(draws, _FLIP, (len(x), 1, 1, 1), 2) == 1
            x = torch.where(flipped, x.flip(-1), x)
        return x

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse samples that are no images.

        Args:
            shape: of one sample.
        """
        if self and len(shape) != 3:
            raise UsageError(
                "flips, shifts and crops are of images (channels, height, width); samples have the "
                f"shape {shape}"
            )


def _shifted(x: Tensor, most: int, draws: Tensor) -> Tensor:
    n, _, height, width = x.shape
    shape = (n, 1)
    down, right = (noise.below(draws, which, shape, 2 * most + 1) for which in (_DOWN, _RIGHT))
    padded = torch.nn.functional.pad(x, (most, most, most, most))
    rows = torch.arange(height, device=x.device) + down
    columns = torch.arange(width, device=x.device) + right
    images = torch.arange(n, device=x.device)
    channels_last = padded.movedim(1, 3)
    return channels_last[images[:, None, None], rows[:, :, None], columns[:, None]].movedim(3, 1)


def _cropped(x: Tensor, least: float, draws: Tensor) -> Tensor:
    side, centre_x, centre_y = (
        noise.uniform(draws, which, (len(x),), torch.float32).to(x.dtype)
        for which in (_SIDE, _CENTRE_X, _CENTRE_Y)
    )
    side = least + (1 - least) * side
    # Where each pixel of the image is in it, whose corners are at ±1; bilinear between pixels.
    down, right = (
        side[:, None] * ((2 * torch.arange(size, device=x.device) + 1) / size - 1).to(x.dtype)
        + ((1 - side) * (2 * centre - 1))[:, None]
        for size, centre in zip(x.shape[2:], (centre_y, centre_x), strict=True)
    )
    shape = len(x), *x.shape[2:]
    grid = torch.stack([right[:, None, :].expand(shape), down[:, :, None].expand(shape)], -1)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
