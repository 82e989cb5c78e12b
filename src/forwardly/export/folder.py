"""A training step as a folder of files, written and read."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from forwardly import files
from forwardly.errors import UsageError, missing
from forwardly.export import readme
from forwardly.export.graph import SAMPLES, Graph, Symbolic, is_symbolic, trace
from forwardly.export.step import NEW, NUMBERS, NamedStep, Tensors, explicit_padding
from forwardly.files.fields import Fields
from forwardly.rule import Rule
from forwardly.rules import RULES

Arrays = dict[str, NDArray[Any]]
FORMAT = 1
STEP, STEPS, EPOCHS = "train_step.onnx", "train_steps.onnx", "train_epochs.onnx"
PREDICT = "predict.onnx"
PROGRAM, PREDICTING = "train_step.pte", "predict.pte"
STATE, CHECK, CONTENTS = "state.safetensors", "check.npz", "forwardly.json"
BATCH = frozenset(("x", "target", "uniform"))
"""Inputs with a sample in each element of their first dimension."""
AGAIN = "again"
"""In ``check.npz``, what the second step comes to with the batch of the first."""


class Traced(NamedTuple):
    """What the models of a folder are made of.

    Attributes:
        step: whose state goes in and comes out.
        inputs: of a step, an example of each.
        graph: of the step.
        predicting: of ``predict``.
    """

    step: NamedStep
    inputs: Tensors
    graph: Graph
    predicting: Graph


class Models(NamedTuple):
    """The models of a folder.

    Attributes:
        content: by the files' names.
        step: the file that takes a step.
        predict: the file that predicts.
        package: that made them.
        said: what ``forwardly.json`` says of them alone.
        readme: from what it says of all, and where tensors begin in ``state.safetensors``.
    """

    content: dict[str, bytes]
    step: str
    predict: str
    package: str
    said: dict[str, Any]
    readme: Callable[[Mapping[str, Any], Mapping[str, int]], str]


def write(
    rule: Rule,
    optimizer: Optimizer,
    folder: Path,
    example: tuple[Tensor, Tensor] | None,
    *,
    kind: str,
    from_host: bool,
    prepare: Callable[[Tensor], Tensor] | None,
) -> None:
    """Write all files, see ``forwardly.export.export``; the folder appears whole or not at all."""
    models_of = writer(kind)
    step = NamedStep(rule, optimizer, from_host=from_host, prepare=prepare)
    inputs = {**step.state, **_batch(step, example)}
    inputs["learning_rate"] = torch.tensor(step.learning_rate)
    with explicit_padding(rule.model):
        inputs = _with_numbers(step, inputs)
        graph = trace(step, Symbolic(inputs, BATCH))
        predicting = trace(step.predict, Symbolic({**step.state, "x": inputs["x"]}, BATCH))
    traced = Traced(step, inputs, graph, predicting)
    models = models_of(traced)
    content = {
        **models.content,
        STATE: _safetensors(step.state),
        CHECK: _npz(_expected(step, inputs)),
    }
    described = _described(traced, models)
    content["README.md"] = models.readme(described, _places(content[STATE])).encode()
    described["files"] = {
        name: hashlib.sha256(data).hexdigest() for name, data in sorted(content.items())
    }
    content[CONTENTS] = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()
    _put(folder, content)


def writer(kind: str) -> Callable[[Traced], Models]:
    """What writes the models: "onnx" or "executorch".

    Raises:
        UsageError: if a package is missing.
    """
    if kind == "onnx":
        try:
            import forwardly.export.model  # pyright: ignore # noqa: F401, to see whether it can be
        except ImportError as problem:
            raise missing("to export", "onnx", "export", problem) from None
        return _onnx_models
    try:
        from forwardly.export.executorch import models_of
    except ImportError as problem:
        raise missing("to export", "executorch", "executorch", problem) from None
    return models_of


def _onnx_models(traced: Traced) -> Models:
    from forwardly.export.model import OPSET, epochs_of, model_of, steps_of

    graph, order = traced.graph, list(traced.inputs)
    carried = {n: n.removeprefix(NEW) for n in graph.outputs if n.startswith(NEW)}
    models = {
        STEP: model_of(graph, order),
        STEPS: steps_of(graph, order, carried),
        EPOCHS: epochs_of(graph, order, carried),
        PREDICT: model_of(traced.predicting, [*traced.step.state, "x"]),
    }
    content = {name: m.SerializeToString(deterministic=True) for name, m in models.items()}
    return Models(content, STEP, PREDICT, "onnx", {"opset": OPSET}, readme.text)


def _batch(step: NamedStep, example: Any) -> Tensors:
    try:
        x, target = example
    except (TypeError, ValueError):
        x = target = None
    if not (isinstance(x, Tensor) and isinstance(target, Tensor)):
        raise UsageError(
            "example must be a batch, two tensors (x, target) as the rule takes them; given is "
            f"of class {type(example).__name__}"
        )
    if x.dtype != torch.float32:
        raise UsageError(f"x of the example must be float32; it is {x.dtype}: x.float()")
    try:
        step.rule(step.prepared(x), target)
    except (TypeError, ValueError) as problem:
        raise UsageError(f"the rule does not take the example: {problem}") from None
    return {"x": x, "target": target}


def _with_numbers(step: NamedStep, inputs: Tensors) -> Tensors:
    """With what the host is to draw, where the step takes random numbers."""
    if step.rule.noise is None or step.numbers is None:
        return inputs
    trace(lambda own: step.find_numbers(own, SAMPLES), Symbolic(inputs, BATCH))
    widths = step.numbers.widths
    numbers = {
        name: torch.zeros(*([len(inputs["x"])] if name == "uniform" else []), widths[name])
        for name in NUMBERS
        if name in widths
    }
    return inputs | numbers


def _expected(step: NamedStep, inputs: Tensors) -> Arrays:
    """Three steps of torch's, each from where the last one ended, the third of another batch; and
    what the second would come to with the batch of the first, as in epochs.
    """
    generator = torch.Generator().manual_seed(0)
    state, arrays = dict(step.state), dict[str, Any]()
    given = len(inputs["x"])
    size = min(max(given, 3), 8)
    first: Tensors = {}
    for number, samples in enumerate((size, size, size - 1)):
        chosen = (torch.arange(samples) + number * size) % given
        own = {**inputs, **state, "x": inputs["x"][chosen], "target": inputs["target"][chosen]}
        for name in NUMBERS:
            if name in own:
                shape = (samples, *own[name].shape[1:]) if name == "uniform" else own[name].shape
                own[name] = torch.rand(shape, generator=generator)
        result = step(own)
        batch = [n for n in own if n not in state and n != "learning_rate"]
        arrays |= {f"{number}/{name}": own[name].numpy() for name in batch}
        arrays |= {f"{number}/{name}": value.numpy() for name, value in result.items()}
        if number == 0:
            first = {"x": own["x"], "target": own["target"]}
        if number == 1:
            again = step({**own, **first})
            arrays |= {f"{AGAIN}/{name}": value.numpy() for name, value in again.items()}
        state |= {n.removeprefix(NEW): v for n, v in result.items() if n.startswith(NEW)}
    last = {**state, "x": inputs["x"][(torch.arange(size - 1) + 2 * size) % given]}
    arrays["predicted"] = step.predict(last)["output"].numpy()
    return arrays


def _described(traced: Traced, models: Models) -> dict[str, Any]:
    step, inputs, graph, predicting = traced
    rule = step.rule
    name = next((n for n, kind in RULES.items() if kind is type(rule)), type(rule).__name__)
    classes = (
        int(graph.outputs["output"].meta["val"].shape[1]) if "accuracy" in graph.outputs else 0
    )
    return {
        "format": FORMAT,
        "rule": name,
        "paper": {
            key: getattr(rule.paper, key) for key in ("title", "authors", "year", "venue", "url")
        },
        "loss": str(rule.loss),
        "model": str(rule.model).splitlines(),
        "classes": classes or None,
        "optimizer": step.settings(),
        "frozen": step.frozen,
        **models.said,
        "prepares": step.prepares,
        "state": list(step.state),
        "numbers": {n: "uniform on [0, 1)" for n in NUMBERS if n in inputs},
        models.step: _signature(graph),
        models.predict: _signature(predicting),
        "tolerance": {"of_values": 2e-6, "of_update": 1e-2 if rule.compares_passes else 1e-3},
        "versions": {name: version(name) for name in ("forwardly", "torch", models.package)},
    }


def _signature(graph: Graph) -> dict[str, Any]:
    def listed(nodes: Mapping[str, Any]) -> list[dict[str, Any]]:
        values = {name: node.meta["val"] for name, node in nodes.items()}
        return [
            {
                "name": name,
                "shape": ["samples" if is_symbolic(size) else int(size) for size in value.shape],
                "dtype": str(value.dtype).removeprefix("torch."),
            }
            for name, value in values.items()
        ]

    return {"inputs": listed(graph.inputs), "outputs": listed(graph.outputs)}


def _safetensors(state: Tensors) -> bytes:
    from safetensors.torch import save  # of use here alone

    return save({name: value.detach().contiguous().clone() for name, value in state.items()})


def _places(content: bytes) -> dict[str, int]:
    """Where each tensor's numbers begin in a safetensors file, after its header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {
        name: 8 + length + header[name]["data_offsets"][0]
        for name in sorted(header)
        if name != "__metadata__"
    }


