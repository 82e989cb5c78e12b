"""The files: what a plan needs of memory, and the templates filled in with it.

Sizes are counted here and nowhere else; the header states them, and the tests hold them to what
compilers make of the files.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import (  # C is no page: nothing in it is escaped, and no name from outside is in it
    Environment,  # noqa: TID251
    PackageLoader,
    StrictUndefined,
)
from torch.optim import Optimizer

from forwardly import __version__, files
from forwardly.errors import UsageError
from forwardly.export.c.plan import TEMPLATES, Array, Layer, Plan, plan_of
from forwardly.files.text import visible
from forwardly.rule import Rule
from forwardly.rules import DRTP, PEPITA, Backprop, MemPEPITA, ReadoutOnly

NAMES = ("forwardly_step.h", "forwardly_step.c", "README.md")
"""The files that are written."""

_BYTES = 4  # of a float, and of an int
_IN_A_LINE = 8

_LOSSES = {
    "cross_entropy": "cross-entropy of a softmax (nn.CrossEntropyLoss)",
    "mse": "mean squared error (nn.MSELoss)",
    "bce": "cross-entropy of sigmoids (nn.BCEWithLogitsLoss)",
}


class Sizes(NamedTuple):
    """What the files need of a device, without code and stack.

    Attributes:
        ram: bytes of static memory.
        flash: bytes of constants.
    """

    ram: int
    flash: int


def write_c(rule: Rule, optimizer: Optimizer, folder: Path) -> Sizes:
    """Write a rule's training step, on one sample, as a C file for microcontrollers.

    The weights, the feedback and the settings are those of the moment; momentum begins at zero on
    the device, whatever the optimizer has gathered. ``README.md`` says how the files are used.

    Args:
        rule: PEPITA, MemPEPITA, DirectFeedbackAlignment, DRTP, ReadoutOnly or Backprop, on
            ``nn.Linear`` layers with ReLU, tanh, sigmoid or nothing between them.
        optimizer: ``LocalSGD`` or ``torch.optim.SGD``, with or without momentum, Nesterov's too,
            and weight decay. Parameters that it does not hold stay constants in flash.
        folder: where ``NAMES`` are written; made if there is none. Files of these names are
            replaced.

    Returns:
        What the header states of memory.

    Raises:
        TypeError: if the first argument is no rule or the second no optimizer.
        UsageError: if something cannot be written in C, or not into that folder; then nothing is.
        ValueError: if the model has changed in a way that the rule cannot follow.
    """
    plan = plan_of(rule, optimizer)
    texts, sizes = render(plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in texts:
            files.check_place(folder / name)
        for name, text in texts.items():
            files.write(folder / name, text)
    except OSError as problem:
        raise UsageError(f"cannot write to {visible(str(folder))}: {problem.strerror}") from None
    return sizes


def render(plan: Plan) -> tuple[dict[str, str], Sizes]:
    """The files' texts by their names, and what the header states; equal for equal plans."""
    values, sizes = _values(plan)

    def texts(export: str) -> dict[str, str]:
        given = {**values, "export": export}
        of_rule = {"forwardly_step.c": f"rules/{TEMPLATES[plan.kind]}.jinja"}
        return {
            name: _environment().get_template(of_rule.get(name, f"{name}.jinja")).render(given)
            for name in NAMES
        }

    whole = "".join(texts("").values()).encode()
    return texts(f"0x{hashlib.sha256(whole).hexdigest()[:8]}UL"), sizes


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("forwardly.export.c"),
        autoescape=False,  # noqa: S701, this is C
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


class _Memory(NamedTuple):
    """An array of floats in the C file."""

    name: str
    length: str  # in C
    floats: int
    meaning: str = ""
    numbers: str = ""


