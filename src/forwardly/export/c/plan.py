"""What the C file is to do: layers, loss, feedback and descent, read from a rule and its optimizer.

What C99 without an allocator cannot do as the rule does it is refused here, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from forwardly.checks import check_kind, shape_of
from forwardly.errors import UsageError
from forwardly.fast.sgd import Descent
from forwardly.files.text import visible
from forwardly.losses import check_loss
from forwardly.network import Part, Stage
from forwardly.rule import Rule
from forwardly.rules import (
    DRTP,
    PEPITA,
    Backprop,
    DirectFeedbackAlignment,
    MemPEPITA,
    ReadoutOnly,
)
from forwardly.training.functional import descents_of
from forwardly.training.local_sgd import LocalSGD

Array = NDArray[np.float32]

TEMPLATES: dict[type[Rule], str] = {
    PEPITA: "pepita",
    MemPEPITA: "mem_pepita",
    DirectFeedbackAlignment: "direct_feedback_alignment",
    DRTP: "drtp",
    ReadoutOnly: "readout_only",
    Backprop: "backprop",
}
"""The rules that can be written in C, each with its file in ``templates/rules/``."""

ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
"""The activations that can, and what they are called there."""

LOSSES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.MSELoss: "mse",
    nn.BCEWithLogitsLoss: "bce",
}
"""The losses that can, and what they are called there."""


@dataclass(frozen=True)
class Layer:
    """A synapse and its activation.

    Attributes:
        number: l, from 1.
        units: n_l.
        inputs: n_{l−1}.
        activation: one of ``ACTIVATIONS``' names; empty where none follows.
        parameters: W_l, (n_l, n_{l−1}), as "weight", and b_l, (n_l,), as "bias" where there is one.
        trained: those of "weight" and "bias" that a step changes.
    """

    number: int
    units: int
    inputs: int
    activation: str
    parameters: Mapping[str, Array]
    trained: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """All that the C file is made of.

    Attributes:
        kind: the rule's class.
        layers: 1 … L.
        loss: one of ``LOSSES``' names.
        feedback: the rule's matrices, by their names: F, (d, k), or B_1 … B_{L−1}, (n_l, k).
        descent: how every trained parameter descends.
        presynaptic: PEPITA's option, for MemPEPITA too.
        output_error: PEPITA's option.
        sign: PEPITA's option, for MemPEPITA too.
    """

    kind: type[Rule]
    layers: tuple[Layer, ...]
    loss: str
    feedback: Mapping[str, Array]
    descent: Descent
    presynaptic: Literal["modulated", "clean"] = "modulated"
    output_error: Literal["first", "second"] = "first"
    sign: Literal[1, -1] = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """d, n_1, …, k."""
        return (self.layers[0].inputs, *(layer.units for layer in self.layers))

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The layers 1 … L − 1."""
        return self.layers[:-1]

    @property
    def lowest(self) -> int:
        """The number of the first layer in which something is trained."""
        return next(layer.number for layer in self.layers if layer.trained)


def plan_of(rule: Rule, optimizer: Optimizer) -> Plan:
    """What is to be written for a rule and its optimizer.

    Args:
        rule: one of ``TEMPLATES``, its model of float32.
        optimizer: of the rule's parameters; ``LocalSGD`` or ``torch.optim.SGD``. What it does not
            hold stays as it is.

    Raises:
        TypeError: if one of the two is no rule or no optimizer.
        UsageError: if something of the rule, its model, loss or optimizer cannot be written in C;
            it says what, and what to do.
        ValueError: if the model has changed in a way that the rule cannot follow.
    """
    check_kind("rule", rule, Rule)
    check_kind("optimizer", optimizer, Optimizer)
    rule.look()
    kind = type(rule)
    if kind not in TEMPLATES:
        names = ", ".join(sorted(known.__name__ for known in TEMPLATES))
        _refuse(f"the rule {kind.__name__} is not written in C; those that are: {names}")
    loss = _loss_of(rule)
    _check_model(rule)
    descents = _descents_of(rule, optimizer)
    trained = frozenset(map(rule.place, rule.trained)).intersection(descents)
    layers = tuple(_layers(rule, trained))
    if not any(layer.trained for layer in layers):
        _refuse(
            "nothing would be trained: every parameter is frozen, left alone by the rule, or not "
            "the optimizer's. Thaw one by parameter.requires_grad_(True), or export for inference "
            "alone"
        )
    feedback = {
        name: _numbers(f"the rule's {name}", buffer)
        for name, buffer in rule.named_buffers(recurse=False)
        if name == "F" or name.startswith("B_")
    }
    _check_feedback(feedback, layers)
    options = {
        option: getattr(rule, option)
        for option in ("presynaptic", "output_error", "sign")
        if hasattr(rule, option)
    }
    return Plan(kind, layers, loss, feedback, _one_descent(descents, trained), **options)


def _loss_of(rule: Rule) -> str:
    if rule.own_error is not None:
        _refuse(
            "the rule has error=, a function of Python, which cannot be written in C: build it "
            "with one of the losses nn.CrossEntropyLoss, nn.MSELoss and nn.BCEWithLogitsLoss alone"
        )
    check_loss(rule.loss)
    if getattr(rule.loss, "label_smoothing", 0):
        _refuse("nn.CrossEntropyLoss(label_smoothing=...) is not written in C: leave it out")
    return next(name for loss, name in LOSSES.items() if isinstance(rule.loss, loss))


