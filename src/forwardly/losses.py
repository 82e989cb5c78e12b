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
    elif isinstance(loss, nn.BCEWithLogitsLoss):
        _refuse_options(loss, weight=None, pos_weight=None)
    elif not isinstance(loss, nn.MSELoss):
        raise TypeError(
            f"no output error is known for the loss {loss!r}; supported are nn.CrossEntropyLoss, "
            "nn.MSELoss and nn.BCEWithLogitsLoss. For any other loss pass error=, a function "
            "(output, target) -> error of the output's shape"
        )
    return partial(_error, loss)


def is_of_softmax(error: OutputError) -> bool:
    """Whether it is softmax(output) − t with t one-hot, for targets that are classes."""
    if not isinstance(error, partial) or error.func is not _error:
        return False
    loss = error.args[0]
    return type(loss) is nn.CrossEntropyLoss and loss.label_smoothing == 0


def _error(
    loss: nn.Module, output: Float[Tensor, "n ..."], target: Tensor
) -> Float[Tensor, "n ..."]:
    return prediction(loss, output) - encoded(loss, target, output.shape, output.dtype)


def prediction(loss: nn.Module, output: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """y, what the loss compares with t: softmax, sigmoid or the output itself."""
    if isinstance(loss, nn.CrossEntropyLoss):
        _two_dimensions(output.shape, loss)
        return functional.softmax(output, dim=1)
    return functional.sigmoid(output) if isinstance(loss, nn.BCEWithLogitsLoss) else output


def encoded(
    loss: nn.Module, target: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> Float[Tensor, "n ..."]:
    """t, the target as numbers of the output's ``shape``: one-hot where it is given as classes.

    Raises:
        ValueError: if the target's shape or dtype does not fit, or a class is out of range.
    """
    if isinstance(loss, nn.CrossEntropyLoss):
        n, k = _two_dimensions(shape, loss)
        if target.shape == (n,) and target.dtype == torch.int64:
            check_classes(target, k)
            t = target.unsqueeze(1) == torch.arange(k, device=target.device)
        elif target.shape == shape and target.is_floating_point():
            t = target
        else:
            raise _wrong_target(
                loss, target, f"{n} class indices (int64) or {n} × {k} class probabilities"
            )
        smoothing = loss.label_smoothing
        return t.to(dtype) * (1 - smoothing) + smoothing / k if smoothing else t.to(dtype)
    # Torch would broadcast (n,) against (n, 1) to (n, n) and learn nonsense.
    if target.shape != shape:
        raise _wrong_target(loss, target, f"numbers of the output's shape {tuple(shape)}")
    return target.to(dtype)


def _refuse_options(loss: nn.Module, **defaults: object) -> None:
    for name, default in defaults.items():
        given = getattr(loss, name)
        if given is not default and given != default:
            raise ValueError(
                f"{type(loss).__name__}({name}=...) is not supported: it changes the output error. "
                f"Leave {name} out, or pass error= with the error that you mean"
            )


def _two_dimensions(shape: tuple[int, ...], loss: nn.Module) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(
            f"nn.{type(loss).__name__} needs an output of shape (samples, classes); "
            f"the model's is {tuple(shape)}. End the model with nn.Flatten or nn.Linear"
        )
    return shape[0], shape[1]


def check_classes(target: Tensor, k: int) -> None:
    """Refuse class indices below 0 or above k − 1."""
    if not values_readable(target):
        return
    low, high = (int(end) for end in target.aminmax())
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