def _values(plan: Plan) -> tuple[dict[str, Any], Sizes]:
    """What the templates need, and the bytes."""
    trained, constants = list(_trained(plan)), list(_constants(plan))
    work = list(_work(plan))
    descent = plan.descent
    has_momentum = descent.momentum > 0
    in_state = _floats(trained) * (2 if has_momentum else 1)
    trains_bias = any("bias" in layer.trained for layer in plan.layers)
    of_itself = 2  # the learning rate and whether all is ready
    # The learning rate's first value and the one that a bias is multiplied by are constants too.
    in_flash = _floats(trained) + _floats(constants) + 1 + trains_bias
    sizes = Sizes(
        ram=_BYTES * (in_state + _floats(work) + of_itself),
        flash=_BYTES * in_flash,
    )
    paper = plan.kind.paper
    layers = [_layer(plan, layer) for layer in plan.layers]
    of_target = plan.loss == "cross_entropy"
    needs_slope = plan.kind not in (PEPITA, MemPEPITA, ReadoutOnly)
    sloped = plan.hidden[plan.lowest - 1 :]
    if plan.kind is not Backprop:
        sloped = tuple(layer for layer in sloped if layer.trained)
    learns_from_target = (
        any(layer.trained for layer in plan.hidden)
        if plan.kind is DRTP
        else plan.output_error == "second"
    )
    values = {
        "version": __version__,
        "rule": plan.kind.__name__,
        "rule_and_paper": _wrapped(f'{plan.kind.__name__}, "{paper.title}", {paper.year}'),
        "network": "-".join(map(str, plan.sizes)) + _activations_in_words(plan),
        "loss": plan.loss,
        "loss_in_words": _LOSSES[plan.loss],
        "descent_in_words": _descent_in_words(plan),
        "flash_in_words": _flash_in_words(plan),
        "decay_in_words": " + weight decay * W" if descent.weight_decay else "",
        "target": "label" if of_target else "target",
        "target_type": "int label" if of_target else "const float *target",
        "learns_from_target": learns_from_target,
        "sizes": plan.sizes,
        "layers": layers,
        "hidden": layers[:-1],
        "last": layers[-1],
        "lowest": plan.lowest,
        "first_is_trained": bool(plan.layers[0].trained & {"weight"}),
        "trains_bias": trains_bias,
        "activations": {layer.activation for layer in plan.layers},
        "slopes": {layer.activation for layer in sloped} if needs_slope else set[str](),
        "trained": trained,
        "constants": constants,
        "work": work,
        "has_momentum": has_momentum,
        "nesterov": descent.nesterov,
        "rate": _literal(descent.lr),
        "momentum": _literal(descent.momentum),
        "decay": _literal(descent.weight_decay),
        "modulated": plan.presynaptic == "modulated",
        "output_error": plan.output_error,
        "sign": plan.sign,
        "ram": sizes.ram,
        "flash": sizes.flash,
    }
    return values, sizes


def _trained(plan: Plan) -> Iterator[_Memory]:
    """The members of struct forwardly_weights, in order."""
    for layer in plan.layers:
        for name, value in layer.parameters.items():
            if name in layer.trained:
                yield _parameter(layer, name, value)


def _constants(plan: Plan) -> Iterator[_Memory]:
    """Frozen parameters and the feedback, which stay in flash."""
    for layer in plan.layers:
        for name, value in layer.parameters.items():
            if name not in layer.trained:
                yield _parameter(layer, name, value)
    last = len(plan.layers)
    for name, value in plan.feedback.items():
        rows = 0 if name == "F" else int(name.removeprefix("B_"))
        if rows and not plan.layers[rows - 1].trained:
            continue
        where = "the input" if name == "F" else f"layer {rows}"
        source = "target" if plan.kind is DRTP else "error"
        yield _Memory(
            name,
            _product(rows, last),
            value.size,
            f"Feedback from the {source} to {where}: a row for each unit.",
            _listed(value),
        )


def _parameter(layer: Layer, name: str, value: Array) -> _Memory:
    l = layer.number
    length = _product(l, l - 1) if name == "weight" else f"FORWARDLY_UNITS_{l}"
    letter = f"W_{l}, a row for each unit" if name == "weight" else f"b_{l}"
    return _Memory(f"{name}_{l}", length, value.size, f"{letter}; frozen.", _listed(value))


def _work(plan: Plan) -> Iterator[_Memory]:
    """What a step needs while it lasts, by what the rule needs of the passes."""
    L = len(plan.layers)
    if _keeps_all(plan):
        for l in range(1, L):
            yield _Memory(f"h_{l}", f"FORWARDLY_UNITS_{l}", plan.sizes[l], f"activity of layer {l}")
    else:
        yield from _taking_turns("h", plan, range(1, L))
    yield _Memory(
        "output", "FORWARDLY_OUTPUTS", plan.sizes[L], "of the clean pass; then its error e"
    )
    if "F" in plan.feedback:
        needs_output = plan.output_error == "second"
        yield from _taking_turns("err", plan, range(L + 1 if needs_output else L))
    if plan.kind is Backprop and plan.lowest < L:
        widest = max(range(plan.lowest, L), key=lambda l: plan.sizes[l])
        yield _Memory(
            "back", f"FORWARDLY_UNITS_{widest}", plan.sizes[widest], "what goes back to a layer"
        )


