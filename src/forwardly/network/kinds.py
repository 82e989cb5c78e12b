"""The modules of torch that a network may be made of, by what they do in a stage; and losses."""

from __future__ import annotations

from torch import nn

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
