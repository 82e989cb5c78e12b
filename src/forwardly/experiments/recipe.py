"""Everything that decides how a training run ends, as plain data: two equal recipes, one result.

``forwardly train`` makes one from its options, an experiment lists many. ``prepare`` turns a recipe
and a seed into what ``fit`` takes. Data split, weights, feedback and order of the batches each have
a random stream of their own, so rules with the same seed start from the same weights and see the
same batches: their results pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from forwardly import data, feedback, models
from forwardly.errors import UsageError, check_rules
from forwardly.rule import Rule
from forwardly.rules import RULES
from forwardly.rules.plugins import all_rules
from forwardly.training.local_sgd import LocalSGD


@dataclass(frozen=True)
class Mirroring:
    """Settings of ``feedback.Mirror``, and how many batches lie between two of its steps."""

    learning_rate: float
    decay: float
    noise: float = 0.1
    every: int = 8
    keep_norm: bool = False


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run, all but the seed.

    Attributes:
        rule: its name on the command line.
        data: a name for ``forwardly.data.load``.
        options: of the rule, beside model, loss, input_shape and generator. "projection" (F) and
            "backward" (B) are scales for ``feedback.uniform``; with mirroring "projection" is that
            of a factored F, ``feedback.product``.
        model: "mlp" or "conv"; see ``forwardly.models``.
        hidden: sizes of the hidden layers ("mlp"), or the channels of the convolution ("conv").
        initial, activation, dropout, normalise: see ``forwardly.models``.
        learning_rate, momentum, weight_decay: of stochastic gradient descent.
        conv_rate: what the learning rate of convolutions is multiplied by.
        batch: samples a step.
        epochs: passes over the training set.
        milestones: epochs after which the learning rate is multiplied by ``gamma``.
        validation: training samples that are put aside; None for the data set's own number.
        mirroring: how F learns, if it does.
        dtype: "float32", "float64", or "bf16": float32 with the products of linear layers in
            bfloat16, see ``forwardly.fast.algebra.products``.

    Raises:
        UsageError: if a setting makes no sense, naming it.
    """

    rule: str
    data: str
    options: Mapping[str, float | int | str]
    model: str = "mlp"
    hidden: tuple[int, ...] = (1024,)
    initial: str = "he"
    activation: str = "relu"
    dropout: float = 0.1
    normalise: str | None = None
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    conv_rate: float = 1.0
    batch: int = 64
    epochs: int = 100
    milestones: tuple[int, ...] = (60, 90)
    gamma: float = 0.1
    validation: int | None = None
    mirroring: Mirroring | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        if self.rule not in RULES:  # installed packages are slow to look through
            check_rules([self.rule], all_rules()[0])
        known: dict[str, tuple[object, ...]] = {
            "data": data.NAMES,
            "model": ("mlp", "conv"),
            "initial": ("he", "torch"),
            "activation": tuple(models.ACTIVATIONS),
            "normalise": (None, "sample", "batch"),
            "dtype": ("float32", "float64", "bf16"),
        }
        for name, options in known.items():
            if getattr(self, name) not in options:
                names = ", ".join(str(option) for option in options if option is not None)
                raise UsageError(f"{name} must be one of {names}; given {getattr(self, name)!r}")
        for name in ("batch", "epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; given {getattr(self, name)}")
        for name in ("learning_rate", "momentum", "weight_decay", "conv_rate", "gamma", "dropout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"{name} must be at least 0 and finite; given {getattr(self, name)}"
                )
        if self.dropout >= 1:
            raise UsageError(f"dropout must be below 1; given {self.dropout}")
        if min(self.hidden, default=1) < 1 or (self.model == "conv" and len(self.hidden) != 1):
            raise UsageError(
                "hidden must be sizes of at least 1, and for the model conv one, its channels; "
                f"given {list(self.hidden)}"
            )
        if self.conv_rate != 1 and self.model != "conv":
            raise UsageError(
                f"conv_rate is of convolutions, and the model {self.model} has none; "
                f"given {self.conv_rate}"
            )

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return asdict(self)

    @classmethod
    def from_data(cls, content: Mapping[str, Any]) -> Recipe:
        """The recipe that ``as_data`` was made of.

        Raises:
            UsageError: if a setting is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if set(content) != known:
            raise UsageError(
                f"a recipe has the settings {', '.join(sorted(known))}; missing or unknown: "
                f"{', '.join(sorted(known ^ set(content)))}"
            )
        given = dict(content)
        for name in ("hidden", "milestones"):
            given[name] = tuple(given[name])
        if given["mirroring"] is not None:
            given["mirroring"] = Mirroring(**given["mirroring"])
        return cls(**given)


@dataclass(frozen=True)
class Prepared:
    """What a recipe and a seed make: ready for ``fit``."""

    dataset: data.Dataset
    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler
    mirror: feedback.Mirror | None
    order_seed: int


def prepare(recipe: Recipe, seed: int, data_root: Path | None = None) -> Prepared:
    """Load the data and build model, rule, optimizer and scheduler.

    Raises:
        UsageError: if the data is not there, or rule, model and data do not go together.
    """
    streams = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    seeds = [int(state) >> 1 for state in streams]  # a torch generator's are signed
    weights, drawn, noise = (torch.Generator().manual_seed(s) for s in seeds[:3])
    dataset = data.load(recipe.data, data_root, validation=recipe.validation, seed=seed)
    try:
        model = _model(recipe, dataset, weights)
        rule = _rule(recipe, dataset, model, drawn)
        mirror = None
        if recipe.mirroring is not None:
            m = recipe.mirroring
            mirror = feedback.Mirror(
                rule,
                learning_rate=m.learning_rate,
                decay=m.decay,
                noise=m.noise,
                keep_norm=m.keep_norm,
                generator=noise,
            )
        optimizer = _optimizer(recipe, rule)
    except (TypeError, ValueError) as mistake:
        raise UsageError(f"{recipe.rule} on {recipe.data}: {mistake}") from None
    scheduler = MultiStepLR(optimizer, list(recipe.milestones), gamma=recipe.gamma)
    return Prepared(dataset, rule, optimizer, scheduler, mirror, seeds[3])


def _model(recipe: Recipe, dataset: data.Dataset, generator: torch.Generator) -> nn.Sequential:
    if recipe.model == "conv":
        model = models.conv(
            dataset.sample_shape,
            dataset.outputs,
            channels=recipe.hidden[0],
            activation=recipe.activation,
            dropout=recipe.dropout,
            normalise=recipe.normalise,
            initial=recipe.initial,
            generator=generator,
        )
    else:
        model = models.mlp(
            math.prod(dataset.sample_shape),
            recipe.hidden,
            dataset.outputs,
            activation=recipe.activation,
            dropout=recipe.dropout,
            normalise=recipe.normalise,
            initial=recipe.initial,
            generator=generator,
        )
    return model.double() if recipe.dtype == "float64" else model


def _rule(
    recipe: Recipe, dataset: data.Dataset, model: nn.Sequential, generator: torch.Generator
) -> Rule:
    kind = all_rules()[0][recipe.rule]
    options: dict[str, Any] = dict(recipe.options)
    if recipe.mirroring is not None:
        options["projection"] = feedback.product(options.get("projection", 0.05))
    for name in ("projection", "backward"):
        if isinstance(options.get(name), float | int):
            options[name] = feedback.uniform(options[name])
    if kind.needs_learning_rate:
        options.setdefault("learning_rate", recipe.learning_rate)
    shape = dataset.sample_shape
    make = cast(Callable[..., Rule], kind)
    return make(model, dataset.loss(), input_shape=shape, generator=generator, **options)


def _optimizer(recipe: Recipe, rule: Rule) -> Optimizer:
    convolutions = {
        id(stage.synapse.weight)
        for stage in rule.network.stages
        if not isinstance(stage.synapse, nn.Linear)
    }
    linear = [p for p in rule.model.parameters() if id(p) not in convolutions]
    others = [p for p in rule.model.parameters() if id(p) in convolutions]
    groups: list[dict[str, Any]] = [{"params": linear}]
    if others:
        groups.append({"params": others, "lr": recipe.learning_rate * recipe.conv_rate})
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
    }
    if rule.uses_autograd and others and recipe.dtype != "bf16":
        return torch.optim.SGD(groups, **options)
    # The same descent, in less time; it says which rules cannot have bf16.
    precision = "bf16" if recipe.dtype == "bf16" else "full"
    return LocalSGD(rule, params=groups, precision=precision, **options)
