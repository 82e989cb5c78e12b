"""ONNX Runtime for browsers as a runtime of ``forwardly.export.check``, in headless Chromium."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from browser import CHROMIUM, Browser, served
from forwardly.export import web_runtime
from forwardly.export.check import Run
from forwardly.export.folder import Arrays

NO_RUNTIME = (
    f"onnxruntime-web {web_runtime.VERSION} is not there: make page, or name its folder dist by "
    f"{web_runtime.VARIABLE}"
)
_PAGE = """<!doctype html><title>Exported files</title><script type="module">
import * as ort from "./SCRIPT";

ort.env.wasm.numThreads = 1;
const kinds = { float32: Float32Array, int64: BigInt64Array };
const sessions = [];
const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const toTensor = ({ dtype, shape, data }) =>
  new ort.Tensor(dtype, new kinds[dtype](fromBase64(data).buffer), shape);
const fromTensor = ({ type, dims, data }) => {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { dtype: type, shape: [...dims], data: btoa(String.fromCharCode(...bytes)) };
};

window.load = async (model) => {
  const options = { executionProviders: ["PROVIDER"] };
  return sessions.push(await ort.InferenceSession.create(fromBase64(model), options)) - 1;
};
window.run = async (number, inputs) => {
  const feeds = Object.entries(inputs).map(([name, value]) => [name, toTensor(value)]);
  const results = await sessions[number].run(Object.fromEntries(feeds));
  return sessions[number].outputNames.map((name) => fromTensor(results[name]));
};
window.adapter = async () => Boolean(await navigator.gpu?.requestAdapter());
window.version = ort.env.versions.web;
</script>
"""


def why_not() -> str:
    """What is missing; empty if nothing is."""
    if CHROMIUM is None:
        return "Chromium is not installed: apt install chromium"
    return "" if web_runtime.is_there() else NO_RUNTIME


class InChromium:
    """A page with the runtime. Calling it opens a model, given its path.

    Attributes:
        name: the runtime's, and its version.
    """

    def __init__(self, browser: Browser, name: str) -> None:
        self._browser = browser
        self.name = name

    def __call__(self, path: str) -> Run:
        """Open a model."""
        number = self._browser.evaluate(f"load({json.dumps(_base64(Path(path).read_bytes()))})")

        def run(inputs: Arrays) -> list[NDArray[Any]]:
            sent = json.dumps({name: _sent(value) for name, value in inputs.items()})
            return [_received(one) for one in self._browser.evaluate(f"run({number}, {sent})")]

        return run


@contextmanager
def in_chromium(folder: Path) -> Iterator[InChromium]:
    """By WebAssembly; what it needs is put into an empty folder."""
    contents = dict(zip(web_runtime.NAMES, web_runtime.find(), strict=True))
    with _opened(folder, "wasm", web_runtime.SCRIPT, contents) as browser:
        yield InChromium(browser, f"onnxruntime-web {web_runtime.VERSION}")


@contextmanager
def by_webgpu(folder: Path) -> Iterator[InChromium | None]:
    """By WebGPU on a graphics card that Chromium computes itself, if it does.

    What WebGPU has no operator for, the runtime computes by WebAssembly.
    """
    names = script, _ = "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"
    places = [Path(os.environ.get(web_runtime.VARIABLE, "nowhere"), name) for name in names]
    if not all(place.is_file() for place in places):
        yield None
        return
    contents = {place.name: place.read_bytes() for place in places}
    with _opened(folder, "webgpu", script, contents, _SOFTWARE) as browser:
        there = browser.evaluate("adapter()")
        name = f"onnxruntime-web {web_runtime.VERSION} by WebGPU"
        yield InChromium(browser, name) if there else None


@contextmanager
def in_all_ways(folder: Path) -> Iterator[list[InChromium]]:
    """Those that there are."""
    if why_not():
        yield []
        return
    with in_chromium(folder / "wasm") as first, by_webgpu(folder / "webgpu") as second:
        yield [first, *([second] if second else [])]


_SOFTWARE = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)


@contextmanager
def _opened(
    folder: Path,
    provider: str,
    script: str,
    contents: Mapping[str, bytes],
    graphics: Sequence[str] = ("--disable-gpu",),
) -> Iterator[Browser]:
    runtime, profile = folder / "runtime", folder / "profile"
    runtime.mkdir(parents=True)
    for name, content in contents.items():
        (runtime / name).write_bytes(content)
    page = _PAGE.replace("SCRIPT", script).replace("PROVIDER", provider)
    (runtime / "index.html").write_text(page, "utf-8")
    with served(runtime) as address:
        browser = Browser(profile, graphics)
        try:
            browser.open(address)
            browser.until("window.version")
            assert browser.evaluate("version") == web_runtime.VERSION
            yield browser
        finally:
            browser.close()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _sent(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": array.shape, "data": _base64(array.tobytes())}


def _received(sent: dict[str, Any]) -> NDArray[Any]:
    flat = np.frombuffer(base64.b64decode(sent["data"]), sent["dtype"])
    return flat.reshape(sent["shape"])
