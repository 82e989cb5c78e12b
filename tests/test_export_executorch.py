"""Steps as ExecuTorch programs, held to torch in its runtime where that is installed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import forwardly as fw
from exported import NETS, batch, made, sgd, takes
from forwardly.commands.export import _chosen
from forwardly.errors import UsageError
from forwardly.rules.plugins import RULES

pytestmark = pytest.mark.unchecked  # traces take long as it is
INSTALLED = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not INSTALLED, reason="executorch is not installed")


def cases() -> list[tuple[str, str]]:
    """Each rule on a network, in turn, and backprop, which has most operations, on all."""
    turns = [(name, list(NETS)[place % 3]) for place, name in enumerate(RULES)]
    chosen = [(name, net if takes(name, net) else "dense") for name, net in turns]
    return sorted({*chosen, *(("backprop", net) for net in NETS)})


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    root = tmp_path_factory.mktemp("programs")

    @cache
    def export(name: str, net: str, samples: int = 6) -> Any:
        rule, place = made(name, net), root / f"{name}-{net}-{samples}"
        return fw.export(rule, sgd(rule), place, batch(net, samples), format="executorch")

    return export


def forward(path: Path) -> Any:
    from executorch.runtime import Runtime  # pyright: ignore

    return Runtime.get().load_program(str(path)).load_method("forward")


@needs_executorch
@pytest.mark.parametrize(("name", "net"), cases())
def test_steps_are_torchs(name: str, net: str, exported: Any) -> None:
    checked = exported(name, net).check()
    assert [row.file for row in checked.rows] == ["train_step.pte", "predict.pte"]
    most = 5e-3 if RULES[name].compares_passes else 2e-4
    for row in checked.rows:
        assert row.runtime.startswith("executorch ")
        assert not row.problem, row
        assert row.absolute < 2e-4, row
        assert row.relative < most, row


def test_every_rule_has_a_network() -> None:
    assert {name for name, _ in cases()} == set(RULES)
    assert len(cases()) >= 25


@needs_executorch
def test_a_batch_may_have_any_size_up_to_the_examples(exported: Any) -> None:
    """Of more than 15 samples, too, below which torch would choose another convolution."""
    from forwardly.export.step import NamedStep

    path = exported("backprop", "convolution", 20).path
    said = json.loads((path / "forwardly.json").read_text("utf-8"))
    assert said["most_samples"] == 20
    names = {k: [one["name"] for one in said["train_step.pte"][k]] for k in ("inputs", "outputs")}
    rule = made("backprop", "convolution")
    torchs, step = NamedStep(rule, sgd(rule)), forward(path / "train_step.pte")
    for samples in (1, 2, 19, 20):
        x, target = batch("convolution", samples, seed=samples)
        given = {**torchs.state, "x": x, "target": target, "learning_rate": torch.tensor(0.1)}
        found = step.execute([given[name].detach().contiguous() for name in names["inputs"]])
        expected = torchs(given)
        assert list(expected) == names["outputs"]
        for name, value in zip(names["outputs"], found, strict=True):
            torch.testing.assert_close(value, expected[name].detach(), rtol=0, atol=2e-6)
    x, target = batch("convolution", 21)
    given = {**torchs.state, "x": x, "target": target, "learning_rate": torch.tensor(0.1)}
    with pytest.raises(RuntimeError):
        step.execute([given[name].detach().contiguous() for name in names["inputs"]])


@needs_executorch
def test_samples_are_prepared(tmp_path: Path) -> None:
    rule, place = made("readout-only", "numbers"), tmp_path / "step"
    options: Any = {"format": "executorch", "prepare": lambda x: (x - 1) / 2}
    fw.export(rule, sgd(rule), place, batch("numbers"), **options).check()
    assert json.loads((place / "forwardly.json").read_text("utf-8"))["prepares"]
    assert "the files shift and scale it" in (place / "README.md").read_text("utf-8")
    x, _ = batch("numbers")
    given = {**rule.state_dict(), "x": x}
    said = json.loads((place / "forwardly.json").read_text("utf-8"))["predict.pte"]
    (found,) = forward(place / "predict.pte").execute([given[i["name"]] for i in said["inputs"]])
    torch.testing.assert_close(found, rule.predict((x - 1) / 2), rtol=0, atol=2e-6)


@needs_executorch
def test_the_check_bites(exported: Any, tmp_path: Path) -> None:
    from forwardly.data import npz
    from forwardly.export.check import check
    from forwardly.export.folder import CHECK, Contents, _npz

    contents = Contents.read(exported("pepita", "dense").path)
    for name in ("0/new.model.1.weight", "predicted"):
        arrays = npz.load(contents.path / CHECK)
        arrays[name] = arrays[name] * np.float32(1.001)
        wrong = tmp_path / name.replace("/", "-")
        shutil.copytree(contents.path, wrong)
        (wrong / CHECK).write_bytes(_npz(arrays))
        assert check(Contents(wrong, contents.fields)).wrong


@needs_executorch
def test_equal_rules_give_equal_bytes_that_say_nothing_of_the_machine(
    exported: Any, tmp_path: Path
) -> None:
    first, rule = exported("pepita", "dense").path, made("pepita", "dense")
    second = tmp_path / "again"
    fw.export(rule, sgd(rule), second, batch("dense"), format="executorch")
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 6
    here = {str(Path(fw.__file__).parent), str(Path(torch.__file__).parent), str(Path.cwd())}
    for name in names:
        content = (first / name).read_bytes()
        assert content == (second / name).read_bytes(), name
        assert not re.search(rb"\.py\b|Traceback|site-packages|/home|/tmp|/root", content), name
        assert not [place for place in here if place.encode() in content]


@needs_executorch
def test_random_numbers_may_be_made_in_the_program(tmp_path: Path) -> None:
    """By shifts of 64 bits, whose kernels wrap around as torch's do."""
    rule = made("pepita", "dense")
    assert rule.noise is not None
    options: Any = {"format": "executorch", "numbers": "graph"}
    checked = fw.export(rule, sgd(rule), tmp_path / "step", batch("dense"), **options).check()
    assert [row.absolute < 2e-4 for row in checked.rows] == [True, True]


