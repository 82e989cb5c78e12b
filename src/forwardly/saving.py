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
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from forwardly import feedback, files, models
from forwardly.checks import check_kind
from forwardly.data import Dataset, Split
from forwardly.data.preprocessing import Preprocessing
from forwardly.errors import UsageError
from forwardly.files.fields import Fields
from forwardly.models import own as own_models
from forwardly.models.own import Own
from forwardly.network.alterations import alteration, has_own_forward, is_hooked
from forwardly.network.kinds import LOSSES, SUPPORTED
from forwardly.rule import Rule
from forwardly.rules.direct_feedback_alignment import DirectFeedbackAlignment
from forwardly.rules.direct_kolen_pollack import DirectKolenPollack
from forwardly.rules.drtp import DRTP
from forwardly.rules.plugins import all_rules

FORMAT = 1
_KEY = "forwardly"
"""Of the description among the header's metadata."""

_KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (*SUPPORTED, *LOSSES, *models.WHOLE, nn.Sequential)
}
_SAME = "same"
"""The kind of a place whose module is that of an earlier place."""
_OWN = "own"
"""The kind of a model that a function of the user's makes, and the file does not hold."""

_DIRECT = (DirectFeedbackAlignment, DirectKolenPollack, DRTP)
"""Rules whose B_l may have one row a channel, and so another form than they are drawn with."""

_NOT_OPTIONS = ("self", "model", "loss", "input_shape", "error", "generator")
_NOT_ARGUMENTS = ("self", "device", "dtype", "size_average", "reduce", "args", "kwargs")
_PREPARED = "preprocessing."
_MOST_NUMBERS = 10_000_000
"""Of a sample; more are refused, as the network is tried on two."""


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


