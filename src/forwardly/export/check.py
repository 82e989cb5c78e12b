"""Exported files in every runtime that is installed, against what torch computed.

One step from each of several states, not a run of steps: where an activation has a kink, two runs
part for good from a difference in the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from forwardly.data import npz
from forwardly.errors import UsageError, in_a_line, missing
from forwardly.export.folder import (
    AGAIN,
    CHECK,
    EPOCHS,
    PREDICT,
    PREDICTING,
    PROGRAM,
    STEP,
    STEPS,
    Arrays,
    Contents,
)
from forwardly.export.step import NEW, NUMBERS
from forwardly.files.text import visible

Run = Callable[[Arrays], list[NDArray[Any]]]
"""Values of inputs by name → those of the outputs, in order."""


class Row(NamedTuple):
    """One file in one runtime.

    Attributes:
        runtime: its name and version.
        file: the model.
        absolute: the largest difference from torch.
        relative: the largest difference of a new value as a share of its tensor's largest update;
            of tensors whose update is well above rounding.
        problem: why it is not right, or not run; empty if all is well.
        refused: whether the runtime does not take the file, rather than computing it wrongly.
    """

    runtime: str
    file: str
    absolute: float
    relative: float
    problem: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Checked:
    """What was found; ``print`` shows it as a table."""

    rows: list[Row]

    @property
    def wrong(self) -> list[Row]:
        """Where something is not as torch computed it."""
        return [row for row in self.rows if row.problem and not row.refused]

    def cells(self) -> list[tuple[str, ...]]:
        """What a table shows: runtime, file, largest error, the same of the update, and whether
        all is well.
        """
        return [
            (row.runtime, row.file, *_figures(row), row.problem or "as torch") for row in self.rows
        ]

    def __str__(self) -> str:
        """A table."""
        heads, cells = ("runtime", "file", "largest error", "of the update", ""), self.cells()
        widths = [max(len(line[i]) for line in (heads, *cells)) for i in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (heads, *cells)
        ]
        return "\n".join(lines)


def _figures(row: Row) -> tuple[str, str]:
    if row.refused:
        return "–", "–"
    predicts = row.file.startswith("predict.")
    return f"{row.absolute:.1e}", "–" if predicts else f"{row.relative:.1e}"


def check(contents: Contents) -> Checked:
    """Run every model in every runtime that is installed.

    Raises:
        UsageError: if no runtime is installed.
    """
    makers = list(_runtimes() if contents.of_onnx else _of_programs())
    if not makers:
        needed = ("onnxruntime", "export") if contents.of_onnx else ("executorch", "executorch")
        raise missing("to check an export", *needed, ImportError("no runtime is installed"))
    return Checked([row for name, make in makers for row in rows(contents, name, make)])


def rows(contents: Contents, runtime: str, make: Callable[[str], Run]) -> Iterator[Row]:
    """Every model in one runtime.

    Args:
        contents: the folder.
        runtime: its name and version.
        make: opens a model, given its path.
    """
    expected = npz.load(contents.path / CHECK)
    for file, compare in COMPARISONS if contents.of_onnx else OF_PROGRAMS:
        try:
            found = compare(contents, make(str(contents.path / file)), expected)
        except Exception as problem:  # whatever a runtime raises of what it does not take
            said = visible(in_a_line(problem))[:120]
            yield Row(runtime, file, np.nan, np.nan, f"is not taken: {said}", refused=True)
        else:
            yield Row(runtime, file, *found)


def _runtimes() -> Iterator[tuple[str, Callable[[str], Run]]]:
    """Those for ONNX that are installed, with what opens a model in each."""
    try:
        import onnx

        yield f"onnx reference {onnx.__version__}", _reference
    except ImportError:
        pass
    try:
        import onnxruntime  # pyright: ignore

        yield f"onnxruntime {onnxruntime.__version__}", _onnxruntime  # pyright: ignore
    except ImportError:
        pass
    try:
        import openvino  # pyright: ignore

        yield f"openvino {openvino.__version__.split('-')[0]}", _openvino  # pyright: ignore
    except ImportError:
        pass

    try:
        import tract  # pyright: ignore

        yield f"tract {tract.version()}", _tract  # pyright: ignore
    except ImportError:
        pass


def _of_programs() -> Iterator[tuple[str, Callable[[str], Run]]]:
    """ExecuTorch's runtime, if it is installed."""
    try:
        import executorch.runtime  # pyright: ignore # noqa: F401, to see whether it can be

        yield f"executorch {version('executorch')}", _executorch
    except ImportError:
        pass


