"""A trained network as ONNX, which onnxruntime runs: ``rule.model`` is a plain torch model.

The file gives what ``rule.predict`` does, for any number of samples.
"""

import numpy as np
import onnxruntime
import torch
from torch import nn

import forwardly as fw

torch.manual_seed(0)
digits = fw.data.load("digits")
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
rule = fw.PEPITA(model, nn.CrossEntropyLoss())
fw.fit(rule, digits, fw.LocalSGD(rule, 0.1, 0.9), epochs=5)

x, target = digits.test.batch(slice(None), torch.float32)
any_number = {0: torch.export.Dim("samples")}
program = torch.onnx.export(
    model.eval(), (x,), dynamic_shapes=(any_number,), dynamo=True, verbose=False
)
program.save("digits.onnx")

session = onnxruntime.InferenceSession("digits.onnx")
(name,) = (given.name for given in session.get_inputs())
(output,) = session.run(None, {name: x.numpy()})
np.testing.assert_allclose(output, rule.predict(x).numpy(), rtol=1e-4, atol=1e-4)
(single,) = session.run(None, {name: x[:1].numpy()})
np.testing.assert_allclose(single, output[:1], rtol=1e-4, atol=1e-4)
print(f"in digits.onnx, test accuracy: {np.mean(output.argmax(1) == target.numpy()):.1%}")