def save(
    rule: Rule, path: Path | str, *, dataset: Dataset | None = None, own: Own | None = None
) -> None:
    """Write a rule and its model to a file, replacing one that is there.

    Args:
        rule: of ``fw.RULES``, or of an installed package.
        path: of the file; ``.safetensors`` is the usual ending.
        dataset: what it learned from, to save its preprocessing and labels; not its samples.
        own: what made the model of this data set; then it may be of a class of your own, of which
            the file has the weights and the name of that function.

    Raises:
        TypeError: if something is of a kind that could not be built again: a class of your own, a
            hook, a function as the error or as an option.
        UsageError: if the file cannot be written.
    """
    check_kind("rule", rule, Rule)
    check_kind("dataset", dataset, Dataset, type(None))
    rule.look()
    described = {
        "format": FORMAT,
        "model": _described_or_own(rule.model, own),
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
    if not (rule.network.dropouts or rule.draws):
        tensors.pop("noise", None)  # of a dropout that is gone
    if dataset is not None and dataset.preprocessing is not None:
        tensors |= {f"{_PREPARED}{n}": v for n, v in vars(dataset.preprocessing).items()}
    alone = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    from safetensors.torch import save as as_bytes  # of use here alone

    content = as_bytes(alone, {_KEY: json.dumps(described)})
    try:
        _saved(*_content_of(content, Path(path)), None if own is None else own.model)
    except Exception as problem:  # whatever building it may raise
        raise TypeError(
            "the rule could not be built again from what can be saved of it "
            f"({' '.join(str(problem).split())}): save the weights, by "
            "torch.save(rule.model.state_dict(), ...)"
        ) from None
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


def read(path: Path | str, model: str | None = None) -> Saved:
    """All that ``save`` wrote.

    Args:
        path: of the file.
        model: the function that makes the model, see ``forwardly.models.own``, if the file was
            saved with one; it is run.

    Raises:
        UsageError: if the file is missing, damaged, or none of ``save``'s; or if the model is of
            another function.
    """
    path = Path(path)
    tensors, content = _content(path)
    try:
        return _saved(tensors, content, model)
    except UsageError:
        raise
    except Exception as problem:  # whatever comes of values of other kinds
        said = str(problem).partition("\n")[0]
        raise UsageError(
            f"{path} is damaged, or of another version of forwardly: {type(problem).__name__}: "
            f"{said}"
        ) from None


def _content(path: Path) -> tuple[dict[str, Tensor], Fields]:
    if not files.is_there(path):
        raise UsageError(f"there is no file {path}")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    return _content_of(files.read(path), path)


def _content_of(content_bytes: bytes, path: Path) -> tuple[dict[str, Tensor], Fields]:
    """Tensors in memory of their own, and the description."""
    from safetensors.torch import load as tensors_of  # pyright: ignore

    try:
        with torch.inference_mode(False):
            tensors = {n: value.clone() for n, value in tensors_of(content_bytes).items()}
        size = int.from_bytes(content_bytes[:8], "little")
        header = json.loads(content_bytes[8 : 8 + size])
        metadata: Mapping[str, str] = header.get("__metadata__") or {}
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


def _saved(tensors: dict[str, Tensor], content: Fields, function: str | None = None) -> Saved:
    """Build what the description says, and fill it."""
    own = {name: value for name, value in tensors.items() if not name.startswith(_PREPARED)}
    of_model = {n.removeprefix("model."): v for n, v in own.items() if n.startswith("model.")}
    with torch.device("meta"):  # so that nothing is drawn
        described = content.fields("model")
        model = None if described.content["kind"] == _OWN else _built(described)
        loss = _built(content.fields("loss"))
    if model is None:
        model = _built_by(function, content)
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
    kind = torch.uint8 if data.flag("bytes") else torch.float32
    part = Split(torch.empty(0, *shape, dtype=kind), target)
    labels, columns = (list(data.list(name).content.values()) for name in ("labels", "columns"))
    names = [*labels, *columns, data.content["target_name"]]
    if not all(isinstance(name, str | int) for name in names) or len({*labels}) < len(labels):
        raise ValueError("names of classes and columns are no names")
    if len(labels) not in (0, outputs):
        raise ValueError("there is not a name for each class")
    if any(not value.isfinite().all() for value in prepared.values()):
        raise ValueError("its preprocessing is not finite")
    if prepared:
        Preprocessing(**prepared)(torch.empty(1, *shape))  # of shapes that go together
    like = Dataset(
        data.text("name"),
        outputs,
        *(part, part, part),
        labels=tuple(labels),
        preprocessing=Preprocessing(**prepared) if prepared else None,
        columns=tuple(columns),
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
        "bytes": dataset.of_bytes or dataset.train.x.dtype == torch.uint8,
        "columns": dataset.columns,
        "target_name": dataset.target_name,
    }


def _described(
    module: nn.Module, what: str, path: str = "", seen: dict[int, str] | None = None
) -> dict[str, Any]:
    """A module's class and arguments, and what is in it; where it was before, if it was."""
    seen = {} if seen is None else seen
    if id(module) in seen:
        return {"kind": _SAME, "as": seen[id(module)]}
    seen[id(module)] = path
    ours = type(module) in models.WHOLE and not _is_touched(module)
    if not ours and (how := alteration(module)):
        raise TypeError(
            f"{what}, {module}, {how}, which could not be built again: save the weights, by "
            "torch.save(rule.model.state_dict(), ...)"
        )
    described: dict[str, Any] = {"kind": type(module).__name__}
    if isinstance(module, nn.Sequential):
        inside = dict(zip(_names_in(module), module, strict=True))
        described["modules"] = {
            n: _described(m, f"module {n!r}", f"{path}.{n}".lstrip("."), seen)
            for n, m in inside.items()
        }
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


def _described_or_own(model: nn.Module, own: Own | None) -> dict[str, Any]:
    try:
        return _described(model, "the model")
    except TypeError:
        if own is None:
            raise
        return {"kind": _OWN, **own._asdict()}


def _built_by(given: str | None, content: Fields) -> nn.Module:
    """A model by the function that is named, if it is the one that made what was saved."""
    described, data = content.fields("model"), content.fields("data")
    saved = described.text("model")
    if given is None:
        raise UsageError(
            f"{content.path} has the weights of a model that {saved} makes, and not its code: "
            "evaluate and predict take that function as --model, and in Python "
            "forwardly.saving.read(path, model)"
        )
    same = given.rpartition(":")[2] == saved.rpartition(":")[2]
    if not same or own_models.sha256(given) != described.text("sha256"):
        raise UsageError(
            f"{given} is not what made the model of {content.path}, which was {saved}, in a file "
            f"of the checksum {described.text('sha256')}"
        )
    shape = tuple(int(size) for size in data.content["sample_shape"])
    seed, outputs = described.whole("seed"), data.whole("outputs", 1)
    return own_models.build(given, shape, outputs, seed=seed)


def _is_touched(module: nn.Module) -> bool:
    """Whether something in it has a hook, or a method of its own."""
    return any(is_hooked(part) or has_own_forward(part) for part in module.modules())


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
        if option in _NOT_OPTIONS or option in ("projection", "backward", "heads"):
            continue  # what these have drawn is in the rule's state
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if not hasattr(rule, option):
            raise TypeError(
                f"{type(rule).__name__} keeps its option {option} under no attribute of that name, "
                "so it cannot be saved"
            )
        value = getattr(rule, option)
        if value is parameter.default and callable(value):
            continue
        options[option] = _plain(value, f"the option {option}")
    return {"name": name, "options": options, "input_shape": rule.input_shape}


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in cast(tuple[Any, ...], value)]
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.dim() == 0):
        value = cast(Any, value).item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{what} is {value!r}, which is no plain data and cannot be saved")


def _built(described: Fields, whole: nn.Sequential | None = None) -> nn.Module:
    name = described.text("kind", *_KINDS, _SAME)
    if name == _SAME and whole is not None:
        return whole.get_submodule(described.text("as"))
    if name == "Sequential":
        model = nn.Sequential()
        whole = model if whole is None else whole
        modules = described.fields("modules")
        for inner in modules:
            model.add_module(inner, _built(modules.fields(inner), whole))
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
    kind = known[name]
    if "F" in tensors:  # which are drawn nowhere, so that a file cannot ask for more than it has
        factors = [tensors[n] for n in sorted(tensors, key=_number_in) if _number_in(n)]
        options["projection"] = _given(*factors or [tensors["F"]])
    if issubclass(kind, _DIRECT) and any(
        n.startswith("B_") and B.dim() > 2 for n, B in tensors.items()
    ):
        options["backward"] = feedback.per_channel()
    shape = described.content["input_shape"]
    if shape is not None and math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"input_shape {shape} is too large")
    given = {
        "input_shape": None if shape is None else tuple(shape),
        "generator": torch.Generator().manual_seed(0),
    }
    takes = inspect.signature(kind).parameters
    options |= {n: v for n, v in given.items() if n in takes}
    make = cast(Callable[..., Rule], kind)
    return make(model, loss, **options)


def _given(*factors: Tensor) -> feedback.Initialiser:
    return lambda _sizes, _generator: factors


def _number_in(name: str) -> int:
    """l of a factor F_l; 0 of other tensors."""
    found = re.fullmatch(r"F_(\d+)", name)
    return int(found[1]) if found else 0


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, cast(list[Any], value))) if isinstance(value, list) else value
