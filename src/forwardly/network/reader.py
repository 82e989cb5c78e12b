"""Reads an ``nn.Sequential``, possibly nested, as stages, and detects later changes of it.

What cannot be trained correctly is refused here, by the name of the module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from forwardly._typing import Float, Int
from forwardly.network import traced
from forwardly.network.alterations import (
    MODULE_HOOKS,
    all_modules_are_hooked,
    alteration,
    has_backward_hook,
    has_gradient_hook,
    has_own_forward,
    is_hooked,
    overrides,
)
from forwardly.network.diagonal import Diagonal
from forwardly.network.graph import Graph, changes_values, depths, described
from forwardly.network.kinds import (
    ALL_BATCH_NORMS,
    ALL_DROPOUTS,
    ALL_SYNAPSES,
    BATCH_NORMS,
    DROPOUTS,
    ELEMENTWISE,
    RESHAPES,
    SUPPORTED,
    SYNAPSES,
)
from forwardly.network.share import Share
from forwardly.network.stage import Activity, Apply, Part, Stage, Synapse, key_of
from forwardly.network.step import NO_KERNELS, Kernels, Step

_CHECKED = (*SUPPORTED, *ALL_SYNAPSES, *ALL_DROPOUTS, *ALL_BATCH_NORMS)
"""What must be as torch has it, wherever it stands."""


class Network:
    """A model as stages.

    A (nested) ``nn.Sequential`` of supported modules is a chain; any other model is traced, see
    ``traced``.

    Args:
        model: it is kept, not copied.
        input_shape: the shape of x without the batch; needed if the model is traced, unless it
            begins with ``nn.Linear``.

    Attributes:
        graph: the operations of a model that is no chain; None for a chain.
        traced: whether the model was traced, so that it matters which modules are training.
        preparation: what stands before the first synapse of a chain.
        stages: the synapses, each with what follows it.
        dropouts: keys of the dropouts, in order; a module in two places has two.
        altered: why closed forms and fast paths do not hold: that it is no chain, or how the first
            altered module differs from torch's class, see ``alterations``; empty if they do.
        shared: names of the parameters that several synapses have.

    Raises:
        TypeError: if the model or a module in it is not supported.
        ValueError: if the model has no weights, or uses a layer's parameters twice.
    """

    as_graph: ClassVar[bool] = False
    """Whether chains that had to be traced stay graphs; for tests that compare the two."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...] | None = None) -> None:
        self.graph: Graph | None = None
        self.traced = not _is_chain(model)
        self.preparation: tuple[Part, ...] = ()
        self.shared: frozenset[str] = frozenset()
        self.reading = reading_of(model, modes=self.traced)
        if self.traced:
            self._read_traced(model, input_shape)
        else:
            self._read_parts(model, list(_parts(model)))

    def _read_parts(self, model: nn.Module, parts: list[Part]) -> None:
        positions = [i for i, part in enumerate(parts) if isinstance(part.module, SYNAPSES)]
        if not positions:
            raise ValueError(
                "the model has no weights to learn: it needs at least one nn.Linear, nn.Conv1d or "
                f"nn.Conv2d; given {model}"
            )
        self.preparation = tuple(parts[: positions[0]])
        self.stages: tuple[Stage, ...] = tuple(
            _stage(parts[start:stop], l, is_last=l == len(positions))
            for l, (start, stop) in enumerate(
                zip(positions, [*positions[1:], len(parts)], strict=True), start=1
            )
        )
        self.dropouts: tuple[str, ...] = tuple(
            key_of(part) for part in parts if isinstance(part.module, DROPOUTS)
        )
        self.altered = next(
            (f"module {part.name!r} {part.altered}" for part in parts if part.altered), ""
        )
        _check_no_sharing(parts)
        self._check_output_stage()

    def _read_traced(self, model: nn.Module, input_shape: tuple[int, ...] | None) -> None:
        _check_hooks(model)
        for name, module in _named_modules(model):
            if isinstance(module, _CHECKED):
                _check_supported(name, module)
        found = traced.read(model, input_shape)
        self._example = found.x
        if found.chain is not None and not self.as_graph:
            self._read_parts(model, found.chain)
        else:
            self._use_graph(found)

        def run(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            step = self.step()
            *_, last = step.activities(step.prepare(x))
            return last.a, step.statistics

        with torch.no_grad():
            traced.check(found, run)

    def _use_graph(self, found: traced.Read) -> None:
        self.graph = found.graph
        self.stages = found.stages
        self.dropouts = found.dropouts
        self.altered = "the model is no chain of modules"
        uses = Counter(name for stage in self.stages for name in stage.updated)
        self.shared = frozenset(name for name, times in uses.items() if times > 1)
        synapses = [stage for stage in self.stages if not isinstance(stage.part.module, Diagonal)]
        distinct = {id(stage.synapse.weight): stage.part for stage in synapses}
        _check_no_sharing([*distinct.values()])

    def step(
        self,
        seed_and_step: Int[Tensor, "2"] | None = None,
        *,
        kernels: Kernels = NO_KERNELS,
        apply: Apply | None = None,
        keep_masks: bool = True,
        share: Share | None = None,
    ) -> Step:
        """Begin a training step; see ``Step``."""
        return Step(self, seed_and_step, kernels, apply, keep_masks, share)

    def probe(self, input_shape: tuple[int, ...] | None = None) -> list[Activity]:
        """The activities of two samples of zeros, for their shapes.

        Args:
            input_shape: the shape of x without the batch; needed only if the first synapse is a
                convolution, whose input may have any size.

        Raises:
            ValueError: if it is needed and missing, or does not fit the network.
        """
        first = self.stages[0].synapse
        step = self.step()
        with torch.no_grad():
            if self.graph is not None:
                return list(step.activities(step.prepare(self._example)))
            # Two samples, as batch normalisation in training mode refuses one.
            if input_shape is not None:
                a_0 = step.prepare(first.weight.new_zeros(2, *input_shape))
            elif isinstance(first, nn.Linear):
                a_0 = first.weight.new_zeros(2, first.in_features)
            else:
                raise ValueError(
                    f"the first synapse is a convolution, {first}, whose input may have any size: "
                    "pass input_shape, the shape of x without the batch, e.g. (3, 32, 32)"
                )
            return list(step.activities(a_0))

    def sizes(self, input_shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Numbers of units d, …, k of a₀, a₁, …, a_L for one sample; see ``probe``."""
        layers = self.probe(input_shape)
        a_0 = layers[0].pre if self.graph is None else self.step().prepare(self._example)
        return (a_0[0].numel(), *(layer.a[0].numel() for layer in layers))

    def layers(self) -> tuple[int, ...]:
        """The layer of each stage, from 1: in a graph by the longest way from a₀ to its units.

        All readouts are in the last. A scale or shift is in the layer whose units it is of.
        """
        if self.graph is None:
            return tuple(stage.l for stage in self.stages)
        depth = depths(self.graph)
        found = [max(1, depth[site.z]) for site in self.graph.sites]
        last = max(found)
        return tuple(
            last if site.is_readout else l for l, site in zip(found, self.graph.sites, strict=True)
        )

    def check_prepared(self, a_0: Float[Tensor, "..."]) -> None:
        """Refuse an input of a shape or dtype that the first synapse does not take."""
        if self.graph is None:
            self.stages[0].check_presynaptic(a_0)
        weight = next(s.synapse.weight for s in self.stages if "weight" in dict(s.part.parameters))
        if a_0.dtype != weight.dtype:
            raise TypeError(
                f"the input is {a_0.dtype}, the model's weights are {weight.dtype}: convert one, "
                f"e.g. x.to({weight.dtype}) or rule.to({a_0.dtype})"
            )

    @property
    def output_activation(self) -> str:
        """The first module or function between a readout and its units; empty if there is none."""
        if self.graph is None:
            after = [p for p in self.stages[-1].elementwise if not _is_identity(p)]
            return str(after[0].module) if after else ""
        regions = [site.region for site in self.graph.sites if site.is_readout]
        names = [described(op) for region in regions for op in region if changes_values(op)]
        return names[0] if names else ""

    def check_by_sample(self, stage: Stage, rule: str) -> None:
        """Refuse a stage whose units are not told apart by sample in their first dimension."""
        if self.graph is not None and not self.graph.sites[stage.l - 1].by_sample:
            raise TypeError(
                f"{rule} sends each sample's own signal to the units of {stage.name!r}, whose "
                "first dimension does not count samples (they are cut into windows, say): take a "
                "rule that need not know, such as PEPITA or FeedbackAlignment"
            )

    def _check_output_stage(self) -> None:
        for part in self.stages[-1].reshaping:
            if not isinstance(part.module, RESHAPES):
                raise TypeError(
                    f"module {part.name!r}, {part.module}, follows the last synapse, whose units "
                    "must be the model's outputs, one error each: only elementwise modules, "
                    "nn.Flatten and nn.Unflatten may follow it. End the model with nn.Linear"
                )


class Reading(NamedTuple):
    """A snapshot of what a model consists of, to be compared with later ones.

    Attributes:
        hooked: whether there is a global module hook.
        modules: for each place in the model what decides what is computed there: name, module,
            class, forward method, whether the instance overrides it, and hooks.
        parameters: for each its name, identity, ``requires_grad``, hooks, shape, strides, dtype and
            device; None for what a functional call or a trace has put in its place; the name alone
            for one that the module has not, such as a bias.
    """

    hooked: bool
    modules: tuple[tuple[object, ...], ...]
    parameters: tuple[tuple[object, ...] | str | None, ...]

    def agrees(self, other: Reading) -> bool:
        """Whether both are the same, as far as can be seen in a functional call."""
        if self == other:
            return True
        pairs = zip(self.parameters, other.parameters, strict=False)
        return (
            self[:2] == other[:2]
            and len(self.parameters) == len(other.parameters)
            and all(mine is None or its is None or mine == its for mine, its in pairs)
        )


_tables_of_hooks = itemgetter(*MODULE_HOOKS)


def reading_of(model: nn.Module, *, modes: bool = False) -> Reading:
    """The model's present snapshot; called in every step, it takes some microseconds.

    Args:
        model: what to look at.
        modes: whether it matters if modules are training, and what other numbers and words they
            have, as for what is traced, where these have become constants.
    """
    modules: list[tuple[object, ...]] = []
    parameters: list[tuple[object, ...] | str | None] = []
    left: list[tuple[str, nn.Module]] = [("", model)]
    while left:
        name, module = left.pop()
        kind, own = type(module), vars(module)
        hooks = map(bool, _tables_of_hooks(own))
        plain = _settings(own) if modes else None
        modules.append(
            (name, id(module), kind, kind.forward, has_own_forward(module), plain, *hooks)
        )
        for p, parameter in own["_parameters"].items():
            if type(parameter) is nn.Parameter:
                hooked = has_gradient_hook(parameter)
                place = parameter.shape, parameter.stride(), parameter.dtype, parameter.device
                parameters.append((p, id(parameter), parameter.requires_grad, hooked, *place))
            else:
                parameters.append(p if parameter is None else None)
        left += own["_modules"].items()
    return Reading(all_modules_are_hooked(), tuple(modules), tuple(parameters))


def _settings(own: dict[str, object]) -> tuple[tuple[str, object], ...]:
    """A module's numbers and words, whether it is training among them."""
    return tuple((k, v) for k, v in own.items() if isinstance(v, bool | int | float | str))


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every place in the model and its module; a module used twice comes twice."""
    return cast(Iterator[tuple[str, nn.Module]], model.named_modules(remove_duplicate=False))


def _is_chain(model: nn.Module) -> bool:
    """Whether it is a nested ``nn.Sequential`` of what chains are made of."""
    is_module = isinstance(model, nn.Module)  # pyright: ignore[reportUnnecessaryIsInstance]
    patched = isinstance(model, nn.Sequential) and has_own_forward(model)
    if not is_module or patched or isinstance(model, _NO_MODELS) or _is_compiled(model):
        kind = type(model).__name__
        raise TypeError(
            f"the model must be an nn.Sequential; given {kind}, or another module that has layers "
            "inside. Wrap its layers: nn.Sequential(nn.Flatten(), nn.Linear(...), ...)"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError(
            "the model was compiled by TorchScript, and cannot be read: take it as it was before"
        )
    return _is_sequential(model) and all(
        _is_sequential(module) or isinstance(module, SUPPORTED) or not name
        for name, module in _outermost(model)
    )


_NO_MODELS: tuple[type[nn.Module], ...] = (
    *SUPPORTED,
    *(nn.DataParallel, nn.ModuleList, nn.ModuleDict),
)


def _is_compiled(model: nn.Module) -> bool:
    """Whether it is what ``torch.compile`` made, told without importing that."""
    return type(model).__name__ == "OptimizedModule"


def _outermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that containers hold, and these; not what is inside of modules."""
    yield "", model
    left = [*model.named_children()]
    for name, module in left:
        yield name, module
        if _is_sequential(module):
            left += module.named_children()


def _parts(model: nn.Module) -> Iterator[Part]:
    _check_hooks(model)
    first_names: dict[int, str] = {}
    for name, parameter in _named_parameters(model):
        first_names.setdefault(id(parameter), name)
    for name, module in _named_modules(model):
        if _is_sequential(module):
            continue
        _check_supported(name, module)
        own = tuple((n, first_names[id(p)]) for n, p in module.named_parameters())
        yield Part(name, module, own, alteration(module))


def _named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and not overrides(module, nn.Sequential)


def _check_hooks(model: nn.Module) -> None:
    """Refuse hooks that would not be called, as backward passes and containers are not."""
    if all_modules_are_hooked():
        raise ValueError(
            "there is a hook on all modules, and rules do not call containers such as "
            "nn.Sequential: register it on the modules that it is for"
        )
    for name, module in _named_modules(model):
        called = f"module {name!r}" if name else "the model"
        has_others = not isinstance(module, SUPPORTED) and any(True for _ in module.children())
        if (_is_sequential(module) or has_others) and is_hooked(module):
            what = "an nn.Sequential" if _is_sequential(module) else f"a {type(module).__name__}"
            raise ValueError(
                f"{called} is {what} with a hook, and rules call the modules inside it one by one: "
                "register the hook on one of these"
            )
        if has_backward_hook(module):
            raise ValueError(
                f"{called} has a backward hook, which would never be called, as there is no "
                "backward pass: remove it. Credit.updates has what it would see"
            )
    for name, parameter in _named_parameters(model):
        if has_gradient_hook(parameter):
            raise ValueError(
                f"parameter {name!r} has a gradient hook, which would never be called, as there is "
                "no backward pass: remove it, and change .grad between accumulate and the "
                "optimizer's step"
            )


def _check_supported(name: str, module: nn.Module) -> None:
    kinds: tuple[type[nn.Module], ...] = (*SUPPORTED, *_CHECKED)
    kind = next((kind for kind in kinds if isinstance(module, kind)), None)
    if kind is None:
        names = ", ".join(kind.__name__ for kind in SUPPORTED)
        raise TypeError(
            f"module {name!r}, {module}, is not supported. Supported are nested nn.Sequential of: "
            f"{names}"
        )
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ValueError(
            f"module {name!r}, {module}, has no sizes yet: run the model once on a batch"
        )
    if isinstance(module, ALL_SYNAPSES):
        if "weight" not in module._parameters or is_parametrized(module):  # pyright: ignore[reportPrivateUsage]
            raise TypeError(
                f"module {name!r}, {module}, has a weight or bias that is computed from others "
                "(pruned, normalised, parametrised), so its local update is not known: make it a "
                "parameter of its own, e.g. by torch.nn.utils.prune.remove or "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        if overrides(module, kind):
            raise TypeError(
                f"module {name!r}, a {type(module).__name__}, changes the forward pass of "
                f"nn.{kind.__name__}, so its local update is not known: use nn.{kind.__name__}"
            )
    if isinstance(module, (*ALL_DROPOUTS, *ALL_BATCH_NORMS)) and overrides(module, kind):
        raise TypeError(
            f"module {name!r}, a {type(module).__name__}, changes the forward pass of "
            f"nn.{kind.__name__}, which rules have one of their own of, as all passes of a step "
            f"share its state: use nn.{kind.__name__}, or a hook"
        )
    if any(_reach(parameter) < parameter.numel() for parameter in module.parameters()):
        raise ValueError(
            f"module {name!r}, {module}, has a parameter with several elements in one place of "
            "memory, which cannot be updated one by one: take a .contiguous() copy"
        )
    if any(True for _ in module.children()):
        raise TypeError(
            f"module {name!r}, a {type(module).__name__}, has modules of its own inside, which is "
            f"not supported: use nn.{kind.__name__}"
        )
    if getattr(module, "return_indices", False):
        raise ValueError(f"module {name!r}, {module}: return_indices=True is not supported")


def _check_no_sharing(parts: list[Part]) -> None:
    """Refuse weights and running statistics in two places, which one local update cannot serve."""
    owned = [
        (*_span(tensor), part)
        for part in parts
        if isinstance(part.module, (*ALL_SYNAPSES, *BATCH_NORMS))
        for tensor in (*part.module.parameters(), *part.module.buffers())
    ]
    owned.sort(key=itemgetter(0))
    for (_, end, other), (start, _, part) in pairwise(owned):
        if end <= start:
            continue
        if isinstance(part.module, ALL_SYNAPSES):
            raise ValueError(
                f"the synapses {other.name!r} and {part.name!r} share one weight or bias, be it in "
                "part, which a local update cannot serve: give each layer parameters of its own"
            )
        raise ValueError(
            f"the modules {other.name!r} and {part.name!r} share their statistics or parameters, "
            "which one step cannot move twice: give each place a module of its own"
        )


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses between which a tensor lies, be it with gaps."""
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # a tensor of a transform has none
        start = 0
    size = _reach(tensor) * tensor.element_size() if start else 1
    return start or id(tensor), (start or id(tensor)) + size


def _reach(tensor: Tensor) -> int:
    """How many elements of its storage a tensor spans."""
    return 1 + sum((n - 1) * by for n, by in zip(tensor.shape, tensor.stride(), strict=True))


def _is_identity(part: Part) -> bool:
    return isinstance(part.module, nn.Identity) and not part.altered


def _stage(parts: list[Part], l: int, *, is_last: bool) -> Stage:
    synapse = cast(Synapse, parts[0].module)
    following = parts[1:]
    split = next(
        (i for i, part in enumerate(following) if not isinstance(part.module, ELEMENTWISE)),
        len(following),
    )
    return Stage(
        part=parts[0],
        elementwise=tuple(following[:split]),
        reshaping=tuple(following[split:]),
        trained=frozenset(
            name
            for name, parameter in synapse.named_parameters()
            if name in ("weight", "bias") and parameter.requires_grad
        ),
        l=l,
        is_readout=is_last,
        sends_back=l > 1,
        same_weight=l,
        same_units=l,
    )
