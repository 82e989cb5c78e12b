"""Training steps taken elsewhere: as ONNX files that run where only inference does.

May import ``audit`` and what is below it. Nothing here imports onnx before it is needed.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.optim import Optimizer

from forwardly.export.runner import Exported, Metrics

__all__ = ["Exported", "Metrics", "export"]


def export(
    rule: object, optimizer: object, folder: Path | str, example: tuple[Tensor, Tensor]
) -> Exported:
    """Write the training step of a rule and its optimizer as files that inference runtimes run.

    The folder appears whole or not at all: ``train_step.onnx`` (state, x, target, learning rate →
    new state, loss, accuracy of classes, output), ``train_steps.onnx`` (the same for a stack of
    batches), ``predict.onnx``, ``state.safetensors``, ``forwardly.json`` (names, order and shapes
    of all of that), ``check.npz`` and a README. Equal rules give equal bytes.

    Args:
        rule: in float32, on the CPU, in training mode.
        optimizer: ``LocalSGD`` or ``torch.optim.SGD`` of the rule's parameters. Its learning rate
            becomes an input; groups with rates of their own keep their share of the first's.
        folder: to write; it must not hold anything yet.
        example: a batch (x, target), of any number of samples; x (n, …) in float32.

    Returns:
        The folder, opened: ``check()`` holds it to torch.

    Raises:
        TypeError: if rule or optimizer are of another class.
        UsageError: if the step cannot be exported, and why; if the folder holds something, or
            cannot be written; if the package onnx is missing.
    """
    from forwardly.checks import check_kind
    from forwardly.export.folder import write
    from forwardly.rule import Rule

    check_kind("rule", rule, Rule)
    check_kind("optimizer", optimizer, Optimizer)
    write(rule, optimizer, Path(folder), example)  # pyright: ignore[reportArgumentType]
    return Exported(folder)
