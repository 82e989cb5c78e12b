"""See what runtimes make of exported steps, how large they are, what memory they take, how long.

    python docs/on_device.py [checks] [programs] [sizes] [memory] [speed]

writes records/on-device/*.json, of which docs/on-device.md is generated: every rule's step of three
networks in each runtime that is installed, a few minutes; the same of ExecuTorch programs; how
large files are; the memory of a step of a deep network; and the time of a step, for which the
machine should have nothing else to do.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import forwardly as fw
from forwardly import files
from forwardly.benchmarks.memory import CLEAR, resident
from forwardly.benchmarks.steps import batch_of, network
from forwardly.benchmarks.timing import Subject, paired, ratio
from forwardly.export.check import Row, check, rows
from forwardly.export.folder import Contents
from forwardly.rules import RULES

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

import exported  # pyright: ignore # noqa: E402, the networks and rules of the tests
import in_chromium  # pyright: ignore # noqa: E402

RECORDS = ROOT / "records" / "on-device"
_DEEP, _SAMPLES = (784, *(512,) * 32, 10), 2048
_SIZES = {"16-8-1": (16, 8, 1), "64-16-10": (64, 16, 10), "784-1024-10": (784, 1024, 10)}
_BATCHES = {"16-8-1": 1000, "64-16-10": 64, "784-1024-10": 64}
_STEPS = 50


def checks() -> dict[str, Any]:
    """Every rule's files in every runtime, and in a browser: what each made of them."""
    with tempfile.TemporaryDirectory() as folder, in_chromium.in_all_ways(Path(folder)) as ways:
        return {"rows": [row for name, net in exported.CASES for row in _checked(name, net, ways)]}


