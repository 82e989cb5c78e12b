"""Models as files: what comes back is what went in, nothing is run; and commands that use them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import nn

import forwardly as fw
from forwardly import saving
from forwardly.errors import UsageError
from test_cli import Command

X, Y = torch.rand(8, 1, 6, 6), torch.arange(8) % 3


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, (3, 2), stride=(1, 2), padding="valid", bias=True),
        nn.Sequential(nn.Hardtanh(-0.5, 0.7), nn.Dropout2d(0.25)),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 9, bias=False),
        nn.LeakyReLU(0.3),
        nn.Linear(9, 3),
    )


def dense(kind: type[fw.Rule]) -> fw.Rule:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.Softplus(2, 5), nn.Dropout(0.2), nn.Linear(8, 3)
    )
    options: dict[str, Any] = {"learning_rate": 0.05} if kind.needs_learning_rate else {}
    return kind(model, nn.CrossEntropyLoss(), **options)


def same(first: fw.Rule, second: fw.Rule, x: torch.Tensor = X, y: torch.Tensor = Y) -> bool:
    """Whether both do the same, now and in the steps to come."""
    for _ in range(2):
        one, other = first.accumulate(x, y), second.accumulate(x, y)
        if one.updates.keys() != other.updates.keys() or not torch.equal(one.output, other.output):
            return False
        if not all(torch.equal(one.updates[name], other.updates[name]) for name in one.updates):
            return False
    return torch.equal(first.eval().predict(x), second.eval().predict(x))


@pytest.mark.parametrize("name", fw.RULES)
def test_every_rule_comes_back(name: str, tmp_path: Path) -> None:
    rule = dense(fw.RULES[name])
    rule.accumulate(X, Y)  # dropout is in its second step
    fw.save(rule, tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    loaded = fw.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(loaded) is type(rule)
    assert same(rule, loaded)


def other_rules() -> dict[str, fw.Rule]:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    frozen = fw.Backprop(convolutional(), loss)
    frozen.model[0].bias.requires_grad_(False)
    normed = nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5, momentum=0.3),
        nn.PReLU(5),
        nn.Linear(5, 3),
    )
    normed.insert(5, nn.Unflatten(1, (3, 1))).append(nn.Flatten())
    evaluating = fw.Backprop(normed, loss)
    evaluating.model[2].eval()
    act = nn.Tanh()
    twice = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 3)
    )
    signed: dict[str, Any] = {"sign": -1, "output_error": "second", "presynaptic": "clean"}
    return {
        "convolution": fw.PEPITA(convolutional(), loss, input_shape=(1, 6, 6), **signed),
        "frozen": frozen,
        "modes": evaluating,
        "twice": fw.PEPITA(twice, loss, projection=torch.rand(36, 3)),
        "factors": fw.PEPITA(dense(fw.PEPITA).model, loss, projection=fw.feedback.product(0.1)),
        "normalised": fw.PEPITA(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 4), fw.Normalise("batch"), nn.Linear(4, 3)),
            loss,
        ),
        "double": dense(fw.PEPITA).double(),
    }


@pytest.mark.parametrize("name", other_rules())
def test_options_modes_and_kinds_of_modules_come_back(name: str, tmp_path: Path) -> None:
    rule = other_rules()[name]
    fw.save(rule, tmp_path / "m")
    loaded = fw.load(tmp_path / "m")
    assert str(loaded) == str(rule)
    assert [m.training for m in loaded.modules()] == [m.training for m in rule.modules()][
        : len(list(loaded.modules()))
    ] or name == "twice"
    frozen = [n for n, p in loaded.model.named_parameters() if not p.requires_grad]
    assert frozen == [n for n, p in rule.model.named_parameters() if not p.requires_grad]
    x = X.double() if name == "double" else X
    assert same(rule, loaded, x)


def test_a_module_in_two_places_is_one(tmp_path: Path) -> None:
    act = nn.PReLU()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 3)
    )
    rule = fw.Backprop(model, nn.CrossEntropyLoss())
    fw.save(rule, tmp_path / "m")
    loaded = fw.load(tmp_path / "m")
    assert loaded.model[2] is loaded.model[4]
    assert same(rule, loaded)


def test_a_loaded_model_is_its_own(tmp_path: Path) -> None:
    """Whatever becomes of the file; and it can be trained, wherever it was loaded."""
    rule = dense(fw.PEPITA)
    fw.save(rule, tmp_path / "m")
    with torch.inference_mode():
        loaded = fw.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"")
    assert same(rule, loaded)
    torch.optim.SGD(loaded.model.parameters(), 0.1).step()


def test_what_has_changed_is_saved_as_it_is(tmp_path: Path) -> None:
    rule = dense(fw.PEPITA)
    rule.model[2] = nn.Tanh()
    fw.save(rule, tmp_path / "m")
    assert same(rule, fw.load(tmp_path / "m"))
    rule.model[3] = nn.Identity()  # the dropout; its numbers stay in the rule
    fw.save(rule, tmp_path / "m")
    loaded = fw.load(tmp_path / "m")
    assert same(rule, loaded)
    rule.model.register_buffer("own", torch.ones(3))
    with pytest.raises(TypeError, match=r"could not be built again .* Unexpected key.*own"):
        fw.save(rule, tmp_path / "other")
    rule.model[1] = nn.Linear(36, 9)
    with pytest.raises(ValueError, match="the model has changed since the rule was built"):
        fw.save(rule, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(np.int64(36), 4), nn.LeakyReLU(np.float32(0.25)), nn.Linear(4, 3)
    )
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    fw.save(rule, tmp_path / "m")
    assert same(rule, fw.load(tmp_path / "m"))


def test_a_header_cannot_ask_for_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "m"
    fw.save(fw.PEPITA(convolutional(), nn.CrossEntropyLoss(), input_shape=(1, 6, 6)), path)
    tensors, content = load_file(path), description(path)
    content["rule"]["input_shape"] = [1, 6000, 6000]
    path.write_bytes(as_bytes(tensors, {"forwardly": json.dumps(content)}))
    with pytest.raises(UsageError, match=r"input_shape .* is too large"):
        fw.load(path)


def test_what_is_said_of_data_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "m"
    data = fw.Dataset.from_arrays(X.flatten(1), Y).prepared("centre")
    fw.save(dense(fw.PEPITA), path, dataset=data)
    tensors, content = load_file(path), description(path)
    for name, wrong in (
        *(("labels", value) for value in (["a"], [[1], {}, "c"], ["a", "a", "b"], "abc", None)),
        *(("columns", value) for value in (["a", 3.5], "abcd", None)),
        *(("target_name", value) for value in (None, [1])),
        *(("sample_shape", value) for value in ([35], ["x"], None)),
        *(("outputs", value) for value in (0, "3", None)),
        *(("bytes", value) for value in (3, None)),
    ):
        changed = {**content, "data": {**content["data"], name: wrong}}
        path.write_bytes(as_bytes(tensors, {"forwardly": json.dumps(changed)}))
        with pytest.raises(UsageError, match=re.escape(str(path))):
            fw.load(path)
    tensors["preprocessing.mean"][0] = torch.nan
    path.write_bytes(as_bytes(tensors, {"forwardly": json.dumps(content)}))
    with pytest.raises(UsageError, match="its preprocessing is not finite"):
        fw.load(path)


def test_weights_are_where_other_tools_find_them(tmp_path: Path) -> None:
    rule = dense(fw.PEPITA)
    fw.save(rule, tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert torch.equal(found["F"], rule.F)
    for name, value in rule.model.state_dict().items():
        assert torch.equal(found[f"model.{name}"], value)


def test_what_the_data_was_comes_back(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c"])[Y.numpy()]
    dataset = fw.Dataset.from_arrays(X.flatten(1), names, validation=2).prepared("standardise")
    rule = dense(fw.PEPITA)
    fw.save(rule, tmp_path / "m", dataset=dataset)
    loaded = saving.read(tmp_path / "m").data
    assert loaded is not None
    assert loaded.preprocessing is not None
    assert dataset.preprocessing is not None
    assert torch.equal(loaded.preprocessing(X.flatten(1)), dataset.preprocessing(X.flatten(1)))
    assert (loaded.labels, loaded.sample_shape) == (("a", "b", "c"), (36,))
    assert saving.read(tmp_path / "m").rule.state_dict().keys() == rule.state_dict().keys()


class Own(fw.PEPITA.__mro__[1]):  # type: ignore[misc]  # a rule of no package
    paper, uses_autograd, forward_passes = fw.PEPITA.paper, False, 1
    feedback_path, teacher, trains = "", "error", "synapses"

    def assign(self, x: Any, target: Any, step: Any) -> Any:
        raise NotImplementedError


class Square(nn.ReLU):
    def forward(self, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return z**2


def hooked() -> fw.Rule:
    rule = dense(fw.PEPITA)
    rule.model[2].register_forward_hook(lambda *_: None)
    return rule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Own(dense(fw.PEPITA).model, nn.CrossEntropyLoss()),
            "Own is a rule of no installed",
        ),
        (
            lambda: fw.Backprop(
                nn.Sequential(nn.Linear(6, 4), Square(), nn.Linear(4, 3)), nn.MSELoss()
            ),
            r"module '1', Square\(\), is a Square, a class of its own.*torch.save\(rule.mod",
        ),
        (hooked, "has a hook, which could not be built again"),
        (
            lambda: fw.PEPITA(dense(fw.PEPITA).model, nn.L1Loss(), error=lambda a, b: a - b),
            "the loss, L1Loss",
        ),
    ],
)
def test_what_could_not_be_built_again_is_not_written(
    make: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        fw.save(make(), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def description(path: Path) -> dict[str, Any]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["forwardly"])


def written(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    path = tmp_path / "m.safetensors"
    fw.save(dense(fw.PEPITA), path)
    return path, load_file(path), description(path)


def wrong_contents(content: dict[str, Any]) -> list[Any]:
    """Descriptions that somebody has edited, each in one place."""
    made: list[Any] = [None, [], "x", {}, {**content, "format": 2}]

    def change(inside: Any, *keys: Any) -> None:
        for wrong in (None, 3, "x", [], {"kind": "Linear"}, "os.system"):
            copy = json.loads(json.dumps(content))
            place = copy
            for key in keys[:-1]:
                place = place[key]
            if wrong != place[keys[-1]]:
                place[keys[-1]] = wrong
                made.append(copy)

    for keys in (
        ("model",),
        ("model", "modules"),
        ("model", "modules", "1"),
        ("model", "modules", "1", "kind"),
        ("model", "modules", "1", "arguments"),
        ("model", "modules", "1", "arguments", "in_features"),
        ("loss",),
        ("rule",),
        ("rule", "name"),
        ("rule", "options"),
        ("rule", "options", "sign"),
        ("frozen",),
        ("evaluating",),
    ):
        change(content, *keys)
    return made


def test_damaged_files_get_one_line(tmp_path: Path) -> None:
    path, tensors, content = written(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:100], whole[:-1], whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="is no file of safetensors, or damaged"):
            fw.load(path)
    path.write_bytes(as_bytes(tensors))
    with pytest.raises(UsageError, match="was not written by forwardly: it has weights alone"):
        fw.load(path)
    for wrong in wrong_contents(content):
        path.write_bytes(as_bytes(tensors, {"forwardly": json.dumps(wrong)}))
        with pytest.raises(UsageError, match=re.escape(str(path))) as refused:
            fw.load(path)
        assert "\n" not in str(refused.value)
    for name in ("F", "model.1.weight"):
        for other in (torch.rand(3), tensors[name][:1]):
            path.write_bytes(as_bytes({**tensors, name: other}, {"forwardly": json.dumps(content)}))
            with pytest.raises(UsageError, match=r"m\.safetensors is damaged"):
                fw.load(path)
    with pytest.raises(UsageError, match="there is no file"):
        fw.load(tmp_path / "none")
    with pytest.raises(UsageError, match="is not a file"):
        fw.load(tmp_path)
    with pytest.raises(UsageError, match=r"cannot write to .*none/m: No such file"):
        fw.save(dense(fw.PEPITA), tmp_path / "none" / "m")


# The commands.


def flowers(path: Path, kind: bool = True) -> Path:
    rng = np.random.default_rng(0)
    lines = ["long,wide" + ",kind" * kind]
    for i in range(90):
        name = ("rose", "tulip", "lily")[i % 3]
        long, wide = rng.normal((2, 5, 9)[i % 3], 0.4), rng.normal((100, 300, 200)[i % 3], 20)
        lines.append(f"{long:.3f},{wide:.3f}" + f",{name}" * kind)
    path.write_text("\n".join(lines), "utf-8")
    return path


TRAIN = ["train", "--hidden", "16", "--epochs", "8", "--batch", "8", "--threads", "1"]


@pytest.mark.unchecked
def test_predict_and_evaluate(tmp_path: Path, command: Command) -> None:
    flowers(tmp_path / "f.csv")
    done = command(*TRAIN, "--data", "f.csv", "--standardise", "--out", "run")
    assert done.returncode == 0, done.stderr
    said = "f.csv: 2 numbers a sample → kind, 3 classes; 65 samples to train, 7 to validate, 18 to"
    assert said in done.stdout

    done = command("evaluate", "run", "--out", "seen")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    found = json.loads((tmp_path / "seen" / "evaluation.json").read_text("utf-8"))
    assert found["accuracy"] == pytest.approx(result["test_accuracy"])
    assert found["accuracy"] > 0.9
    assert f"18 samples: accuracy {100 * found['accuracy']:.2f} %" in done.stdout
    rows = list(csv.reader(io.StringIO((tmp_path / "seen/confusion.csv").read_text("utf-8"))))
    assert rows[0] == ["target \\ predicted", "lily", "rose", "tulip"]
    counts = np.array(rows[1:])[:, 1:].astype(int)
    pairs = list(
        csv.DictReader(io.StringIO((tmp_path / "seen/predictions.csv").read_text("utf-8")))
    )
    for i, target in enumerate(rows[0][1:]):
        for j, other in enumerate(rows[0][1:]):
            assert counts[i, j] == sum(
                pair["target"] == target and pair["predicted"] == other for pair in pairs
            )
        assert found["classes"][target]["recall"] == pytest.approx(counts[i, i] / counts[i].sum())

    flowers(tmp_path / "new.csv", kind=False)
    done = command("predict", "run", "--data", "new.csv")
    assert done.returncode == 0, done.stderr
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(table[0]) == ["sample", "class", "p(lily)", "p(rose)", "p(tulip)"]
    right = sum(row["class"] == ("rose", "tulip", "lily")[i % 3] for i, row in enumerate(table))
    assert right > 80
    for row in table:
        shares = {name: float(row[f"p({name})"]) for name in ("lily", "rose", "tulip")}
        assert max(shares, key=shares.__getitem__) == row["class"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)

    lines = (tmp_path / "new.csv").read_text("utf-8").splitlines()
    swapped = ["extra,wide,long", *("1," + ",".join(line.split(",")[::-1]) for line in lines[1:])]
    (tmp_path / "swapped.csv").write_text("\n".join(swapped), "utf-8")
    command("predict", "run", "--data", "swapped.csv", "--out", "y.csv")
    assert (tmp_path / "y.csv").read_text("utf-8") == done.stdout  # columns are known by name


@pytest.mark.unchecked
def test_evaluating_numbers(tmp_path: Path, command: Command) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    np.savez(tmp_path / "n.npz", x=x, y=x @ [1, -2, 3])
    options = ["--data", "n.npz", "--centre", "--learning-rate", "0.01"]
    done = command(*TRAIN, *options, "--rule", "backprop", "--out", "run")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", "run", "--data", "n.npz", "--out", "seen")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "seen" / "evaluation.json").read_text("utf-8"))
    lines = csv.reader(io.StringIO((tmp_path / "seen/predictions.csv").read_text("utf-8")))
    table = np.array(list(lines)[1:])[:, 1:].astype(float)
    off = table[:, 0] - table[:, 1]
    assert found["mae"] == pytest.approx(np.abs(off).mean())
    assert found["r2"] == pytest.approx(1 - (off**2).sum() / (table[:, 0].var() * 60))
    assert np.allclose(table[:, 0], x @ [1, -2, 3], atol=1e-5)
    assert f"R² {found['r2']:.4f}" in done.stdout


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict nowhere --data n.csv", "there is no file nowhere"),
        ("predict . --data n.csv", "there is no model.safetensors in .: it is no run"),
        ("predict m --data none.csv", "there is no none.csv: name an .npz file, a .csv file"),
        ("predict m --data n.csv", "the model does not take samples of (2,)"),
        (
            "predict m --data x.npz --out n.csv",
            "n.csv is there already, and nothing is overwritten",
        ),
        ("evaluate m", "m does not say what it learned from: name samples by --data"),
        ("evaluate m --data x.npz", "there are no targets to hold predictions to"),
        ("evaluate m --data y.npz", "the target has the class 7, which is not among those learned"),
    ],
)
def test_mistakes_with_models(
    arguments: str, message: str, tmp_path: Path, command: Command
) -> None:
    flowers(tmp_path / "n.csv", kind=False)
    np.savez(tmp_path / "x.npz", x=X.flatten(1).numpy())
    np.savez(tmp_path / "y.npz", x=X.flatten(1).numpy(), y=np.full(8, 7))
    fw.save(dense(fw.PEPITA), tmp_path / "m")
    before = sorted(tmp_path.iterdir())
    done = command(*arguments.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.unchecked
def test_a_test_part_that_has_changed_is_not_one(tmp_path: Path, command: Command) -> None:
    path = flowers(tmp_path / "f.csv")
    assert command(*TRAIN, "--data", "f.csv", "--out", "run").returncode == 0
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]), "utf-8")  # the same, in another order
    done = command("evaluate", "run")
    assert done.returncode == 2
    assert "f.csv is not what run learned from any more, so its test part may hold" in done.stderr


@pytest.mark.unchecked
def test_bytes_and_numbers_are_told_apart(tmp_path: Path, command: Command) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (60, 12), dtype=np.uint8)
    y = (shades[:, 0] > 127).astype(int)
    np.savez(tmp_path / "bytes.npz", x=shades, y=y)
    said = []
    for options in ((), ("--standardise",)):
        done = command(*TRAIN, "--data", "bytes.npz", "--out", f"run{len(said)}", *options)
        assert done.returncode == 0, done.stderr
        for kind in (np.uint8, np.int64, np.float64):
            np.savez(tmp_path / "new.npz", x=shades.astype(kind))
            said.append(command("predict", f"run{len(said) // 3}", "--data", "new.npz").stdout)
    assert said[0] == said[1] == said[2]
    assert said[3] == said[4] == said[5]
    np.savez(tmp_path / "new.npz", x=shades / 7)
    done = command("predict", "run0", "--data", "new.npz")
    assert done.returncode == 2
    assert "learned from bytes, 0 to 255, which stood for 0 to 1: give either" in done.stderr
    np.savez(tmp_path / "numbers.npz", x=shades.astype(float), y=y)
    assert command(*TRAIN, "--data", "numbers.npz", "--out", "run9").returncode == 0
    first, second = (
        command("predict", "run9", "--data", name).stdout for name in ("numbers.npz", "bytes.npz")
    )
    assert first == second


@pytest.mark.unchecked
def test_classes_are_known_by_name_in_any_file(tmp_path: Path, command: Command) -> None:
    rows = [f"{i % 3}.5,{i},{('1', '01', 'x')[i % 3]}" for i in range(60)]
    (tmp_path / "f.csv").write_text("\n".join(["a,b,kind", *rows]), "utf-8")
    done = command(*TRAIN, "--data", "f.csv", "--standardise", "--out", "run")
    assert "kind, 3 classes" in done.stdout
    assert command("evaluate", "run").returncode == 0
    few = ["kind,name,b,a", *(f"1,somebody,{i},0.5" for i in range(0, 60, 3))]
    (tmp_path / "few.csv").write_text("\n".join(few), "utf-8")
    done = command("evaluate", "run", "--data", "few.csv")
    assert done.returncode == 0, done.stderr
    assert "20 samples: accuracy" in done.stdout


@pytest.mark.unchecked
def test_predictions_that_are_no_numbers_are_refused(tmp_path: Path, command: Command) -> None:
    rule = dense(fw.PEPITA)
    with torch.no_grad():
        rule.model[4].weight.fill_(1e38)
    fw.save(rule, tmp_path / "m")
    np.savez(tmp_path / "x.npz", x=np.full((2, 36), 1e30), y=[0, 1])
    for verb in ("predict", "evaluate"):
        done = command(verb, "m", "--data", "x.npz")
        assert done.returncode == 2
        assert "a NaN or an infinity in what the model makes of the samples" in done.stderr
