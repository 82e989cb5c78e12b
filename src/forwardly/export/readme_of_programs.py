"""What stands in the README of a folder of ExecuTorch programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwardly.export.readme import facts

_TEXT = """# A training step by {rule}

Written by forwardly. The rule is from "{title}" ({year}), {url}.
The step is an ExecuTorch program of portable kernels; it needs no backend.

| file | what it is |
|---|---|
| `train_step.pte` | state, x, target, learning rate → new state, loss, output |
| `predict.pte` | parameters, x → output |
| `state.safetensors` | the state to begin with |
| `forwardly.json` | names, order, shapes and types of all inputs and outputs; settings; hashes |
| `check.npz` | batches and what torch computes for them: `forwardly export --check FOLDER` |

x is {x}, target {target}; `samples` is any number from 1 to {most}, for
which memory is planned ahead: for larger batches export with a larger example.{prepares}{numbers}
Inputs and outputs have an order, that of `forwardly.json`, and no names. The output `new.NAME` is
the input `NAME` of the next step. If the loss is not finite, keep the old state and go on from
there.

## Python

```python
import json
from pathlib import Path

import torch
from executorch.runtime import Runtime  # pip install executorch
from safetensors.torch import load_file, save_file

said = json.loads(Path("forwardly.json").read_text("utf-8"))
of_inputs, of_outputs = (
    [one["name"] for one in said["train_step.pte"][kind]] for kind in ("inputs", "outputs")
)
step = Runtime.get().load_program("train_step.pte").load_method("forward")
state = load_file("state.safetensors")
batch = {{
    "x": torch.full({x_shape}, 0.5),  # your samples
    "target": torch.zeros({target_shape}, dtype=torch.{target_type}),  # and targets
    "learning_rate": torch.tensor({rate}),
}}
for _ in range(10):
{drawn}    given = state | batch
    results = step.execute([given[name] for name in of_inputs])
    found = dict(zip(of_outputs, results))
    print(found["loss"].item())
    if not found["loss"].isfinite():
        break  # and the state is what it was
    state |= {{name[4:]: new.clone() for name, new in found.items() if name.startswith("new.")}}
save_file(state, "trained.safetensors")
```

## C++

```cpp
#include <algorithm>
#include <cmath>
#include <cstring>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <fstream>
#include <iostream>
#include <random>

using namespace executorch::extension;
using executorch::aten::ScalarType;

struct Input {{
    std::vector<executorch::aten::SizesType> sizes;
    ScalarType type;
    std::streamoff place; // in state.safetensors, or -1
    int next;             // which output it is in the next step, or -1
}};

int main() {{
    const std::vector<Input> inputs = {{
{inputs}
    }};

    std::ifstream file("state.safetensors", std::ios::binary);
    std::vector<TensorPtr> tensors;
    for (const auto& input : inputs) {{
        tensors.push_back(zeros(input.sizes, input.type));
        auto* data = static_cast<char*>(tensors.back()->mutable_data_ptr());
        if (input.place >= 0) file.seekg(input.place).read(data, tensors.back()->nbytes());
    }}
    const auto &x = tensors[{at_x}], &target = tensors[{at_target}];
    std::fill_n(x->mutable_data_ptr<float>(), x->numel(), 0.5f);                // your samples
    std::memset(target->mutable_data_ptr(), 0, target->nbytes());               // and targets
    *tensors[{at_rate}]->mutable_data_ptr<float>() = {rate}f;

    std::mt19937 generator;
    std::uniform_real_distribution<float> on_0_1;
    Module step("train_step.pte");
    const std::vector<executorch::runtime::EValue> given(tensors.begin(), tensors.end());
    for (int number = 0; number < 10; ++number) {{
        for (const int drawn : std::vector<int>{{{drawn_at}}})
            std::generate_n(tensors[drawn]->mutable_data_ptr<float>(), tensors[drawn]->numel(),
                            [&] {{ return on_0_1(generator); }});
        const auto results = step.forward(given);
        if (!results.ok()) return 1;
        const float loss = results->at({at_loss}).toTensor().const_data_ptr<float>()[0];
        std::cout << loss << std::endl;
        if (!std::isfinite(loss)) break; // and the state is what it was
        for (std::size_t i = 0; i < inputs.size(); ++i)
            if (inputs[i].next >= 0)
                std::memcpy(tensors[i]->mutable_data_ptr(),
                            results->at(inputs[i].next).toTensor().const_data_ptr(),
                            tensors[i]->nbytes());
    }}
}}
```
"""
_TYPES = {"float32": "Float", "int64": "Long", "int32": "Int", "bool": "Bool", "float64": "Double"}


def text(described: Mapping[str, Any], places: Mapping[str, int]) -> str:
    """The README for what ``forwardly.json`` says.

    Args:
        described: its content.
        places: where each tensor begins in ``state.safetensors``.
    """
    step, most = described["train_step.pte"], described["most_samples"]
    inputs = {given["name"]: given for given in step["inputs"]}
    outputs = [given["name"] for given in step["outputs"]]
    order = list(inputs)

    def sizes(name: str) -> tuple[int, ...]:
        return tuple(most if size == "samples" else size for size in inputs[name]["shape"])

    def row(name: str) -> str:
        following = outputs.index(f"new.{name}") if f"new.{name}" in outputs else -1
        kind = f"ScalarType::{_TYPES[inputs[name]['dtype']]}"
        shape = "{" + ", ".join(map(str, sizes(name))) + "}"
        return f"        {{{shape}, {kind}, {places.get(name, -1)}, {following}}}, // {name}"

    numbers = list(described["numbers"])
    return _TEXT.format(
        **facts(described, "train_step.pte"),
        most=most,
        x_shape=sizes("x"),
        target_shape=sizes("target"),
        drawn="".join(f'    batch["{name}"] = torch.rand({sizes(name)})\n' for name in numbers),
        inputs="\n".join(map(row, order)),
        at_x=order.index("x"),
        at_target=order.index("target"),
        at_rate=order.index("learning_rate"),
        drawn_at=", ".join(str(order.index(name)) for name in numbers),
        at_loss=outputs.index("loss"),
    )
