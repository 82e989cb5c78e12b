"""A weight's whole step as one Triton kernel: the update is summed where it is used.

    update           U = scale · Σ over samples of post ⊗ pre
    gradient         g = U + λW
    momentum         M ← μM + (1 − τ)g                 where there is one; else M is g
    weight           W ← W − ηM, or with Nesterov's W ← W − η(g + μM)

By torch's operations U is a matrix that is written and read again, and so are M and W, once for
each line. Here each program of the grid has a tile of all of them: it sums its part of U, a block
of samples at a time, in registers, reads its part of M and W once, and writes it once.

    grid                tiles of units, tiles of inputs, networks
    post  (S, n, units)    pre (S, n, inputs)    W, M (S, units, inputs)    η (S,)

S networks of one form, such as the seeds of an experiment, lie one behind the other, and may learn
at rates of their own; one network has no first dimension.
"""

# pyright: basic, reportMissingImports=false, reportInvalidTypeForm=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from forwardly.fast.cuda.arithmetic import takes_tf32
from forwardly.fast.sgd import Descent

_UNITS, _INPUTS, _SAMPLES = 64, 64, 32
"""Sides of a tile, and samples that are summed at a time."""


def descend(
    weight: Tensor,
    momentum: Tensor | None,
    post: Tensor,
    pre: Tensor,
    settings: Descent,
    rate: Tensor,
    *,
    scale: float,
    is_new: bool = False,
) -> None:
    """Take the step in place.

    Args:
        weight: W, (units, inputs) or (S, units, inputs), of float32, contiguous.
        momentum: M, likewise; None without momentum.
        post: (n, units) or (S, n, units), of float32 or bfloat16.
        pre: (n, inputs) or (S, n, inputs), of post's type.
        settings: all but the learning rate.
        rate: η, float32, one number a network.
        scale: of the sum over samples.
        is_new: whether M holds nothing yet, and becomes g.
    """
    units, inputs = weight.shape[-2:]
    networks = weight.numel() // (units * inputs)
    grid = triton.cdiv(units, _UNITS), triton.cdiv(inputs, _INPUTS), networks
    _descend[grid](
        *(weight, weight if momentum is None else momentum),
        *(post.contiguous(), pre.contiguous(), rate),
        *(units, inputs, post.shape[-2]),
        scale=-scale if settings.maximize else scale,
        decay=settings.weight_decay,
        keep=settings.momentum,
        part=1.0 if is_new else 1.0 - settings.dampening,
        HAS_MOMENTUM=momentum is not None,
        NESTEROV=settings.nesterov,
        # bfloat16 has fewer digits than TF32, so nothing of it is rounded.
        PRECISION="tf32" if takes_tf32() or post.dtype == torch.bfloat16 else "ieee",
        UNITS=_UNITS,
        INPUTS=_INPUTS,
        SAMPLES=_SAMPLES,
    )
    torch.autograd.graph.increment_version(weight if momentum is None else (weight, momentum))


@triton.jit
def _descend(
    W,
    M,
    post,
    pre,
    rate,
    units,
    inputs,
    n,
    scale,
    decay,
    keep,
    part,
    HAS_MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    PRECISION: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    network = tl.program_id(2).to(tl.int64)  # places in large weights have more than 32 bits
    u = tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS)
    i = tl.program_id(1).to(tl.int64) * INPUTS + tl.arange(0, INPUTS)

    total = tl.zeros((UNITS, INPUTS), tl.float32)
    for first in range(0, n, SAMPLES):
        s = first + tl.arange(0, SAMPLES)
        row = network * n + s  # what lies outside reads as zero, and adds nothing
        a = tl.load(
            post + row[None, :] * units + u[:, None],
            mask=(s < n)[None, :] & (u < units)[:, None],
            other=0.0,
        )
        b = tl.load(
            pre + row[:, None] * inputs + i[None, :],
            mask=(s < n)[:, None] & (i < inputs)[None, :],
            other=0.0,
        )
        total += tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)

    at = (network * units + u[:, None]) * inputs + i[None, :]
    inside = (u < units)[:, None] & (i < inputs)[None, :]
    w = tl.load(W + at, mask=inside)
    g = scale * total + decay * w
    step = g
    if HAS_MOMENTUM:
        m = keep * tl.load(M + at, mask=inside) + part * g
        tl.store(M + at, m, mask=inside)
        step = g + keep * m if NESTEROV else m
    tl.store(W + at, w - tl.load(rate + network) * step, mask=inside)
