"""``learn.html``: exported steps learning in a browser, by PEPITA, its control, and backprop.

The page runs the files that ``export`` writes, on ONNX Runtime for browsers. As a single file it
works from a disk, and asks nobody for anything.
"""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forwardly import __version__, data, files, saving
from forwardly.audit import audit
from forwardly.audit.page import answers
from forwardly.data import Dataset, Split
from forwardly.errors import UsageError
from forwardly.export import export, web_runtime
from forwardly.files import page
from forwardly.rule import Rule
from forwardly.rules import RULES
from forwardly.training.local_sgd import LocalSGD

TITLES = {"pepita": "PEPITA", "readout-only": "Readout only", "backprop": "Backprop"}
_SIZES = {"teacher": (16, 8, 1), "digits": (64, 16, 10), "mnist": (784, 64, 10)}
_MNIST = "mnist.bin"
_PYTHON = """\
import forwardly as fw

rule = fw.load("{name}-pepita.safetensors")
# x (n, {pixels}): pixels row by row, from 0 (paper) to 1 (ink)
rule.predict(x).argmax(1)
"""


class Images(NamedTuple):
    """Digits as the page has them.

    Attributes:
        train: samples (n, d) in uint8, and their classes.
        test: likewise.
        full: what ink is, paper being 0.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    full: int

    @property
    def content(self) -> bytes:
        """Pixels and classes to learn from, then those of the test, a byte each."""
        parts = (*self.train, *self.test)
        return b"".join(part.to(torch.uint8).numpy().tobytes() for part in parts)


class Step(NamedTuple):
    """An exported step of the page.

    Attributes:
        name: task and rule.
        train: bytes of ``train_step.onnx``.
        predict: bytes of ``predict.onnx``.
    """

    name: str
    train: bytes
    predict: bytes


def write_page(
    out: Path,
    *,
    single_file: bool = True,
    mnist: Dataset | None = None,
    runtime: Path | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write the page.

    Args:
        out: a folder, made if it is not there.
        single_file: whether ``learn.html`` has all in itself, about 5 MB; else the runtime's files
            and the exported steps lie beside it, for a server.
        mnist: its digits can be chosen, too, where the page is a folder: 12,000 of them, in a file
            that the page asks for once they are.
        runtime: the folder ``dist`` of onnxruntime-web; see ``web_runtime.find``.
        progress: whether a bar is shown while the runtime is downloaded.

    Returns:
        The files written.

    Raises:
        UsageError: if the runtime is not there, or a file cannot be written.
    """
    found = web_runtime.find(runtime, progress=progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
        images = {"digits": _digits()}
        others: dict[str, bytes] = {}
        if not single_file and mnist is not None:
            images["mnist"] = some_of(mnist)
            # Not named .gz: some servers would have browsers unpack it.
            others[_MNIST] = gzip.compress(images["mnist"].content, 9, mtime=0)
        steps = exported_steps(("teacher", *images))
        if not single_file:
            others |= {
                f"onnxruntime-web/{n}": c for n, c in zip(web_runtime.NAMES, found, strict=True)
            }
            for step in steps:
                others[f"steps/{step.name}/train_step.onnx"] = step.train
                others[f"steps/{step.name}/predict.onnx"] = step.predict
        text = _text(steps, images, found if single_file else None)
        written: list[Path] = []
        for name, content in {**others, "learn.html": text.encode()}.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, content)
            written.append(path)
    except OSError as problem:
        raise UsageError(f"cannot write to {out}: {problem.strerror}") from None
    return written


def some_of(mnist: Dataset) -> Images:
    """The first 10,000 to learn from, and every fifth of the test's."""

    def part(split: Split, chosen: slice) -> tuple[Tensor, Tensor]:
        return split.x[chosen].flatten(1), split.target[chosen]

    return Images(part(mnist.train, slice(10_000)), part(mnist.test, slice(None, None, 5)), 255)


def _digits() -> Images:
    digits = data.load("digits", seed=0)
    train, test = ((part.x * 16, part.target) for part in (digits.train, digits.test))
    return Images(train, test, 16)


