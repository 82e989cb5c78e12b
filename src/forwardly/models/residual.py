"""Networks in which a layer adds to what it is given.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385,
section 4.2: the networks for CIFAR-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = 16, 32, 64


class ResNet(nn.Module):
    """The residual network of 6 n + 2 layers for small images; 20 have 0.27 million parameters.

    Three groups of n blocks, of 16, 32 and 64 channels, each block of two 3 × 3 convolutions; the
    first of a group has stride 2. A shortcut is the identity, every other pixel and zeros for new
    channels where the sizes differ (the paper's option A), so it has no parameters.

    Args:
        depth: 6 n + 2: 8, 14, 20, 32, 44, 56, 110.
        channels: of an image.
        outputs: k.

    Raises:
        ValueError: if the depth is of another form.
    """

    def __init__(self, depth: int = 20, *, channels: int = 3, outputs: int = 10) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if n < 1 or rest:
            raise ValueError(f"the depth of a ResNet must be 6 n + 2: 8, 14, 20, …; given {depth}")
        self.depth = depth
        self.channels = channels
        self.outputs = outputs
        self.conv = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        blocks: list[nn.Module] = []
        before = WIDTHS[0]
        for width in WIDTHS:
            for _ in range(n):
                blocks.append(_Block(before, width))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, outputs)."""
        h = self.blocks(functional.relu(self.norm(self.conv(x))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(h, 1), 1))


class _Block(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.new = width - before

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        if self.new:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new))
        return functional.relu(h + x)


class ResidualMLP(nn.Module):
    """A linear layer, then layers that add to what they are given: h ← h + relu(W h + b).

    Args:
        inputs: numbers per sample.
        width: of all hidden layers.
        depth: how many layers add.
        outputs: k.
    """

    def __init__(self, inputs: int, width: int = 256, depth: int = 4, *, outputs: int = 10) -> None:
        super().__init__()
        self.inputs = inputs
        self.width = width
        self.depth = depth
        self.outputs = outputs
        self.stem = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, …) to (n, outputs)."""
        h = functional.relu(self.stem(torch.flatten(x, 1)))
        for layer in self.layers:
            h = h + functional.relu(layer(h))
        return self.head(h)
