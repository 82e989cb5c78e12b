"""An encoder and a decoder that sees what the encoder has made on the way.

Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, arXiv 1505.04597. Here convolutions are padded, so that the output is of the input's
size, and nothing is cropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """Images to images, one number a pixel and output.

    Args:
        channels: of an image.
        width: channels of the first level; each level below has twice as many.
        depth: how often the image is halved; with 4, the paper's 23 convolutional layers.
        outputs: channels of the output.
    """

    def __init__(
        self, channels: int = 1, *, width: int = 64, depth: int = 4, outputs: int = 2
    ) -> None:
        super().__init__()
        self.channels = channels
        self.width = width
        self.depth = depth
        self.outputs = outputs
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _Twice(before, after)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        above = widths[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in above)
        self.join = nn.ModuleList(_Twice(2 * w, w) for w in above)
        self.leave = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, outputs, height, width)."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            kept.append(x)
        for up, join, beside in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            x = join(torch.cat([beside, up(x)], dim=1))
        return self.leave(x)


class _Twice(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(functional.relu(self.conv1(x))))
