"""Torch's attention and encoders of transformers, written in functions that a trace can see.

``nn.MultiheadAttention`` hands its parameters to one function, in which two synapses and a dropout
are hidden, and the encoders ask for the reasons why they should not take a kernel of their own.

    q, k, v = the three parts of W_in x + b_in        one synapse, of 3 d units
    A       = softmax(q kᵀ / √(d / heads) + mask)     each head for itself; dropout on A
    output  = W_out (A v) + b_out                     the other

"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, cast

from torch import nn
from torch.nn import functional

from forwardly.network.alterations import has_own_forward
from forwardly.network.kinds import UntraceableError

Traced = Any
"""A tensor, or what stands for one in a trace."""


def written_out(module: nn.Module) -> Callable[..., Any] | None:
    """A function of the module and what it is called with, that does what its forward does.

    None for other modules, and for subclasses with a forward method of their own.
    """
    for kind, function in _WRITTEN.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return None if has_own_forward(module) else function
    return None


def _attention(
    module: nn.MultiheadAttention,
    query: Traced,
    key: Traced,
    value: Traced,
    key_padding_mask: Traced = None,
    need_weights: bool = True,
    attn_mask: Traced = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # noqa: ARG001  # a hint that attn_mask is causal
) -> tuple[Traced, Traced]:
    if not (query is key and key is value):
        _refuse(module, "attends from one thing to another, with rows of one weight for each")
    if module.bias_k is not None or module.add_zero_attn:
        _refuse(module, "has keys that come from no synapse (add_bias_kv, add_zero_attn)")
    x = query if module.batch_first else query.transpose(0, 1)  # samples, length, d
    packed = functional.linear(x, module.in_proj_weight, module.in_proj_bias)
    q, k, v = (_heads(module, part) for part in packed.chunk(3, dim=-1))
    dimensions = cast(int, module.embed_dim) // module.num_heads
    weights = q / math.sqrt(dimensions) @ k.transpose(-2, -1)
    if attn_mask is not None:
        if attn_mask.dim() == 3:  # one for each sample and head
            attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))
        weights = _masked(weights, attn_mask)
    if key_padding_mask is not None:
        weights = _masked(weights, key_padding_mask.unsqueeze(1).unsqueeze(1))
    weights = functional.dropout(weights.softmax(-1), module.dropout, module.training)
    h = (weights @ v).transpose(1, 2).flatten(2)
    output = functional.linear(h, module.out_proj.weight, module.out_proj.bias)
    if not module.batch_first:
        output = output.transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _heads(module: nn.MultiheadAttention, part: Traced) -> Traced:
    """Samples, heads, length, and what is left of d."""
    return part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


def _masked(weights: Traced, mask: Traced) -> Traced:
    return weights + mask if mask.is_floating_point() else weights.masked_fill(mask, -math.inf)


def _encoder_layer(
    module: nn.TransformerEncoderLayer,
    src: Traced,
    src_mask: Traced = None,
    src_key_padding_mask: Traced = None,
    is_causal: bool = False,
) -> Traced:
    feed: Callable[[Traced], Traced] = module._ff_block  # pyright: ignore[reportPrivateUsage]

    def attend(x: Traced) -> Traced:
        masks = (src_mask, src_key_padding_mask, is_causal)
        return module._sa_block(x, *masks)  # pyright: ignore[reportPrivateUsage]

    if module.norm_first:
        x = src + attend(module.norm1(src))
        return x + feed(module.norm2(x))
    x = module.norm1(src + attend(src))
    return module.norm2(x + feed(x))


def _encoder(
    module: nn.TransformerEncoder,
    src: Traced,
    mask: Traced = None,
    src_key_padding_mask: Traced = None,
    is_causal: bool | None = None,
) -> Traced:
    for layer in module.layers:
        masks = {"src_mask": mask, "src_key_padding_mask": src_key_padding_mask}
        src = layer(src, is_causal=bool(is_causal), **masks)
    return src if module.norm is None else module.norm(src)


def _refuse(module: nn.MultiheadAttention, why: str) -> NoReturn:
    raise UntraceableError(
        f"{module} {why}, where no rule can teach it: write it with nn.Linear, one each for query, "
        "key and value"
    )


_WRITTEN: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
}