def _taking_turns(name: str, plan: Plan, layers: range) -> Iterator[_Memory]:
    """Memory for the activities of odd and even layers, each as large as the largest of them."""
    what = "activity in the modulated pass" if name == "err" else "activity"
    for turn, parity in (("even", 0), ("odd", 1)):
        of_turn = [l for l in layers if l % 2 == parity]
        if of_turn:
            widest = max(of_turn, key=lambda l: plan.sizes[l])
            named = ", ".join(map(str, of_turn))
            yield _Memory(
                f"{name}_{turn}",
                f"FORWARDLY_UNITS_{widest}",
                plan.sizes[widest],
                f"{what} of layer {named}" + (", one at a time" if len(of_turn) > 1 else ""),
            )


def _keeps_all(plan: Plan) -> bool:
    """Whether the clean pass keeps every layer's activity until the update."""
    return plan.kind not in (MemPEPITA, ReadoutOnly)


def _layer(plan: Plan, layer: Layer) -> dict[str, Any]:
    """A layer, and where in C its parameters and activities are."""
    l = layer.number

    def place(name: str, struct: str = "weights") -> str:
        if name not in layer.parameters:
            return ""
        return f"state.{struct}.{name}_{l}" if name in layer.trained else f"{name}_{l}"

    return {
        "number": l,
        "activation": layer.activation,
        "trained": bool(layer.trained),
        "trains_weight": "weight" in layer.trained,
        "trains_bias": "bias" in layer.trained,
        "weight": place("weight"),
        "bias": place("bias"),
        "weight_momentum": place("weight", "momentum"),
        "bias_momentum": place("bias", "momentum"),
        "a": _activity(plan, l),
        "pre": _activity(plan, l - 1),
        "a_err": f"work.err_{'odd' if l % 2 else 'even'}",
        "pre_err": f"work.err_{'even' if l % 2 else 'odd'}",
    }


def _activity(plan: Plan, l: int) -> str:
    """Where the clean pass puts a_l."""
    if l == 0:
        return "sample"
    if l == len(plan.layers):
        return "work.output"
    if _keeps_all(plan):
        return f"work.h_{l}"
    return f"work.h_{'odd' if l % 2 else 'even'}"


def _wrapped(text: str) -> str:
    """Lines of a comment in C, after what it is of."""
    return "\n *            ".join(textwrap.wrap(text, 86))


def _activations_in_words(plan: Plan) -> str:
    names = [layer.activation or "linear" for layer in plan.hidden]
    return f", hidden layers: {', '.join(names)}" if names else ""


def _descent_in_words(plan: Plan) -> str:
    descent = plan.descent
    parts = [f"learning rate {_literal(descent.lr)}"]
    if descent.momentum:
        whose = "Nesterov's momentum" if descent.nesterov else "momentum"
        parts.append(f"{whose} {_literal(descent.momentum)}")
    if descent.weight_decay:
        parts.append(f"weight decay {_literal(descent.weight_decay)}")
    return ", ".join(parts)


def _flash_in_words(plan: Plan) -> str:
    parts = ["weights to begin with"]
    if any(layer.parameters.keys() - layer.trained for layer in plan.layers):
        parts.append("frozen weights")
    if plan.feedback:
        parts.append("feedback")
    return ", ".join(parts)


def _floats(arrays: list[_Memory]) -> int:
    return sum(array.floats for array in arrays)


def _product(rows: int, columns: int) -> str:
    return f"1L * FORWARDLY_UNITS_{rows} * FORWARDLY_UNITS_{columns}"


def _literal(number: float) -> str:
    """The float nearest to a number, in the fewest digits that mean no other."""
    return f"{np.float32(number)!s}f"


def _listed(values: Array) -> str:
    """Literals row by row, a few a line."""
    literals = [f"{number!s}f" for number in values.ravel()]
    lines = (literals[i : i + _IN_A_LINE] for i in range(0, len(literals), _IN_A_LINE))
    return "\n".join(f"    {', '.join(line)}," for line in lines)
