"""--device: what "auto" takes, what is refused, and that everything goes to the device."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forwardly as fw
from forwardly import models
from forwardly.data.teacher_student import draw
from forwardly.errors import UsageError
from forwardly.experiments import published
from forwardly.experiments.recipe import Prepared, Recipe, prepare_on
from forwardly.experiments.teacher_student import Run, TeacherStudent
from forwardly.fast import devices
from forwardly.fast.devices import LARGE, choose, multiply_adds
from test_cli import Command
from test_devices import OnHost, WithoutFloat64, without_float64
from test_reproduction import InTurn, experiment

GPU, META = torch.device("cuda"), torch.device("meta")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU that can be chosen, though nothing can be put there."""

    def named(name: str, real: Callable[..., torch.device] = devices.device_named, **_: Any) -> Any:
        return torch.device(name) if name.startswith("cuda") else real(name)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: GPU)
    monkeypatch.setattr(devices, "device_named", named)
    monkeypatch.setattr(devices, "_has_float64", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Made-Up 1")
    return GPU


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where runs were to go, none of which does."""
    places: list[str] = []

    def to(prepared: Prepared, device: torch.device) -> Prepared:
        places.append(str(device))
        return prepared

    monkeypatch.setattr(Prepared, "to", to)
    return places


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


def test_auto_takes_a_gpu_for_what_is_large(gpu: torch.device) -> None:
    large, small = choose("auto", LARGE), choose("auto", LARGE - 1)
    assert large.device == gpu
    assert str(large) == (
        "cuda (Made-Up 1), as there is one and a batch is 10 million multiply-adds"
    )
    assert str(small) == "cpu, as a batch is small (10 million multiply-adds)"
    assert str(choose("auto")) == "cuda (Made-Up 1), as there is one"
    assert str(choose("cuda:1", 1)) == "cuda:1 (Made-Up 1)"


def test_what_is_small_wakes_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.accelerator, "current_accelerator")
    assert choose("auto", 1).device.type == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_auto_where_there_is_none() -> None:
    assert str(choose("auto", LARGE)) == "cpu, as torch sees no GPU"
    assert str(choose("cpu", LARGE)) == "cpu"


def test_auto_takes_no_accelerator_that_was_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("hpu"))
    assert choose("auto", LARGE).device.type == "cpu"


def test_auto_stays_where_a_run_was(gpu: torch.device) -> None:
    assert choose("auto", LARGE, before="cpu").device.type == "cpu"
    chosen = choose("auto", 1, before="cuda:1")
    assert (str(chosen.device), chosen.why) == ("cuda:1", "where the run was until now")


@pytest.mark.usefixtures("no_gpu")
def test_auto_leaves_a_device_that_is_no_more() -> None:
    assert str(choose("auto", LARGE, before="cuda:99")) == "cpu, as torch sees no GPU"


def test_a_device_without_float64(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_float64", lambda device: device.type == "cpu")
    chosen = choose("auto", LARGE, torch.float64)
    assert str(chosen) == "cpu, as NVIDIA's and AMD's GPUs have no float64"
    with pytest.raises(UsageError, match="the device cuda has no float64: take float32, or the"):
        choose("cuda", LARGE, torch.float64)
    assert choose("cuda", LARGE, torch.float32).device == gpu


def test_whether_a_device_has_float64_is_tried() -> None:
    assert devices._has_float64(torch.device("cpu"))
    with WithoutFloat64():
        assert not devices._has_float64(torch.device("cpu"))


def test_multiply_adds_are_those_of_a_pass() -> None:
    """As counted by torch, which sees the products."""
    from torch.utils.flop_counter import FlopCounterMode

    convolutions = [nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 6, 3, groups=2)]
    for model, shape in (
        (models.mlp(12, (7, 5), 3), (12,)),
        (nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(6 * 5 * 5, 3)), (3, 15, 15)),
    ):
        rule = fw.ReadoutOnly(model, nn.CrossEntropyLoss(), input_shape=shape)
        with FlopCounterMode(display=False) as counted:
            model(torch.zeros(9, *shape))
        assert 2 * multiply_adds(rule, shape, 9) == counted.get_total_flops()


@pytest.fixture
def same_parameters() -> Iterator[None]:
    """Moving keeps parameters the same objects, as it does between devices that have values."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


CONV = {"model": "conv", "hidden": (2,), "normalise": "batch", "rule": "direct-feedback-alignment"}


@pytest.mark.usefixtures("same_parameters")
@pytest.mark.parametrize(
    "changes",
    [{}, {"rule": "sign-symmetry-batch", "dtype": "float64"}, CONV, {"dtype": "bf16"}],
)
def test_all_of_a_run_is_moved(changes: dict[str, Any]) -> None:
    """To a device without values, so that nothing may be left behind, or looked at, in a step."""
    images = fw.Dataset.from_arrays(torch.rand(60, 1, 8, 8), torch.arange(60) % 10)
    recipe = Recipe(**{"hidden": (8,), "dropout": 0.2, **changes})
    prepared = prepare_on(images, recipe, 0).to(META)
    data = prepared.dataset
    tensors = list(prepared.rule.state_dict().values())
    for part in (data.train, data.validation, data.test):
        tensors += [part.x, part.target]
    assert isinstance(prepared.optimizer, fw.LocalSGD)
    prepared.optimizer.prepare()
    x, target = data.train.batch(slice(7), prepared.recipe.torch_dtype)
    credit = prepared.optimizer.step(x, target)
    tensors += [credit.output, credit.loss, *prepared.rule.state_dict().values()]
    state = prepared.optimizer.state_dict()["state"].values()
    tensors += [value for one in state for value in one.values() if isinstance(value, Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_train_says_what_it_took(
    tmp_path: Path, gpu: torch.device, moved: list[str], command: Command
) -> None:
    small = ["train", "--data", "digits", "--epochs", "1", "--measure", "none"]
    large = [*small, "--hidden", "1024", "--batch", "256", "--out", "large"]
    done = command(*large)
    assert done.returncode == 0, done.stderr
    assert "Device: cuda (Made-Up 1), as there is one and a batch is 19 million" in done.stdout
    assert command(*small, "--hidden", "8", "--out", "small").returncode == 0
    assert moved == ["cuda", "cpu"]
    config = json.loads((tmp_path / "large" / "config.json").read_text("utf-8"))
    assert (config["device"], config["device_model"]) == ("cuda", "Made-Up 1")
    assert json.loads((tmp_path / "small" / "config.json").read_text("utf-8"))["device"] == "cpu"


def test_a_resumed_run_stays_where_it_was_or_says_so(
    tmp_path: Path,
    gpu: torch.device,
    moved: list[str],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ["train", "--data", "digits", "--hidden", "8", "--measure", "none", "--out", "here"]
    assert command(*run, "--epochs", "1", "--device", "cuda").returncode == 0
    done = command(*run, "--epochs", "2", "--resume")
    assert "Device: cuda (Made-Up 1), where the run was until now." in done.stdout
    assert "up to rounding" not in done.stdout
    done = command(*run, "--epochs", "3", "--resume", "--device", "cpu")
    assert "Until now the run was on cuda: from here on it ends" in done.stdout
    assert moved == ["cuda", "cuda", "cpu"]
    config = json.loads((tmp_path / "here" / "config.json").read_text("utf-8"))
    assert config["device"] == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_run_from_another_machine_goes_on(tmp_path: Path, command: Command) -> None:
    """On the processor, bit for bit as a run that was there all the time."""
    run = ["train", "--data", "digits", "--hidden", "8", "--measure", "none"]
    assert command(*run, "--epochs", "1", "--out", "here").returncode == 0
    path = tmp_path / "here" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "device": "cuda:99"}), "utf-8")
    done = command(*run, "--epochs", "2", "--out", "here", "--resume")
    assert done.returncode == 0, done.stderr
    assert "Until now the run was on cuda:99" in done.stdout
    assert command(*run, "--epochs", "2", "--out", "there").returncode == 0
    here, there = (
        fw.load(tmp_path / name / "model.safetensors").state_dict() for name in ("here", "there")
    )
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_compare_trains_there(gpu: torch.device, moved: list[str], command: Command) -> None:
    options = ["--rules", "readout-only", "--seeds", "1", "--epochs", "1", "--learning-rate", "0.1"]
    done = command("compare", *options, "--hidden", "1024", "--batch", "256")
    assert "Device: cuda (Made-Up 1)" in done.stdout
    assert moved == ["cuda"]
    moved.clear()
    command("compare", *options, "--hidden", "8")
    assert moved == ["cpu"]


def test_reproduce_takes_a_gpu_by_auto(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    asked: list[tuple[str, int]] = []
    for cells, name in (({"epochs": 2}, "toy"), ({"dtype": "bf16", "epochs": 2}, "other")):
        monkeypatch.setitem(published.EXPERIMENTS, name, experiment(milestones=(), **cells))

    def engine(*where: Any) -> InTurn:
        asked.append((str(where[0]) if where[1:] else "cpu", where[-1]))
        return InTurn()

    monkeypatch.setattr("forwardly.experiments.engines.at_once.AtOnce", engine)
    monkeypatch.setattr("forwardly.commands.engines.Processes", engine)
    monkeypatch.setattr("forwardly.commands.reproduce.run_all", lambda *_: iter(()))
    assert (
        "Device: cuda (Made-Up 1), as there is one."
        in command("reproduce", "toy", "--device", "auto").stdout
    )
    said = command("reproduce", "other", "--device", "auto").stdout
    assert "Device: cpu, as a cell cannot be run elsewhere: its precision is bfloat16." in said
    command("reproduce", "toy")
    assert asked == [("cuda", 10), ("cpu", 2), ("cpu", 2)]


def test_teacher_student_runs_the_readable_rule_elsewhere(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    settings = TeacherStudent(rules=("pepita",), epochs=5, dtype="float32")
    tasks = [draw(settings, np.random.default_rng(seed)) for seed in (0, 1)]
    there = Run(settings, tasks, device=META).trainings["pepita"]
    assert type(there).__name__ == "FullBatchTraining"
    assert {tensor.device.type for tensor in there._state} == {"meta"}
    assert {tensor.device.type for tensor in (*there._train, *there._validation)} == {"meta"}
    places: list[str] = []

    class Asked(Run):
        def __init__(self, *given: Any) -> None:
            places.append(str(given[3]))
            super().__init__(*given[:3])

    monkeypatch.setattr("forwardly.commands.teacher_student.Run", Asked)
    small = ["teacher-student", "--rules", "readout-only", "--epochs", "1"]
    done = command(*small, "--device", "auto")
    assert "Device: cpu, as a batch is small (0.14 million multiply-adds)" in done.stdout
    done = command(*small, "--device", "auto", "--hidden", "1000")
    assert "Device: cuda (Made-Up 1), as there is one and" in done.stdout
    command(*small)
    assert places == ["cpu", "cuda", "cpu"]


def test_full_batches_are_read_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """And need no float64 there."""
    settings = TeacherStudent(rules=("pepita",), dtype="float32", engine="readable")
    there = Run(settings, [draw(settings, np.random.default_rng(0))]).trainings["pepita"]

    def numpy(tensor: Tensor, real: Callable[[Tensor], Any] = Tensor.numpy) -> Any:
        assert isinstance(tensor, OnHost), "a GPU's tensor cannot be one of NumPy's"
        return real(tensor)

    monkeypatch.setattr(Tensor, "numpy", numpy)
    with without_float64():
        assert there.advance(1, 2)[0].train.dtype == np.float64
        assert there.weights(0)[0].dtype == np.float64


def places_of(*tensors: Tensor) -> set[str]:
    return {str(tensor.device) for tensor in tensors}


def test_audit_measures_there(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    asked: list[set[str]] = []

    def measured(rule: fw.Rule, x: Tensor, target: Tensor) -> None:
        asked.append(places_of(*rule.state_dict().values(), x, target))
        raise UsageError("no values")

    monkeypatch.setattr(devices, "device_named", lambda _, **__: META)
    monkeypatch.setattr("forwardly.commands.audit.measure", measured)
    assert "no values" in command("audit", "--device", "cuda").stderr
    assert asked == [{"meta"}]


def test_models_predict_there(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    asked: list[set[str]] = []

    def said(rule: fw.Rule, x: Tensor) -> Tensor:
        asked.append(places_of(*rule.state_dict().values(), x))
        return torch.zeros(len(x), 10)

    run = ["train", "--data", "digits", "--hidden", "8", "--epochs", "1", "--out", "run"]
    assert command(*run).returncode == 0
    np.savez("x.npz", x=np.zeros((3, 64), np.float32))
    monkeypatch.setattr(devices, "device_named", lambda _, **__: META)
    monkeypatch.setattr(fw.PEPITA, "predict", said)
    for arguments in (["predict", "run", "--data", "x.npz"], ["evaluate", "run"]):
        done = command(*arguments, "--device", "cuda")
        assert done.returncode == 0, done.stderr
    done = command("predict", "run", "--data", "x.npz", "--device", "auto")
    assert done.stderr.startswith("Device: cpu, as a batch is small")
    assert done.stdout.startswith("sample,class")
    assert asked == [{"meta"}, {"meta"}, {"cpu"}]
