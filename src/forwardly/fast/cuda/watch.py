"""Values that nothing can be learned from, found on the device without waiting for it.

To ask whether a batch is finite, and its classes in range, is to wait until the device has come so
far. So a captured step notes which batch was the first that is not, and goes on; the note is copied
to the host meanwhile, and read when it has come.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NONE = 2**62
"""Where the number of the first such batch would stand."""


class Watch:
    """Counts an optimizer's batches, from 1.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._batch = torch.zeros((), dtype=torch.int64, device=device)
        self._first = torch.full((), _NONE, dtype=torch.int64, device=device)
        pinned = device.type == "cuda"
        self._copy = torch.full((), _NONE, dtype=torch.int64, device="cpu", pin_memory=pinned)
        self._copied: torch.cuda.Event | None = None

    def count(self) -> None:
        """Begin with the next batch; captured with the step."""
        self._batch += 1

    def look(self, loss: nn.Module, x: Tensor, target: Tensor, classes: int) -> Tensor:
        """Note the batch if it is wrong; captured with the step.

        Args:
            loss: what takes the targets.
            x: samples, as floating-point numbers.
            target: as the loss takes them.
            classes: how many outputs there are.

        Returns:
            The target, class indices moved into their range, as operations fail on others.
        """
        fine, allowed = _is_bounded(x), target
        of_classes = isinstance(loss, nn.CrossEntropyLoss)
        if target.is_floating_point():
            fine = fine & _is_bounded(target)
            if of_classes:
                fine = fine & ((target.sum(1) - 1).abs().amax() <= 0.01) & (target.amin() >= 0)
        elif of_classes:
            allowed = target.clamp(0, classes - 1)
            fine = fine & (allowed == target).all()
        self._first.copy_(self._first.minimum(torch.where(fine, _NONE, self._batch)))
        return allowed

    def poll(self) -> None:
        """Raise what has been found, as far as the host knows it without waiting.

        Raises:
            ValueError: as ``settle``.
        """
        if self.device.type != "cuda":
            self._copy.copy_(self._first)
        elif self._copied is None:
            with torch.cuda.device(self.device):
                self._copy.copy_(self._first, non_blocking=True)
                self._copied = torch.cuda.Event()
                self._copied.record()
            return
        elif self._copied.query():
            self._copied = None
        else:
            return
        if int(self._copy) != _NONE:
            self.settle()

    def settle(self) -> None:
        """Wait for the device, and count anew.

        Raises:
            ValueError: if there was a batch that nothing can be learned from.
        """
        first = int(self._first)
        self._batch.zero_()
        self._first.fill_(_NONE)
        self._copied = None
        if first != _NONE:
            raise ValueError(
                f"batch {first} has a NaN or an infinity, or a target that its loss does not take, "
                "such as a class out of range; it was found when later steps had been taken: go "
                "back to weights from before it, and clean the data"
            )


def _is_bounded(values: Tensor) -> Tensor:
    """Whether all are finite; the largest of none that are not is below infinity."""
    return values.norm(torch.inf) < torch.inf  # pyright: ignore
