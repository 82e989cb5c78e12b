"""Activities of a fixed length: the normalisation of Srinivasan et al. (2023, arXiv 2302.05440).

h ← h / ‖h‖        of each sample, or as in the authors' code of the whole batch at once
"""

from __future__ import annotations

from torch import Tensor, nn

from forwardly._typing import Float
from forwardly.checks import one_of


class Normalise(nn.Module):
    """Divide activities by their Euclidean length; it has no parameters.

    Args:
        over: "sample" gives each sample's activity length one. "batch" divides all samples by the
            length of the batch as one vector, as the authors' code does: then what a sample becomes
            depends on the others, and on how many they are.
        eps: added to the length, for activities of zeros.
    """

    def __init__(self, over: str = "sample", eps: float = 1e-8) -> None:
        super().__init__()
        self.over = one_of("over", over, ("sample", "batch"))
        self.eps = eps

    def scale(self, h: Float[Tensor, "n ..."]) -> Float[Tensor, "..."]:
        """1 / ‖h‖, to broadcast against h."""
        dims = list(range(1 if self.over == "sample" else 0, h.dim()))
        return 1 / (h.square().sum(dims, keepdim=True).sqrt() + self.eps)

    def forward(self, h: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """h at length one, of h's shape."""
        return h * self.scale(h)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"over={self.over!r}"
