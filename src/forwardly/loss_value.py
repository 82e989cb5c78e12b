"""The loss that ``accumulate`` returns: a number to look at, which says so when it is misused.

What people write around ``loss.backward()`` would otherwise do something else without a word: a
``GradScaler`` divides updates by a scale that they were never multiplied by.
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
    """A scalar without a graph; what is computed from it is a plain tensor, and so is a copy."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do what is asked for on the plain tensor, but for what belongs to a backward pass."""
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
            plain = (a.as_subclass(Tensor) if isinstance(a, cls) else a for a in args)
            return func(*plain, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A plain tensor."""
        return self.as_subclass(Tensor).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a plain tensor, so that it loads with ``weights_only=True``."""
        plain: Any = self.as_subclass(Tensor)
        return plain.__reduce_ex__(protocol)


def _in_grad_scaler() -> bool:
    """Whether a GradScaler asks, or something between it and us."""
    nearest = islice(walk_stack(None), 6)
    return any(frame.f_code.co_filename == grad_scaler.__file__ for frame, _ in nearest)
