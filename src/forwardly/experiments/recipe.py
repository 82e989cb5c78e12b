"""Everything that decides how a training run ends, as plain data: two equal recipes, one result.

``forwardly train`` makes one from its options, an experiment lists many. ``prepare`` turns a recipe
and a seed into what ``fit`` takes. Data split, weights, feedback and order of the batches each have
a random stream of their own, so rules with the same seed start from the same weights and see the
same batches: their results pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from forwardly import data, feedback, models
from forwardly.data import NAMES as DATA_SETS
from forwardly.errors import UsageError, check_rules
from forwardly.experiments.settings import (
    BELOW_1,
    EPOCHS,
    MOST_UNITS,
    RATE,
    at_least,
    check,
    one_of,
)
from forwardly.rule import Rule
from forwardly.rules import RULES
from forwardly.rules.plugins import all_rules
from forwardly.training import Fit, fit
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
    """The settings of one training run, all but the seed; the defaults are ``forwardly train``'s.

    Attributes:
        rule: The learning rule; ``forwardly rules`` lists them.
        data: mnist, fashion-mnist, cifar10, cifar100, digits, mnist1d or teacher-student.
        options: of the rule, beside model, loss, input_shape and generator. "projection" (F) and
            "backward" (B) are scales for ``feedback.uniform``; with mirroring "projection" is that
            of a factored F, ``feedback.product``.
        model: mlp, or conv for one convolution of 5 × 5, pooling and a readout.
        hidden: sizes of the hidden layers ("mlp"), or the channels of the convolution ("conv").
        initial: How weights are drawn: he, or torch as its layers are.
        activation: Of hidden layers: relu, tanh or sigmoid.
        dropout: Probability with which a hidden unit is dropped.
        normalise: Give hidden activities length one: of each sample, or of the batch.
        learning_rate: Of stochastic gradient descent.
        momentum: Of stochastic gradient descent.
        weight_decay: Of stochastic gradient descent.
        conv_rate: what the learning rate of convolutions is multiplied by.
        batch: Samples a step.
        epochs: Passes over the training samples.
        milestones: Epochs after which the learning rate is multiplied by gamma.
        gamma: See milestones.
        validation: Training samples put aside (default: what suits the data set).
        mirroring: how F learns, if it does.
        dtype: "float32", "float64", or "bf16": float32 with the products of linear layers in
            bfloat16, see ``forwardly.fast.algebra.products``.

    Raises:
        UsageError: if a setting makes no sense, naming it.
    """

    rule: str = "pepita"
    data: Annotated[str, one_of(*DATA_SETS)] = "mnist"
    options: Mapping[str, float | int | str] = field(default_factory=dict[str, float | int | str])
    model: Annotated[str, one_of("mlp", "conv")] = "mlp"
    hidden: Annotated[tuple[int, ...], MOST_UNITS] = (1024,)
    initial: Annotated[str, one_of("he", "torch")] = "he"
    activation: Annotated[str, one_of(*models.ACTIVATIONS)] = "relu"
    dropout: Annotated[float, RATE, BELOW_1] = 0.0
    normalise: Annotated[str | None, one_of("sample", "batch")] = None
    learning_rate: Annotated[float, RATE] = 0.1
    momentum: Annotated[float, RATE] = 0.9
    weight_decay: Annotated[float, RATE] = 0.0
    conv_rate: Annotated[float, RATE] = 1.0
    batch: Annotated[int, at_least(1)] = 64
    epochs: Annotated[int, at_least(1)] = 10
    milestones: Annotated[tuple[int, ...], EPOCHS] = ()
    gamma: Annotated[float, RATE] = 0.1
    validation: Annotated[int | None, at_least(1)] = None
    mirroring: Mirroring | None = None
    dtype: Annotated[str, one_of("float32", "float64", "bf16")] = "float32"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        if self.rule not in RULES:  # installed packages are slow to look through
            check_rules([self.rule], all_rules()[0])
        check(self)
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

    recipe: Recipe
    dataset: data.Dataset
    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler
    mirror: feedback.Mirror | None
    order_seed: int

    def fit(self, **options: Any) -> Fit:
        """Train as the recipe says; the options are ``training.fit``'s other ones."""
        recipe, mirroring = self.recipe, self.recipe.mirroring
        return fit(
            self.rule,
            self.dataset,
            self.optimizer,
            epochs=recipe.epochs,
            batch=recipe.batch,
            scheduler=self.scheduler,
            seed=self.order_seed,
            mirror=self.mirror,
            mirror_every=1 if mirroring is None else mirroring.every,
            **options,
        )


def prepare(
    recipe: Recipe, seed: int, data_root: Path | None = None, *, progress: bool = False
) -> Prepared:
    """Load the data, perhaps with a bar, and build model, rule, optimizer and scheduler.

    Raises:
        UsageError: if the data is not there, or rule, model and data do not go together.
    """
    streams = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    seeds = [int(state) >> 1 for state in streams]  # a torch generator's are signed
    weights, drawn, noise = (torch.Generator().manual_seed(s) for s in seeds[:3])
    dataset = data.load(
        recipe.data, data_root, validation=recipe.validation, seed=seed, progress=progress
    )
    try:
        model = _model(recipe, dataset, weights)
        rule = _rule(recipe, dataset, model, drawn)
        mirror = None
        if recipe.mirroring is not None:
            options = asdict(recipe.mirroring)
            del options["every"]
            mirror = feedback.Mirror(rule, generator=noise, **options)
        optimizer = _optimizer(recipe, rule)
    except (TypeError, ValueError) as mistake:
        raise UsageError(f"{recipe.rule} on {recipe.data}: {mistake}") from None
    scheduler = MultiStepLR(optimizer, list(recipe.milestones), gamma=recipe.gamma)
    return Prepared(recipe, dataset, rule, optimizer, scheduler, mirror, seeds[3])


def _model(recipe: Recipe, dataset: data.Dataset, generator: torch.Generator) -> nn.Sequential:
    options: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("activation", "dropout", "normalise", "initial")
    }
    options["generator"] = generator
    shape, outputs = dataset.sample_shape, dataset.outputs
    if recipe.model == "conv":
        model = models.conv(shape, outputs, channels=recipe.hidden[0], **options)
    else:
        model = models.mlp(math.prod(shape), recipe.hidden, outputs, **options)
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
    synapses = [stage.synapse for stage in rule.network.stages]
    convolutions = [s.weight for s in synapses if not isinstance(s, nn.Linear)]
    theirs = set(map(id, convolutions))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rule.model.parameters() if id(p) not in theirs]}
    ]
    if convolutions:
        groups.append({"params": convolutions, "lr": recipe.learning_rate * recipe.conv_rate})
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
    }
    if rule.uses_autograd and convolutions and recipe.dtype != "bf16":
        return torch.optim.SGD(groups, **options)
    # The same descent, in less time; it says which rules cannot have bf16.
    precision = "bf16" if recipe.dtype == "bf16" else "full"
    return LocalSGD(rule, params=groups, precision=precision, **options)