def _executorch(path: str) -> Run:
    import executorch.runtime as executorch  # pyright: ignore

    runtime: Any = executorch
    program = runtime.Runtime.get().load_program(path)
    method: Any = program.load_method("forward")

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        given = [torch.tensor(np.array(value, order="C")) for value in inputs.values()]
        return [value.numpy().copy() for value in method.execute(given)]

    return run


def _reference(path: str) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(path)

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        with np.errstate(all="ignore"):
            return evaluator.run(None, inputs)

    return run


def _onnxruntime(path: str) -> Run:
    session = session_of(path)
    return lambda inputs: session.run(None, inputs)


def session_of(path: str, *, frugal: bool = False) -> Any:
    """An onnxruntime session on the processor, quiet.

    Args:
        path: of the model.
        frugal: operators run in the order in which the rule does things, each as it stands, and
            memory goes back at once. By itself onnxruntime computes what occurs twice once, and
            keeps it: MemPEPITA's second pass over a layer, say, which is there to keep nothing.

    Raises:
        UsageError: if onnxruntime is not installed.
    """
    try:
        import onnxruntime  # pyright: ignore
    except ImportError as problem:
        raise missing("to run an exported step", "onnxruntime", "export", problem) from None
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if frugal:
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _openvino(path: str) -> Run:
    import openvino  # pyright: ignore

    runtime: Any = openvino
    compiled = runtime.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        known = {name for port in compiled.inputs for name in port.get_names()}
        results = compiled({name: value for name, value in inputs.items() if name in known})
        return [results[port] for port in compiled.outputs]

    return run


def _tract(path: str) -> Run:
    import tract  # pyright: ignore

    runtime: Any = tract
    types = {"float32": "f32", "int64": "i64"}

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        model = runtime.onnx().load(path)
        arrays = [np.array(value, order="C") for value in inputs.values()]
        for number, array in enumerate(arrays):  # a batch of one size, for each run
            fact = ",".join([*map(str, array.shape), types[str(array.dtype)]])
            model.set_input_fact(number, fact)
        model.analyse()
        return [one.to_numpy() for one in model.into_model().into_runnable().run(arrays)]

    return run


def _states(contents: Contents, expected: Arrays) -> Iterator[tuple[int, Arrays]]:
    """What goes into each step but what is the same in all: the state, and the batch."""
    state, number = contents.state(), 0
    while f"{number}/loss" in expected:
        batch = {n: expected[f"{number}/{n}"] for n in _batch_names(contents)}
        yield number, state | batch
        prefix = f"{number}/{NEW}"
        state = state | {
            n.removeprefix(prefix): value for n, value in expected.items() if n.startswith(prefix)
        }
        number += 1
    yield number, state


def _batch_names(contents: Contents) -> list[str]:
    names = contents.names(contents.step, "inputs")
    return [n for n in ("x", "target", *NUMBERS) if n in names]


def _rate(contents: Contents) -> Arrays:
    rate = contents.fields.fields("optimizer").number("learning_rate")
    return {"learning_rate": np.float32(rate)}  # pyright: ignore[reportReturnType]


def _step(contents: Contents, run: Run, expected: Arrays) -> tuple[float, float, str]:
    names = contents.names(contents.step, "inputs")
    outputs = contents.names(contents.step, "outputs")
    errors = _Errors(contents)
    *steps, _ = _states(contents, expected)
    for number, given in steps:
        inputs = given | _rate(contents)
        found = run({name: np.asarray(inputs[name]) for name in names})
        for name, value in zip(outputs, found, strict=True):
            errors.add(name, value, expected[f"{number}/{name}"], given)
    return errors.result()


