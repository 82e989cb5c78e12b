"""Array types for signatures: jaxtyping's names, without making users install jaxtyping.

Annotations are never evaluated at run time (``from __future__ import annotations`` everywhere), so
stand-ins do for users. Type checkers see the real names, and so do the tests, which import
jaxtyping first and have its import hook check every call with beartype.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int, Shaped
else:

    class _Array:
        """``Float[Tensor, "n d"]`` is ``Tensor`` to whoever evaluates it."""

        def __class_getitem__(cls, item):
            return item[0]

    Float = Int = Shaped = _Array

__all__ = ["Float", "Int", "Shaped"]
