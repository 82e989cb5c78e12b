"""The C file: compiled, its steps are torch's, in the memory that it states, on a Cortex-M4 too."""

from __future__ import annotations

import copy
import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap

import forwardly as fw
from forwardly.errors import UsageError
from forwardly.export.c import NAMES, write_c
from forwardly.rule import Rule
from forwardly.training.functional import State, descents_of, state_of, step_of

BOARD = Path(__file__).parent / "board"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-pedantic")
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
        for l, (inputs, units) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
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
        # Beside the update's 1e-5 one rounding of the weight itself; momentum shows the update alone.
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
    ("hidden sign", "pepita-momentum", "work.h_1[i] - work.err_odd[i]", "work.err_odd[i] - work.h_1[i]"),
    ("error subtracted", "pepita-momentum", "sample[i] + dot(", "sample[i] - dot("),
    ("error added", "pepita-minus", "sample[i] - dot(", "sample[i] + dot("),
    ("clean pre", "pepita-momentum", "post, work.err_odd", "post, work.h_1"),
    ("modulated pre", "pepita-clean", "post, work.h_1", "post, work.err_odd"),
    ("clean input as pre", "pepita-momentum", "post, work.err_even, FORWARDLY_UNITS_0", "post, sample, FORWARDLY_UNITS_0"),
    ("first error", "pepita-second", "post = work.err_odd[i];", "post = e[i];"),
    ("momentum forgotten", "mem-pepita", "FORWARDLY_MOMENTUM * momentum[j] + g", "g"),
    ("no looking ahead", "readout", "(g + FORWARDLY_MOMENTUM * momentum[j])", "momentum[j]"),
    ("weights grow", "mem-pepita", "pre[j] + FORWARDLY_WEIGHT_DECAY", "pre[j] - FORWARDLY_WEIGHT_DECAY"),
    ("clean pass not again", "mem-pepita", "work.h_odd[i] - work.err_odd[i]", "work.h_even[i] - work.err_odd[i]"),
    ("target's sign", "drtp", "-ROW(B_1", "ROW(B_1"),
    ("slope forgotten", "dfa", "* slope_of_tanh(work.h_2[i])", ""),
    ("slope of the wrong layer", "dfa", "slope_of_tanh(work.h_2[i])", "slope_of_tanh(work.h_1[i])"),
    ("slope of the sigmoid", "dfa", "return h * (1.0f - h)", "return 1.0f - h * h"),
    ("delta not sent on", "backprop", "work.h_1[i] = work.back[i] *", "work.h_1[i] ="),
    ("softmax forgotten", "dfa", "output[j] /= sum", "output[j] *= 1.0f"),
    ("label forgotten", "dfa", "output[label] -= 1.0f", "output[label] -= 0.0f"),
    ("sigmoid forgotten", "backprop-bce", "(z < 0.0f ? small : 1.0f) / (1.0f + small)", "z"),
    ("mean for error", "dfa-mse", "output[j] -= target[j]", "output[j] = (output[j] - target[j]) / 4"),
    ("loss not the mean", "dfa-mse", "FORWARDLY_OUTPUTS) / FORWARDLY_OUTPUTS", "FORWARDLY_OUTPUTS)"),
    ("logarithm cut short", "dfa", "int odd = 13", "int odd = 3"),
    ("tanh cut short", "dfa-mse", "square < 0.25f", "square < 4.0f"),
    ("tanh cancels", "pepita-momentum", "square < 0.25f", "square < 0.0f"),
    ("bias forgotten", "backprop", "(bias ? bias[i] : 0.0f)", "(bias ? 0.0f : 0.0f)"),
)  # fmt: skip


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
        check_steps(case, device, 300)


def symbols(object_file: Path, nm: str) -> set[str]:
    lines = subprocess.check_output([nm, "--undefined-only", object_file], text=True)
    return {line.split()[-1] for line in lines.splitlines()}


@needs_gcc
@pytest.mark.parametrize("flags", ["-O0", "-Os", "-O3"])
@pytest.mark.parametrize("name", ["pepita-momentum", "backprop-bce"])
def test_needs_expf_and_nothing_else(name: str, flags: str, tmp_path: Path) -> None:
    write_c(*OF_NAME[name].build(), tmp_path)
    command = ["gcc", *FLAGS, flags, "-c", "-o", tmp_path / "step.o"]
    subprocess.run([*command, tmp_path / "forwardly_step.c"], check=True)
    needed = symbols(tmp_path / "step.o", "nm")
    assert {"expf"} <= needed <= {"expf", "memcpy", "memset"}


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
