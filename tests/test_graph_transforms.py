"""What purity buys on models that are no chains, too: compiled, exported, taken to ONNX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import forwardly as fw
from forwardly.export.decompositions import _convolution_backward as decomposed  # pyright: ignore[reportPrivateUsage]
from forwardly.testing import Case, build
from graphs import GRAPHS
from test_laws import FACTORIES

aten = torch.ops.aten


def graph(name: str) -> Case:
    return next(case for case in GRAPHS if case.name == name)


@pytest.mark.long
def test_compile() -> None:
    """Without a graph break: a rule of each kind of pass, on networks that differ most."""
    rules = ("pepita", "feedback-alignment", "adaptive-feedback-alignment")
    given = [f"eager:{name}:{case}" for name in rules for case in ("batch-norm-affine", "several")]
    given += ["eager:direct-feedback-alignment:recurrent", "eager:backprop:attention"]
    given += ["eager:pepita:encoder"]
    program = Path(__file__).with_name("compile_rule.py")
    done = subprocess.run(
        [sys.executable, program, *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.unchecked  # a symbolic size is no int
@pytest.mark.parametrize("case", ["residual", "attention", "batch-norm-affine"])
@pytest.mark.parametrize("name", ["pepita", "direct-feedback-alignment"])
def test_export(name: str, case: str) -> None:
    """For batches of any size."""
    rule, (x, target) = build(FACTORIES[name], graph(case)), graph(case).batch()
    batch = torch.export.Dim("batch")
    program = torch.export.export(rule, (x, target), dynamic_shapes=({0: batch}, {0: batch}))
    for n in (6, 11):
        x, target = graph(case).batch(n=n)
        assert_close(program.module()(x, target), rule(x, target))


@pytest.mark.unchecked
@pytest.mark.parametrize("case", ["residual", "batch-norm-affine", "u-net"])
@pytest.mark.parametrize("name", ["pepita", "feedback-alignment", "backprop"])
def test_training_steps_as_onnx(name: str, case: str, tmp_path: Path) -> None:
    """Whose results are those of the rule and the optimizer here."""
    pytest.importorskip("onnxruntime")
    rule = build(FACTORIES[name], graph(case)).float()
    x, target = graph(case).batch()
    x = x.float()
    fw.export(rule, fw.LocalSGD(rule, lr=0.1), tmp_path / "step", example=(x, target))
    exported = fw.Exported(tmp_path / "step")
    exported.step(x.numpy(), target.numpy())
    fw.LocalSGD(rule, lr=0.1).step(x, target)
    rule.eval()
    assert_close(torch.from_numpy(exported.predict(x.numpy())), rule.predict(x))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("places", [1, 2, 3])
def test_what_a_transposed_convolutions_derivative_is_made_of(places: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, *(5, 4, 3)[:places], dtype=torch.float64)
    weight = torch.randn(4, 6 // groups, *(3, 2, 2)[:places], dtype=torch.float64)
    window = ((2, 3, 2)[:places], (1, 0, 1)[:places], (2, 1, 1)[:places])
    settings = (*window, True, (1, 0, 0)[:places])
    signal = torch.randn_like(aten.convolution(x, weight, None, *settings, groups))
    given = (signal, x, weight, [6], *settings, groups, [True, True, True])
    expected = aten.convolution_backward(*given)
    ours = decomposed(*given)
    assert_close(ours, expected)
