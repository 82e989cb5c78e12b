"""Networks of papers: as ``nn.Sequential``, and with residual connections, attention, or both ends.

    mlp, conv            fully connected, and one convolution (Dellaferrera & Kreiman 2022)
    ResNet               for small images, of 6 n + 2 layers (He et al. 2016)
    VisionTransformer    of patches (Dosovitskiy et al. 2021)
    ResidualMLP          h + relu(W h)
    UNet                 an encoder and a decoder (Ronneberger et al. 2015)
    own                  a user's, by a function in a file

May import ``network`` and what is below it.
"""

from __future__ import annotations

from torch import nn

from forwardly.models.residual import ResidualMLP, ResNet
from forwardly.models.sequential import ACTIVATIONS, conv, initialise, mlp
from forwardly.models.transformer import VisionTransformer
from forwardly.models.unet import UNet

WHOLE: tuple[type[nn.Module], ...] = (ResNet, ResidualMLP, UNet, VisionTransformer)
"""Those that are classes; an attribute has each argument of theirs."""

__all__ = [
    "ACTIVATIONS",
    "WHOLE",
    "ResNet",
    "ResidualMLP",
    "UNet",
    "VisionTransformer",
    "conv",
    "initialise",
    "mlp",
]
