"""A transformer of an image's patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
ICLR 2021, arXiv 2010.11929; read out by the mean of the patches, as in Beyer, Zhai & Kolesnikov,
"Better plain ViT baselines for ImageNet-1k", 2022, arXiv 2205.01580, so there is no class token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks of attention and two linear layers, a linear readout.

    Args:
        image: height and width of an image.
        patch: of a patch.
        width: of a patch's embedding.
        depth: number of blocks.
        heads: of attention; they divide the width.
        channels: of an image.
        outputs: k.

    Raises:
        ValueError: if patches do not divide the image, or heads the width.
    """

    def __init__(
        self,
        image: int = 32,
        *,
        patch: int = 4,
        width: int = 96,
        depth: int = 4,
        heads: int = 3,
        channels: int = 3,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        if image % patch or width % heads:
            raise ValueError(
                f"patches must divide the image, and heads the width; given {patch} of {image}, "
                f"and {heads} of {width}"
            )
        self.image = image
        self.patch = patch
        self.width = width
        self.depth = depth
        self.heads = heads
        self.channels = channels
        self.outputs = outputs
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn((image // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, image, image) to (n, outputs)."""
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(patches)).mean(1))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self._attention(self.qkv(self.norm1(x))))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))

    def _attention(self, qkv: Tensor) -> Tensor:
        """Written out, as fused kernels have no derivative in forward mode."""
        n, patches, _ = qkv.shape
        q, k, v = qkv.reshape(n, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
        return (weights @ v).transpose(1, 2).flatten(2)
