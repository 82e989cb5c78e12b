"""What torch is set to of products on CUDA, and whether there is Triton."""

from __future__ import annotations

from functools import cache

import torch


def takes_tf32() -> bool:
    """Whether products of float32 may round what they multiply to TF32, as torch is set."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)  # which torch has from 2.9 on
    return bool(matmul.allow_tf32) if precision is None else precision == "tf32"


def settings() -> tuple[object, ...]:
    """All that decides how products are computed."""
    cudnn = torch.backends.cudnn
    return (
        takes_tf32(),
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        *(cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled),
        torch.are_deterministic_algorithms_enabled(),
    )


@cache
def no_triton() -> str:
    """Why no kernel can be compiled here; empty if it can. Loads Triton."""
    try:
        import triton  # pyright: ignore  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # not there, or not for this system
        return f"Triton, which compiles it, cannot be imported ({error})"
    return ""