def _check_model(rule: Rule) -> None:
    network = rule.network
    if network.altered:
        _refuse(
            f"{visible(network.altered)}, so what it computes cannot be written in C: take torch's "
            "own module, without hooks"
        )
    dtype = network.stages[0].synapse.weight.dtype
    if dtype != torch.float32:
        _refuse(f"the C file computes in float, the model in {dtype}: call rule.float() before")
    for part in network.preparation:
        if not _is_flatten(part):
            _refuse_module(part, "before the first nn.Linear there may be an nn.Flatten alone")
    for stage in network.stages:
        if not isinstance(stage.synapse, nn.Linear):
            _refuse_module(stage.part, "only nn.Linear is: take a network of linear layers")
        for part in stage.elementwise:
            if type(part.module) not in (*ACTIVATIONS, nn.Identity):
                _refuse_module(part, "nn.ReLU, nn.Tanh and nn.Sigmoid are; leave it out")
        for part in stage.reshaping:
            if not _is_flatten(part):
                _refuse_module(part, "between linear layers there may be an nn.Flatten alone")


def _layers(rule: Rule, trained: frozenset[str]) -> Iterator[Layer]:
    stages = rule.network.stages
    before: Stage | None = None
    for number, stage in enumerate(stages, start=1):
        synapse = cast(nn.Linear, stage.synapse)
        if before is not None and synapse.in_features != before.synapse.weight.shape[0]:
            _refuse_module(
                stage.part,
                f"it takes {synapse.in_features} numbers, but the layer before it has "
                f"{before.synapse.weight.shape[0]} units: each must take what the one before makes",
            )
        before = stage
        activations = [part for part in stage.elementwise if type(part.module) in ACTIVATIONS]
        if len(activations) > 1:
            _refuse_module(activations[1], "a layer has one activation: leave out all but one")
        if activations and stage is stages[-1]:
            _refuse_module(
                activations[0],
                "the model must end in nn.Linear; the loss takes what that makes (for a sigmoid "
                "nn.BCEWithLogitsLoss)",
            )
        own = dict(synapse.named_parameters())
        yield Layer(
            number,
            synapse.out_features,
            synapse.in_features,
            ACTIVATIONS[type(activations[0].module)] if activations else "",
            {name: _numbers(f"the {name} of {stage.name!r}", own[name]) for name in own},
            frozenset(name for name in own if f"model.{stage.name}.{name}" in trained),
        )


def _descents_of(rule: Rule, optimizer: Optimizer) -> dict[str, Descent]:
    if type(optimizer) not in (SGD, LocalSGD):
        _refuse(
            f"the optimizer {type(optimizer).__name__} is not written in C; fw.LocalSGD and "
            "torch.optim.SGD are"
        )
    if getattr(optimizer, "precision", "full") != "full":
        _refuse(
            'LocalSGD(precision="bf16") is not written in C, which computes in float: leave '
            "precision out"
        )
    own = {id(parameter) for parameter in rule.parameters()}
    groups = optimizer.param_groups
    if any(id(parameter) not in own for group in groups for parameter in group["params"]):
        _refuse(
            "the optimizer holds a parameter that is not the model's: make it of rule.parameters()"
        )
    return descents_of(rule, optimizer)


def _one_descent(descents: Mapping[str, Descent], trained: frozenset[str]) -> Descent:
    """What all trained parameters share; those that no step changes do not count."""
    first, *others = {descents[name] for name in trained}
    if others:
        _refuse(
            "the optimizer has groups of different settings, and the C file has one learning rate, "
            "momentum and weight decay for all: make the optimizer of rule.parameters(), and "
            "freeze what is not to learn"
        )
    for name in ("maximize", "dampening"):
        if getattr(first, name):
            _refuse(f"SGD({name}={getattr(first, name)}) is not written in C: leave {name} out")
    return first


def _check_feedback(feedback: Mapping[str, Array], layers: tuple[Layer, ...]) -> None:
    """Refuse matrices of other sizes than the network's, as a step would."""
    k = layers[-1].units
    units = {"F": layers[0].inputs} | {f"B_{layer.number}": layer.units for layer in layers}
    for name, matrix in feedback.items():
        if matrix.shape != (units[name], k):
            _refuse(
                f"the rule's {name} is {tuple(matrix.shape)}; this network needs "
                f"{(units[name], k)}: build the rule anew"
            )


def _numbers(what: str, tensor: Tensor) -> Array:
    values = tensor.detach().to("cpu", torch.float32).numpy().astype(np.float32)
    if not values.size:
        _refuse(f"{what} has no numbers, its shape being {shape_of(tensor)}")
    if not np.isfinite(values).all():
        _refuse(f"{what} has a NaN or an infinity: export the rule as it was before that")
    return values


def _is_flatten(part: Part) -> bool:
    """Whether it makes a row of each sample, or nothing at all."""
    module = part.module
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    return type(module) is nn.Identity


def _refuse_module(part: Part, instead: str) -> NoReturn:
    _refuse(f"module {visible(part.name)!r}, {part.module}, is not written in C: {instead}")


def _refuse(what: str) -> NoReturn:
    raise UsageError(what)
