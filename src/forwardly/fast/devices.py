"""Devices, by the names that users give."""

from __future__ import annotations

import torch

from forwardly.errors import UsageError

_KINDS = {
    "cpu": "processors",
    "cuda": "NVIDIA's and AMD's GPUs",
    "xpu": "Intel's GPUs",
    "mps": "Apple's GPUs",
}


def device_named(name: str) -> torch.device:
    """The device "cpu", "cuda", "cuda:1", "mps", …, which is there.

    Raises:
        UsageError: if torch knows no such device, or it is not there.
    """
    kind = name.partition(":")[0]
    try:
        device = torch.device(name) if kind in _KINDS else None
    except RuntimeError:
        device = None
    if device is None:
        raise UsageError(f"a device is cpu, cuda, cuda:1 (the second), xpu or mps; given {name!r}")
    if kind == "cpu":
        return device
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        more = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
        seen = f"{more}, from cuda:0 on" if more else "none"
        raise UsageError(
            f"there is no device {name!r}: of {_KINDS[kind]} torch {torch.__version__} sees "
            f"{seen}. Take cpu, or a torch that is built for it: https://pytorch.org/get-started"
        ) from None
    return device
