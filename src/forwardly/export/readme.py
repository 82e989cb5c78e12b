"""What stands in the README of an exported folder: how to use the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TEXT = """# A training step by {rule}

Written by forwardly. The rule is from "{title}" ({year}), {url}.
The step is an ordinary graph of tensor operations: every runtime that takes them can learn.

| file | what it is |
|---|---|
| `train_step.onnx` | state, x, target, learning rate → new state, loss, output |
| `train_steps.onnx` | the same for a stack of batches, one step after another (ONNX Scan) |
| `train_epochs.onnx` | many steps on one batch, their number an input (ONNX Loop) |
| `predict.onnx` | parameters, x → output |
| `state.safetensors` | the state to begin with |
| `forwardly.json` | names, order, shapes and types of all inputs and outputs; settings; hashes |
| `check.npz` | batches and what torch computes for them: `forwardly export --check FOLDER` |

x is {x}, target {target}; the dimension `samples` may have any size.{prepares}{numbers}
The output `new.NAME` is the input `NAME` of the next step. If the loss is not finite, keep the old
state and go on from there.

## Python

```python
import numpy as np

import forwardly as fw  # with onnxruntime: pip install 'forwardly[export]'

session = fw.Exported(".")
x = np.full({x_shape}, 0.5, np.float32)  # your samples
target = np.zeros({target_shape}, np.{target_type})  # and targets
for _ in range(10):
    metrics = session.step(x, target, learning_rate={rate})
    print(metrics.loss)
output = session.predict(x)
session.save("trained.safetensors")
```

## JavaScript

{javascript}
## C++

With OpenVINO; ONNX Runtime takes the same names.

