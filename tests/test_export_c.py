"""The C file: compiled, its steps are torch's, in the memory that it states, on a Cortex-M4 too."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap

import forwardly as fw
from forwardly.errors import UsageError
from forwardly.export.c import NAMES, Sizes, write_c
from forwardly.rule import Rule
from forwardly.training.functional import State, descents_of, state_of, step_of

BOARD = Path(__file__).parent / "board"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
FLAGS += ("-Wconversion", "-Wshadow", "-Wdouble-promotion")
EXACT = "-ffp-contract=off"
STEPS = 2_000
FINEST = float(np.finfo(np.float32).eps)

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc, which compiles the C file, is not installed"
)
ON_A_BOARD = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
needs_board = pytest.mark.skipif(
    not all(map(shutil.which, ON_A_BOARD)),
    reason=f"the Cortex-M4 needs {', '.join(ON_A_BOARD)}, which are not all installed",
)

LOUD = fw.feedback.uniform(0.2)
PEPITA = partial(fw.PEPITA, projection=LOUD)
MEM_PEPITA = partial(fw.MemPEPITA, projection=LOUD)


@dataclass(frozen=True)
class Case:
    """A rule on a network, and how its weights descend."""

    name: str
    rule: Callable[..., Rule]
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    sizes: tuple[int, ...] = (6, 7, 5, 4)
    activations: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Tanh)
    bias: tuple[bool, ...] = (True, False, True)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.01})
    frozen: tuple[str, ...] = ()

    def model(self) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for l, (inputs, units) in enumerate(pairwise(self.sizes)):
            layers.append(nn.Linear(inputs, units, bias=self.bias[l % len(self.bias)]))
            if l < len(self.sizes) - 2:
                layers.append(self.activations[l % len(self.activations)]())
        model = nn.Sequential(*layers)
        for name in self.frozen:
            model.get_parameter(name).requires_grad_(False)
        return model

    def build(self) -> tuple[Rule, torch.optim.SGD]:
        torch.manual_seed(1)
        rule = self.rule(self.model(), self.loss(), generator=torch.Generator().manual_seed(2))
        return rule, torch.optim.SGD(rule.parameters(), **self.settings)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        numbers = torch.Generator().manual_seed(3)
        x = torch.randn(count, self.sizes[0], generator=numbers)
        k = self.sizes[-1]
        if self.loss is nn.CrossEntropyLoss:
            return x, torch.randint(k, (count,), generator=numbers)
        target = torch.rand(count, k, generator=numbers)
        return x, target.round() if self.loss is nn.BCEWithLogitsLoss else target


MOMENTUM = {"lr": 0.002, "momentum": 0.9, "weight_decay": 0.01}
NESTEROV = {"lr": 0.002, "momentum": 0.8, "nesterov": True}
DECAY = {"lr": 0.01, "weight_decay": 0.02}
MSE, BCE = nn.MSELoss, nn.BCEWithLogitsLoss
DEEP = (6, 7, 5, 8, 4, 3)
ALL_OF_THEM = (nn.ReLU, nn.Tanh, nn.Sigmoid)

CASES = (
    Case("pepita", PEPITA),
    Case("pepita-momentum", PEPITA, settings=MOMENTUM, activations=(nn.Tanh, nn.ReLU)),
    Case("pepita-clean", partial(PEPITA, presynaptic="clean"), MSE, activations=(nn.Sigmoid,)),
    Case("pepita-second", partial(PEPITA, output_error="second"), settings=DECAY),
    Case("pepita-second-mse", partial(PEPITA, output_error="second"), MSE, settings=NESTEROV),
    Case("pepita-minus", partial(PEPITA, sign=-1), BCE, DEEP, ALL_OF_THEM),
    Case("pepita-one-layer", PEPITA, sizes=(5, 3)),
    Case("pepita-frozen", PEPITA, frozen=("1.weight", "5.bias")),
    Case("pepita-linear", PEPITA, MSE, activations=(nn.Identity,), settings={"lr": 0.01}),
    Case("mem-pepita", MEM_PEPITA, sizes=DEEP, activations=ALL_OF_THEM, settings=MOMENTUM),
    Case("mem-pepita-clean", partial(MEM_PEPITA, presynaptic="clean", sign=-1), MSE, DEEP),
    Case("mem-pepita-bce", MEM_PEPITA, BCE, bias=(False,)),
    Case("dfa", fw.DirectFeedbackAlignment, settings=MOMENTUM, activations=ALL_OF_THEM, sizes=DEEP),
    Case("dfa-mse", fw.DirectFeedbackAlignment, MSE, activations=(nn.Tanh,), bias=(False,)),
    Case("dfa-frozen", fw.DirectFeedbackAlignment, frozen=("1.weight", "1.bias")),
    Case("drtp", fw.DRTP, settings=MOMENTUM, activations=(nn.Tanh, nn.Sigmoid)),
    Case("drtp-bce", fw.DRTP, BCE, DEEP, ALL_OF_THEM, settings={"lr": 0.01}),
    Case("drtp-frozen", fw.DRTP, MSE, frozen=("1.weight", "5.weight", "5.bias")),
    Case("readout-bias", fw.ReadoutOnly, sizes=(5, 3), frozen=("1.weight",)),
    Case("readout", fw.ReadoutOnly, settings=NESTEROV),
    Case("readout-mse", fw.ReadoutOnly, MSE, DEEP, ALL_OF_THEM),
    Case("backprop", fw.Backprop, sizes=DEEP, activations=ALL_OF_THEM, settings=MOMENTUM),
    Case("backprop-bce", fw.Backprop, BCE, bias=(False, True)),
    Case("backprop-frozen", fw.Backprop, MSE, frozen=("1.weight", "1.bias", "3.weight")),
    Case("backprop-one-layer", fw.Backprop, sizes=(5, 3)),
)
OF_NAME = {case.name: case for case in CASES}


class Device:
    """The compiled files, loaded into this process.

    Attributes:
        state: all that the device has learned; a view of its memory.
        names: of the trained parameters in the rule, in the order of the state.
    """

    def __init__(self, library: Path, rule: Rule, optimizer: torch.optim.Optimizer) -> None:
        self.code = code = ctypes.CDLL(str(library))
        code.forwardly_train.restype = ctypes.c_float
        code.forwardly_state.restype = ctypes.c_void_p
        trained = descents_of(rule, optimizer).keys() & set(map(rule.place, rule.trained))
        self.shapes = {n: p.shape for n, p in rule.named_parameters() if n in trained}
        self.by_label = isinstance(rule.loss, nn.CrossEntropyLoss)
        self.outputs = rule.network.stages[-1].synapse.weight.shape[0]
        copies = 2 if optimizer.param_groups[0]["momentum"] else 1
        self.count = sum(shape.numel() for shape in self.shapes.values())
        pointer = ctypes.cast(code.forwardly_state(), ctypes.POINTER(ctypes.c_float))
        self.state = np.ctypeslib.as_array(pointer, (copies * self.count,))

    def reset(self) -> None:
        self.code.forwardly_reset()

    def train(self, sample: Tensor, target: Tensor) -> float:
        given = int(target) if self.by_label else ctypes.c_void_p(target.data_ptr())
        return self.code.forwardly_train(ctypes.c_void_p(sample.data_ptr()), given)

    def predict(self, sample: Tensor) -> tuple[int, NDArray[np.float32]]:
        output = np.full(self.outputs, 7, np.float32)
        pointers = ctypes.c_void_p(sample.data_ptr()), ctypes.c_void_p(output.ctypes.data)
        return self.code.forwardly_predict(*pointers), output

    def load_into(self, rule: Rule) -> None:
        """Give a rule the weights that the device has."""
        weights, _ = self.split(self.state[None].copy())
        with torch.no_grad():
            for name, value in weights.items():
                rule.get_parameter(name).copy_(value[0])

    def split(self, states: NDArray[np.float32]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and momenta of states, (m, numbers), by the parameters' names."""
        found: list[dict[str, Tensor]] = [{}, {}]
        start = 0
        for part in found[: states.shape[1] // self.count]:
            for name, shape in self.shapes.items():
                values = states[:, start : start + shape.numel()].reshape(-1, *shape)
                part[name] = torch.from_numpy(values).double()
                start += shape.numel()
        return found[0], found[1]


def compiled(folder: Path, *flags: str) -> Path:
    """The C file in a folder as a shared library."""
    library = folder / "step.so"
    command = ["gcc", *FLAGS, EXACT, "-O1", "-shared", "-fPIC", *flags, "-o", str(library)]
    subprocess.run([*command, str(folder / "forwardly_step.c"), "-lm"], check=True)
    return library


Loaded = Callable[[Case], Device]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Each case's device, compiled once."""
    devices: dict[str, Device] = {}

    def load(case: Case) -> Device:
        if case.name not in devices:
            folder = tmp_path_factory.mktemp(case.name)
            rule, optimizer = case.build()
            write_c(rule, optimizer, folder)
            devices[case.name] = Device(compiled(folder), rule, optimizer)
        return devices[case.name]

    return load


def check_steps(case: Case, device: Device, count: int) -> None:
    """Each step from the state that the device was in is torch's step from there, in float64."""
    x, target = case.batch(count)
    device.reset()
    before = np.empty((count, device.state.size), np.float32)
    after, losses = np.empty_like(before), np.empty(count)
    for step in range(count):
        before[step] = device.state
        losses[step] = device.train(x[step], target[step])
        after[step] = device.state
    rule, optimizer = case.build()
    rule.double()
    step_of_rule = step_of(rule, descents_of(rule, optimizer))
    values = {name: value.detach() for name, value in state_of(rule).values.items()}
    start, momenta = device.split(before)

    def torchs(
        weights: dict[str, Tensor], momenta: dict[str, Tensor], x: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        state, credit = step_of_rule(State({**values, **weights}, momenta), x, target)
        return {name: state.values[name] for name in weights}, state.momenta, credit.loss

    precise = target if target.dtype == torch.int64 else target.double()
    given = start, momenta, x.double().unsqueeze(1), precise.unsqueeze(1)
    weights, theirs, loss = vmap(torchs)(*given)
    np.testing.assert_allclose(losses, loss.numpy(), rtol=1e-5, atol=4 * FINEST)
    ours, our_momenta = device.split(after)
    assert our_momenta.keys() == momenta.keys() == theirs.keys()
    for name, expected in weights.items():
        # Beside the update's 1e-5 one rounding of the weight; momentum shows the update alone.
        change = largest(expected - start[name])
        allowed = 1e-5 * change + FINEST * largest(expected)
        off = largest(ours[name] - expected)
        assert (change > 0).double().mean() > 0.8, f"{name} hardly learns"
        assert (off <= allowed).all(), f"{name}: off by {float((off / allowed).max())} of that"
    for name, expected in theirs.items():
        off = largest(our_momenta[name] - expected)
        allowed = 1e-5 * largest(expected) + 4 * FINEST
        assert (off <= allowed).all(), f"the momentum of {name}"


def largest(values: Tensor) -> Tensor:
    """Of each of m tensors."""
    return values.flatten(1).abs().amax(1)


@needs_gcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_step_is_torchs(case: Case, load: Loaded) -> None:
    check_steps(case, load(case), STEPS)


@needs_gcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predictions_are_torchs(case: Case, load: Loaded) -> None:
    """Also after training; a weight that the rule freezes is read from flash."""
    device, (x, target) = load(case), case.batch(40)
    device.reset()
    for sample, its_target in zip(x, target, strict=True):
        device.train(sample, its_target)
    rule, _ = case.build()
    device.load_into(rule)
    expected = rule.double().predict(x.double()).numpy()
    given = [device.predict(sample) for sample in x]
    outputs = np.array([output for _, output in given])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert [largest for largest, _ in given] == outputs.argmax(1).tolist()


@needs_gcc
@pytest.mark.parametrize("name", ["pepita", "pepita-second-mse", "mem-pepita-bce", "drtp"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_changes_nothing(name: str, bad: float, load: Loaded) -> None:
    """Be it in the first number, before a rectifier, or in the last."""
    case = OF_NAME[name]
    device, (x, target) = load(case), case.batch(3)
    device.reset()
    device.train(x[0], target[0])
    before = device.state.copy()
    for place in (0, -1):
        sample = x[1].clone()
        sample[place] = bad
        assert math.isnan(device.train(sample, target[1]))
        largest, output = device.predict(sample)
        assert largest == -1
        assert (output == 7).all(), "it was written to"
    if target.is_floating_point():
        broken = target[1].clone()
        broken[-1] = bad
        assert math.isnan(device.train(x[1], broken))
    assert np.array_equal(device.state, before)
    assert math.isfinite(device.train(x[2], target[2]))
    assert not np.array_equal(device.state, before)


@needs_gcc
def test_a_loss_that_overflows_changes_nothing(load: Loaded) -> None:
    case = OF_NAME["dfa-mse"]
    device, (x, target) = load(case), case.batch(1)
    device.reset()
    before = device.state.copy()
    assert math.isnan(device.train(x[0], target[0] + 1e30))
    assert np.array_equal(device.state, before)


@needs_gcc
@pytest.mark.parametrize("label", [-1, 4, 1_000, -(2**31)])
def test_a_label_that_is_no_class_is_refused(label: int, load: Loaded) -> None:
    case = OF_NAME["drtp"]
    assert case.sizes[-1] == 4
    device, (x, _) = load(case), case.batch(1)
    device.reset()
    before = device.state.copy()
    assert math.isnan(device.train(x[0], torch.tensor(label)))
    assert np.array_equal(device.state, before)


@needs_gcc
def test_reset_state_and_learning_rate(tmp_path: Path) -> None:
    """Nothing before the reset; the rate is obeyed; what was kept can be put back."""
    case = OF_NAME["pepita-momentum"]
    rule, optimizer = case.build()
    write_c(rule, optimizer, tmp_path)
    device, (x, target) = Device(compiled(tmp_path), rule, optimizer), case.batch(3)
    assert math.isnan(device.train(x[0], target[0]))
    assert device.predict(x[0])[0] == -1
    assert not device.state.any()
    device.reset()
    weights, momenta = device.split(device.state[None].copy())
    for name, value in weights.items():
        assert torch.equal(value[0].float(), rule.get_parameter(name)), name
        assert not momenta[name].any()
    rate = ctypes.c_float.in_dll(device.code, "forwardly_learning_rate")
    assert rate.value == np.float32(case.settings["lr"])
    start = device.state.copy()
    rate.value = 0
    device.train(x[0], target[0])
    assert np.array_equal(device.state[: device.count], start[: device.count])
    device.reset()
    assert rate.value == np.float32(case.settings["lr"])
    device.train(x[0], target[0])
    kept = device.state.copy()
    first = device.train(x[1], target[1]), device.state.copy()
    device.reset()
    device.state[:] = kept
    assert device.train(x[1], target[1]) == first[0]
    assert np.array_equal(device.state, first[1])
    no_output = ctypes.c_void_p(x[0].data_ptr()), None
    assert device.code.forwardly_predict(*no_output) == device.predict(x[0])[0]


# what is wrong, case, piece of the C file, replacement
MUTANTS = (
    ("updates added", "pepita-momentum", "weight[j] -= rate", "weight[j] += rate"),
    ("hidden sign", "pepita-momentum", "work.h_1[i] - work.err_odd", "-work.h_1[i] + work.err_odd"),
    ("error subtracted", "pepita-momentum", "sample[i] + dot(", "sample[i] - dot("),
    ("error added", "pepita-minus", "sample[i] - dot(", "sample[i] + dot("),
    ("clean for modulated", "pepita-momentum", "post, work.err_odd", "post, work.h_1"),
    ("modulated for clean", "pepita-clean", "post, work.h_1", "post, work.err_odd"),
    ("input clean", "pepita-momentum", "post, work.err_even, FORWARDLY_UNITS_0", "post, sample, 6"),
    ("the first error", "pepita-second", "post = work.err_odd[i];", "post = e[i];"),
    ("momentum forgotten", "mem-pepita", "FORWARDLY_MOMENTUM * momentum[j] + g", "g"),
    ("not looking ahead", "readout", "(g + FORWARDLY_MOMENTUM * momentum[j])", "momentum[j]"),
    ("weights grow", "mem-pepita", "+ FORWARDLY_WEIGHT_DECAY", "- FORWARDLY_WEIGHT_DECAY"),
    ("passes mixed up", "mem-pepita-bce", "post = work.h_odd[i] -", "post = work.h_even[i] -"),
    ("the target's sign", "drtp", "-ROW(B_1", "ROW(B_1"),
    ("slope forgotten", "dfa", "* slope_of_tanh(work.h_2[i])", ""),
    ("slope of another layer", "dfa", "slope_of_tanh(work.h_2[i])", "slope_of_tanh(work.h_1[i])"),
    ("slope of the sigmoid", "dfa", "return h * (1.0f - h)", "return 1.0f - h * h"),
    ("delta not sent on", "backprop", "work.h_1[i] = work.back[i] *", "work.h_1[i] ="),
    ("softmax forgotten", "dfa", "output[j] /= sum", "output[j] *= 1.0f"),
    ("label forgotten", "dfa", "output[label] -= 1.0f", "output[label] -= 0.0f"),
    ("sigmoid forgotten", "backprop-bce", "(z < 0.0f ? small : 1.0f) / (1.0f + small)", "z"),
    (
        "error halved",
        "dfa-mse",
        "output[j] -= target[j]",
        "output[j] = (output[j] - target[j]) / 2",
    ),
    ("loss is the sum", "dfa-mse", "FORWARDLY_OUTPUTS) / FORWARDLY_OUTPUTS", "FORWARDLY_OUTPUTS)"),
    ("logarithm cut short", "dfa", "int odd = 13", "int odd = 3"),
    ("tanh cut short", "dfa-mse", "square < 0.25f", "square < 4.0f"),
    ("bias forgotten", "backprop", "(bias ? bias[i] : 0.0f)", "(bias ? 0.0f : 0.0f)"),
)


@needs_gcc
@pytest.mark.parametrize(
    ("name", "piece", "replacement"),
    [mutant[1:] for mutant in MUTANTS],
    ids=[f"{mutant[1]}: {mutant[0]}" for mutant in MUTANTS],
)
def test_wrong_files_are_found_out(name: str, piece: str, replacement: str, tmp_path: Path) -> None:
    case = OF_NAME[name]
    rule, optimizer = case.build()
    write_c(rule, optimizer, tmp_path)
    file = tmp_path / "forwardly_step.c"
    text = file.read_text("ascii")
    assert text.count(piece) == 1
    file.write_text(text.replace(piece, replacement), "ascii")
    device = Device(compiled(tmp_path, "-Wno-error", "-w"), rule, optimizer)
    with pytest.raises(AssertionError):
        check_steps(case, device, 200)


def undefined(object_file: Path, nm: str) -> set[str]:
    lines = subprocess.check_output([nm, "--undefined-only", object_file], text=True)
    return {line.split()[-1] for line in lines.splitlines()}


@needs_gcc
@pytest.mark.parametrize("flag", ["-O0", "-Os", "-O3"])
def test_needs_expf_and_nothing_else(flag: str, tmp_path: Path) -> None:
    write_c(*OF_NAME["pepita-momentum"].build(), tmp_path)
    command = ["gcc", *FLAGS, flag, "-c", "-o", tmp_path / "step.o"]
    subprocess.run([*command, tmp_path / "forwardly_step.c"], check=True)
    needed = undefined(tmp_path / "step.o", "nm")
    assert {"expf"} <= needed <= {"expf", "memcpy", "memset"}


# Which check is taken out, and what it would have kept from the state.
GUARDS = {
    "sample": ("!is_ready || !all_finite(sample, FORWARDLY_INPUTS)", "!is_ready", math.inf, 0.0),
    "loss": ("if (!is_finite(loss))", "if (0)", 0.0, 1e30),
}


@needs_gcc
@pytest.mark.parametrize("guard", [None, *GUARDS])
def test_checks_are_needed(guard: str | None, tmp_path: Path) -> None:
    """Without one of them what the tests above say of the state would not hold."""
    case = replace(OF_NAME["dfa-mse"], activations=(nn.Sigmoid,))
    rule, optimizer = case.build()
    write_c(rule, optimizer, tmp_path)
    file = tmp_path / "forwardly_step.c"
    text = file.read_text("ascii")
    if guard is not None:
        piece, replacement, *_ = GUARDS[guard]
        assert piece in text
        file.write_text(text.replace(piece, replacement), "ascii")
    device, (x, target) = Device(compiled(tmp_path), rule, optimizer), case.batch(1)
    device.reset()
    before = device.state.copy()
    for _, _, in_sample, in_target in GUARDS.values():
        sample = x[0].clone()
        sample[0] += in_sample
        device.train(sample, target[0] + in_target)
    assert np.array_equal(device.state, before) == (guard is None)


@needs_gcc
def test_the_header_is_cpp_too(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++, which compiles C++, is not installed")
    write_c(*OF_NAME["pepita-momentum"].build(), tmp_path)
    (tmp_path / "main.cpp").write_text(
        '#include "forwardly_step.h"\n'
        "float first() { forwardly_reset(); return forwardly_state()->weights.weight_1[0]; }\n",
        "ascii",
    )
    command = ["g++", "-Wall", "-Wextra", "-Werror", "-c", "-o", tmp_path / "main.o"]
    subprocess.run([*command, tmp_path / "main.cpp"], check=True)
    needed = undefined(tmp_path / "main.o", "nm")
    assert {"forwardly_reset", "forwardly_state"} <= needed  # by their names in C


def test_what_the_optimizer_does_not_hold_stays_in_flash(tmp_path: Path) -> None:
    rule, _ = OF_NAME["pepita"].build()
    optimizer = fw.LocalSGD(rule, lr=0.1, params=rule.model[-1].parameters())
    write_c(rule, optimizer, tmp_path)
    header = (tmp_path / "forwardly_step.h").read_text("ascii")
    assert re.findall(r"float (\w+)\[", header) == ["weight_3", "bias_3"]
    code = (tmp_path / "forwardly_step.c").read_text("ascii")
    constants = re.findall(r"^static const float (\w+)\[", code, re.MULTILINE)
    assert constants == ["weight_1", "bias_1", "weight_2", "F"]


@needs_gcc
def test_files_of_two_exports_do_not_mix(tmp_path: Path) -> None:
    write_c(*OF_NAME["pepita"].build(), tmp_path)
    header = (tmp_path / "forwardly_step.h").read_bytes()
    write_c(*OF_NAME["dfa"].build(), tmp_path)
    (tmp_path / "forwardly_step.h").write_bytes(header)
    command = ["gcc", "-std=c99", "-fsyntax-only", tmp_path / "forwardly_step.c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is of another export" in done.stderr


def one_by_one(activation: type[nn.Module]) -> tuple[Rule, torch.optim.SGD]:
    """A network whose output is its input's activity."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), activation(), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    rule = fw.ReadoutOnly(model, nn.MSELoss())
    return rule, torch.optim.SGD(rule.parameters(), lr=0.1)


@needs_gcc
@pytest.mark.parametrize("activation", ALL_OF_THEM)
def test_activations_are_as_good_as_float(activation: type[nn.Module], tmp_path: Path) -> None:
    """Near zero, where a tanh of exponentials cancels, and where these overflow."""
    rule, optimizer = one_by_one(activation)
    write_c(rule, optimizer, tmp_path)
    device = Device(compiled(tmp_path), rule, optimizer)
    device.reset()
    sizes = torch.cat([torch.logspace(-30, 2, 300), torch.linspace(0.4, 0.6, 100)])
    x = torch.cat([sizes, -sizes, torch.zeros(1)])
    given = [device.predict(number.clone())[1][0] for number in x]
    expected = activation()(x.double()).numpy()
    np.testing.assert_allclose(given, expected, rtol=4 * FINEST, atol=1e-37)


@needs_gcc
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.BCEWithLogitsLoss])
def test_losses_of_large_outputs(loss: type[nn.Module], tmp_path: Path) -> None:
    """Where exponentials would overflow, and of one class that is certain."""
    k = 40
    rule = fw.Backprop(nn.Sequential(nn.Linear(k, k, bias=False)), loss())
    nn.init.eye_(rule.model[0].weight)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.0)
    write_c(rule, optimizer, tmp_path)
    device = Device(compiled(tmp_path), rule, optimizer)
    device.reset()
    numbers = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-3, 1.0, 30.0, 1e3, 1e6):
        output = scale * torch.randn(1, k, generator=numbers)
        target = torch.randint(k, (1,), generator=numbers)
        if loss is nn.BCEWithLogitsLoss:
            target = torch.rand(1, k, generator=numbers)
        precise = target if target.dtype == torch.int64 else target.double()
        expected = float(loss()(output.double(), precise))
        given = device.train(output[0], target[0])
        assert given == pytest.approx(expected, rel=1e-6, abs=FINEST), scale


SMALL = Case("16-8-1", PEPITA, MSE, (16, 8, 1), (nn.Tanh,), (True,), MOMENTUM)
CLASSES = Case("64-16-10", MEM_PEPITA, nn.CrossEntropyLoss, (64, 16, 10), (nn.ReLU,), (True,))
TO_CLASSES = replace(CLASSES, name="64-16-10-dfa", rule=fw.DirectFeedbackAlignment)
ON_THE_BOARD, SAMPLES = 300, 20
M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")


def sections(object_file: Path) -> dict[str, int]:
    """Bytes of an object's code, constants, and memory with and without a first value."""
    text = subprocess.check_output(["arm-none-eabi-size", "-A", object_file], text=True)
    found: dict[str, int] = {".text": 0, ".rodata": 0, ".data": 0, ".bss": 0}
    for name, size in re.findall(r"^(\.\w+)\S*\s+(\d+)\s", text, re.MULTILINE):
        if name in found:
            found[name] += int(size)
    return found


def of_the_board(folder: Path) -> Path:
    """The object file for the board, as small as can be; beside it what stack functions take."""
    command = ["arm-none-eabi-gcc", *M4, *FLAGS, "-Os", "-fstack-usage", "-c", "-o", "step.o"]
    subprocess.run([*command, "forwardly_step.c"], check=True, cwd=folder)
    return folder / "step.o"


def stated(folder: Path) -> dict[str, int]:
    header = (folder / "forwardly_step.h").read_text("ascii")
    return {
        name: int(size) for name, size in re.findall(r"FORWARDLY_(RAM|FLASH)_BYTES (\d+)L", header)
    }


@needs_board
@pytest.mark.parametrize("case", [*CASES, SMALL, CLASSES], ids=lambda case: case.name)
def test_memory_is_as_stated(case: Case, tmp_path: Path) -> None:
    """RAM to the byte; of constants the compiler may take 8 bytes into the code."""
    sizes = write_c(*case.build(), tmp_path)
    found = sections(of_the_board(tmp_path))
    assert stated(tmp_path) == {"RAM": sizes.ram, "FLASH": sizes.flash}
    assert found[".data"] + found[".bss"] == sizes.ram
    assert sizes.flash - 8 <= found[".rodata"] + found[".data"] <= sizes.flash
    assert 0 < found[".text"] < 2_500
    stacks = re.findall(r"\t(\d+)\tstatic$", (tmp_path / "step.su").read_text(), re.MULTILINE)
    assert len(stacks) >= 5
    assert max(map(int, stacks)) < 100  # and calls are three deep
    needed = undefined(tmp_path / "step.o", "arm-none-eabi-nm")
    assert needed <= {"expf", "memcpy", "memset"}


def test_mem_pepita_needs_no_more_for_more_layers(tmp_path: Path) -> None:
    """Beside weights; PEPITA keeps the clean activities of all layers."""

    def beside_weights(rule: Callable[..., Rule], hidden: int) -> int:
        sizes = (12, *[10] * hidden, 3)
        case = Case("deep", rule, sizes=sizes, bias=(False,))
        weights = sum(a * b for a, b in pairwise(sizes))
        return write_c(*case.build(), tmp_path).ram - 4 * weights

    assert len({beside_weights(MEM_PEPITA, hidden) for hidden in (2, 3, 6, 9)}) == 1
    assert beside_weights(PEPITA, 6) - beside_weights(MEM_PEPITA, 6) == 4 * 10 * (6 - 2)


def c_array(name: str, values: Tensor) -> str:
    """An initialised array: of floats, to the bit, or of ints."""
    is_float = values.is_floating_point()
    kind = "float" if is_float else "int"
    shape = "".join(f"[{size}]" for size in values.shape)
    numbers = (
        f"{number.hex()}f" if is_float else str(number) for number in values.ravel().tolist()
    )
    listed = ", ".join(numbers) if values.dim() == 1 else ""
    if values.dim() == 2:
        rows = (c_array("", row).partition(" = ")[2].rstrip(";\n") for row in values)
        listed = ",\n".join(rows)
    return f"static const {kind} {name}{shape} = {{{listed}}};\n"


def run_on_the_board(case: Case, folder: Path) -> Iterator[int]:
    """The words that board.c prints."""
    x, target = case.batch(SAMPLES)
    (folder / "samples.h").write_text(
        f"enum {{ STEPS = {ON_THE_BOARD}, SAMPLES = {SAMPLES} }};\n"
        + c_array("samples", x)
        + c_array("targets", target),
        "ascii",
    )
    files = [BOARD / "board.c", folder / "forwardly_step.c"]
    command = ["arm-none-eabi-gcc", *M4, *FLAGS, EXACT, "-O2", "-I", folder, "-nostartfiles"]
    program = folder / "board.elf"
    subprocess.run([*command, "-T", BOARD / "board.ld", "-o", program, *files, "-lm"], check=True)
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none"]
    semihosting = ["-semihosting-config", "enable=on,target=native", "-serial", "none"]
    done = subprocess.run(
        [*machine, *semihosting, "-kernel", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return (int(word, 16) for word in (done.stdout + done.stderr).split())


@needs_gcc
@needs_board
@pytest.mark.parametrize("case", [SMALL, CLASSES, TO_CLASSES], ids=lambda case: case.name)
def test_learns_on_a_cortex_m4(case: Case, tmp_path: Path, load: Loaded) -> None:
    """Its losses, weights and predictions are torch's, and this machine's."""
    rule, optimizer = case.build()
    write_c(rule, optimizer, tmp_path)
    words = run_on_the_board(case, tmp_path)

    def floats(count: int) -> NDArray[np.float32]:
        return np.array([next(words) for _ in range(count)], np.uint32).view(np.float32)

    device, (x, target) = load(case), case.batch(SAMPLES)
    losses, state = floats(ON_THE_BOARD), floats(device.state.size)
    k = case.sizes[-1]
    predictions = [(next(words), floats(k)) for _ in range(SAMPLES)]
    refused = floats(1)[0], next(words)
    assert next(words, None) is None

    device.reset()
    for step in range(ON_THE_BOARD):
        device.train(x[step % SAMPLES], target[step % SAMPLES])
    np.testing.assert_allclose(state, device.state, rtol=1e-4, atol=1e-6)

    rule.double()
    step_of_rule = step_of(rule, descents_of(rule, optimizer))
    torchs, expected = state_of(rule), []
    precise = target if target.dtype == torch.int64 else target.double()
    for step in range(ON_THE_BOARD):
        i = slice(step % SAMPLES, step % SAMPLES + 1)
        torchs, credit = step_of_rule(torchs, x[i].double(), precise[i])
        expected.append(float(credit.loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)
    assert losses[-SAMPLES:].mean() < 0.9 * losses[:SAMPLES].mean()
    weights, momenta = device.split(state[None])
    for ours, theirs in ((weights, torchs.values), (momenta, torchs.momenta)):
        for name, value in ours.items():
            scale = float(theirs[name].abs().max())
            assert float((value[0] - theirs[name]).abs().max()) < 1e-5 * scale, name

    rule.load_state_dict(torchs.values)
    outputs = rule.predict(x.double()).numpy()
    for (largest, output), theirs in zip(predictions, outputs, strict=True):
        np.testing.assert_allclose(output, theirs, rtol=1e-4, atol=1e-5)
        assert largest == output.argmax()
    assert math.isnan(refused[0])
    assert refused[1] == 2**32 - 1


def test_the_same_is_written_every_time(tmp_path: Path) -> None:
    """Nor does it matter which SGD says how weights descend; all is ASCII."""
    rule, sgd = OF_NAME["pepita-momentum"].build()
    local = fw.LocalSGD(rule, **MOMENTUM)
    texts: list[dict[str, bytes]] = []
    for folder, optimizer in (("a", sgd), ("b", local), ("b", sgd)):
        write_c(rule, optimizer, tmp_path / folder)
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == sorted(NAMES)
        texts.append({name: (tmp_path / folder / name).read_bytes() for name in NAMES})
    assert texts[0] == texts[1] == texts[2]
    assert all(text.isascii() for text in texts[0].values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_files_are_ascii_and_of_plain_lines(case: Case, tmp_path: Path) -> None:
    rule, optimizer = case.build()
    write_c(rule, optimizer, tmp_path)
    for name in NAMES:
        text = (tmp_path / name).read_text("ascii")
        assert type(rule).__name__ in text
        assert not re.search(r"[ \t]$|\n\n\n|{\n\n|[{%]%|{{|\t", text, re.MULTILINE), name
        assert max(map(len, text.splitlines())) <= 120, name
    code = (tmp_path / "forwardly_step.c").read_text("ascii")
    assert "malloc" not in code
    assert re.findall(r"#include (\S+)", code) == [
        '"forwardly_step.h"',
        "<float.h>",
        "<math.h>",
        "<string.h>",
    ]


def a_model(*between: nn.Module, last: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), *between, nn.Linear(3, last))


def a_pepita(*between: nn.Module, loss: nn.Module | None = None) -> Rule:
    return fw.PEPITA(a_model(*between), loss or nn.CrossEntropyLoss())


def sgd(rule: Rule, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(rule.parameters(), **{"lr": 0.1, **settings})


def hooked() -> Rule:
    rule = a_pepita(nn.ReLU())
    rule.model[1].register_forward_hook(lambda *_: None)
    return rule


def frozen() -> Rule:
    model = a_model().requires_grad_(False)
    model[0].requires_grad_(True)
    return fw.ReadoutOnly(model, nn.MSELoss())


def not_finite() -> Rule:
    rule = a_pepita()
    with torch.no_grad():
        rule.model[1].bias[0] = math.nan
    return rule


def groups(rule: Rule) -> torch.optim.Optimizer:
    first, *others = rule.parameters()
    return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": others}], lr=0.1)


def in_bfloat16(rule: Rule) -> torch.optim.Optimizer:
    optimizer = fw.LocalSGD(rule, lr=0.1)
    optimizer.precision = "bf16"  # which not every processor lets one ask for
    return optimizer


def of_another(_: Rule) -> torch.optim.Optimizer:
    return sgd(a_pepita())


REFUSED: dict[str, tuple[Callable[[], Rule], Callable[[Rule], torch.optim.Optimizer], str]] = {
    "rule": (
        lambda: fw.FeedbackAlignment(a_model(), nn.MSELoss()),
        sgd,
        r"the rule FeedbackAlignment is not written in C; those that are: Backprop, DRTP, Direct",
    ),
    "dropout": (lambda: a_pepita(nn.Dropout()), sgd, r"module '1', Dropout.*nn.ReLU, nn.Tanh"),
    "gelu": (lambda: a_pepita(nn.GELU()), sgd, r"module '1', GELU"),
    "two": (lambda: a_pepita(nn.ReLU(), nn.Tanh()), sgd, r"module '2', Tanh.*one activation"),
    "convolution": (
        lambda: fw.Backprop(
            nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(4, 2)), nn.MSELoss()
        ),
        sgd,
        r"module '0', Conv1d.*only nn.Linear",
    ),
    "pooling": (lambda: a_pepita(nn.Unflatten(1, (3, 1)), nn.Flatten()), sgd, r"'1', Unflatten"),
    "flatten": (
        lambda: fw.Backprop(nn.Sequential(nn.Flatten(2), *a_model()), nn.MSELoss()),
        sgd,
        r"'0', Flatten\(start_dim=2",
    ),
    "preparation": (
        lambda: fw.DRTP(nn.Sequential(nn.ReLU(), *a_model()), nn.MSELoss()),
        sgd,
        r"'0', ReLU.*before the first nn.Linear",
    ),
    "sizes": (
        lambda: fw.Backprop(
            nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 2)), nn.MSELoss()
        ),
        sgd,
        r"'2', Linear.*takes 6 numbers.*3 units",
    ),
    "last activation": (
        lambda: fw.Backprop(nn.Sequential(*a_model(), nn.Sigmoid()), nn.MSELoss()),
        sgd,
        r"module '2', Sigmoid.*must end in nn.Linear",
    ),
    "hook": (hooked, sgd, r"module '1' has a hook"),
    "float64": (lambda: a_pepita().double(), sgd, r"torch.float64: call rule.float\(\)"),
    "nan": (not_finite, sgd, r"bias of '1' has a NaN"),
    "frozen": (frozen, sgd, r"nothing would be trained"),
    "not the optimizer's": (
        a_pepita,
        lambda _: torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1),
        r"holds a parameter that is not the model's",
    ),
    "another model": (a_pepita, of_another, r"holds a parameter that is not the model's"),
    "smoothing": (
        lambda: a_pepita(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        sgd,
        r"label_smoothing=\.\.\.\) is not written in C",
    ),
    "error": (
        lambda: fw.PEPITA(a_model(), nn.L1Loss(), error=lambda y, t: (y - t).sign()),
        sgd,
        r"error=, a function of Python",
    ),
    "bfloat16": (a_pepita, in_bfloat16, r'precision="bf16"\) is not written in C'),
    "adam": (a_pepita, lambda r: torch.optim.Adam(r.parameters()), r"optimizer Adam.*LocalSGD"),
    "groups": (a_pepita, groups, r"groups of different settings"),
    "maximize": (a_pepita, partial(sgd, maximize=True), r"SGD\(maximize=True\)"),
    "dampening": (a_pepita, partial(sgd, momentum=0.9, dampening=0.5), r"SGD\(dampening=0.5\)"),
}


@pytest.mark.filterwarnings("ignore:the model ends in")
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused_by_name(what: str, tmp_path: Path) -> None:
    """And nothing is written."""
    make, optimizer_of, message = REFUSED[what]
    rule = make()
    with pytest.raises(UsageError, match=message):
        write_c(rule, optimizer_of(rule), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.unchecked
def test_what_is_no_rule_or_optimizer_is_refused(tmp_path: Path) -> None:
    rule = a_pepita()
    with pytest.raises(TypeError, match="rule must be of class Rule"):
        write_c(rule.model, sgd(rule), tmp_path)
    with pytest.raises(TypeError, match="optimizer must be of class Optimizer"):
        write_c(rule, rule, tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step").write_text("kept", "ascii")
    rule = a_pepita()
    with pytest.raises(UsageError, match="cannot write to"):
        write_c(rule, sgd(rule), tmp_path / "step")
    assert (tmp_path / "step").read_text("ascii") == "kept"


PAGE = (BOARD.parent.parent / "docs" / "on-device-c.md").read_text("utf-8")


def test_the_page_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(snippet, {})
    assert sorted(path.name for path in (tmp_path / "step").iterdir()) == sorted(NAMES)
    wrong = re.search(r"(\d+) wrong versions", PAGE)
    assert wrong is not None
    assert int(wrong[1]) == len(MUTANTS)
    header = (tmp_path / "step" / "forwardly_step.h").read_text("ascii")
    declared = {*re.findall(r"\bforwardly_\w+", header)}
    named = {*re.findall(r"\bforwardly_\w+", PAGE)}
    assert named <= declared
    assert len(named) >= 6


def rows() -> list[tuple[str, ...]]:
    cells = r"\| ([\d-]+) \| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|"
    return re.findall(cells, PAGE)


@pytest.mark.parametrize("row", rows(), ids=" ".join)
def test_sizes_on_the_page(row: tuple[str, ...], tmp_path: Path) -> None:
    """RAM and constants to the byte; code to a tenth, where there is a compiler for the board."""
    sizes = tuple(map(int, row[0].split("-")))
    ram, flash, code = (int(number.replace(",", "")) for number in row[2:])
    small = sizes[-1] == 1
    loss, activation = (MSE, nn.Tanh) if small else (nn.CrossEntropyLoss, nn.ReLU)
    case = Case("page", getattr(fw, row[1]), loss, sizes, (activation,), (True,))
    assert write_c(*case.build(), tmp_path) == (ram, flash)
    if all(map(shutil.which, ON_A_BOARD)):
        assert sections(of_the_board(tmp_path))[".text"] == pytest.approx(code, rel=0.1)


def test_the_page_has_all_sizes() -> None:
    assert len(rows()) == 3 * 6


def test_the_command_and_the_function_write_the_same(command: Any, tmp_path: Path) -> None:
    done = command("export", "--rule", "drtp", "--hidden", 4, "--format", "c", "--out", "step")
    assert done.returncode == 0, done.stderr
    assert "bytes of RAM" in done.stdout
    assert {path.name for path in (tmp_path / "step").iterdir()} == set(NAMES)
    header = (tmp_path / "step" / "forwardly_step.h").read_text()
    assert re.search(r"#define FORWARDLY_INPUTS +64\b", header)

    rule, optimizer = OF_NAME["pepita"].build()
    sizes = fw.export(rule, optimizer, tmp_path / "own", format="c")
    assert isinstance(sizes, Sizes)
    write_c(rule, optimizer, tmp_path / "again")
    for name in NAMES:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.unchecked
def test_other_formats_are_refused(tmp_path: Path) -> None:
    rule, optimizer = OF_NAME["pepita"].build()
    with pytest.raises(
        ValueError, match="format must be one of 'onnx', 'c', 'executorch'; given 'tflite'"
    ):
        fw.export(rule, optimizer, tmp_path / "step", format=cast(Any, "tflite"))


def test_the_command_refuses_before_it_writes(command: Any, tmp_path: Path) -> None:
    done = command("export", "--rule", "foton", "--format", "onnx", "c", "--out", "step")
    assert done.returncode == 2
    assert "FOTON is not written in C" in done.stderr
    assert not (tmp_path / "step").exists()
    assert command("export", "--check", "step", "--format", "c").returncode == 2
    assert command("export", "--page", "--format", "c").returncode == 2