def _checked(name: str, net: str, ways: Sequence[Any]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        rule = exported.made(name, net)
        path = Path(folder) / "step"
        fw.export(rule, exported.sgd(rule), path, exported.batch(net))
        contents = Contents.read(path)
        browsers = [row for way in ways for row in rows(contents, way.name, way)]
        for row in [*check(contents).rows, *browsers]:
            yield {"rule": name, "network": net, **_recorded(row)}


def programs() -> dict[str, Any]:
    """Every rule's ExecuTorch programs in their runtime."""
    rows: list[dict[str, Any]] = []
    for name, net in exported.CASES:
        with tempfile.TemporaryDirectory() as folder:
            rule = exported.made(name, net)
            path = Path(folder) / "step"
            example = exported.batch(net)
            fw.export(rule, exported.sgd(rule), path, example, format="executorch")
            found = check(Contents.read(path)).rows
        rows += [{"rule": name, "network": net, **_recorded(row)} for row in found]
    return {"rows": rows}


def _recorded(row: Row) -> dict[str, Any]:
    """What is not empty of it."""
    said = {key: value for key, value in row._asdict().items() if value}
    if row.refused:
        del said["absolute"], said["relative"]
    return said


def sizes() -> dict[str, Any]:
    """Bytes of the files of a dense network's step, by rule."""
    found: dict[str, dict[str, int]] = {}
    for rule in RULES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "step"
            write(rule, _SIZES["784-1024-10"], path)
            found[rule] = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
    return {"network": "784-1024-10", "bytes": found}


def memory() -> dict[str, Any]:
    """The most bytes that a step of a deep network takes at one time, in onnxruntime."""
    peaks: dict[str, int] = {}
    for rule in ("backprop", "pepita", "mem-pepita", "direct-feedback-alignment"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "step"
            write(rule, _DEEP, path, momentum=0)
            peaks[rule] = peak_bytes(path, _SAMPLES)
    return {"sizes": _DEEP, "samples": _SAMPLES, "bytes": peaks}


def peak_bytes(folder: Path, samples: int) -> int:
    """How far a new process's memory rises in a frugal step, over what it holds before.

    Freed memory goes back to the system at once there, so as not to be counted.
    """
    done = subprocess.run(  # noqa: S603, this file
        [sys.executable, __file__, "peak", str(folder), str(samples)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def _peak(folder: str, samples: int) -> int:
    session = fw.Exported(folder, frugal=True)
    sizes, _ = session._inputs["x"]
    x = np.full((samples, *sizes[1:]), 0.1, np.float32)
    target = np.zeros(samples, np.int64)
    session.step(x[:1], target[:1])
    before = resident("VmRSS")
    CLEAR.write_bytes(b"5")
    session.step(x, target)
    return resident("VmHWM") - before


def speed() -> dict[str, Any]:
    """Times of PEPITA's step on one thread, as multiples of ``rule.accumulate`` and torch's SGD."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for name, sizes in _SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "step"
            write("pepita", sizes, path)
            seconds = paired(_subjects(path, sizes, _BATCHES[name]), rounds=30)
        for several in ("train_steps.onnx", "train_epochs.onnx"):
            seconds[several] /= _STEPS
        result[name] = {
            "batch": _BATCHES[name],
            "ratios": {
                subject: asdict(ratio(taken, seconds["torch eager"]))
                for subject, taken in seconds.items()
            },
        }
    return {"networks": result, "threads": 1, "steps in one call": _STEPS}


def _subjects(path: Path, sizes: tuple[int, ...], batch: int) -> dict[str, Subject]:
    import onnxruntime  # pyright: ignore

    runtime: Any = onnxruntime
    x, target = _batch(sizes, batch)

    def eager() -> Callable[[], object]:
        rule = _rule("pepita", sizes)
        optimizer = torch.optim.SGD(rule.parameters(), 0.01, 0.9)

        def step() -> None:
            rule.accumulate(x, target)
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]

        return step

    def local() -> Callable[[], object]:
        optimizer = fw.LocalSGD(_rule("pepita", sizes), 0.01, 0.9)
        return lambda: optimizer.step(x, target)

    def of_file(name: str, more: dict[str, Any]) -> Callable[[], object]:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = runtime.InferenceSession(
            str(path / name), options, providers=["CPUExecutionProvider"]
        )
        state = fw.Exported(path).state
        inputs: dict[str, Any] = {"x": x.numpy(), "target": target.numpy()}
        inputs |= {"learning_rate": np.asarray(0.01, np.float32), **more}
        names = [given.name for given in session.get_inputs()]
        outputs = [result.name for result in session.get_outputs()]

        def step() -> None:
            feed = {name: state.get(name, inputs.get(name)) for name in names}
            for output, value in zip(outputs, session.run(None, feed), strict=True):
                if output.startswith("new."):
                    state[output.removeprefix("new.")] = value

        return step

    stacked = {
        "x": x.expand(_STEPS, *x.shape).numpy().copy(),
        "target": target.expand(_STEPS, *target.shape).numpy().copy(),
    }
    return {
        "torch eager": eager(),
        "LocalSGD": local(),
        "train_step.onnx": of_file("train_step.onnx", {}),
        "train_steps.onnx": of_file("train_steps.onnx", stacked),
        "train_epochs.onnx": of_file("train_epochs.onnx", {"epochs": np.asarray(_STEPS)}),
    }


def _batch(sizes: tuple[int, ...], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    if sizes[-1] > 1:
        return batch_of(sizes[:1], sizes[-1], n)
    return torch.randn(n, sizes[0]), torch.randn(n, 1)


def _rule(name: str, sizes: tuple[int, ...]) -> fw.Rule:
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss() if sizes[-1] > 1 else nn.MSELoss()
    options: dict[str, Any] = {"learning_rate": 0.01} if RULES[name].needs_learning_rate else {}
    return RULES[name](network(sizes), loss, **options)


def write(name: str, sizes: tuple[int, ...], path: Path, momentum: float = 0.9) -> None:
    """Export a rule's step of a dense network."""
    rule = _rule(name, sizes)
    fw.export(rule, fw.LocalSGD(rule, 0.01, momentum), path, _batch(sizes, 8))


def _in_lines(content: dict[str, Any]) -> str:
    """As JSON, a line for each row."""
    rows = content.pop("rows", None)
    text = json.dumps(content, indent=1)
    if rows is None:
        return text
    lines = ",\n  ".join(map(json.dumps, rows))
    return f'{text[:-2]},\n "rows": [\n  {lines}\n ]\n}}'


def main(wanted: Iterable[str]) -> None:
    """Write those records that are asked for."""
    known = {of.__name__: of for of in (checks, programs, sizes, memory, speed)}
    for name in wanted:
        about = {"torch": torch.__version__.split("+")[0], "machine": platform.machine()}
        content = _in_lines({**about, **known[name]()})
        files.write(RECORDS / f"{name}.json", f"{content}\n".encode())


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        sys.stdout.write(str(_peak(sys.argv[2], int(sys.argv[3]))))
    else:
        main(sys.argv[1:] or ("checks", "programs", "sizes", "memory", "speed"))