def _steps(contents: Contents, run: Run, expected: Arrays) -> tuple[float, float, str]:
    """The first two steps, whose batches have one size, at once."""
    (_, first), (_, second), *_ = _states(contents, expected)
    stacked = {n: np.stack([first[n], second[n]]) for n in _batch_names(contents)}
    names = contents.names(STEP, "inputs")
    return _two(contents, run, expected, names, first, stacked, ("0", "1"))


def _epochs(contents: Contents, run: Run, expected: Arrays) -> tuple[float, float, str]:
    """Two steps with the batch of the first."""
    (_, first), (_, second), *_ = _states(contents, expected)
    given = {n: np.stack([first[n], second[n]]) for n in _batch_names(contents) if n in NUMBERS}
    names = [*contents.names(STEP, "inputs"), "epochs"]
    given["epochs"] = np.asarray(2)
    return _two(contents, run, expected, names, first, given, ("0", AGAIN))


def _two(
    contents: Contents,
    run: Run,
    expected: Arrays,
    names: list[str],
    before: Arrays,
    given: Arrays,
    keys: tuple[str, str],
) -> tuple[float, float, str]:
    inputs = before | given | _rate(contents)
    found = run({name: np.asarray(inputs[name]) for name in names})
    errors = _Errors(contents)
    order, kept = contents.of_several()
    for name, value in zip(order, found, strict=True):
        each = [expected[f"{key}/{name}"] for key in keys]
        errors.add(name, value, np.stack(each) if name in kept else each[1], before)
    return errors.result()


def _predict(contents: Contents, run: Run, expected: Arrays) -> tuple[float, float, str]:
    names = contents.names(contents.predict, "inputs")
    *_, (number, state) = _states(contents, expected)
    inputs = state | {"x": expected[f"{number - 1}/x"]}
    (found,) = run({name: np.asarray(inputs[name]) for name in names})
    errors = _Errors(contents)
    errors.add("output", found, expected["predicted"], {})
    return errors.result()


COMPARISONS = ((STEP, _step), (STEPS, _steps), (EPOCHS, _epochs), (PREDICT, _predict))
"""Each model, and what holds a run of it to torch's figures."""
OF_PROGRAMS = ((PROGRAM, _step), (PREDICTING, _predict))


class _Errors:
    """The largest errors so far, and the first that is over the tolerance."""

    def __init__(self, contents: Contents) -> None:
        tolerance = contents.fields.fields("tolerance")
        self._of_values, self._of_update = map(tolerance.number, ("of_values", "of_update"))
        self._absolute = self._relative = 0.0
        self._problem = ""

    def add(self, name: str, found: NDArray[Any], wanted: NDArray[Any], before: Arrays) -> None:
        found = np.asarray(found)
        if found.shape != wanted.shape:
            self._say(f"{name} is of shape {found.shape}, torch's {wanted.shape}")
            return
        exact = wanted.astype(np.float64)
        error = float(np.abs(found - exact).max(initial=0))
        old = before.get(name.removeprefix(NEW)) if name.startswith(NEW) else None
        size = float(np.abs(exact).max(initial=0))
        update = 0.0 if old is None else float(np.abs(exact - old).max(initial=0))
        rounding = self._of_values * max(1.0, size)
        self._absolute = max(self._absolute, error)
        if update > 50 * rounding:
            self._relative = max(self._relative, error / update)
        if not error <= rounding + self._of_update * update:  # NaN, too
            self._say(f"{name} differs by {error:.1e}, its update being {update:.1e}")

    def _say(self, problem: str) -> None:
        self._problem = self._problem or problem

    def result(self) -> tuple[float, float, str]:
        return self._absolute, self._relative, self._problem


def needed(checked: Checked) -> list[Row]:
    """Where something is wrong: not as torch computed it, or not taken where it must be."""
    musts = ("onnx", "executorch")  # onnxruntime and ONNX's reference, and of programs their own
    others = [r for r in checked.rows if r.refused and r.runtime.startswith(musts)]
    return [*checked.wrong, *others]


def require(checked: Checked) -> None:
    """Raise where something is wrong.

    Raises:
        UsageError: that says what.
    """
    for row in needed(checked):
        raise UsageError(
            f"{row.file} in {row.runtime} is not what torch computed: {row.problem}. Learn by "
            "another runtime, and tell us"
        )
