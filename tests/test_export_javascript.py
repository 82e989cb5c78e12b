"""The JavaScript in the README of an exported folder, as it stands there, under node."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forwardly as fw
from exported import batch, made, sgd

pytest.importorskip("onnx", reason="steps are exported by onnx: pip install 'forwardly[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'forwardly[export]'")

from forwardly.export import web_runtime

DIST = Path(os.environ.get(web_runtime.VARIABLE, "nowhere"))
pytestmark = [
    pytest.mark.unchecked,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (DIST / "ort.node.min.mjs").is_file(),
        reason=f"{web_runtime.VARIABLE} names no folder dist of the npm package onnxruntime-web",
    ),
]

# A generator that Python can repeat goes before the program, and what it came to after it.
BEFORE = """let lcg = 1;
Math.random = () => (lcg = (1103515245 * lcg + 12345) % 2 ** 31) / 2 ** 31;
"""
AFTER = """
const sent = Object.entries(state).map(([name, { data }]) => [name, [...data].map(Number)]);
console.log(JSON.stringify({ losses, output: [...output.data], state: Object.fromEntries(sent) }));
"""


class Random:
    """The program's numbers, for the program's own generator and for ``fw.Exported``'s."""

    def __init__(self) -> None:
        self.state = 1

    def random(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        numbers: list[float] = []
        for _ in range(int(np.prod(shape))):
            # In doubles, as in JavaScript: the product is rounded.
            self.state = int((1103515245.0 * self.state + 12345.0) % 2**31)
            numbers.append(self.state / 2**31)
        return (np.floor(2**24 * np.array(numbers)) / 2**24).reshape(shape).astype(dtype)


def written(folder: Path, rule: str, net: str) -> str:
    """Export, and read the program."""
    own = made(rule, net)
    fw.export(own, sgd(own, lr=0.02), folder, batch(net))
    (folder / "node_modules").symlink_to(DIST.parents[1])
    (program,) = re.findall(r"```js\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)
    return program


def told(folder: Path, program: str) -> dict[str, Any]:
    (folder / "learn.mjs").write_text(program, "utf-8")
    done = subprocess.run(
        ["node", "learn.mjs"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("rule", "net"),
    [("pepita", "dense"), ("backprop", "numbers"), ("node-perturbation", "convolution")],
)
def test_it_learns_as_the_runner_does(rule: str, net: str, tmp_path: Path) -> None:
    """Class indices and numbers as targets, images, dropout, and a rule that draws numbers."""
    folder = tmp_path / "step"
    found = told(folder, BEFORE + written(folder, rule, net) + AFTER)

    session, numbers = fw.Exported(folder), Random()
    vars(session)["_numbers"] = numbers
    x, target = batch(net)
    x = numbers.random((8, *x.shape[1:]))
    if net == "numbers":
        target = numbers.random((8, target.shape[1]))
    else:
        target = np.floor(3 * numbers.random(8, np.float64)).astype(np.int64)
    losses = [session.step(x, target).loss for _ in range(20)]
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-3)
    np.testing.assert_allclose(found["output"], session.predict(x).ravel(), rtol=1e-2, atol=1e-3)
    for name, value in session.state.items():
        np.testing.assert_allclose(
            found["state"][name], value.ravel(), rtol=1e-3, atol=1e-4, err_msg=name
        )
    assert set(found["state"]) == set(session.state)
    assert len(set(losses)) == 20


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    program = written(folder, "pepita", "dense")
    found = told(folder, program.replace(" = [];", " = [];\nx.data[3] = NaN;") + AFTER)
    assert found["losses"] == [None] * 20  # NaN, in JSON
    state = fw.Exported(folder).state
    assert set(found["state"]) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(np.float32(found["state"][name]), value.ravel())
