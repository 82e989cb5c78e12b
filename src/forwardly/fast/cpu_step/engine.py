"""``Algebra`` with its largest parts compiled: dropout masks, and steps of large weights."""

from __future__ import annotations

from torch import Tensor

from forwardly.checks import values_readable
from forwardly.fast.algebra.engine import Algebra
from forwardly.fast.algebra.products import InFloat32
from forwardly.fast.compiling import no_numba
from forwardly.fast.cpu_step.masks import LARGE_MASK, mask
from forwardly.fast.sgd import FEWEST_NUMBERS, MOST_SAMPLES, Outer, Trained, is_large
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
        network = self.rule.network
        weights = [stage.synapse.weight for stage in network.stages]
        descents = (
            len(x) <= MOST_SAMPLES
            and pool() is not None
            and any(is_large(weight) and trained.is_compilable(weight) for weight in weights)
        )
        masks = network.dropouts and len(x) * max(map(len, weights)) >= LARGE_MASK
        if not (descents or masks):
            return (
                "there is no large dropout, nor a linear float32 layer of "
                f"{FEWEST_NUMBERS:,} weights that is trained with momentum on batches of up to "
                f"{MOST_SAMPLES:,}"
            )
        if missing := no_numba():
            return missing
        if masks or _suits_processor():
            return ""
        return "there is no large dropout, and no AVX-512, without which torch's steps are quicker"

    def prepare(self, trained: Trained) -> None:
        """See ``Engine``."""
        weights = (weight for weight in trained.descents if is_large(weight))
        compilable = any(map(trained.is_compilable, weights)) and pool() is not None
        if compilable and not no_numba() and _suits_processor():
            from forwardly.fast.cpu_step import descent  # loads numba

            descent.prepare()

    def _kernels(self, products: InFloat32) -> Kernels:
        return super()._kernels(products)._replace(mask=mask)

    def _descend(self, weight: Tensor, update: Outer, trained: Trained) -> bool:
        openmp, suits = pool(), is_large(weight) and trained.is_compilable(weight)
        if openmp is None or not suits or len(update.post) > MOST_SAMPLES:
            return False
        if not _suits_processor():
            return False
        from forwardly.fast.cpu_step.descent import descend  # loads numba

        return descend(trained.weight(weight), update, openmp)


def _suits_processor() -> bool:
    """Whether compiled steps of weights are quicker than torch's. Loads numba."""
    from forwardly.fast.cpu_step.descent import suits_processor

    return suits_processor()
