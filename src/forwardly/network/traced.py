"""Any model that can be traced, as stages and a graph of operations; and the check of the graph.

What a model does with a batch is found out on a copy of it, with random numbers for samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from forwardly.errors import in_a_line
from forwardly.network.chains import chain_of
from forwardly.network.diagonal import Diagonal
from forwardly.network.graph import Analysis, Graph, Operation, Site, with_liveness
from forwardly.network.kinds import ALL_BATCH_NORMS, ALL_DROPOUTS, ALL_SYNAPSES, UntraceableError
from forwardly.network.operations import operations_of
from forwardly.network.stage import Part, Stage, key_of
from forwardly.network.trace import (
    SAMPLES,
    WithoutDropout,
    trace,
    undisturbed_randomness,
)

_FUSED = (
    *(nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
    *(nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer),
)
_RANDOM = (nn.RReLU, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.FractionalMaxPool2d)


class Read(NamedTuple):
    """What was found.

    Attributes:
        stages: the synapses.
        graph: the operations.
        dropouts: keys of the dropouts, in order.
        chain: its modules and functions as modules, in order, if it is a chain after all.
        x: the samples that it was read with.
        output: what the model made of them.
    """

    stages: tuple[Stage, ...]
    graph: Graph
    dropouts: tuple[str, ...]
    chain: list[Part] | None
    x: Tensor
    output: Tensor


def read(model: nn.Module, input_shape: tuple[int, ...] | None) -> Read:
    """Read a model.

    Args:
        model: of any form.
        input_shape: the shape of a sample; not needed if the model begins with ``nn.Linear``.

    Raises:
        TypeError, ValueError: if it cannot be read, with what to do.
    """
    for name, module in _named_modules(model):
        _check_module(name, module)
    weights = [p for p in model.parameters() if p.is_floating_point()]
    if not weights:
        raise ValueError(
            "the model has no weights to learn: it needs at least one linear layer or convolution; "
            f"given {model}"
        )
    shape = input_shape or _first_shape(model)
    with torch.no_grad(), undisturbed_randomness(weights[0]):
        x, output = _run(model, shape, weights[0])
    traced = trace(model, (x[: SAMPLES[0]], x))
    operations, end, examples = operations_of(model, traced)
    analysis = Analysis(operations, end, examples)
    if not analysis.synapses:
        raise ValueError(
            "the model has no weights to learn: it needs at least one linear layer or convolution "
            f"whose weight is a parameter; given {model}"
        )
    a_0 = analysis.prepared_input()
    sites, synapses = analysis.sites(a_0), analysis.taught(a_0)
    taught = analysis.behind({op.number for op in synapses})
    stages = _stages([cast(Stage, op.call) for op in synapses], sites, taught)
    placed = dict(zip((op.number for op in synapses), stages, strict=True))

    def with_places(found: list[Operation]) -> list[Operation]:
        return [op._replace(call=placed.get(op.number, op.call)) for op in found]

    preparation, body, around = analysis.split(a_0)
    shown, held = _shown(sites, end)
    drops = [
        (key_of(op.call), analysis.by_sample(op.number))
        for op in analysis.operations
        if isinstance(op.call, Part) and isinstance(op.call.module, ALL_DROPOUTS)
    ]
    graph = Graph(
        with_liveness(preparation, {a_0, *around}, {}),
        with_liveness(with_places(body), {end}, held),
        a_0,
        end,
        around,
        tuple(sites),
        taught,
        analysis.behind({a_0}),
        shown,
        tuple(x.shape[1:]) if traced.by_shape else None,
        tuple(key for key, by_sample in drops if not by_sample),
    )
    dropouts = tuple(key for key, _ in drops)
    chain = chain_of(analysis.operations, end, examples)
    return Read(stages, graph, dropouts, chain, x, output)


def check(read: Read, run: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]) -> None:
    """Compare what the operations make of the samples with what the model made of them.

    Args:
        read: what was read.
        run: x to the output of the operations, and the statistics that they move.

    Raises:
        TypeError: if they differ.
    """
    output, _ = run(read.x)
    if output.is_meta:
        return
    scale = read.output.abs().max().clamp_min(1)
    tolerance = 100 * torch.finfo(read.output.dtype).eps
    same = output.shape == read.output.shape and bool(
        ((output - read.output).abs() <= tolerance * scale).all()
    )
    if not same:
        raise UntraceableError(
            "the operations that were read from the model do not compute what the model does: it "
            "writes over tensors that it uses elsewhere, or its modules have forward methods that "
            "do something each time. Write it without operations in place"
        )


def _stages(found: list[Stage], sites: list[Site], taught: frozenset[int]) -> tuple[Stage, ...]:
    """Stages that know their places."""
    weights = [dict(stage.part.parameters).get("weight", stage.name) for stage in found]
    units = [site.h for site in sites]
    carrying = {weight for weight, site in zip(weights, sites, strict=True) if site.pre in taught}
    return tuple(
        replace(
            stage,
            l=l,
            is_readout=sites[l - 1].is_readout,
            sends_back=weights[l - 1] in carrying and not isinstance(stage.part.module, Diagonal),
            same_weight=weights.index(weights[l - 1]) + 1,
            same_units=units.index(units[l - 1]) + 1,
        )
        for l, stage in enumerate(found, start=1)
    )


def _shown(sites: list[Site], end: int) -> tuple[dict[int, tuple[int, ...]], dict[int, set[int]]]:
    """``Graph.shown``, and the values that are needed for it."""
    shown: dict[int, tuple[int, ...]] = {}
    held: dict[int, set[int]] = {}
    latest = 0
    for l, site in enumerate(sites):
        is_last = l == len(sites) - 1
        latest = max(latest, site.h, end if is_last else 0)
        shown[latest] = (*shown.get(latest, ()), l)
        held.setdefault(latest, set()).update({site.pre, site.z, site.h})
    return shown, held


def _first_shape(model: nn.Module) -> tuple[int, ...]:
    first = next((m for m in model.modules() if isinstance(m, ALL_SYNAPSES)), None)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise ValueError(
        "the model is no chain of supported modules, so it is read by running it on random "
        "samples: pass input_shape, the shape of x without the batch, e.g. (3, 32, 32)"
    )


def _run(model: nn.Module, shape: tuple[int, ...], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Random samples, and what a copy of the model makes of them.

    Raises:
        UntraceableError: if it draws random numbers or moves buffers in other ways than known.
        ValueError: if it does not take such samples.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((SAMPLES[1], *shape), generator=generator, dtype=torch.float64).to(weight)
    try:
        copied = copy.deepcopy(model)
    except Exception as failure:
        raise UntraceableError(
            f"the model cannot be copied ({failure}), and it is read by running a copy: let it "
            "have no tensors that are results of others"
        ) from failure
    states = _random_states(weight)
    try:
        return x, _output(copied, model, x, states)
    except (RuntimeError, TypeError) as failure:
        if isinstance(failure, UntraceableError):
            raise
        words = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
        if words:
            whole = torch.randint(min(words), x.shape, generator=generator).to(weight.device)
            try:
                return whole, _output(copy.deepcopy(model), model, whole, states)
            except RuntimeError as second:
                failure = second
        raise ValueError(
            f"the model does not take samples of shape {shape}: {in_a_line(failure)}. Pass "
            "input_shape, the shape of x without the batch"
        ) from failure


def _output(copied: nn.Module, model: nn.Module, x: Tensor, states: list[Tensor]) -> Tensor:
    with WithoutDropout():
        output = copied(x.clone())
    if not isinstance(output, Tensor):
        raise UntraceableError(
            f"the model returns a {type(output).__name__}, and rules have one output, a tensor of "
            "one row a sample: wrap the model in a module that returns only that"
        )
    if output.dim() < 2 or output.shape[0] != len(x):
        raise UntraceableError(
            f"the model makes {tuple(output.shape)} of {len(x)} samples, and rules need one row of "
            "outputs a sample"
        )
    if any(not a.equal(b) for a, b in zip(states, _random_states(x), strict=True)):
        raise UntraceableError(
            "the model draws random numbers, which every pass would draw anew: of randomness only "
            "nn.Dropout and its functional form are supported, whose mask all passes share"
        )
    moved = {
        f"{name}.{buffer}"
        for name, module in _named_modules(copied)
        if isinstance(module, ALL_BATCH_NORMS)
        for buffer, _ in module.named_buffers()
    }
    before = dict(model.named_buffers())
    for name, buffer in copied.named_buffers():
        if name not in moved and not _same(before.get(name), buffer):
            raise UntraceableError(
                f"the model moves its buffer {name!r} in a forward pass, which every pass of a "
                "step would do: of such only batch norms are supported"
            )
    return output


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast(Iterator[tuple[str, nn.Module]], model.named_modules())


def _same(before: Tensor | None, after: Tensor) -> bool:
    return (
        before is not None
        and before.shape == after.shape
        and bool(after.is_meta or torch.equal(before, after))
    )


def _random_states(like: Tensor) -> list[Tensor]:
    states = [torch.random.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(like.device)] if like.is_cuda else states


def _check_module(name: str, module: nn.Module) -> None:
    """Refuse what cannot be part of a network, by its kind."""
    if isinstance(module, _FUSED):
        raise UntraceableError(
            f"module {name!r}, {module}, is not supported: it has several synapses in one "
            "operation, where no rule can teach them. Write it with nn.Linear"
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        raise UntraceableError(
            f"module {name!r}, {module}, is not supported, as rules make no sparse gradients: take "
            "sparse=False"
        )
    if isinstance(module, _RANDOM) and module.training:
        raise UntraceableError(
            f"module {name!r}, {module}, is not supported, as it draws random numbers in every "
            "pass: of such only dropout is supported"
        )
    if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        raise ValueError(
            f"module {name!r}, {module}, has no sizes yet: run the model once on a batch"
        )
