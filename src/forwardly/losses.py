"""The output error e of torch's loss modules, what a rule broadcasts.

e is the derivative of the loss of one sample with respect to the network's output, without the
averaging over batch and outputs that the loss module does for reporting:

    nn.CrossEntropyLoss     e = softmax(output) − t     t one-hot, label-smoothed, or probabilities
    nn.BCEWithLogitsLoss    e = sigmoid(output) − t
    nn.MSELoss              e = output − t              of ½‖output − t‖², whatever the reduction
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly._typing import Float
from forwardly.checks import shape_of, values_readable

OutputError = Callable[[Tensor, Tensor], Tensor]
"""(output, target) → e, of the output's shape; one error a sample, not averaged over the batch."""


def output_error(loss: nn.Module) -> OutputError:
    """The error function that belongs to ``loss``.

    Raises:
        TypeError: if the loss is not one of those above.
        ValueError: if it has an option that changes the error and is not supported.
    """
    if isinstance(loss, nn.CrossEntropyLoss):
        _refuse_options(loss, weight=None, ignore_index=-100)
        return partial(_softmax_error, loss)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        _refuse_options(loss, weight=None, pos_weight=None)
        return partial(_sigmoid_error, loss)
    if isinstance(loss, nn.MSELoss):
        return partial(_squared_error, loss)
    raise TypeError(
        f"no output error is known for the loss {loss!r}; supported are nn.CrossEntropyLoss, "
        "nn.MSELoss and nn.BCEWithLogitsLoss. For any other loss pass error=, a function "
        "(output, target) -> error of the output's shape"
    )


def _softmax_error(
    loss: nn.CrossEntropyLoss, output: Float[Tensor, "n ..."], target: Tensor
) -> Float[Tensor, "n k"]:
    n, k = _two_dimensions(output, loss)
    if target.shape == (n,) and target.dtype == torch.int64:
        _check_classes(target, k)
        t = (target.unsqueeze(1) == torch.arange(k, device=target.device)).to(output.dtype)
    elif target.shape == output.shape and target.is_floating_point():
        t = target.to(output.dtype)
    else:
        raise _wrong_target(
            loss, target, f"{n} class indices (int64) or {n} × {k} class probabilities"
        )
    smoothing = loss.label_smoothing
    return functional.softmax(output, dim=1) - (t * (1 - smoothing) + smoothing / k)


def _sigmoid_error(
    loss: nn.BCEWithLogitsLoss, output: Float[Tensor, "n *k"], target: Tensor
) -> Float[Tensor, "n *k"]:
    if target.shape != output.shape:
        raise _wrong_target(loss, target, f"probabilities of shape {shape_of(output)}")
    return functional.sigmoid(output) - target.to(output.dtype)


def _squared_error(
    loss: nn.MSELoss, output: Float[Tensor, "n *k"], target: Tensor
) -> Float[Tensor, "n *k"]:
    # Torch would broadcast (n,) against (n, 1) to (n, n) and learn nonsense.
    if target.shape != output.shape:
        raise _wrong_target(loss, target, f"numbers of the output's shape {shape_of(output)}")
    return output - target.to(output.dtype)


def _refuse_options(loss: nn.Module, **defaults: object) -> None:
    for name, default in defaults.items():
        given = getattr(loss, name)
        if given is not default and given != default:
            raise ValueError(
                f"{type(loss).__name__}({name}=...) is not supported: it changes the output error. "
                f"Leave {name} out, or pass error= with the error that you mean"
            )


def _two_dimensions(output: Tensor, loss: nn.Module) -> tuple[int, int]:
    if output.dim() != 2:
        raise ValueError(
            f"nn.{type(loss).__name__} needs an output of shape (samples, classes); "
            f"the model's is {shape_of(output)}. End the model with nn.Flatten or nn.Linear"
        )
    return output.shape[0], output.shape[1]


def _check_classes(target: Tensor, k: int) -> None:
    if not values_readable(target):
        return
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= k:
        raise ValueError(
            f"class indices must be 0 to {k - 1}, as the model has {k} outputs; "
            f"the target has {low if low < 0 else high}"
        )


def _wrong_target(loss: nn.Module, target: Tensor, expected: str) -> ValueError:
    return ValueError(
        f"nn.{type(loss).__name__} needs a target of {expected}; "
        f"given is {target.dtype} of shape {shape_of(target)}"
    )
