"""The output error e of torch's loss modules, which a rule broadcasts.

e is the derivative of the loss of one sample with respect to the network's output, without the
averaging over batch and outputs that the loss module does for reporting:

    nn.CrossEntropyLoss     e = softmax(output) − t     t one-hot, label-smoothed, or probabilities
    nn.BCEWithLogitsLoss    e = sigmoid(output) − t
    nn.MSELoss              e = output − t              of ½‖output − t‖², whatever the reduction
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardly._typing import Float
from forwardly.checks import shape_of, values_readable
from forwardly.network.alterations import is_hooked, overrides

OutputError = Callable[[Tensor, Tensor], Tensor]
"""(output, target) → e, of the output's shape; one error a sample, not averaged over the batch."""

_CHANGE_THE_ERROR: dict[type[nn.Module], dict[str, object]] = {
    nn.CrossEntropyLoss: {"weight": None, "ignore_index": -100},
    nn.BCEWithLogitsLoss: {"weight": None, "pos_weight": None},
    nn.MSELoss: {},
}
"""The losses above, and their options that must keep their defaults."""


def check_loss(loss: nn.Module) -> None:
    """Refuse a loss whose error is not known.

    Raises:
        TypeError: if it is not one of those above, or a subclass or a hook changes what it is.
        ValueError: if it has an option that changes the error and is not supported.
    """
    kind = next((kind for kind in _CHANGE_THE_ERROR if isinstance(loss, kind)), None)
    if kind is None or overrides(loss, kind) or is_hooked(loss):
        why = "" if kind is None else f", which changes what nn.{kind.__name__} computes"
        raise TypeError(
            f"no output error is known for the loss {loss!r}{why}; supported are "
            "nn.CrossEntropyLoss, nn.MSELoss and nn.BCEWithLogitsLoss. For any other loss pass "
            "error=, a function (output, target) -> error of the output's shape"
        )
    for name, default in _CHANGE_THE_ERROR[kind].items():
        given = getattr(loss, name, default)
        if given is not default and given != default:
            raise ValueError(
                f"{type(loss).__name__}({name}=...) is not supported: it changes the output error. "
                f"Leave {name} out, or pass error= with the error that you mean"
            )


def output_error(
    loss: nn.Module, output: Float[Tensor, "n ..."], target: Tensor
) -> Float[Tensor, "n ..."]:
    """e of a loss that ``check_loss`` lets pass, of the output's shape.

    Raises:
        ValueError: if the target's shape or dtype does not fit, or a class is out of range.
    """
    return prediction(loss, output) - encoded(loss, target, output.shape, output.dtype)


def mean_loss(loss: nn.Module, output: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """The loss with ``reduction="mean"``, whatever the module's own reduction.

    Integer targets of losses that compare numbers are taken as numbers.
    """
    if getattr(loss, "reduction", "mean") in ("sum", "none"):
        loss = copy.copy(loss)
        vars(loss)["reduction"] = "mean"
    if target.is_floating_point() or isinstance(loss, (nn.MSELoss, nn.BCEWithLogitsLoss)):
        target = target.to(output.dtype)
    value: Tensor = loss(output, target)
    return value.mean() if value.dim() else value


def is_of_softmax(loss: nn.Module) -> bool:
    """Whether e is softmax(output) − t with t one-hot, for targets that are classes."""
    return isinstance(loss, nn.CrossEntropyLoss) and loss.label_smoothing == 0


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
            _check_probabilities(target)
            t = target
        else:
            raise _wrong_target(
                loss, target, f"{n} class indices (int64) or {n} × {k} class probabilities"
            )
        smoothing = loss.label_smoothing
        return t.to(dtype) * (1 - smoothing) + smoothing / k if smoothing else t.to(dtype)
    # Torch would broadcast (n,) against (n, 1) to (n, n) and learn nonsense.
    if target.shape != shape or target.is_complex():
        raise _wrong_target(loss, target, f"numbers of the output's shape {tuple(shape)}")
    return target.to(dtype)


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


def _check_probabilities(target: Tensor) -> None:
    """Refuse what the softmax cannot become, for which e would not be the loss's derivative."""
    if values_readable(target) and ((target < 0).any() or (target.sum(1) - 1).abs().max() > 0.01):
        raise ValueError(
            "class probabilities must be 0 or more and sum to 1 in each sample; of several labels "
            "at once nn.BCEWithLogitsLoss learns"
        )


def _wrong_target(loss: nn.Module, target: Tensor, expected: str) -> ValueError:
    return ValueError(
        f"nn.{type(loss).__name__} needs a target of {expected}; "
        f"given is {target.dtype} of shape {shape_of(target)}"
    )
