"""A rule's options, read from the signature and the docstring of its class.

What every rule takes, and a command gives by itself, is none: model, loss, input_shape, error and
generator. On a command line a value is text or a number; a number for an option that takes a
``feedback.Initialiser`` is the scale of ``feedback.uniform``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin

import torch
from torch import Tensor, nn

from forwardly import feedback
from forwardly.errors import UsageError
from forwardly.rule import Rule

_OF_EVERY_RULE = {"model", "loss", "input_shape", "error", "generator"}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: of the keyword argument.
        values: what to give, in words.
        default: as one would give it; None if the option must be given.
        hint: its annotation.
    """

    name: str
    values: str
    default: str | None
    hint: object

    def __str__(self) -> str:
        """The short form, for an error."""
        default = "to be given" if self.default is None else f"default {self.default}"
        return f"{self.name} ({self.values}; {default})"

    def taken(self, value: object) -> Any:
        """``value`` as the rule takes it.

        Raises:
            ValueError: if it is nothing for this option.
        """
        for kind in _alternatives(self.hint):
            if get_origin(kind) is Literal:
                if value in get_args(kind):
                    return value
            elif (known := _known(kind)) is None:  # only the rule knows
                return value
            elif (found := known.take(value)) is not _REFUSED:
                return found
        raise ValueError(f"{self.name} must be {self.values}; given {value!r}")


def options_of(rule: type[Rule]) -> list[Option]:
    """The options of a rule, in the order of its signature."""
    return [
        Option(name, _in_words(parameter.annotation), _default(parameter), parameter.annotation)
        for name, parameter in _parameters(rule).items()
        if name not in _OF_EVERY_RULE and parameter.kind is not parameter.VAR_KEYWORD
    ]


def help_of(rule: type[Rule]) -> dict[str, str]:
    """What the docstring says of each argument, in a line; only of those that it describes."""
    from docstring_parser import ParseError, parse  # only needed here

    try:
        described = parse(inspect.getdoc(rule) or "").params
    except ParseError:  # of another package's own style
        return {}
    return {found.arg_name: " ".join((found.description or "").split()) for found in described}


def options_in_short(name: str, rule: type[Rule]) -> str:
    """A sentence for errors: the options with what they take and their defaults."""
    options = "; ".join(map(str, options_of(rule)))
    return f"the options of {name} are {options}" if options else f"{name} has no options"


def read_options(given: Iterable[str]) -> dict[str, float | int | str]:
    """Options as one writes them, each NAME=VALUE: by name, numbers as numbers.

    Raises:
        UsageError: if one is written otherwise, or given twice.
    """
    options: dict[str, float | int | str] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not (name and equals and text):
            raise UsageError(f"a rule's option is given as NAME=VALUE; given {option!r}")
        name = name.replace("-", "_")
        if name in options:
            raise UsageError(f"the rule's option {name} is given twice")
        options[name] = text
        for number in (float, int):
            with suppress(ValueError):
                options[name] = number(text)
    return options


def take_options(name: str, rule: type[Rule], given: Mapping[str, object]) -> dict[str, Any]:
    """Options from a command line or a record, as the rule takes them.

    Raises:
        UsageError: if one is unknown or cannot be what is given, with the list of all.
    """
    known = {option.name: option for option in options_of(rule)}
    others = any(p.kind is p.VAR_KEYWORD for p in _parameters(rule).values())
    taken: dict[str, Any] = {}
    for option, value in given.items():
        try:
            if option in known:
                taken[option] = known[option].taken(value)
            elif others:
                taken[option] = value
            else:
                raise ValueError(f"{name} has no option {option!r}")
        except ValueError as mistake:
            raise UsageError(f"{mistake}; {options_in_short(name, rule)}") from None
    return taken


def build(
    kind: type[Rule],
    model: nn.Module,
    loss: nn.Module,
    options: Mapping[str, Any],
    *,
    learning_rate: float,
    input_shape: tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
) -> Rule:
    """A rule with options by name, as a command or a grid search has them.

    Args:
        kind: the rule.
        model: what it trains.
        loss: what it makes smaller.
        options: of the rule, as ``take_options`` gives them.
        learning_rate: the optimizer's, which some rules need.
        input_shape: of a sample.
        generator: as ``Rule`` takes it.

    Raises:
        TypeError, ValueError: what the rule raises; an option that it does not have is a TypeError.
    """
    given = dict(options)
    if kind.needs_learning_rate:
        given.setdefault("learning_rate", learning_rate)
    make = cast(Callable[..., Rule], kind)
    return make(model, loss, input_shape=input_shape, generator=generator, **given)


def _parameters(rule: type[Rule]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(rule, eval_str=True).parameters
    except Exception:  # a foreign annotation may be of what is imported for type checks only
        return inspect.signature(rule).parameters


def _alternatives(hint: object) -> tuple[object, ...]:
    """The members of a union, but tensors."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not Tensor)


def _in_words(hint: object) -> str:
    words: list[str] = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            words += map(str, get_args(kind))
        elif kind is inspect.Parameter.empty:
            words.append("any value")
        elif isinstance(kind, str):  # see _parameters
            words.append(kind)
        else:
            known = _known(kind)
            words.append(inspect.formatannotation(kind) if known is None else known.words)
    return " or ".join(words)


def _default(parameter: inspect.Parameter) -> str | None:
    default = parameter.default
    if default is parameter.empty:
        return None
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if callable(default):
        name = getattr(default, "__qualname__", repr(default))
        scale = re.fullmatch(r"feedback\.uniform\((.+)\)", name)
        return scale[1] if scale else name
    return str(default)


class _Kind(NamedTuple):
    """What to give for a type, and how the type takes it."""

    words: str
    take: Callable[[Any], Any]


_REFUSED = object()


def _truth(value: object) -> Any:
    return {"true": True, "false": False}.get(str(value).lower(), _REFUSED)


def _whole(value: object) -> Any:
    return value if isinstance(value, int) else _REFUSED


def _number(value: object) -> Any:
    fits = isinstance(value, float | int) and abs(value) <= sys.float_info.max
    return value if fits else _REFUSED


def _none(value: object) -> Any:
    return None if value in (None, "none") else _REFUSED


def _initialiser(value: object) -> Any:
    number = _number(value)
    if number is not _REFUSED:
        return feedback.uniform(number)
    return value if callable(value) or isinstance(value, Tensor) else _REFUSED


def _by_channel(value: object) -> Any:
    if isinstance(value, feedback.PerChannel):
        return value
    written = re.fullmatch(r"per_channel(?:\((.*)\))?", str(value))
    if written is None:
        return _REFUSED
    try:
        return feedback.per_channel(*[float(scale) for scale in written.groups() if scale])
    except ValueError:
        return _REFUSED


_KINDS: dict[Any, _Kind] = {
    bool: _Kind("true or false", _truth),
    int: _Kind("a whole number", _whole),
    float: _Kind("a number", _number),
    str: _Kind("text", str),
    NoneType: _Kind("none", _none),
    feedback.Initialiser: _Kind("the scale of feedback.uniform", _initialiser),
    feedback.PerChannel: _Kind("per_channel or per_channel(SCALE)", _by_channel),
}


def _known(kind: object) -> _Kind | None:
    try:
        return _KINDS.get(kind)
    except TypeError:  # a foreign annotation that has no hash
        return None
