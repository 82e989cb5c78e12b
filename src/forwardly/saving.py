"""Trained models as files: safetensors, with a description in JSON in its header. No pickle.

``save`` writes one file, which appears whole or not at all. Its header describes the architecture
module by module, the rule with its options, the loss, how samples were prepared, what classes are
called, and which versions wrote it; its tensors are those of ``rule.state_dict()``. Any reader of
safetensors finds the weights there; ``rule.model`` is a plain model of torch's besides, whose
``state_dict()`` can be saved as torch's users are used to.

May import ``rules``, ``data``, and what is below them.
"""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from forwardly import feedback, files
from forwardly.checks import check_kind
from forwardly.data import Dataset, Split
from forwardly.data.preprocessing import Preprocessing
from forwardly.errors import UsageError
from forwardly.files.fields import Fields
from forwardly.network.alterations import alteration
from forwardly.network.kinds import LOSSES, SUPPORTED
from forwardly.rule import Rule
from forwardly.rules.plugins import all_rules

FORMAT = 1
_KEY = "forwardly"
"""Of the description among the header's metadata."""

_KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (*SUPPORTED, *LOSSES, nn.Sequential)
}
_NOT_OPTIONS = ("self", "model", "loss", "input_shape", "error", "generator")
_NOT_ARGUMENTS = ("self", "device", "dtype", "size_average", "reduce", "args", "kwargs")
_PREPARED = "preprocessing."


@dataclass(frozen=True)
class Saved:
    """What is in a file.

    Attributes:
        rule: with its model.
        data: a data set without samples that says what the model learned from: preprocessing,
            labels, columns, and the shape of a sample; None if that was not saved.
    """

    rule: Rule
    data: Dataset | None


def save(rule: Rule, path: Path | str, *, dataset: Dataset | None = None) -> None:
    """Write a rule and its model to a file, replacing one that is there.

    Args:
        rule: of ``fw.RULES``, or of an installed package.
        path: of the file; ``.safetensors`` is the usual ending.
        dataset: what it learned from, to save its preprocessing and labels; not its samples.

    Raises:
        TypeError: if something is of a kind that could not be built again: a class of your own, a
            hook, a function as the error or as an option.
        UsageError: if the file cannot be written.
    """
    check_kind("rule", rule, Rule)
    check_kind("dataset", dataset, Dataset, type(None))
    described = {
        "format": FORMAT,
        "model": _described(rule.model, "the model"),
        "loss": _described(rule.loss, "the loss"),
        "rule": _rule(rule),
        "frozen": [n for n, p in rule.model.named_parameters() if not p.requires_grad],
        "evaluating": [name for name, module in _places(rule) if not module.training],
        "data": None if dataset is None else _data(dataset),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("forwardly", "torch")},
        },
    }
    tensors = dict(rule.state_dict())
    if dataset is not None and dataset.preprocessing is not None:
        tensors |= {f"{_PREPARED}{n}": v for n, v in vars(dataset.preprocessing).items()}
    alone = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    from safetensors.torch import save as as_bytes  # of use here alone

    content = as_bytes(alone, {_KEY: json.dumps(described)})
    try:
        files.write(Path(path), content)
    except OSError as problem:
        raise UsageError(f"cannot write to {path}: {problem.strerror}") from None


def load(path: Path | str) -> Rule:
    """The rule that ``save`` wrote, with its model, on the CPU; ``read`` gives more.

    Nothing in the file is run. The global random state is not touched.

    Raises:
        UsageError: if the file is missing, damaged, or none of ``save``'s.
    """
    return read(path).rule


def read(path: Path | str) -> Saved:
    """All that ``save`` wrote.

    Raises:
        UsageError: if the file is missing, damaged, or none of ``save``'s.
    """
    path = Path(path)
    tensors, content = _content(path)
    try:
        return _saved(tensors, content)
    except UsageError:
        raise
    except Exception as problem:  # whatever comes of values of other kinds
        said = str(problem).partition("\n")[0]
        raise UsageError(
            f"{path} is damaged, or of another version of forwardly: {type(problem).__name__}: "
            f"{said}"
        ) from None


def _content(path: Path) -> tuple[dict[str, Tensor], Fields]:
    from safetensors import safe_open  # pyright: ignore

    if not files.is_there(path):
        raise UsageError(f"there is no file {path}")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with cast(Any, safe_open)(path, framework="pt") as opened:
            metadata: Mapping[str, str] = opened.metadata() or {}
            tensors: dict[str, Tensor] = {n: opened.get_tensor(n) for n in list(opened.keys())}
        content = Fields(path, json.loads(metadata[_KEY]))
    except KeyError:
        raise UsageError(f"{path} was not written by forwardly: it has weights alone") from None
    except UsageError:
        raise
    except Exception as problem:  # safetensors has an exception of its own
        said = str(problem).partition("\n")[0]
        raise UsageError(f"{path} is no file of safetensors, or damaged: {said}") from None
    if content.whole("format") != FORMAT:
        raise UsageError(f"{path} is of another version of forwardly")
    return tensors, content


