"""What stands in the README of an exported folder: how to use the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = """# A training step of {rule}

Written by forwardly, from {title} ({year}), {url}. No backward pass is needed where this runs: the
step is an ordinary graph, and every runtime that takes its operators can learn.

| file | what it is |
|---|---|
| `train_step.onnx` | state, x, target, learning rate → new state, loss, output |
| `train_steps.onnx` | the same for a stack of batches, one step after another (ONNX Scan) |
| `predict.onnx` | parameters, x → output |
| `state.safetensors` | the state to begin with |
| `forwardly.json` | names, order, shapes and types of all inputs and outputs; settings; hashes |
| `check.npz` | batches and what torch computes for them: `forwardly export --check FOLDER` |

x is {x}, target {target}; the dimension `samples` may have any size.{numbers}
The output `new.NAME` is the input `NAME` of the next step. If the loss is not finite, keep the old
state and go on from there.

## Python

```python
import forwardly as fw

session = fw.Exported("FOLDER")
metrics = session.step(x, target, learning_rate={rate})
output = session.predict(x)
```

## JavaScript

```js
import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create("train_step.onnx");
// state: {{NAME: new ort.Tensor(...)}} of forwardly.json's "state", from state.safetensors
const feeds = {{...state, x, target, learning_rate: new ort.Tensor("float32", [{rate}], []){more}}};
const results = await session.run(feeds);
if (Number.isFinite(results.loss.data[0]))
  for (const name of session.outputNames)
    if (name.startsWith("new.")) state[name.slice(4)] = results[name];
```

## C++

```cpp
#include <onnxruntime_cxx_api.h>

Ort::Env env;
Ort::Session session(env, "train_step.onnx", Ort::SessionOptions{{}});
// inputs and outputs: names and values in the order of forwardly.json
auto results = session.Run(Ort::RunOptions{{}}, input_names, inputs, n_inputs,
                           output_names, n_outputs);
```
"""


def text(described: Mapping[str, Any]) -> str:
    """The README for what ``forwardly.json`` says."""
    inputs = {given["name"]: given for given in described["train_step.onnx"]["inputs"]}

    def said(name: str) -> str:
        given = inputs[name]
        return f"{given['dtype']} ({', '.join(map(str, given['shape']))})"

    numbers = "".join(
        f" `{name}` is random numbers from you, {said(name)}, uniform on [0, 1), new in each step."
        for name in described["numbers"]
    )
    paper = described["paper"]
    return _TEXT.format(
        rule=described["rule"],
        title=paper["title"],
        year=paper["year"],
        url=paper["url"],
        x=said("x"),
        target=said("target"),
        rate=f"{described['optimizer']['learning_rate']:g}",
        numbers=numbers,
        more="".join(f", {name}" for name in described["numbers"]),
    )
