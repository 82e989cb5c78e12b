"""Training steps taken elsewhere: as files that run where only inference does, or as C99.

May import ``audit`` and what is below it. Nothing here imports onnx or executorch before it is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor
from torch.optim import Optimizer

from forwardly.checks import check_kind, one_of
from forwardly.export.runner import Course, Exported, Metrics
from forwardly.rule import Rule

if TYPE_CHECKING:
    from forwardly.export.c import Sizes
    from forwardly.export.executorch import Programs

__all__ = ["Course", "Exported", "Metrics", "export"]


@overload
def export(
    rule: Rule,
    optimizer: Optimizer,
    folder: Path | str,
    example: tuple[Tensor, Tensor],
    *,
    format: Literal["onnx"] = "onnx",
    numbers: Literal["host", "graph"] = "host",
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Exported: ...
@overload
def export(
    rule: Rule,
    optimizer: Optimizer,
    folder: Path | str,
    example: tuple[Tensor, Tensor] | None = None,
    *,
    format: Literal["c"],
) -> Sizes: ...
@overload
def export(
    rule: Rule,
    optimizer: Optimizer,
    folder: Path | str,
    example: tuple[Tensor, Tensor],
    *,
    format: Literal["executorch"],
    numbers: Literal["host", "graph"] = "host",
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Programs: ...
def export(
    rule: Rule,
    optimizer: Optimizer,
    folder: Path | str,
    example: tuple[Tensor, Tensor] | None = None,
    *,
    format: Literal["onnx", "c", "executorch"] = "onnx",  # noqa: A002, as it is the word for it
    numbers: Literal["host", "graph"] = "host",
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Exported | Sizes | Programs:
    """Write the training step of a rule and its optimizer as files that do without torch.

    As "onnx", for inference runtimes, the folder appears whole or not at all: ``train_step.onnx``
    (state, x, target, learning rate → new state, loss, accuracy of classes, output),
    ``train_steps.onnx`` (the same for a stack of batches), ``train_epochs.onnx`` (many steps on one
    batch), ``predict.onnx``, ``state.safetensors``, ``forwardly.json`` (names, order and shapes of
    all of that), ``check.npz`` and a README. Equal rules give equal bytes.

    As "executorch", for phones and boards, it is a folder of the same with ``train_step.pte`` and
    ``predict.pte``. A batch may have as many samples as the example, and at least three.

    As "c", for microcontrollers, it is one step on one sample in C99: ``forwardly_step.c`` and
    ``forwardly_step.h``, and a README. Not all rules and layers can be: see docs/on-device.md.

    Args:
        rule: in float32, on the CPU; in training mode, but for C.
        optimizer: ``LocalSGD`` or ``torch.optim.SGD`` of the rule's parameters. Its learning rate
            becomes an input; but for C groups with rates of their own keep their share of the
            first's.
        folder: to write; it must not hold anything yet, but of C files are replaced.
        example: a batch (x, target), of any number of samples; x (n, …) in float32. C needs none.
        format: "onnx", "executorch" or "c".
        numbers: where random numbers of a step, but for C, come from: "host", an input to be filled
            with numbers on [0, 1); or "graph", computed from 64-bit integers that are a part of the
            state, so that a step has the very masks of ``LocalSGD``'s. Not every runtime computes
            those as it should: see ``check()``.
        prepare: what a step, but for C, and its predictions do to x first, such as to centre it: a
            pure function of a batch. The example is of samples that are not prepared yet.

    Returns:
        Of ONNX and ExecuTorch the folder: ``check()`` holds it to torch. Of C what it takes of
        memory.

    Raises:
        TypeError: if rule or optimizer are of another class.
        ValueError: if format or numbers are none of these.
        UsageError: if the step cannot be exported, and why; if the folder holds something, or
            cannot be written; if the package onnx or executorch is missing.
    """
    check_kind("rule", rule, Rule)
    check_kind("optimizer", optimizer, Optimizer)
    one_of("format", format, ("onnx", "c", "executorch"))
    one_of("numbers", numbers, ("host", "graph"))
    if format == "c":
        from forwardly.export.c import write_c  # its templates are of use here alone

        return write_c(rule, optimizer, Path(folder))
    from forwardly.export.folder import write

    from_host = numbers == "host"
    write(rule, optimizer, Path(folder), example, kind=format, from_host=from_host, prepare=prepare)
    if format == "executorch":
        from forwardly.export.executorch import Programs

        return Programs(Path(folder))
    return Exported(folder)
