"""The modules of torch that a network may be made of, by what they do in a stage; and losses.

And the error that says that a model is made of something else.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from forwardly.network.normalisation import Normalise

SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, Normalise)
ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU),
    *(nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    nn.Threshold,
)
ELEMENTWISE = (*ACTIVATIONS, *NORMS, *DROPOUTS)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
RESHAPES = (nn.Flatten, nn.Unflatten)
LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss)
SUPPORTED = (*SYNAPSES, *ELEMENTWISE, *MAX_POOLS, *AVERAGE_POOLS, *RESHAPES)
"""What chains are made of."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ALL_SYNAPSES = (*SYNAPSES, nn.Conv3d, *TRANSPOSED)
ALL_DROPOUTS = (*DROPOUTS, nn.Dropout3d)
ALL_BATCH_NORMS = (*BATCH_NORMS, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
SCALING_NORMS = (*NORMS, nn.BatchNorm3d, nn.GroupNorm, nn.RMSNorm, *INSTANCE_NORMS)
ALL_NORMS = (*SCALING_NORMS, nn.LocalResponseNorm)
ALL_ACTIVATIONS = (*ACTIVATIONS, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
"""These, with what they add to the above, have a meaning of their own in any model."""


class UntraceableError(TypeError):
    """Why a model cannot be read; as text, what to do."""


DROPOUT_FUNCTIONS = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    torch.dropout: nn.Dropout,
}
"""And the modules that do the same."""
