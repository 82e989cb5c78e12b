"""Exported steps: every rule in every installed runtime against torch, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import forwardly as fw
from exported import CASES, NETS, batch, made, sgd
from forwardly import noise
from forwardly.errors import UsageError
from forwardly.experiments.evaluation import model_of
from forwardly.export.check import check
from forwardly.export.folder import BATCH, CHECK, EPOCHS, STEP, STEPS, Contents
from forwardly.export.graph import SAMPLES, Symbolic, trace
from forwardly.export.step import NEW, NamedStep
from forwardly.rule import Rule
from forwardly.rules.plugins import RULES
from forwardly.training import checkpoint
from forwardly.training.functional import descents_of, state_of, step_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import on_device  # noqa: E402

from forwardly.export.check import rows  # noqa: E402, which needs onnx
from forwardly.export.model import OPSET, operators_in  # noqa: E402
from in_chromium import InChromium, by_webgpu, in_chromium, why_not  # noqa: E402

pytestmark = pytest.mark.unchecked  # traces take long as it is

OPERATORS = {
    *("Abs", "Add", "And", "ArgMax", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "Div"),
    *("Equal", "Erf", "Exp", "Expand", "Gather", "GatherElements", "Gemm", "Greater"),
    *(
        "GreaterOrEqual",
        "Identity",
        "LessOrEqual",
        "Log",
        "Loop",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
    ),
    *("Min", "Mod", "Mul", "Neg", "Not", "Pad", "Pow", "Reciprocal", "ReduceMax", "ReduceMean"),
    *("ReduceProd", "ReduceSum", "Relu", "Reshape", "Scan", "ScatterElements", "Shape", "Sigmoid"),
    *("Sign", "Size", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose"),
    *("Unsqueeze", "Where"),
}
"""All that a runtime must have; WebGPU, say, has not every operator of ONNX."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], fw.Exported]:
    root = tmp_path_factory.mktemp("exports")

    @cache
    def export(name: str, net: str) -> fw.Exported:
        rule = made(name, net)
        return fw.export(rule, sgd(rule), root / f"{name}-{net}", batch(net))

    return export


def test_all_rules_are_there() -> None:
    assert len(RULES) >= 23
    assert len(CASES) == 3 * len(RULES) - 1  # forward-forward learns no numbers


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InChromium | None]:
    """A runtime more, if there is a browser."""
    if why_not():
        yield None
        return
    with in_chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.mark.skipif(bool(why_not()), reason=f"no step runs in a browser: {why_not()}")
def test_a_browser_is_among_the_runtimes(chromium: InChromium | None) -> None:
    assert chromium is not None


@pytest.mark.parametrize(("name", "net"), CASES)
def test_steps_are_torchs(name: str, net: str, chromium: InChromium | None, tmp_path: Path) -> None:
    """From three states, the last with another batch size; and what two at once come to."""
    rule = made(name, net)
    exported = fw.export(rule, sgd(rule), tmp_path / "step", batch(net))
    found = exported.check().rows
    if chromium is not None:
        found += rows(exported._contents, chromium.name, chromium)
    runtimes = {row.runtime.split()[0] for row in found}
    assert {"onnx", "onnxruntime"} <= runtimes
    assert ("onnxruntime-web" in runtimes) == (not why_not())
    assert len(found) == 4 * len({row.runtime for row in found})
    # A last digit of a weight of 1, 1.2e-7, is 6e-5 of an update of 2e-3.
    most = 5e-3 if RULES[name].compares_passes else 2e-4
    for row in found:
        if row.refused and row.runtime.startswith("tract"):
            # Its Scan knows batches of one size only, and not all of a convolution's steps go.
            assert row.file in (STEPS, EPOCHS) or net == "convolution", row
            continue
        assert not row.problem, row
        assert row.absolute < 2e-4, row
        assert row.relative < most, row
    for file in (STEP, STEPS, EPOCHS):
        model = onnx.load(exported.path / file)
        assert operators_in(model) <= OPERATORS
        assert [(own.domain, own.version) for own in model.opset_import] == [("", OPSET)]


@pytest.fixture(scope="session")
def webgpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InChromium]:
    if why_not():
        pytest.skip(why_not())
    with by_webgpu(tmp_path_factory.mktemp("webgpu")) as webgpu:
        if webgpu is None:
            pytest.skip(
                "Chromium has no WebGPU here, or onnxruntime-web's files for it are not there"
            )
        yield webgpu


