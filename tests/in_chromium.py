"""ONNX Runtime for browsers as a runtime of ``forwardly.export.check``, in headless Chromium."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
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
  const options = { executionProviders: ["wasm"] };
  return sessions.push(await ort.InferenceSession.create(fromBase64(model), options)) - 1;
};
window.run = async (number, inputs) => {
  const feeds = Object.entries(inputs).map(([name, value]) => [name, toTensor(value)]);
  const results = await sessions[number].run(Object.fromEntries(feeds));
  return sessions[number].outputNames.map((name) => fromTensor(results[name]));
};
window.version = ort.env.versions.web;
</script>
"""


def why_not() -> str:
    """What is missing; empty if nothing is."""
    if CHROMIUM is None:
        return "Chromium is not installed: apt install chromium"
    return "" if web_runtime.is_there() else NO_RUNTIME


class InChromium:
    """WebAssembly in a page. Calling it opens a model, given its path."""

    name = f"onnxruntime-web {web_runtime.VERSION}"

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def __call__(self, path: str) -> Run:
        """Open a model."""
        number = self._browser.evaluate(f"load({json.dumps(_base64(Path(path).read_bytes()))})")

        def run(inputs: Arrays) -> list[NDArray[Any]]:
            sent = json.dumps({name: _sent(value) for name, value in inputs.items()})
            return [_received(one) for one in self._browser.evaluate(f"run({number}, {sent})")]

        return run


@contextmanager
def in_chromium(folder: Path) -> Iterator[InChromium]:
    """A browser with the runtime; what it needs is put into an empty folder."""
    runtime, profile = folder / "runtime", folder / "profile"
    runtime.mkdir()
    for name, content in zip(web_runtime.NAMES, web_runtime.find(), strict=True):
        (runtime / name).write_bytes(content)
    (runtime / "index.html").write_text(_PAGE.replace("SCRIPT", web_runtime.SCRIPT), "utf-8")
    with served(runtime) as address:
        browser = Browser(profile)
        try:
            browser.open(address)
            browser.until("window.version")
            assert browser.evaluate("version") == web_runtime.VERSION
            yield InChromium(browser)
        finally:
            browser.close()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _sent(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": array.shape, "data": _base64(array.tobytes())}


def _received(sent: dict[str, Any]) -> NDArray[Any]:
    flat = np.frombuffer(base64.b64decode(sent["data"]), sent["dtype"])
    return flat.reshape(sent["shape"])
