"""Everything that decides how a training run ends, as plain data: two equal recipes, one result.

``forwardly train`` makes one from its options, an experiment lists many. ``prepare`` turns a recipe
and a seed into what ``fit`` takes. Data split, weights, feedback and order of the batches each have
a random stream of their own, so rules with the same seed start from the same weights and see the
same batches: their results pair.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from forwardly import data, feedback, models
from forwardly.data import NAMES as DATA_SETS
from forwardly.data import read
from forwardly.data.arrays import Task
from forwardly.data.preprocessing import Kind
from forwardly.errors import UsageError
from forwardly.experiments import stress as conditions
from forwardly.experiments.settings import (
    BELOW_1,
    EPOCHS,
    MOST_EPOCHS,
    MOST_PIXELS,
    MOST_UNITS,
    RATE,
    SHARE,
    Must,
    at_least,
    check,
    one_of,
)
from forwardly.fast.devices import Chosen, as_exact_as_processors, choose, multiply_adds
from forwardly.models import own as own_models
from forwardly.models.own import Own
from forwardly.rule import Rule
from forwardly.rules.options import build, options_in_short, take_options
from forwardly.rules.plugins import rules_named
from forwardly.training import Fit, fit, fit_seeds
from forwardly.training.local_sgd import LocalSGD

DATA = Must(
    f"one of {', '.join(DATA_SETS)}; or a file of your own, .npz or .csv, or a folder of images",
    lambda data: data in DATA_SETS or read.is_file_name(data),
)

WHOLE = "resmlp", "resnet8", "resnet20", "vit", "vit8"
"""Models that are no chains."""

MODEL = Must(
    f"one of mlp, conv, {', '.join(WHOLE)}; or a function of your own that makes one, "
    f"{own_models.FORM}",
    lambda model: model in ("mlp", "conv", *WHOLE) or own_models.is_own(model),
)

NO_SIZES: tuple[int, ...] = (1024,)
"""``Recipe.hidden`` of models that have no sizes to choose, and its default."""

_ADDED: Mapping[str, Any] = {
    **dict.fromkeys(("target", "task", "preprocessing", "patience", "stress")),
    "keep": "last",
    "flip": False,
    "shift": 0,
    "crop": 1.0,
}
"""Settings that records of version 0.1 lack, and what they were."""


@dataclass(frozen=True)
class Mirroring:
    """Settings of ``feedback.Mirror``, and how many batches lie between two of its steps."""

    learning_rate: float
    decay: float
    noise: float = 0.1
    every: int = 8
    keep_norm: bool = False


@dataclass(frozen=True)
class JacobianMirroring:
    """Settings of ``feedback.JacobianMirror``, and how many batches lie between two steps."""

    rate: float
    noise: float = 0.1
    every: int = 4


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run, all but the seed; the defaults are ``forwardly train``'s.

    Attributes:
        rule: The learning rule; ``forwardly rules`` lists them.
        data: mnist, fashion-mnist, cifar10, cifar100, digits, mnist1d or teacher-student; or a file
            of your own, my.npz or my.csv, or a folder of images.
        options: of the rule, see ``rules.options``; with weight mirroring "projection" is the scale
            of a factored F, ``feedback.product``.
        model: mlp; conv for one convolution of 5 × 5, pooling and a readout; resmlp, whose hidden
            layers, all of one size, add to what they are given; for small images resnet8, resnet20,
            vit, and vit8, whose patches are of 8 pixels instead of 4: what their papers say; or a
            function of your own, as my.py:build, called with the shape of a sample and the number
            of outputs.
        hidden: sizes of the hidden layers ("mlp", "resmlp"), or the channels of the convolution
            ("conv").
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
        target: Of your own file, the column or array to learn (default: one called target, label,
            class or y; or the last column).
        task: Of your own file, whether its targets are classes or numbers (default:
            floating-point numbers are numbers, all else classes).
        preprocessing: whether samples are centred or standardised, by statistics of the training
            part.
        patience: End after so many epochs without a better accuracy on the validation part, or at
            the same accuracy (and of numbers) a lower loss.
        flip: Mirror every other image to train on, left to right, anew in each epoch.
        shift: Move images to train on by up to so many pixels, anew in each epoch.
        crop: Enlarge a window of images to train on whose sides are at least this share of the
            image's, anew in each epoch.
        stress: A condition to learn under: noise:0.3 for a share of wrong classes, samples:500 for
            so few samples to train on, shift:2 for test images moved by so many pixels; several as
            noise:0.3+samples:500. ``forwardly compare`` says more.
        keep: Whether the model of the last epoch is kept, or that of the best.

    Raises:
        UsageError: if a setting makes no sense, naming it.
    """

    rule: str = "pepita"
    data: Annotated[str, DATA] = "mnist"
    options: Mapping[str, float | int | str] = field(default_factory=dict[str, float | int | str])
    model: Annotated[str, MODEL] = "mlp"
    hidden: Annotated[tuple[int, ...], MOST_UNITS] = NO_SIZES
    initial: Annotated[str, one_of("he", "torch")] = "he"
    activation: Annotated[str, one_of(*models.ACTIVATIONS)] = "relu"
    dropout: Annotated[float, RATE, BELOW_1] = 0.0
    normalise: Annotated[str | None, one_of("sample", "batch")] = None
    learning_rate: Annotated[float, RATE] = 0.1
    momentum: Annotated[float, RATE] = 0.9
    weight_decay: Annotated[float, RATE] = 0.0
    conv_rate: Annotated[float, RATE] = 1.0
    batch: Annotated[int, at_least(1)] = 64
    epochs: Annotated[int, at_least(1), MOST_EPOCHS] = 10
    milestones: Annotated[tuple[int, ...], EPOCHS] = ()
    gamma: Annotated[float, RATE] = 0.1
    validation: Annotated[int | None, at_least(1)] = None
    mirroring: Mirroring | JacobianMirroring | None = None
    dtype: Annotated[str, one_of("float32", "float64", "bf16")] = "float32"
    target: str | None = None
    task: Annotated[str | None, one_of("classification", "regression")] = None
    preprocessing: Annotated[str | None, one_of("centre", "standardise")] = None
    patience: Annotated[int | None, at_least(1)] = None
    keep: Annotated[str, one_of("last", "best")] = "last"
    flip: bool = False
    shift: Annotated[int, at_least(0), MOST_PIXELS] = 0
    crop: Annotated[float, SHARE] = 1.0
    stress: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        rules_named([self.rule])
        check(self)
        if self.stress is not None:
            object.__setattr__(self, "stress", conditions.canonical(self.stress))
        if min(self.hidden, default=1) < 1 or (self.model == "conv" and len(self.hidden) != 1):
            raise UsageError(
                "hidden must be sizes of at least 1, and for the model conv one, its channels; "
                f"given {list(self.hidden)}"
            )
        if self.may_be_a_graph:
            _check_whole(self)
        if self.conv_rate != 1 and self.model in ("mlp", "resmlp"):
            raise UsageError(
                f"conv_rate is of convolutions, and the model {self.model} has none; "
                f"given {self.conv_rate}"
            )

    @property
    def augmentation(self) -> data.Augmentation:
        """How samples to train on are changed."""
        return data.Augmentation(self.flip, self.shift, self.crop)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activities."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def of_own_data(self) -> bool:
        """Whether ``data`` is a file or folder, and no known data set."""
        return self.data not in DATA_SETS

    @property
    def of_own_model(self) -> bool:
        """Whether ``model`` is a function of the user's, and no known kind."""
        return own_models.is_own(self.model)

    @property
    def may_be_a_graph(self) -> bool:
        """Whether ``model`` is no chain of layers, or might be none; see ``forwardly.network``."""
        return self.model in WHOLE or self.of_own_model

    def own_model(self) -> dict[str, str]:
        """By what a model of the user's own is known, wherever its file lies; nothing of others.

        Raises:
            UsageError: if the file is not there.
        """
        if not self.of_own_model:
            return {}
        function = self.model.rpartition(":")[2]
        return {"model_function": function, "model_sha256": own_models.sha256(self.model)}

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return asdict(self)

    def sha256(self) -> str:
        """A checksum of all settings."""
        return hashlib.sha256(json.dumps(self.as_data(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_data(cls, content: Mapping[str, Any]) -> Recipe:
        """The recipe that ``as_data`` was made of, be it by an earlier version.

        Raises:
            UsageError: if a setting is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        content = {**_ADDED, **content}
        if set(content) != known:
            raise UsageError(
                f"a recipe has the settings {', '.join(sorted(known))}; missing or unknown: "
                f"{', '.join(sorted(known ^ set(content)))}"
            )
        given = dict(content)
        for name in ("hidden", "milestones"):
            given[name] = tuple(given[name])
        if given["mirroring"] is not None:
            kind = JacobianMirroring if "rate" in given["mirroring"] else Mirroring
            given["mirroring"] = kind(**given["mirroring"])
        return cls(**given)


@dataclass(frozen=True)
class Prepared:
    """What a recipe and a seed make: ready for ``fit``."""

    recipe: Recipe
    dataset: data.Dataset
    rule: Rule
    optimizer: Optimizer
    scheduler: LRScheduler
    mirror: feedback.Mirror | feedback.JacobianMirror | None
    order_seed: int
    own: Own | None
    """What made the model, if a function of the user's did."""

    def device(self, name: str, *, at_once: int = 1, before: str | None = None) -> Chosen:
        """The device of that name, or by "auto" the one that suits this run.

        Args:
            name: as ``fast.devices.choose`` takes it.
            at_once: how many such runs there will be in one step.
            before: where the run was until now.

        Raises:
            UsageError: if there is no such device, or it has no numbers of the recipe's type.
        """
        samples = at_once * min(self.recipe.batch, len(self.dataset.train))
        work = multiply_adds(self.rule, self.dataset.sample_shape, samples)
        return choose(name, work, self.recipe.torch_dtype, before)

    def to(self, device: torch.device | str) -> Prepared:
        """The same on another device; the rule is moved, the data copied."""
        as_exact_as_processors(torch.device(device))
        self.rule.to(device)
        return replace(self, dataset=self.dataset.to(device))

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
            patience=recipe.patience,
            keep="best" if recipe.keep == "best" else "last",
            augment=recipe.augmentation,
            mirror=self.mirror,
            mirror_every=1 if mirroring is None else mirroring.every,
            **options,
        )


def fit_at_once(runs: Sequence[Prepared], **options: Any) -> list[Fit]:
    """Train runs of recipes that differ in learning rates alone, as ``training.fit_seeds`` does."""
    recipe = runs[0].recipe
    return fit_seeds(
        [run.rule for run in runs],
        [run.dataset for run in runs],
        [run.optimizer for run in runs],
        schedulers=[run.scheduler for run in runs],
        seeds=[run.order_seed for run in runs],
        epochs=recipe.epochs,
        batch=recipe.batch,
        augment=recipe.augmentation,
        **options,
    )


def prepare(
    recipe: Recipe, seed: int, data_root: Path | None = None, *, progress: bool = False
) -> Prepared:
    """Load the data, perhaps with a bar, and build model, rule, optimizer and scheduler.

    Raises:
        UsageError: if the data is not there, or rule, model and data do not go together.
    """
    kind = rules_named([recipe.rule])[recipe.rule]
    take_options(recipe.rule, kind, recipe.options)  # refused before data is waited for
    if recipe.of_own_model:
        own_models.function(recipe.model)
    return prepare_on(load_data(recipe, seed, data_root, progress=progress), recipe, seed)


def prepare_on(dataset: data.Dataset, recipe: Recipe, seed: int) -> Prepared:
    """As ``prepare``, with data that is at hand.

    Raises:
        UsageError: if rule, model and data do not go together.
    """
    kind = rules_named([recipe.rule])[recipe.rule]
    options = take_options(recipe.rule, kind, recipe.options)
    recipe.augmentation.check(dataset.sample_shape)
    streams = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    seeds = [int(state) >> 1 for state in streams]  # a torch generator's are signed
    weights, drawn, noise = (torch.Generator().manual_seed(s) for s in seeds[:3])
    try:
        model = _model(recipe, dataset, weights)
        rule = _rule(recipe, kind, options, dataset, model, drawn)
        mirror = None
        if recipe.mirroring is not None:
            options = asdict(recipe.mirroring)
            del options["every"]
            whole = isinstance(recipe.mirroring, JacobianMirroring)
            kind_of_mirror = feedback.JacobianMirror if whole else feedback.Mirror
            mirror = kind_of_mirror(rule, generator=noise, **options)
        optimizer = optimizer_of(recipe, rule)
    except UsageError:
        raise
    except (TypeError, ValueError) as mistake:
        raise UsageError(f"{recipe.rule} on {recipe.data}: {mistake}") from None
    scheduler = MultiStepLR(optimizer, list(recipe.milestones), gamma=recipe.gamma)
    own = None
    if recipe.of_own_model:
        own = Own(recipe.model, own_models.sha256(recipe.model), seeds[0])
    return Prepared(recipe, dataset, rule, optimizer, scheduler, mirror, seeds[3], own)


def load_data(
    recipe: Recipe, seed: int, data_root: Path | None = None, *, progress: bool = False
) -> data.Dataset:
    """What a recipe learns from, prepared.

    Raises:
        UsageError: if it is not there, or nothing to learn from.
    """
    if not recipe.of_own_data:
        if recipe.target is not None or recipe.task is not None:
            raise UsageError(
                f"target and task are of a file of your own; {recipe.data} says itself what is "
                "learned"
            )
        dataset = data.load(
            recipe.data, data_root, validation=recipe.validation, seed=seed, progress=progress
        )
    else:
        dataset = read.dataset(
            Path(recipe.data),
            target=recipe.target,
            task=cast(Task | None, recipe.task),
            validation=recipe.validation,
            seed=seed,
        )
    dataset = conditions.applied(recipe.stress, dataset, seed)
    kind = cast(Kind | None, recipe.preprocessing)
    return dataset if kind is None else dataset.prepared(kind)


def _check_whole(recipe: Recipe) -> None:
    """Refuse settings that are of other models."""
    default = {field.name: field.default for field in fields(Recipe)}
    names = ["activation", "dropout", "normalise", "initial"]
    if recipe.model != "resmlp":
        names.append("hidden")
    elif len({*recipe.hidden}) != 1:
        raise UsageError(
            "the hidden layers of the model resmlp are of one size, as they add to what they are "
            f"given; given {list(recipe.hidden)}"
        )
    for name in names:
        if getattr(recipe, name) != default[name]:
            whose = "function" if recipe.of_own_model else "paper"
            raise UsageError(
                f"{name} is of the models mlp and conv, and {recipe.model} is what its {whose} "
                f"says; given {getattr(recipe, name)}"
            )


def _whole_model(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    if recipe.model == "resmlp":
        width, depth = recipe.hidden[0], len(recipe.hidden) - 1
        return models.ResidualMLP(math.prod(shape), width, depth, outputs=outputs)
    patch = {"vit": 4, "vit8": 8}.get(recipe.model)
    if len(shape) != 3 or (patch and (shape[1] != shape[2] or shape[1] % patch)):
        square = f", square ones of {patch} × {patch} patches" if patch else ""
        raise ValueError(
            f"the model {recipe.model} needs images{square}; samples of this data set are {shape}"
        )
    if patch:
        return models.VisionTransformer(shape[1], patch=patch, channels=shape[0], outputs=outputs)
    depth = int(recipe.model.removeprefix("resnet"))
    return models.ResNet(depth, channels=shape[0], outputs=outputs)


def _model(recipe: Recipe, dataset: data.Dataset, generator: torch.Generator) -> nn.Module:
    if recipe.of_own_model:
        shape, seed = dataset.sample_shape, generator.initial_seed()
        dtype = recipe.torch_dtype
        return own_models.build(recipe.model, shape, dataset.outputs, seed=seed, dtype=dtype)
    if recipe.model in WHOLE:
        with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
            torch.default_generator.manual_seed(generator.initial_seed())
            model = _whole_model(recipe, dataset.sample_shape, dataset.outputs)
        return model.to(recipe.torch_dtype)
    options: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("activation", "dropout", "normalise", "initial")
    }
    options["generator"] = generator
    shape, outputs = dataset.sample_shape, dataset.outputs
    if recipe.model == "conv":
        model = models.conv(shape, outputs, channels=recipe.hidden[0], **options)
    else:
        model = models.mlp(math.prod(shape), recipe.hidden, outputs, **options)
    return model.to(recipe.torch_dtype)


def _rule(
    recipe: Recipe,
    kind: type[Rule],
    options: dict[str, Any],
    dataset: data.Dataset,
    model: nn.Module,
    generator: torch.Generator,
) -> Rule:
    if isinstance(recipe.mirroring, Mirroring):
        options["projection"] = feedback.product(
            cast(float, recipe.options.get("projection", 0.05))
        )
    try:
        return build(
            kind,
            model,
            dataset.loss(),
            options,
            learning_rate=recipe.learning_rate,
            input_shape=dataset.sample_shape,
            generator=generator,
        )
    except (TypeError, ValueError) as mistake:
        if not recipe.options:
            raise
        raise ValueError(f"{mistake}; {options_in_short(recipe.rule, kind)}") from None


def optimizer_of(recipe: Recipe, rule: Rule) -> Optimizer:
    """What a recipe has a rule descend by."""
    synapses = [stage.synapse for stage in rule.network.stages]
    convolutions = [s.weight for s in synapses if isinstance(s, nn.Conv1d | nn.Conv2d)]
    theirs = set(map(id, convolutions))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rule.parameters() if id(p) not in theirs]}
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
