"""``Exported``: a small runner of exported steps, on onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from numpy.typing import NDArray

from forwardly import files
from forwardly.checks import check_kind
from forwardly.errors import UsageError
from forwardly.export.check import Checked, check, require, session_of
from forwardly.export.folder import EPOCHS, PREDICT, STEP, STEPS, Arrays, Contents
from forwardly.export.step import MOMENTUM, NEW, NUMBERS
from forwardly.rule import Rule
from forwardly.training.functional import State, load


class Metrics(NamedTuple):
    """What a step says of its batch.

    Attributes:
        loss: before the step.
        accuracy: the share of samples that were right, before the step; None where targets are no
            classes.
        taken: whether the state has moved; not if the loss, or what it would become, is not finite.
    """

    loss: float
    accuracy: float | None
    taken: bool


class Course(NamedTuple):
    """What several steps say.

    Attributes:
        losses: before each step, (steps,).
        accuracies: likewise; None where targets are no classes.
        taken: whether the state has moved; not if a loss, or what it would become, is not finite.
    """

    losses: NDArray[np.float32]
    accuracies: NDArray[np.float32] | None
    taken: bool


@final
class Exported:
    """A folder that ``export`` wrote, ready to learn and to predict without torch's engine.

    Attributes:
        path: of the folder.
        state: the tensors of the state as they are now, by name: parameters, buffers, momenta.
        learning_rate: of the steps to come.

    Args:
        folder: that ``export`` wrote.
        seed: of the random numbers that are given to a step, where it takes some.
        frugal: whether a step may take longer so as to need no more memory than the rule does;
            MemPEPITA needs less than half of PEPITA's then in a deep network, otherwise as much.

    Raises:
        UsageError: if it is no such folder, or one of its files is not the one that was exported.
    """

    def __init__(self, folder: Path | str, *, seed: int = 0, frugal: bool = False) -> None:
        self.path = Path(folder)
        self._contents = Contents.read(self.path)
        if not self._contents.of_onnx:
            raise UsageError(
                f"{folder} has programs for ExecuTorch, and fw.Exported runs ONNX: run them as the "
                'README in the folder shows, or export with format="onnx"'
            )
        self.state: Arrays = self._contents.state()
        self.learning_rate = self._contents.fields.fields("optimizer").number("learning_rate")
        self._inputs = self._contents.shapes(STEP, "inputs")
        self._outputs = self._contents.names(STEP, "outputs")
        self._numbers = np.random.default_rng(seed)
        self._frugal = frugal
        self._sessions: dict[str, Any] = {}

    def step(self, x: Any, target: Any, learning_rate: float | None = None) -> Metrics:
        """Train on one batch. If the loss is not finite, the state stays as it was.

        Args:
            x: n samples, an array or a tensor of numbers.
            target: n targets: class indices, or numbers.
            learning_rate: in place of ``learning_rate``.

        Raises:
            UsageError: if a shape does not fit, or a class is out of range; then nothing has
                changed.
        """
        given = self._batch(x, target)
        given |= self._drawn(len(given["x"]))
        found, taken = self._take(STEP, self._outputs, given, learning_rate)
        accuracy = float(found["accuracy"]) if "accuracy" in found else None
        return Metrics(float(found["loss"]), accuracy, taken)

    def steps(self, x: Any, target: Any, learning_rate: float | None = None) -> Course:
        """Train on several batches of one size, a step on each, in one call of the runtime.

        If a loss is not finite, the state stays as it was before all of them.

        Args:
            x: k batches of n samples, (k, n, …).
            target: k batches of n targets.
            learning_rate: in place of ``learning_rate``.

        Raises:
            UsageError: as ``step`` does.
        """
        if len(x) != len(target) or not len(x):
            raise UsageError(
                f"x and target must be as many batches, at least one; given are {len(x)} and "
                f"{len(target)}"
            )
        batches = [self._batch(*one) for one in zip(x, target, strict=True)]
        sizes = {len(batch["x"]) for batch in batches}
        if len(sizes) > 1:
            raise UsageError(f"batches must have one size; given are {sorted(sizes)} samples")
        given = {name: np.stack([one[name] for one in batches]) for name in batches[0]}
        given |= self._drawn(sizes.pop(), len(batches))
        return self._course(STEPS, given, learning_rate)

    def epochs(
        self, x: Any, target: Any, epochs: int, learning_rate: float | None = None
    ) -> Course:
        """Train on one batch, all the data say, for a number of steps, in one call of the runtime.

        For networks so small that the call is what takes the time. If a loss is not finite, the
        state stays as it was before all of them.

        Args:
            x: n samples.
            target: n targets.
            epochs: how many steps, at least one.
            learning_rate: in place of ``learning_rate``.

        Raises:
            UsageError: as ``step`` does.
        """
        if not isinstance(cast(object, epochs), int) or epochs < 1:
            raise UsageError(f"epochs must be a whole number, at least 1; given is {epochs!r}")
        given = self._batch(x, target)
        given |= self._drawn(len(given["x"]), epochs) | {"epochs": np.asarray(epochs, np.int64)}
        return self._course(EPOCHS, given, learning_rate)

    def predict(self, x: Any) -> NDArray[Any]:
        """What ``rule.predict`` gives for n samples, (n, k), with the state as it is now.

        Raises:
            UsageError: if the shape of x does not fit.
        """
        inputs = self.state | {"x": self._given("x", x)}
        names = self._contents.names(PREDICT, "inputs")
        (output,) = self._run(PREDICT, {name: inputs[name] for name in names})
        return output

    def check(self) -> Checked:
        """Hold the files to torch in every runtime that is installed; print the result.

        Raises:
            UsageError: if one computes something else, or onnxruntime does not take a file.
        """
        checked = check(self._contents)
        require(checked)
        return checked

    def load_into(self, rule: Rule) -> None:
        """Give a rule the parameters and buffers as they are now; momenta are the optimizer's.

        Raises:
            UsageError: if its tensors are not those of the rule that was exported.
        """
        check_kind("rule", rule, Rule)
        own = {**dict(rule.named_parameters()), **dict(rule.named_buffers())}
        if "noise" not in self.state:
            own.pop("noise", None)
        mine = {n: value for n, value in self.state.items() if not n.startswith(MOMENTUM)}
        if {n: tuple(v.shape) for n, v in own.items()} != {n: v.shape for n, v in mine.items()}:
            raise UsageError(
                "the rule has other tensors than the one that was exported: build it the same way"
            )
        load(rule, State({n: torch.tensor(v) for n, v in mine.items()}, {}))

    def save(self, path: Path | str) -> None:
        """Write the state as it is now, as ``state.safetensors`` has it.

        Raises:
            OSError: if the file cannot be written.
        """
        from safetensors.numpy import save  # of use here alone

        files.write(Path(path), save({n: np.ascontiguousarray(v) for n, v in self.state.items()}))

    def _batch(self, x: Any, target: Any) -> Arrays:
        given = {"x": self._given("x", x), "target": self._given("target", target)}
        if len(given["target"]) != (samples := len(given["x"])):
            raise UsageError(f"x has {samples} samples, and the target {len(given['target'])}")
        self._check_classes(given["target"])
        return given

    def _drawn(self, samples: int, *steps: int) -> Arrays:
        """Random numbers of one step, or of several, where it takes some."""
        drawn: Arrays = {}
        for name in NUMBERS:
            if name in self._inputs:
                sizes, _ = self._inputs[name]
                shape = [samples if size == "samples" else int(size) for size in sizes]
                drawn[name] = self._numbers.random([*steps, *shape], dtype=np.float32)
        return drawn

    def _course(self, file: str, given: Arrays, learning_rate: float | None) -> Course:
        outputs, _ = self._contents.of_several()
        found, taken = self._take(file, outputs, given, learning_rate)
        return Course(found["loss"], found.get("accuracy"), taken)

    def _take(
        self, file: str, outputs: list[str], given: Arrays, rate: float | None
    ) -> tuple[Arrays, bool]:
        """What a model says, and whether its new state was taken over."""
        chosen = self.learning_rate if rate is None else rate
        inputs = self.state | given | {"learning_rate": np.asarray(chosen, np.float32)}
        known = {*self._inputs, "epochs"}  # a step does not read all of the state
        results = self._run(file, {n: value for n, value in inputs.items() if n in known})
        found = dict(zip(outputs, results, strict=True))
        new = {n.removeprefix(NEW): value for n, value in found.items() if n.startswith(NEW)}
        finite = all(np.isfinite(value).all() for value in (found["loss"], *new.values()))
        if finite:
            self.state = self.state | new
        return found, bool(finite)

    def _run(self, file: str, inputs: Arrays) -> list[NDArray[Any]]:
        if file not in self._sessions:
            self._sessions[file] = session_of(str(self.path / file), frugal=self._frugal)
        return self._sessions[file].run(None, inputs)

    def _given(self, name: str, value: Any) -> NDArray[Any]:
        sizes, dtype = self._inputs[name]
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        whole = np.issubdtype(np.dtype(dtype), np.integer)
        if whole and not np.issubdtype(array.dtype, np.integer):
            raise UsageError(f"{name} must be class indices; given is {array.dtype}")
        fits = array.ndim == len(sizes) and all(
            size in ("samples", given) for size, given in zip(sizes, array.shape, strict=True)
        )
        if not fits or not len(array):
            wanted = ", ".join(map(str, sizes))
            raise UsageError(f"{name} must be of shape ({wanted}); given is {array.shape}")
        return np.ascontiguousarray(array.astype(dtype, copy=False))

    def _check_classes(self, target: NDArray[Any]) -> None:
        if "classes" not in self._contents.fields:
            return
        classes = self._contents.fields.whole("classes", 1)
        if target.min() < 0 or target.max() >= classes:
            wrong = target[(target < 0) | (target >= classes)][0]
            raise UsageError(
                f"class indices must be 0 to {classes - 1}; the target has {int(wrong)}"
            )
