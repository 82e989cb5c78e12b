"""Devices, by the names that users give; "auto" is a GPU where there is one and it pays."""

from __future__ import annotations

from typing import NamedTuple

import torch

from forwardly.errors import UsageError
from forwardly.fast import processors
from forwardly.rule import Rule

AUTO = "auto"

LARGE = 10_000_000
"""Multiply-adds of a batch's forward pass from which on "auto" takes a GPU.

On a GPU a step takes 0.3 ms however small the network is (records/gpu), in which two threads of a
processor train one of so many (records/bench, fc-cifar10: 202 million in 5.8 ms).
"""

_KINDS = {
    "cpu": "processors",
    "cuda": "NVIDIA's and AMD's GPUs",
    "xpu": "Intel's GPUs",
    "mps": "Apple's GPUs",
}


class Chosen(NamedTuple):
    """A device that is there.

    Attributes:
        device: torch's.
        why: why "auto" took it; empty of a device that was named.
    """

    device: torch.device
    why: str = ""

    @property
    def model(self) -> str:
        """What the device is, as its maker calls it."""
        return model_of(self.device)

    def as_data(self) -> dict[str, str]:
        """What a record says of it."""
        return {"device": str(self.device), "device_model": self.model}

    def __str__(self) -> str:
        """For people: what was taken, and why."""
        name = str(self.device)
        if self.device.type != "cpu":
            name = f"{name} ({self.model})"
        return f"{name}, {self.why}" if self.why else name


def choose(
    name: str,
    work: int | None = None,
    dtype: torch.dtype = torch.float32,
    before: str | None = None,
) -> Chosen:
    """The device of a name, or by "auto" the one that suits the work.

    Args:
        name: "auto", or as ``device_named`` takes it.
        work: multiply-adds of a batch's forward pass, see ``multiply_adds``; None where there is
            plenty.
        dtype: what is computed in.
        before: the device on which a run was until now, which "auto" stays on if it is there.

    Raises:
        UsageError: if a device that was named is not there, or has no such numbers.
    """
    if name == AUTO:
        return _automatic(work, dtype, before)
    device = device_named(name, or_else="auto, ")
    if dtype == torch.float64 and not _has_float64(device):
        raise UsageError(f"the device {name} has no float64: take float32, or the device cpu")
    return Chosen(device)


def _automatic(work: int | None, dtype: torch.dtype, before: str | None) -> Chosen:
    cpu = torch.device("cpu")
    if before is not None:
        try:
            return choose(before, dtype=dtype)._replace(why="where the run was until now")
        except UsageError:
            pass  # it has gone to another machine
    if work is not None and work < LARGE:  # known without waking a GPU
        return Chosen(cpu, f"as a batch is small ({work / 1e6:.2g} million multiply-adds)")
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in _KINDS:
        return Chosen(cpu, "as torch sees no GPU")
    device = torch.device(found.type)
    if dtype == torch.float64 and not _has_float64(device):
        return Chosen(cpu, f"as {_KINDS[device.type]} have no float64")
    large = "" if work is None else f" and a batch is {work / 1e6:,.0f} million multiply-adds"
    return Chosen(device, f"as there is one{large}")


def device_named(name: str, *, or_else: str = "") -> torch.device:
    """The device "cpu", "cuda", "cuda:1", "mps", …, which is there.

    Args:
        name: of the device.
        or_else: what might have been given too, for the message.

    Raises:
        UsageError: if torch knows no such device, or it is not there.
    """
    kind = name.partition(":")[0]
    try:
        device = torch.device(name) if kind in _KINDS else None
    except RuntimeError:
        device = None
    if device is None:
        raise UsageError(
            f"a device is {or_else}cpu, cuda, cuda:1 (the second), xpu or mps; given {name!r}"
        )
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


def model_of(device: torch.device) -> str:
    """What a device is, as its maker calls it; of a GPU that does not say, its kind."""
    if device.type == "cpu":
        return processors.name()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.xpu.get_device_name(device) if device.type == "xpu" else device.type


def multiply_adds(rule: Rule, sample_shape: tuple[int, ...], batch: int) -> int:
    """Of the products of a batch's forward pass; of a convolution, at all positions.

    Args:
        rule: whose model it is.
        sample_shape: of x, without the batch.
        batch: samples.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        first, *_ = rule.network.probe(sample_shape)
    return batch * counted.get_total_flops() // (2 * len(first.pre))


def as_exact_as_processors(device: torch.device) -> None:
    """Have a GPU's convolutions computed in float32, where torch would shorten it to TF32.

    The ten bits that are left are too few for the difference of two passes.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device).add_(1)
    except (TypeError, RuntimeError):
        return False
    return True