```cpp
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <openvino/openvino.hpp>
#include <random>

int main() {{
    // Where each tensor begins in state.safetensors, and which of them a step changes.
    const std::map<std::string, std::streamoff> places = {{
{places}
    }};
    const std::vector<std::string> changed = {{
{changed}
    }};

    // By itself OpenVINO would take half precision, where a processor has it.
    auto step = ov::Core().compile_model("train_step.onnx", "CPU",
                                         ov::hint::inference_precision(ov::element::f32));
    std::map<std::string, ov::Tensor> inputs;
    std::ifstream file("state.safetensors", std::ios::binary);
    for (const auto& [name, place] : places) {{
        const auto input = step.input(name);
        ov::Tensor tensor(input.get_element_type(), input.get_shape());
        file.seekg(place).read(static_cast<char*>(tensor.data()), tensor.get_byte_size());
        inputs[name] = tensor;
    }}
    ov::Tensor x(ov::element::f32, {x_sizes}), target(ov::element::{target_code}, {target_sizes});
    std::fill_n(x.data<float>(), x.get_size(), 0.5f);                 // your samples
    std::fill_n(target.data<{target_in_c}>(), target.get_size(), {target_in_c}(0)); // and targets
    ov::Tensor rate(ov::element::f32, {{}});
    *rate.data<float>() = {rate}f;
    inputs["x"] = x, inputs["target"] = target, inputs["learning_rate"] = rate;
{drawn_before}
    auto request = step.create_infer_request();
    for (int number = 0; number < 10; ++number) {{
{drawn}        for (const auto& [name, tensor] : inputs) request.set_tensor(name, tensor);
        request.infer();
        const float loss = *request.get_tensor("loss").data<float>();
        std::cout << loss << std::endl;
        if (!std::isfinite(loss)) break; // and the state is what it was
        for (const auto& name : changed) request.get_tensor("new." + name).copy_to(inputs[name]);
    }}
}}
```
"""

# A program for node; %NAME% is filled in.
_JAVASCRIPT = """```js
// learn.mjs, in this folder: npm install onnxruntime-web, then node learn.mjs
import { readFile } from "node:fs/promises"; // in a browser: fetch
import * as ort from "onnxruntime-web";

const step = await ort.InferenceSession.create(await readFile("train_step.onnx"));
const predict = await ort.InferenceSession.create(await readFile("predict.onnx"));

// The state to begin with: the length of a header, the header in JSON, then the tensors' bytes.
const { buffer } = Uint8Array.from(await readFile("state.safetensors"));
const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
const header = JSON.parse(new TextDecoder().decode(buffer.slice(8, start)));
delete header.__metadata__;
const kinds = { F32: ["float32", Float32Array], I64: ["int64", BigInt64Array] };
let state = {};
for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
  const [type, Kind] = kinds[dtype];
  state[name] = new ort.Tensor(type, new Kind(buffer.slice(start + from, start + to)), shape);
}

const filled = (type, Kind, shape, value) =>
  new ort.Tensor(type, Kind.from({ length: shape.reduce((a, b) => a * b, 1) }, value), shape);
const random = () => Math.floor(2 ** 24 * Math.random()) / 2 ** 24; // of 24 bits, as in float32
const run = (session, given) =>
  session.run(Object.fromEntries(session.inputNames.map((name) => [name, given[name]])));
const finite = ({ data }) => data.every((value) => Number.isFinite(Number(value)));

// Your samples stand here, in place of random numbers.
const samples = 8;
const x = filled("float32", Float32Array, [%X%], random);
const target = filled(%TARGET%);
const learning_rate = filled("float32", Float32Array, [], () => %RATE%);

const losses = [];
for (let i = 0; i < 20; i++) {
  const given = { ...state, x, target, learning_rate };
%NUMBERS%  const results = await run(step, given);
  const fresh = Object.entries(results).filter(([name]) => name.startsWith("new."));
  losses.push(results.loss.data[0]);
  if ([results.loss, ...fresh.map(([, value]) => value)].every(finite)) {
    const renamed = fresh.map(([name, value]) => [name.slice("new.".length), value]);
    state = { ...state, ...Object.fromEntries(renamed) };
  } // else the old state stays, as if there had been no step
}
const { output } = await run(predict, { ...state, x });
console.log(losses, output.data);
```
"""


_PREPARES = " x goes in as it comes: the files shift and scale it as in training."
_SAMPLES = 8
"""In the batches of the examples."""
_IN_C = {"float32": ("f32", "float"), "int64": ("i64", "int64_t")}


def facts(described: Mapping[str, Any], step: str) -> dict[str, str]:
    """What every README says of a step, whose file it names.

    Args:
        described: the content of ``forwardly.json``.
        step: the file that takes a step.
    """
    given = {one["name"]: one for one in described[step]["inputs"]}
    said = {n: f"{one['dtype']} ({', '.join(map(str, one['shape']))})" for n, one in given.items()}
    paper = described["paper"]
    return {
        **{name: str(paper[name]) for name in ("title", "year", "url")},
        "rule": described["rule"],
        "x": said["x"],
        "target": said["target"],
        "target_type": given["target"]["dtype"],
        "rate": repr(float(described["optimizer"]["learning_rate"])),
        "prepares": _PREPARES if described["prepares"] else "",
        "numbers": "".join(
            f" `{name}` is random numbers from you, {said[name]}, uniform on [0, 1), new in each "
            "step."
            for name in described["numbers"]
        ),
    }


def text(described: Mapping[str, Any], places: Mapping[str, int]) -> str:
    """The README for what ``forwardly.json`` says.

    Args:
        described: its content.
        places: where each tensor begins in ``state.safetensors``.
    """
    inputs = {given["name"]: given for given in described["train_step.onnx"]["inputs"]}
    outputs = {given["name"] for given in described["train_step.onnx"]["outputs"]}

    def sizes(name: str) -> list[int]:
        return [_SAMPLES if size == "samples" else size for size in inputs[name]["shape"]]

    def in_braces(name: str) -> str:
        return "{" + ", ".join(map(str, sizes(name))) + "}"

    code, in_c = _IN_C[inputs["target"]["dtype"]]
    used = {name: place for name, place in places.items() if name in inputs}
    drawn = [
        f"        for (std::size_t i = 0; i < {name}.get_size(); ++i)\n"
        f"            {name}.data<float>()[i] = on_0_1(generator);\n"
        for name in described["numbers"]
    ]
    before = [
        "    std::mt19937 generator;\n    std::uniform_real_distribution<float> on_0_1;\n",
        *(
            f"    ov::Tensor {name}(ov::element::f32, {in_braces(name)});\n"
            f'    inputs["{name}"] = {name};\n'
            for name in described["numbers"]
        ),
    ]
    return _TEXT.format(
        **facts(described, "train_step.onnx"),
        javascript=_javascript(described, inputs),
        x_shape=tuple(sizes("x")),
        target_shape=tuple(sizes("target")),
        x_sizes=in_braces("x"),
        target_sizes=in_braces("target"),
        target_code=code,
        target_in_c=in_c,
        places="\n".join(f'        {{"{name}", {place}}},' for name, place in used.items()),
        changed="\n".join(f'        "{name}",' for name in used if f"new.{name}" in outputs),
        drawn_before="".join(before) if drawn else "",
        drawn="".join(drawn),
    )


def _javascript(described: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    def numbers(name: str) -> str:
        shape = ", ".join(map(str, inputs[name]["shape"]))
        return f'"float32", Float32Array, [{shape}], random'

    target = numbers("target")
    if (classes := described["classes"]) is not None:
        number = f"BigInt(Math.floor({classes} * random()))"
        target = f'"int64", BigInt64Array, [samples], () => {number}'
    given = {
        "X": ", ".join(map(str, inputs["x"]["shape"])),
        "TARGET": target,
        "RATE": facts(described, "train_step.onnx")["rate"],
        "NUMBERS": "".join(f"  given.{n} = filled({numbers(n)});\n" for n in described["numbers"]),
    }
    return re.sub("%([A-Z]+)%", lambda found: given[found[1]], _JAVASCRIPT)