def _saved(tensors: dict[str, Tensor], content: Fields) -> Saved:
    """Build what the description says, and fill it."""
    own = {name: value for name, value in tensors.items() if not name.startswith(_PREPARED)}
    of_model = {n.removeprefix("model."): v for n, v in own.items() if n.startswith("model.")}
    with torch.device("meta"):  # so that nothing is drawn
        model = _built(content.fields("model"))
        loss = _built(content.fields("loss"))
    model.load_state_dict(of_model, assign=True)
    for name in content.content["frozen"]:
        model.get_parameter(name).requires_grad_(False)
    rule = _built_rule(content.fields("rule"), model, loss, own)
    rule.load_state_dict(own)
    for name in content.content["evaluating"]:
        rule.get_submodule(name).training = False
    if "data" not in content:
        return Saved(rule, None)
    data = content.fields("data")
    prepared = {n.removeprefix(_PREPARED): v for n, v in tensors.items() if n not in own}
    shape = [int(size) for size in data.content["sample_shape"]]
    classes = data.flag("classes")
    outputs = data.whole("outputs", 1)
    target = torch.empty(0, dtype=torch.int64) if classes else torch.empty(0, outputs)
    part = Split(torch.empty(0, *shape), target)
    like = Dataset(
        data.text("name"),
        outputs,
        *(part, part, part),
        labels=tuple(data.content["labels"]),
        preprocessing=Preprocessing(**prepared) if prepared else None,
        columns=tuple(data.content["columns"]),
        target_name=data.content["target_name"],
    )
    return Saved(rule, like)


def _data(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "outputs": dataset.outputs,
        "sample_shape": dataset.sample_shape,
        "classes": dataset.classes,
        "labels": dataset.labels,
        "columns": dataset.columns,
        "target_name": dataset.target_name,
    }


def _described(module: nn.Module, what: str) -> dict[str, Any]:
    """A module's class and arguments, and what is in it."""
    if how := alteration(module):
        raise TypeError(
            f"{what}, {module}, {how}, which could not be built again: save the weights, by "
            "torch.save(rule.model.state_dict(), ...)"
        )
    described: dict[str, Any] = {"kind": type(module).__name__}
    if isinstance(module, nn.Sequential):
        inside = dict(zip(_names_in(module), module, strict=True))
        described["modules"] = {n: _described(m, f"module {n!r}") for n, m in inside.items()}
        return described
    arguments: dict[str, Any] = {}
    for name in inspect.signature(type(module)).parameters:
        value = getattr(module, name, inspect.Parameter.empty)
        if name in _NOT_ARGUMENTS or value is inspect.Parameter.empty:
            continue
        if name == "bias":
            value = value is not None and value is not False
        arguments[name] = _plain(value, f"{name} of {what}")
    return {**described, "arguments": arguments}


def _places(rule: Rule) -> Iterator[tuple[str, nn.Module]]:
    """Every place of a module; one that is used twice comes twice."""
    return cast(Any, rule).named_modules(remove_duplicate=False)


def _names_in(module: nn.Sequential) -> list[str]:
    """Of its modules in order; one that is used twice has two names."""
    return list(module._modules)  # pyright: ignore[reportPrivateUsage]


def _rule(rule: Rule) -> dict[str, Any]:
    known, _ = all_rules()
    name = next((name for name, kind in known.items() if kind is type(rule)), None)
    if name is None:
        raise TypeError(
            f"{type(rule).__name__} is a rule of no installed package, so it could not be found "
            "again: see docs/adding-a-rule.md, or save the weights, by "
            "torch.save(rule.model.state_dict(), ...)"
        )
    if rule.own_error is not None:
        raise TypeError("error= is a function, which cannot be saved: save the weights alone")
    options: dict[str, Any] = {}
    for option, parameter in inspect.signature(type(rule)).parameters.items():
        if option in _NOT_OPTIONS or callable(parameter.default):
            continue  # what an initialiser has drawn is in the buffers
        if not hasattr(rule, option):
            raise TypeError(
                f"{type(rule).__name__} keeps its option {option} under no attribute of that name, "
                "so it cannot be saved"
            )
        options[option] = _plain(getattr(rule, option), f"the option {option}")
    return {"name": name, "options": options, "input_shape": rule.input_shape}


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in cast(tuple[Any, ...], value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{what} is {value!r}, which is no plain data and cannot be saved")


def _built(described: Fields) -> nn.Module:
    name = described.text("kind", *_KINDS)
    if name == "Sequential":
        model = nn.Sequential()
        modules = described.fields("modules")
        for inner in modules:
            model.add_module(inner, _built(modules.fields(inner)))
        return model
    arguments = described.fields("arguments").content
    return _KINDS[name](**{name: _tuples(value) for name, value in arguments.items()})


def _built_rule(
    described: Fields, model: nn.Module, loss: nn.Module, tensors: Mapping[str, Tensor]
) -> Rule:
    known, problems = all_rules()
    name = described.text("name")
    if name not in known:
        why = "".join(f" ({problem})" for problem in problems if problem.startswith(name))
        raise UsageError(
            f"{described.path} is of the rule {name!r}, which no installed package has{why}: "
            "install the one that it was trained with"
        )
    options = {n: _tuples(v) for n, v in described.fields("options").content.items()}
    if "F_1" in tensors:
        options["projection"] = feedback.product()
    shape = described.content["input_shape"]
    options["input_shape"] = None if shape is None else tuple(shape)
    make = cast(Callable[..., Rule], known[name])
    return make(model, loss, generator=torch.Generator().manual_seed(0), **options)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, cast(list[Any], value))) if isinstance(value, list) else value
