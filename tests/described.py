"""Torch models described to the reference, which knows nothing of torch."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

import forwardly as fw
from reference import layers as ref
from reference.pepita import sigmoid_error, softmax_error, squared_error

NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
    nn.LeakyReLU: "leaky_relu",
    nn.Softplus: "softplus",
}

ERRORS = {
    nn.CrossEntropyLoss: softmax_error,
    nn.MSELoss: squared_error,
    nn.BCEWithLogitsLoss: sigmoid_error,
}


def array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().double().numpy()


def describe(rule: fw.Rule, x: Tensor) -> list[ref.Layer]:
    """The rule's model as the reference's layers, with the dropout masks of the coming step."""
    step = rule.network.step(rule.noise)
    list(step.activities(step.prepare(x)))
    masks = {name: mask.numpy() for name, mask in step._masks.items()}
    described: list[ref.Layer] = []
    for name, module in rule.model.named_modules():
        match module:
            case nn.Sequential():
                continue
            case nn.Linear():
                layer = ref.Linear(array(module.weight), array(module.bias))
            case nn.Conv1d() | nn.Conv2d():
                layer = ref.Conv(
                    array(module.weight),
                    array(module.bias),
                    module.stride,
                    module.padding,
                    module.dilation,
                    module.groups,
                )
            case nn.Dropout():
                layer = ref.Dropout(masks[name])
            case nn.MaxPool1d() | nn.MaxPool2d():
                layer = ref.MaxPool(module.kernel_size, module.stride, module.padding)
            case nn.AvgPool1d() | nn.AvgPool2d():
                layer = ref.AvgPool(module.kernel_size, module.stride, module.padding)
            case nn.Flatten():
                layer = ref.Flatten()
            case nn.LayerNorm():
                layer = ref.LayerNorm(module.eps)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                assert not module.training
                mean, variance = array(module.running_mean), array(module.running_var)
                assert mean is not None
                assert variance is not None
                scale = 1 / np.sqrt(variance + module.eps)
                layer = ref.Affine(scale, -scale * mean)
            case _:
                layer = ref.Elementwise(NAMES[type(module)])
        described.append(layer)
    return described