@pytest.mark.parametrize("net", ["dense", "convolution"])
@pytest.mark.parametrize("name", ["pepita", "readout-only", "backprop", "drtp"])
def test_steps_by_webgpu_are_torchs(
    name: str, net: str, webgpu: InChromium, tmp_path: Path
) -> None:
    rule = made(name, net)
    exported = fw.export(rule, sgd(rule), tmp_path / "step", batch(net))
    found = list(rows(exported._contents, webgpu.name, webgpu))
    assert len(found) == 4
    assert [row for row in found if row.problem] == []


def of_pool(pool: nn.Module) -> tuple[list[nn.Module], tuple[int, ...]]:
    layers = [nn.Conv2d(1, 2, 2), pool, nn.Tanh(), nn.Flatten()]
    size = nn.Sequential(*layers)(torch.zeros(1, 1, 9, 9)).shape[1]
    return [*layers, nn.Linear(size, 3)], (1, 9, 9)


def of_activations(*activations: nn.Module) -> tuple[list[nn.Module], tuple[int, ...]]:
    hidden = [part for own in activations for part in (nn.Linear(6, 6), own)]
    return [*hidden, nn.Linear(6, 3)], (6,)


@pytest.mark.parametrize(
    "net",
    [
        of_activations(nn.CELU(), nn.Hardshrink(0.1), nn.Softshrink(0.1), nn.Softplus()),
        of_activations(nn.Hardswish(), nn.Hardsigmoid(), nn.LogSigmoid(), nn.Mish(), nn.PReLU()),
        of_pool(nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        of_pool(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
        of_pool(nn.AdaptiveMaxPool2d((4, 2))),
        of_pool(nn.Conv2d(2, 2, (2, 3), padding="same", padding_mode="reflect")),
    ],
    ids=("kinks", "smooth", "max", "average", "adaptive", "mirrored"),
)
def test_derivatives_of_modules(
    net: tuple[list[nn.Module], tuple[int, ...]], tmp_path: Path
) -> None:
    layers, shape = net
    rule = fw.Backprop(nn.Sequential(*layers), nn.CrossEntropyLoss())
    x, target = torch.randn(5, *shape), torch.randint(3, (5,))
    checked = fw.export(rule, sgd(rule), tmp_path / "step", (x, target)).check()
    assert not checked.wrong
    assert all(row.runtime.startswith("tract") for row in checked.rows if row.refused)


def test_the_check_bites(exported: Any, tmp_path: Path) -> None:
    """A weight of torch's that is off by a thousandth is found, and so is a wrong loss."""
    from forwardly.data import npz
    from forwardly.export.folder import _npz

    contents = exported("backprop", "dense")._contents
    for name in ("0/new.model.1.weight", "1/loss", "predicted"):
        arrays = npz.load(contents.path / CHECK)
        arrays[name] = arrays[name] * np.float32(1.001)
        wrong = tmp_path / name.replace("/", "-")
        wrong.mkdir()
        for path in contents.path.iterdir():
            (wrong / path.name).write_bytes(path.read_bytes())
        (wrong / CHECK).write_bytes(_npz(arrays))
        assert check(Contents(wrong, contents.fields)).wrong


def test_the_loss_is_smoothed(exported: Any) -> None:
    rule, session = made("pepita", "dense"), fw.Exported(exported("pepita", "dense").path)
    rule.model.eval()
    x, target = batch("dense")
    output = torch.tensor(np.array(session.predict(x)))
    smoothed = nn.functional.cross_entropy(output, target, label_smoothing=0.1)
    plain = nn.functional.cross_entropy(output, target)
    assert abs(smoothed - plain) > 1e-3
    torch.testing.assert_close(output, rule.predict(x))
    without = made("pepita", "dense")
    for part in without.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    # Of the step, in which dropout drops nothing where numbers are 1 or near it.
    names = session._contents.names(STEP, "inputs")
    inputs = session.state | {"x": x.numpy(), "target": target.numpy()}
    inputs |= {"learning_rate": np.asarray(0.1, np.float32)}
    inputs["uniform"] = np.full((6, session._inputs["uniform"][0][1]), 0.999, np.float32)
    results = session._run(STEP, {name: inputs[name] for name in names})
    found = dict(zip(session._outputs, results, strict=True))
    logits = torch.tensor(found["output"])
    expected = nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    assert abs(float(found["loss"]) - float(expected)) < 1e-6
    assert float(found["accuracy"]) == float((logits.argmax(1) == target).float().mean())


def test_given_noises_numbers_dropout_is_the_rules() -> None:
    rule = made("pepita", "dense")
    optimizer = sgd(rule)
    step = NamedStep(rule, optimizer)
    x, target = batch("dense")
    inputs = {**step.state, "x": x, "target": target, "learning_rate": torch.tensor(0.1)}
    trace(lambda own: step.find_numbers(own, SAMPLES), Symbolic(inputs, BATCH))
    assert step.numbers is not None
    assert step.numbers.widths == {"uniform": 7 + 6}
    drawn = [noise.uniform(rule.noise, i, (6, size), torch.float32) for i, size in ((0, 7), (1, 6))]
    result = step(inputs | {"uniform": (torch.cat(drawn, 1) + 0.5) % 1})
    after, credit = step_of(rule, descents_of(rule, optimizer))(state_of(rule), x, target)
    torch.testing.assert_close(result["loss"], credit.loss, rtol=0, atol=0)
    for name, value in after.values.items():
        if NEW + name in result:
            torch.testing.assert_close(result[NEW + name], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mem-pepita", "node-perturbation", "sign-symmetry-batch"])
def test_numbers_of_the_graph_are_the_rules(name: str, tmp_path: Path) -> None:
    """So steps are those of ``LocalSGD``, masks and all, where the runtime's integers are right."""
    rule = made(name, "dense")
    optimizer = fw.LocalSGD(rule, 0.1, 0.9)
    path = tmp_path / "step"
    session = fw.export(rule, optimizer, path, batch("dense"), numbers="graph")
    assert not session._contents.fields.fields("numbers").content
    for number in range(3):
        x, target = batch("dense", 6 + number, number)
        loss = optimizer.step(x, target).loss
        assert session.step(x, target).loss == pytest.approx(float(loss), rel=1e-5)
    assert rule.noise is not None
    np.testing.assert_array_equal(session.state["noise"], rule.noise.numpy())
    for key, value in rule.named_parameters():
        np.testing.assert_allclose(session.state[key], value.detach().numpy(), atol=2e-6)
    again = made(name, "dense")
    session.load_into(again)
    assert torch.equal(again.get_buffer("noise"), rule.noise)
    for row in check(Contents.read(path)).rows:
        assert not (row.problem and row.runtime.startswith("onnx")), row


def test_equal_rules_give_equal_bytes(exported: Any, tmp_path: Path) -> None:
    first = exported("sign-symmetry-batch", "dense").path
    rule = made("sign-symmetry-batch", "dense")
    second = fw.export(rule, sgd(rule), tmp_path / "again", batch("dense")).path
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 8
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("net", NETS)
def test_nothing_is_said_of_the_machine(net: str, exported: Any) -> None:
    here = {str(Path(fw.__file__).parent), str(Path(torch.__file__).parent), str(Path.cwd())}
    for path in exported("backprop", net).path.iterdir():
        content = path.read_bytes()
        assert not re.search(
            rb"\.py\b|Traceback|site-packages|stack_trace|/home|/tmp|/root", content
        )
        assert not [place for place in here if place.encode() in content]


def test_what_stands_in_the_description(exported: Any) -> None:
    path = exported("pepita", "dense").path
    said = json.loads((path / "forwardly.json").read_text("utf-8"))
    assert said["rule"] == "pepita"
    assert said["paper"]["year"] == 2022
    assert said["classes"] == 3
    assert said["numbers"] == {"uniform": "uniform on [0, 1)"}
    for name, digest in said["files"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    model = onnx.load(path / STEP)
    assert [i["name"] for i in said[STEP]["inputs"]] == [i.name for i in model.graph.input]
    assert [o["name"] for o in said[STEP]["outputs"]] == [o.name for o in model.graph.output]


def test_a_momentum_is_one_operator(tmp_path: Path) -> None:
    """The product of an update, added to what is kept of it; no matrix is turned round first."""
    rule = made("pepita", "numbers")
    optimizer = fw.LocalSGD(rule, 0.1, 0.9)
    path = fw.export(rule, optimizer, tmp_path / "step", batch("numbers")).path
    nodes = onnx.load(path / STEP).graph.node
    made_by = {output: node for node in nodes for output in node.output}
    momenta = [name for name in made_by if name.startswith("new.momentum.")]
    assert len(momenta) == 4
    for name in momenta:
        node = made_by[name]
        if name.endswith("weight"):
            assert node.op_type == "Gemm"
            assert node.input[2] == name.removeprefix("new.")
            scales = {own.name: own.f for own in node.attribute if own.name in ("alpha", "beta")}
            assert scales == {"alpha": 1.0, "beta": pytest.approx(0.9)}
    assert not [node for node in nodes if node.op_type in ("Transpose", "MatMul")]


def test_a_run_of_steps_learns(exported: Any) -> None:
    """And its weights can be taken back to torch, and be written."""
    session = fw.Exported(exported("backprop", "numbers").path)
    x, target = batch("numbers")
    losses = [session.step(x, target).loss for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    still = session.step(x, target, learning_rate=0.0)
    assert still.accuracy is None
    rule = made("backprop", "numbers")
    session.load_into(rule)
    rule.eval()
    np.testing.assert_allclose(rule.predict(x).numpy(), session.predict(x), atol=1e-6)


@pytest.mark.parametrize("net", ["dense", "numbers"])
def test_many_steps_in_one_call(net: str, exported: Any) -> None:
    """As the same steps one by one, with the same random numbers."""
    path = exported("pepita", net).path
    one, several = fw.Exported(path, seed=4), fw.Exported(path, seed=4)
    batches = [batch(net, seed=seed) for seed in range(3)]
    each = [one.step(*own, learning_rate=0.05) for own in batches]
    x, target = (torch.stack(own) for own in zip(*batches, strict=True))
    course = several.steps(x, target, learning_rate=0.05)
    again = [one.step(*batches[0]) for _ in range(4)]
    epochs = several.epochs(*batches[0], epochs=4)
    for alone, together in ((each, course), (again, epochs)):
        assert together.taken
        np.testing.assert_allclose(together.losses, [own.loss for own in alone], rtol=1e-6)
        if net == "numbers":
            assert together.accuracies is None
        else:
            assert together.accuracies is not None
            assert together.accuracies.tolist() == [own.accuracy for own in alone]
    for name, value in one.state.items():
        np.testing.assert_allclose(several.state[name], value, rtol=1e-6, atol=1e-7)
        assert name.endswith(("num_batches_tracked", "bias")) or np.abs(value).max() > 0


def test_frugal_steps_are_the_same(exported: Any) -> None:
    path = exported("mem-pepita", "convolution").path
    usual, frugal = fw.Exported(path), fw.Exported(path, frugal=True)
    for seed in range(2):
        own = batch("convolution", seed=seed)
        assert frugal.step(*own).loss == pytest.approx(usual.step(*own).loss, rel=1e-5)
    for name, value in usual.state.items():
        np.testing.assert_allclose(frugal.state[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="of Linux alone")
def test_mem_pepita_saves_memory_where_it_is_asked_for(tmp_path: Path) -> None:
    """Of 16 layers of 128, 8,192 samples: an activity is 4 MiB."""
    peaks: dict[str, float] = {}
    for rule_of in (fw.PEPITA, fw.MemPEPITA, fw.Backprop):
        layers = [part for _ in range(16) for part in (nn.Linear(128, 128), nn.ReLU())]
        rule = rule_of(nn.Sequential(*layers, nn.Linear(128, 10)), nn.CrossEntropyLoss())
        path = tmp_path / rule_of.__name__
        example = torch.rand(4, 128), torch.randint(10, (4,))
        fw.export(rule, fw.LocalSGD(rule, 0.1), path, example)
        peaks[path.name] = on_device.peak_bytes(path, 8192) / 2**22
    assert peaks["MemPEPITA"] < 12
    assert peaks["Backprop"] > 16
    assert 16 < peaks["PEPITA"] <= 1.15 * peaks["Backprop"]


def test_many_steps_that_are_not_finite_leave_the_state(exported: Any) -> None:
    session = fw.Exported(exported("pepita", "numbers").path)
    x, target = batch("numbers")
    before = session.state
    course = session.epochs(x * 1e4, target, 50)
    assert np.isfinite(course.losses[0])
    assert not np.isfinite(course.losses[-1])
    assert not course.taken
    stacked = torch.stack([x, x * torch.nan])
    assert not session.steps(stacked, torch.stack([target, target])).taken
    assert session.state is before
    with pytest.raises(UsageError, match="epochs must be a whole number, at least 1; given is 0"):
        session.epochs(x, target, 0)
    with pytest.raises(UsageError, match="one size; given are \\[4, 6\\] samples"):
        session.steps([x, x[:4]], [target, target[:4]])
    with pytest.raises(UsageError, match="as many batches, at least one; given are 1 and 2"):
        session.steps([x], [target, target])


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    rule = made("pepita", "numbers")
    rule.model[1].weight.requires_grad_(False)
    session = fw.export(rule, sgd(rule), tmp_path / "step", batch("numbers"))
    before = session.state["model.1.weight"].copy()
    session.step(*batch("numbers"))
    assert (session.state["model.1.weight"] == before).all()
    assert "momentum.model.1.weight" not in session.state
    assert json.loads((tmp_path / "step/forwardly.json").read_text("utf-8"))["frozen"] == [
        "model.1.weight"
    ]


def test_momenta_go_on(tmp_path: Path) -> None:
    """Those that the optimizer has; the same steps as torch's own, Nesterov's and a decay too."""
    rule = made("direct-feedback-alignment", "numbers")
    optimizer = sgd(rule, nesterov=True)
    x, target = batch("numbers")
    for _ in range(2):
        optimizer.zero_grad()
        rule.accumulate(x, target)
        optimizer.step()
    session = fw.export(rule, optimizer, tmp_path / "step", (x, target))
    for _ in range(3):
        optimizer.zero_grad()
        rule.accumulate(x, target)
        optimizer.step()
        session.step(x, target)
    for name, value in rule.named_parameters():
        np.testing.assert_allclose(session.state[name], value.detach().numpy(), atol=2e-6)


def test_a_loss_that_is_not_finite_leaves_the_state(exported: Any) -> None:
    session = fw.Exported(exported("pepita", "dense").path)
    before = {name: value.copy() for name, value in session.state.items()}
    x, target = batch("dense")
    x[0, 0] = torch.nan
    metrics = session.step(x, target)
    assert not metrics.taken
    assert np.isnan(metrics.loss)
    for name, value in before.items():
        np.testing.assert_array_equal(session.state[name], value)
    assert session.step(*batch("dense")).taken


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_out_of_range_is_refused(wrong: int, exported: Any) -> None:
    session = fw.Exported(exported("pepita", "dense").path)
    before = session.state
    x, target = batch("dense")
    target[2] = wrong
    with pytest.raises(UsageError, match=rf"class indices must be 0 to 2; the target has {wrong}"):
        session.step(x, target)
    assert session.state is before


def test_other_shapes_are_refused(exported: Any) -> None:
    session = fw.Exported(exported("pepita", "dense").path)
    x, target = batch("dense")
    with pytest.raises(UsageError, match=r"x must be of shape \(samples, 7\); given is \(6, 6\)"):
        session.step(x[:, 1:], target)
    with pytest.raises(UsageError, match="x has 6 samples, and the target 5"):
        session.step(x, target[1:])
    with pytest.raises(UsageError, match="target must be class indices; given is float32"):
        session.step(x, target.float())
    with pytest.raises(UsageError, match="the rule has other tensors"):
        session.load_into(made("pepita", "numbers"))


def test_a_changed_file_is_refused(exported: Any, tmp_path: Path) -> None:
    for path in exported("pepita", "numbers").path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / STEP).write_bytes((tmp_path / STEP).read_bytes() + b"\0")
    with pytest.raises(UsageError, match="is not the file that was exported"):
        fw.Exported(tmp_path)
    with pytest.raises(UsageError, match=r"there is no forwardly\.json"):
        fw.Exported(tmp_path / "nowhere")


def refused(rule: Rule, optimizer: Any, folder: Path, example: Any) -> str:
    with pytest.raises((UsageError, TypeError)) as failure:
        fw.export(rule, optimizer, folder, example)
    assert not folder.exists()
    assert not list(folder.parent.iterdir())
    return str(failure.value)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    folder, example = tmp_path / "step", batch("numbers")
    rule = made("pepita", "numbers")
    adam: Any = torch.optim.Adam(rule.parameters())
    assert "must be of class LocalSGD; given is Adam" in refused(rule, adam, folder, example)
    damped = sgd(rule, dampening=0.1)
    assert "dampening=0" in refused(rule, damped, folder, example)
    assert "two tensors (x, target)" in refused(rule, sgd(rule), folder, 3)
    x, target = example
    assert "must be float32" in refused(rule, sgd(rule), folder, (x.double(), target))
    assert "does not take the example" in refused(rule, sgd(rule), folder, (x[:, 1:], target))
    half = made("pepita", "numbers")
    with pytest.warns(UserWarning, match="subtracts two passes"):
        half.bfloat16().look()
    assert "which half precision drowns" in refused(half, sgd(half), folder, example) or (
        "whose difference half precision drowns" in refused(half, sgd(half), folder, example)
    )
    double = made("backprop", "numbers").double()
    assert "exported in float32; the model is torch.float64" in refused(
        double, sgd(double), folder, example
    )
    still = made("pepita", "numbers").eval()
    assert "rule.train()" in refused(still, sgd(still), folder, example)
    other = made("pepita", "numbers")
    assert "not the rule's" in refused(rule, sgd(other), folder, example)
    around = fw.PEPITA(
        nn.Sequential(
            nn.Conv2d(1, 2, 2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(24, 2)
        ),
        nn.MSELoss(),
        input_shape=(1, 2, 3),
    )
    images = x[:, None], target
    assert "pads by going round" in refused(around, sgd(around), folder, images)
    rounded = fw.LocalSGD(rule, 0.1, precision="bf16")
    assert "precision='bf16'" in refused(rule, rounded, folder, example)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine", "utf-8")
    rule = made("pepita", "numbers")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        fw.export(rule, sgd(rule), tmp_path, batch("numbers"))
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_without_onnx_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "forwardly.export.model", None)
    rule = made("pepita", "numbers")
    with pytest.raises(UsageError, match=r"pip install 'forwardly\[export\]'"):
        fw.export(rule, sgd(rule), tmp_path / "step", batch("numbers"))


def test_learning_rates_of_groups_keep_their_share(tmp_path: Path) -> None:
    rule = made("backprop", "numbers")
    first, *others = rule.parameters()
    groups: list[Any] = [{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.02}]
    optimizer = torch.optim.SGD(groups)
    x, target = batch("numbers")
    session = fw.export(rule, optimizer, tmp_path / "step", (x, target))
    session.step(x, target, learning_rate=0.05)
    for group in optimizer.param_groups:
        group["lr"] /= 2
    rule.accumulate(x, target)
    optimizer.step()
    for name, value in rule.named_parameters():
        np.testing.assert_allclose(session.state[name], value.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [(), ("--centre",), ("--standardise",)])
def test_a_trained_run_is_exported(kind: tuple[str, ...], command: Any, tmp_path: Path) -> None:
    """It goes on as the run would, with its momenta and learning rate, on samples prepared so."""
    settings = "--data digits --hidden 8 --epochs 2 --dropout 0.1 --milestones 1 --out run"
    done = command("train", *settings.split(), *kind)
    assert done.returncode == 0, done.stderr
    done = command("export", "--from", "run", "--out", "step", "--numbers", "graph")
    assert done.returncode in (0, 1), done.stderr  # 1 where a runtime's integers are wrong
    session = fw.Exported("step")
    assert session.learning_rate == pytest.approx(0.01)
    saved = model_of(Path("run"))
    test = fw.data.load("digits").test
    x, target = test.batch(slice(64), torch.float32)
    assert saved.data is not None
    own = x if saved.data.preprocessing is None else saved.data.preprocessing(x)
    assert bool(kind) == (own is not x)
    np.testing.assert_allclose(
        session.predict(x), saved.rule.eval().predict(own).numpy(), atol=1e-5
    )

    rule = saved.rule.train()
    optimizer = fw.LocalSGD(rule, 0.1, 0.9)
    last = checkpoint.load(Path("run/checkpoint.pt"))
    optimizer.load_state_dict(last["optimizer"])
    for name, value in rule.named_buffers():
        if name == "noise":
            value.copy_(torch.tensor(session.state["noise"]))
    for _ in range(2):
        optimizer.step(own, target)
        session.step(x, target)
    for name, value in rule.named_parameters():
        np.testing.assert_allclose(session.state[name], value.detach().numpy(), atol=1e-5)


def test_runs_that_cannot_be_exported(command: Any, tmp_path: Path) -> None:
    settings = "--data digits --hidden 8 --epochs 1 --centre --out run"
    assert command("train", *settings.split()).returncode == 0
    assert command("export", "--from", "run", "--rule", "drtp").returncode == 2
    assert command("export", "--check", "run").returncode == 2
    done = command("export", "--from", "run", "--format", "c")
    assert done.returncode == 2
    assert "which the C step does not do" in " ".join(done.stderr.split())


def test_what_prepares_samples_is_in_the_files(tmp_path: Path) -> None:
    rule = made("pepita", "numbers")
    x, target = batch("numbers")
    session = fw.export(
        rule, sgd(rule), tmp_path / "step", (x, target), prepare=lambda own: (own - 1) / 2
    )
    assert not session.check().wrong
    assert "x goes in as it comes" in (session.path / "README.md").read_text("utf-8")
    loss = rule((x - 1) / 2, target).loss
    assert session.step(x, target).loss == pytest.approx(float(loss), rel=1e-6)
    assert float(loss) != pytest.approx(float(rule(x, target).loss), rel=1e-3)


def snippet(path: Path, language: str) -> str:
    """The program that stands in an exported folder's README."""
    found = re.search(rf"```{language}\n(.*?)```", (path / "README.md").read_text("utf-8"), re.S)
    assert found is not None
    return found[1]


def losses_of_the_example(session: fw.Exported, *shapes: tuple[int, ...]) -> list[float]:
    """What ten steps on the samples of the README's programs come to."""
    x = np.full(shapes[0], 0.5, np.float32)
    target = np.zeros(shapes[1], np.int64 if len(shapes[1]) == 1 else np.float32)
    return [session.step(x, target).loss for _ in range(10)]


PROGRAMS = [("dense", (8, 7), (8,)), ("numbers", (8, 2, 3), (8, 2))]


@pytest.mark.parametrize(("net", "x", "target"), PROGRAMS)
def test_the_readmes_python_runs(
    net: str, x: tuple[int, ...], target: tuple[int, ...], exported: Any, tmp_path: Path
) -> None:
    path = exported("pepita", net).path
    done = subprocess.run(
        [sys.executable, "-c", snippet(path, "python").replace("trained.", f"{tmp_path}/trained.")],
        cwd=path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    session = fw.Exported(path)
    expected = losses_of_the_example(session, x, target)
    assert [float(line) for line in done.stdout.split()] == pytest.approx(expected, rel=1e-6)
    saved = safetensors.numpy.load_file(tmp_path / "trained.safetensors")
    for name, value in session.state.items():
        np.testing.assert_array_equal(saved[name], value)


@pytest.mark.parametrize(("net", "x", "target"), PROGRAMS)
def test_the_readmes_cpp_runs(
    net: str, x: tuple[int, ...], target: tuple[int, ...], exported: Any, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    place, path = Path(openvino.__file__).parent, exported("pepita", net).path
    (tmp_path / "learn.cpp").write_text(snippet(path, "cpp"), "utf-8")
    (library,) = (place / "libs").glob("libopenvino.so.*")
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Werror", "-isystem", place / "include"),
            *(tmp_path / "learn.cpp", "-o", tmp_path / "learn"),
            *(library, f"-Wl,-rpath,{library.parent}"),
        ],
        check=True,
    )
    done = subprocess.run([tmp_path / "learn"], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [float(line) for line in done.stdout.split()]
    expected = losses_of_the_example(fw.Exported(path), x, target)
    if net == "numbers":
        assert found == pytest.approx(expected, rel=1e-4)
    else:  # its random numbers are of another generator
        assert len(found) == 10
        assert found[-1] < found[0] / 2
        assert expected[-1] < expected[0] / 2


def test_importing_forwardly_imports_no_onnx() -> None:
    program = "import sys, forwardly; print([n for n in sys.modules if n.startswith('onnx')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