def _text(
    steps: Sequence[Step], images: Mapping[str, Images], runtime: web_runtime.WebRuntime | None
) -> str:
    payload = {
        "steps": {
            step.name: {"train": _base64(step.train), "predict": _base64(step.predict)}
            for step in steps
        },
        "sets": {
            name: {
                "full": own.full,
                "parts": {"train": len(own.train[0]), "test": len(own.test[0])},
                "images": None if name == "mnist" else _base64(own.content),
                "saved": {rule: _base64(_saved(name, rule)) for rule in TITLES},
                "python": _PYTHON.format(name=name, pixels=_SIZES[name][0]),
            }
            for name, own in images.items()
        },
    }
    payloads = {"data": _packed(json.dumps(payload).encode())}
    if "mnist" in images:
        payloads["mnist"] = _MNIST
    if runtime is None:
        payloads |= {
            name: f"onnxruntime-web/{file}"
            for name, file in zip(("runtime", "wasm"), web_runtime.NAMES, strict=True)
        }
    else:
        payloads |= {"runtime": _packed(runtime.script), "wasm": _packed(runtime.wasm)}
    paper = RULES["pepita"].paper
    return page.render(
        "learn.html.jinja",
        hosted="" if runtime else " 'self'",
        rules=list(TITLES.items()),
        sets={
            name: {
                "sizes": "-".join(map(str, _SIZES[name])),
                "train": f"{len(own.train[0]):,}",
                "test": f"{len(own.test[0]):,}",
            }
            for name, own in images.items()
        },
        python=payload["sets"]["digits"]["python"],
        audit=_audited(),
        steps=[_described(step) for step in steps],
        paper={"title": paper.title, "venue": paper.venue, "year": paper.year},
        runtime=web_runtime.VERSION,
        version=__version__,
        payloads=payloads,
    )


def network(task: str, rule: str, **options: Any) -> Rule:
    """A rule of the page, on the network of its task."""
    d, h, k = _SIZES[task]
    model = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, k, bias=False))
    loss = nn.MSELoss() if task == "teacher" else nn.CrossEntropyLoss()
    # The page draws its own weights and F, by the visitor's seed.
    return RULES[rule](model, loss, generator=torch.Generator().manual_seed(0), **options)


def _example(task: str) -> tuple[Tensor, Tensor]:
    d, _, k = _SIZES[task]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, d, generator=generator)
    if task == "teacher":
        return x, torch.rand(7, k, generator=generator)
    return x, torch.randint(k, (7,), generator=generator)


@cache
def exported_steps(tasks: tuple[str, ...] = ("teacher", "digits")) -> tuple[Step, ...]:
    """What the page runs: the same always, as it is the page that draws the weights."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(step for task in tasks for step in _steps(task, Path(folder)))


def _steps(task: str, folder: Path) -> Iterator[Step]:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        **{f"pepita-{p}": ("pepita", {"presynaptic": p}) for p in ("modulated", "clean")},
        **{name: (name, {}) for name in ("readout-only", "backprop")},
    }
    for name, (kind, options) in kinds.items():
        rule = network(task, kind, **options)
        own = folder / task / name
        export(rule, LocalSGD(rule, 0.1), own, example=_example(task))
        yield Step(
            f"{task}/{name}",
            (own / "train_step.onnx").read_bytes(),
            (own / "predict.onnx").read_bytes(),
        )


def _saved(task: str, rule: str) -> bytes:
    """A file that ``fw.load`` reads, into which the page puts its own weights."""
    options = {"presynaptic": "clean"} if rule == "pepita" else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rule.safetensors"
        saving.save(network(task, rule, **options), path)
        return path.read_bytes()


def _audited() -> dict[str, Any]:
    reports = {
        name: answers(audit(network("digits", rule), *_example("digits")))
        for rule, name in TITLES.items()
    }
    heads = list(reports["PEPITA"])
    rows = [(name, [said[head][1] for head in heads]) for name, said in reports.items()]
    return {"heads": heads, "rows": rows}


def _described(step: Step) -> dict[str, str]:
    import onnx

    graph = onnx.load_from_string(step.train).graph
    kinds = Counter(node.op_type for node in graph.node)
    return {
        "name": step.name,
        "bytes": f"{len(step.train):,}",
        "nodes": str(len(graph.node)),
        "kinds": ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())),
    }


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