def _npz(arrays: Arrays) -> bytes:
    """As ``np.savez``, without the time."""
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_STORED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asanyarray(array), allow_pickle=False)
            archive.writestr(ZipInfo(f"{name}.npy"), data.getvalue())
    return content.getvalue()


def _put(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write the files beside the folder, and move them there in one step."""
    if files.is_there(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already, and nothing is overwritten: name another")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
        try:
            for name, data in content.items():
                (part / name).write_bytes(data)
            part.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as problem:
        raise UsageError(f"cannot write to {folder}: {problem.strerror}; name another") from None


@dataclass(frozen=True)
class Contents:
    """What a folder holds, read and checked.

    Attributes:
        path: of the folder.
        fields: of ``forwardly.json``.
    """

    path: Path
    fields: Fields

    @classmethod
    def read(cls, folder: Path) -> Contents:
        """That of a folder.

        Raises:
            UsageError: if it is no folder that ``export`` wrote, or a file in it has changed.
        """
        if not (folder / CONTENTS).is_file():
            raise UsageError(
                f"there is no {CONTENTS} in {folder}: name a folder that forwardly export wrote"
            )
        content = Fields.read(folder / CONTENTS)
        if (found := content.whole("format")) != FORMAT:
            files.refuse(folder / CONTENTS, f"has format {found}; this version reads {FORMAT}")
        hashes = content.fields("files")
        of_programs = PROGRAM in content
        models = (PROGRAM, PREDICTING) if of_programs else (STEP, STEPS, EPOCHS, PREDICT)
        needed = {*models, STATE, CHECK}
        if lost := needed - set(hashes):
            files.refuse(folder / CONTENTS, f"names no {', '.join(sorted(lost))}")
        for name in sorted(needed):
            if hashlib.sha256(files.read(folder / name)).hexdigest() != hashes.text(name):
                files.refuse(folder / name, "is not the file that was exported")
        return cls(folder, content)

    @property
    def of_onnx(self) -> bool:
        """Whether its models are ONNX, and not ExecuTorch's programs."""
        return PROGRAM not in self.fields

    @property
    def step(self) -> str:
        """The file that takes a step."""
        return STEP if self.of_onnx else PROGRAM

    @property
    def predict(self) -> str:
        """The file that predicts."""
        return PREDICT if self.of_onnx else PREDICTING

    def names(self, model: str, which: str) -> list[str]:
        """Of the inputs or outputs of a model, in order."""
        listed = self.fields.fields(model).list(which)
        return [listed.fields(number).text("name") for number in listed]

    def of_several(self) -> tuple[list[str], list[str]]:
        """The outputs of several steps, in order; and which of them each step has its own of."""
        outputs = self.names(STEP, "outputs")
        kept = [n for n in outputs if not n.startswith(NEW) and n != "output"]
        return [*(n for n in outputs if n.startswith(NEW)), *kept], kept

    def shapes(self, model: str, which: str) -> dict[str, tuple[Sequence[Any], str]]:
        """Shape and dtype of each input or output."""
        listed = self.fields.fields(model).list(which)
        parts = [listed.fields(number) for number in listed]
        return {
            part.text("name"): ([*part.list("shape").content.values()], part.text("dtype"))
            for part in parts
        }

    def state(self) -> Arrays:
        """The state that was exported."""
        from safetensors.numpy import load  # of use here alone

        return dict(load(files.read(self.path / STATE)))
