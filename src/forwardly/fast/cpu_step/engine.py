"""``Algebra`` with its largest parts compiled: dropout masks, and steps of large weights."""

from __future__ import annotations

from torch import Tensor

from forwardly.checks import values_readable
from forwardly.fast.algebra.engine import Algebra
from forwardly.fast.algebra.products import InFloat32
from forwardly.fast.compiling import no_numba
from forwardly.fast.cpu_step.masks import mask
from forwardly.fast.sgd import MOST, SMALLEST, Outer, Trained, is_large
from forwardly.fast.threads import pool
from forwardly.network.step import Kernels


class CompiledParts(Algebra):
    """See the module docstring."""

    name = "cpu_step"

    def why_not(self, x: Tensor, target: Tensor, trained: Trained) -> str:
        """Where it is slower, or numba cannot be used."""
        if altered := super().why_not(x, target, trained):
            return altered
        if x.device.type != "cpu":
            return f"the batch is on {x.device}"
        if not values_readable(x, target):
            return "operations are traced or counted"
        weights = [stage.synapse.weight for stage in self.rule.network.stages]
        momenta = [w for w in weights if is_large(w) and trained.is_compilable(w)]
        if not self.rule.network.dropouts and (not momenta or len(x) > MOST or pool() is None):
            return (
                f"there is no dropout, and no linear float32 layer of {SMALLEST:,} weights that is "
                f"trained with momentum on batches of up to {MOST:,}"
            )
        return no_numba()

    def prepare(self, trained: Trained) -> None:
        """See ``Engine``."""
        weights = (weight for weight in trained.descents if is_large(weight))
        if any(map(trained.is_compilable, weights)) and pool() is not None and not no_numba():
            from forwardly.fast.cpu_step import descent  # loads numba

            descent.prepare()

    def _kernels(self, products: InFloat32) -> Kernels:
        return super()._kernels(products)._replace(mask=mask)

    def _descend(self, weight: Tensor, update: Outer, trained: Trained) -> bool:
        openmp, suits = pool(), is_large(weight) and trained.is_compilable(weight)
        if openmp is None or not suits or len(update.post) > MOST:
            return False
        from forwardly.fast.cpu_step.descent import descend  # loads numba

        return descend(trained.weight(weight), update, openmp)