@needs_executorch
def test_operators_without_a_kernel_are_refused_by_name() -> None:
    from forwardly.export import executorch

    executorch._refuse_unknown(["aten::add.out"])
    said = r"has no portable kernel for aten::__lshift__\.Scalar_out: export the step as ONNX"
    with pytest.raises(UsageError, match=said):
        executorch._refuse_unknown(["aten::add.out", "aten::__lshift__.Scalar_out"])


def blocks(path: Path, language: str) -> str:
    text = (path / "README.md").read_text("utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


@needs_executorch
@pytest.mark.parametrize(("name", "net"), [("pepita", "dense"), ("backprop", "numbers")])
def test_the_readmes_python_learns(name: str, net: str, exported: Any, tmp_path: Path) -> None:
    shutil.copytree(exported(name, net).path, tmp_path / "step")
    program = [sys.executable, "-c", blocks(tmp_path / "step", "python")]
    done = subprocess.run(program, cwd=tmp_path / "step", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    assert name == "pepita" or losses[-1] < losses[0]  # where nothing is drawn
    assert (tmp_path / "step/trained.safetensors").exists()


@needs_executorch
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize(("name", "net"), [("pepita", "dense"), ("backprop", "numbers")])
def test_the_readmes_cpp_learns(name: str, net: str, exported: Any, tmp_path: Path) -> None:
    import executorch  # pyright: ignore

    root = Path(next(iter(executorch.__path__)))
    if not (root / "lib/libexecutorch.so").exists():
        pytest.skip("this executorch brings no library for C++")
    shutil.copytree(exported(name, net).path, tmp_path / "step")
    (tmp_path / "main.cpp").write_text(blocks(tmp_path / "step", "cpp"), "utf-8")
    include = root / "include"
    command = [
        *("g++", "-std=c++17", "-w", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}"),
        f"-I{include}/executorch/runtime/core/portable_type/c10",
        *(tmp_path / "main.cpp", "-o", tmp_path / "main", f"-L{root}/lib", "-Wl,--no-as-needed"),
        *("-lexecutorch", "-lexecutorch_kernels_optimized", "-lexecutorch_threadpool"),
        f"-Wl,-rpath,{root}/lib",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [str(tmp_path / "main")], cwd=tmp_path / "step", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    assert name == "pepita" or losses[-1] < losses[0]  # where nothing is drawn


@needs_executorch
def test_the_runner_refuses_programs(exported: Any) -> None:
    with pytest.raises(UsageError, match=r"has programs for ExecuTorch, and fw\.Exported runs"):
        fw.Exported(exported("pepita", "dense").path)


@needs_executorch
def test_the_command_writes_and_checks_several_formats(command: Any, tmp_path: Path) -> None:
    given = ("export", "--hidden", 4, "--batch", 16, "--out", "step")
    done = command(*given, "--format", "c,executorch")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "step").iterdir()} == {"c", "executorch"}
    said = json.loads((tmp_path / "step/executorch/forwardly.json").read_text("utf-8"))
    assert said["most_samples"] == 16
    done = command("export", "--check", "step/executorch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as torch") == 2


def small() -> tuple[fw.PEPITA, torch.optim.SGD, tuple[torch.Tensor, torch.Tensor]]:
    rule = fw.PEPITA(nn.Sequential(nn.Linear(3, 2)), nn.MSELoss())
    return rule, torch.optim.SGD(rule.parameters(), 0.1), (torch.zeros(4, 3), torch.zeros(4, 2))


def test_without_executorch_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forwardly.export import folder

    monkeypatch.setitem(sys.modules, "forwardly.export.executorch", None)
    rule, optimizer, example = small()
    with pytest.raises(UsageError, match=r"executorch is needed .*'forwardly\[executorch\]'"):
        fw.export(rule, optimizer, tmp_path / "step", example, format="executorch")
    assert not (tmp_path / "step").exists()

    from forwardly.export import check
    from forwardly.files.fields import Fields

    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    (tmp_path / folder.CHECK).write_bytes(folder._npz({"x": np.zeros(1)}))
    fields = Fields(tmp_path / folder.CONTENTS, {folder.PROGRAM: {}})
    with pytest.raises(UsageError, match=r"executorch is needed .*'forwardly\[executorch\]'"):
        check.check(folder.Contents(tmp_path, fields))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (("onnx",), ["onnx"]),
        (("c", "onnx"), ["onnx", "c"]),
        (("onnx,c,executorch",), ["onnx", "c", "executorch"]),
        (("executorch,", " c"), None),
        (("executorch, c", "c"), ["c", "executorch"]),
        (("tflite",), None),
        ((), None),
    ],
)
def test_formats_come_apart_at_spaces_and_commas(
    given: tuple[str, ...], chosen: list[str] | None
) -> None:
    if chosen is None:
        with pytest.raises(UsageError, match="--format takes onnx, c or executorch, or several"):
            _chosen(given)
    else:
        assert _chosen(given) == chosen


def test_the_command_names_an_unknown_format(command: Any) -> None:
    done = command("export", "--format", "onnx,tflite", "--out", "step")
    assert done.returncode == 2
    assert "or several; given 'tflite'" in done.stderr
    assert not Path("step").exists()


def test_importing_forwardly_imports_no_executorch() -> None:
    program = "import sys, forwardly; print([n for n in sys.modules if n.startswith('executorch')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
