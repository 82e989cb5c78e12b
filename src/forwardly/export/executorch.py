"""A step as ExecuTorch programs, of the kernels that every build of its runtime can have.

The graph goes to ``torch.export`` again, with an upper bound of a batch's samples, for which
ExecuTorch plans memory ahead. No backend is asked: those for processors take weights that never
change, and a step's are inputs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forwardly.errors import UsageError, in_a_line
from forwardly.export import readme_of_programs
from forwardly.export.check import Checked, check, require
from forwardly.export.folder import BATCH, PREDICTING, PROGRAM, Contents, Models, Traced
from forwardly.export.graph import SAMPLES, Graph


@contextmanager
def _quietly() -> Generator[None]:
    """Torch and torchao warn of each other, and of what they will change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


with _quietly():
    import executorch.exir as exir  # pyright: ignore
    from executorch.exir.passes import MemoryPlanningPass  # pyright: ignore
    from executorch.runtime import Runtime  # pyright: ignore

_exir: Any = exir  # pyright: ignore
_Planning: Any = MemoryPlanningPass  # pyright: ignore
_Runtime: Any = Runtime  # pyright: ignore
_BACKEND: Any = _exir.ExecutorchBackendConfig(
    memory_planning_pass=_Planning(alloc_graph_input=False)  # inputs are read where they lie
)
# ExecuTorch's own check takes an operation that splits a batch for one of so many samples.
_EDGE: Any = _exir.EdgeCompileConfig(_check_ir_validity=False)


@dataclass(frozen=True)
class Programs:
    """A folder of ExecuTorch programs.

    Attributes:
        path: of the folder.
    """

    path: Path

    def check(self) -> Checked:
        """Hold the programs to torch in ExecuTorch's runtime; print the result.

        Raises:
            UsageError: if it computes something else, or does not take a file.
        """
        checked = check(Contents.read(self.path))
        require(checked)
        return checked


def models_of(traced: Traced) -> Models:
    """Both programs.

    Raises:
        UsageError: if an operation has no portable kernel, or cannot be lowered.
    """
    most = max(len(traced.inputs["x"]), 3)
    content = {
        PROGRAM: program_of(traced.graph, traced.inputs, most),
        PREDICTING: program_of(traced.predicting, traced.inputs, most),
    }
    said = {"most_samples": most}
    return Models(content, PROGRAM, PREDICTING, "executorch", said, readme_of_programs.text)


def program_of(graph: Graph, inputs: Mapping[str, Tensor], most: int) -> bytes:
    """A program whose method ``forward`` takes the graph's inputs, in their order.

    Args:
        graph: of a step, or of what predicts.
        inputs: an example of each, by name.
        most: samples in the largest batch.
    """
    traced = min(SAMPLES, most - 1)  # not the most, so that it shows where only that many would do
    examples = tuple(
        _batch_of(inputs[name], traced) if name in BATCH else inputs[name].contiguous()
        for name in graph.inputs
    )
    samples = torch.export.Dim("samples", min=1, max=most)
    shapes = tuple({0: samples} if name in BATCH else None for name in graph.inputs)
    try:
        # Where oneDNN may be chosen for a convolution, torch takes batches below 16 for granted.
        with _quietly(), torch.backends.mkldnn.flags(enabled=False):
            exported = torch.export.export(_Positional(graph), examples, dynamic_shapes=(shapes,))
            lowered = _exir.to_edge(exported, compile_config=_EDGE).to_executorch(_BACKEND)
    except Exception as failure:
        raise UsageError(
            f"ExecuTorch cannot lower the step ({in_a_line(failure)}): export it as ONNX"
        ) from failure
    (plan,) = lowered.executorch_program.execution_plan
    _refuse_unknown([_name(one.name, one.overload) for one in plan.operators])
    ends = dict(zip((*graph.inputs, *graph.outputs), (*plan.inputs, *plan.outputs), strict=True))
    for name in {*BATCH, "output"} & set(ends):
        if (found := plan.values[ends[name]].val.sizes[0]) != most:
            raise UsageError(
                f"ExecuTorch lowers the step for {found} samples, and not for any number up to "
                f"{most}: export it as ONNX"
            )
    return bytes(lowered.buffer)


class _Positional(nn.Module):
    """A graph of the inputs that it uses, of which alone a program is to know."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.module = graph.module
        found = [node for node in graph.module.graph.nodes if node.op == "placeholder"]
        used = {node: place for place, node in enumerate(graph.inputs.values())}
        self.places = [used.get(node) for node in found]

    def forward(self, *given: Tensor) -> list[Tensor]:
        return self.module(*(None if place is None else given[place] for place in self.places))


def _batch_of(example: Tensor, samples: int) -> Tensor:
    return example[:1].expand(samples, *example.shape[1:]).contiguous()


def _name(kind: str, overload: str) -> str:
    return f"{kind}.{overload}" if overload else kind


def _refuse_unknown(operators: Sequence[str]) -> None:
    """Refuse what the runtime has no kernel for."""
    known = _Runtime.get().operator_registry.operator_names
    if unknown := sorted(set(operators) - known):
        raise UsageError(
            f"ExecuTorch has no portable kernel for {', '.join(unknown)}: export the step as ONNX, "
            'or do without what they come from, a module or numbers="graph"'
        )
