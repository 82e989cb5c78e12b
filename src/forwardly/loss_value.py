"""The loss that ``accumulate`` returns: a number to look at, which raises when it is misused.

Code written around ``loss.backward()`` would otherwise be silently wrong: a ``GradScaler`` divides
updates by a scale that they were never multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from traceback import walk_stack
from typing import Any

import torch
from torch import Tensor
from torch.amp import grad_scaler


class LossValue(Tensor):
    """A scalar without a graph; what is computed from it, or copied, is an ordinary tensor."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute on an ordinary tensor, but refuse what belongs to a backward pass."""
        if func is Tensor.backward:  # pyright: ignore[reportUnknownMemberType]
            raise NotImplementedError(
                "there is no backward pass: accumulate has added the updates to .grad already. "
                "Leave out loss.backward()"
            )
        if _in_grad_scaler():
            raise TypeError(
                "updates are not scaled, as no gradient can underflow on the way back, so a "
                "GradScaler would divide them by its scale: call optimizer.step() without it"
            )
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
            tensors = (a.as_subclass(Tensor) if isinstance(a, cls) else a for a in args)
            return func(*tensors, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """An ordinary tensor."""
        return self.as_subclass(Tensor).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as an ordinary tensor, so that it loads with ``weights_only=True``."""
        tensor: Any = self.as_subclass(Tensor)
        return tensor.__reduce_ex__(protocol)


def _in_grad_scaler() -> bool:
    """Whether a GradScaler is among the nearest callers."""
    nearest = islice(walk_stack(None), 6)
    return any(frame.f_code.co_filename == grad_scaler.__file__ for frame, _ in nearest)
