"""How commands that train one rule ask for its recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from forwardly.commands.options import fields_but, preprocessing
from forwardly.experiments.recipe import Recipe
from forwardly.rules.options import read_options

RecipeOptions = Annotated[
    Recipe,
    fields_but("options", "hidden", "conv_rate", "mirroring", "dtype", "preprocessing"),
]
"""A recipe by its fields, but for those that are asked for in another way; see ``completed``."""

_HIDDEN = {"conv": (32,), "resmlp": (256,) * 4}
"""Where that of a model is not the recipe's own default."""


def completed(
    recipe: Recipe,
    hidden: tuple[int, ...] | None,
    rule_options: tuple[str, ...],
    *,
    centre: bool,
    standardise: bool,
    **others: Any,
) -> Recipe:
    """The recipe with what else was asked for, and the hidden layers that suit its model.

    Raises:
        UsageError: if it makes no sense.
    """
    return replace(
        recipe,
        hidden=hidden or _HIDDEN.get(recipe.model, recipe.hidden),
        options=read_options(rule_options),
        preprocessing=preprocessing(centre, standardise),
        **others,
    )
