"""What may be searched for, and where, by the fields of a recipe and the options of a rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from forwardly import feedback
from forwardly.errors import UsageError
from forwardly.experiments.recipe import Recipe
from forwardly.rule import Rule
from forwardly.rules.options import Option, options_of, take_options
from forwardly.rules.plugins import rules_named

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``; with ``log`` as often in each power of ten."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        """As --search takes it."""
        return f"{self.low:g}:{self.high:g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Among:
    """One of some values."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        """As --search takes it."""
        return ",".join(text(value) for value in self.values)


Range = Between | Among

OF_RECIPES: Mapping[str, Range] = {
    "learning_rate": Between(1e-4, 1.0, log=True),
    "momentum": Among((0.0, 0.5, 0.9, 0.95)),
    "weight_decay": Between(1e-6, 1e-2, log=True),
    "dropout": Between(0.0, 0.6),
    "batch": Among((16, 32, 64, 128, 256)),
    "activation": Among(("relu", "tanh", "sigmoid")),
    "initial": Among(("he", "torch")),
    "preprocessing": Among((None, "centre", "standardise")),
    "normalise": Among((None, "sample", "batch")),
    "flip": Among((False, True)),
}
"""The fields of a recipe that can be searched over, and where, if nothing else is said."""


def space(recipe: Recipe, asked: Iterable[str] = ()) -> dict[str, Range]:
    """Where to search.

    Args:
        recipe: what is searched around; the rule's options that it sets are not searched over.
        asked: what over, each NAME, NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C; the learning
            rate and the rule's own options if none is named.

    Raises:
        UsageError: if something cannot be searched over, or a range makes no sense.
    """
    kind = rules_named([recipe.rule])[recipe.rule]
    known = {**OF_RECIPES, **_of_rule(kind)}
    asked = [*asked]
    if not asked:
        own = {name: known[name] for name in _of_rule(kind) if name not in recipe.options}
        return {"learning_rate": known["learning_rate"], **own}
    found: dict[str, Range] = {}
    for one in asked:
        name, _, where = one.partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise UsageError(
                f"{name!r} cannot be searched over; of {recipe.rule} these can, by default in "
                f"{'; '.join(f'{n}={default}' for n, default in known.items())}"
            )
        if name in found:
            raise UsageError(f"{name} is searched over once; given {one!r} too")
        found[name] = _read(name, where, known[name]) if where else known[name]
        for value in _ends(found[name]):  # refused now, not by the hundredth trial
            with_values(recipe, {name: value})
    return found


def with_values(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with these instead of its own; numbers as a command line would have them.

    Raises:
        UsageError: if one makes no sense.
    """
    own = {name: value for name, value in values.items() if name in OF_RECIPES}
    options = {
        name: text(value) if isinstance(value, bool) or value is None else value
        for name, value in values.items()
        if name not in own
    }
    made = replace(recipe, options={**recipe.options, **options}, **own)
    take_options(recipe.rule, rules_named([recipe.rule])[recipe.rule], made.options)
    return made


def _of_rule(kind: type[Rule]) -> dict[str, Range]:
    """The options of a rule whose kind or default says where to look."""
    found = {option.name: _where(option) for option in options_of(kind)}
    if kind.needs_learning_rate:
        found.pop("learning_rate", None)  # it is the optimizer's
    return {name: where for name, where in found.items() if where is not None}


def _where(option: Option) -> Range | None:
    hint: Any = option.hint
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [kind for kind in kinds if get_origin(kind) is Literal]
    if words:
        return Among(tuple(value for kind in words for value in get_args(kind)))
    if bool in kinds:
        return Among((False, True))
    if float in kinds or feedback.Initialiser in kinds:
        try:
            middle = float(option.default or "")
        except ValueError:
            return None
        return Between(middle / 20, middle * 20, log=True) if middle > 0 else None
    return None


def _read(name: str, given: str, known: Range) -> Range:
    if ":" in given:
        match = re.fullmatch(r"([^:]+):([^:]+?)(:log)?", given)
        try:
            low, high = (float(match[1]), float(match[2])) if match else (1.0, 0.0)
        except ValueError:
            low, high = 1.0, 0.0
        log = bool(match and match[3])
        if not low < high or (log and low <= 0):
            raise UsageError(
                f"a range is LOW:HIGH or LOW:HIGH:log, of numbers, above 0 with log; given "
                f"{name}={given}"
            )
        if isinstance(known, Among) and not all(type(v) in (int, float) for v in known.values):
            raise UsageError(f"{name} is no number, but one of {known}; given {name}={given}")
        return Between(low, high, log)
    return Among(tuple(_value(one, known) for one in given.split(",")))


def _value(given: str, known: Range) -> Value:
    """One of several values as it was written, of the kind that the default ones have."""
    like = known.values if isinstance(known, Among) else (0.0,)
    for value in like:
        if text(value) == given:
            return value
    for kind in (int, float):
        if any(type(value) is kind or (kind is int and type(value) is float) for value in like):
            try:
                return kind(given)
            except ValueError:
                continue
    return given


def _ends(where: Range) -> tuple[Value, ...]:
    return (where.low, where.high) if isinstance(where, Between) else where.values


def text(value: Value) -> str:
    """A value as a command line has it."""
    return str(value).lower() if isinstance(value, bool) or value is None else f"{value}"
