"""PEPITA's step with one hidden layer of rectifiers, compiled as a whole: see ``shallow_kernel``.

What is asked is what the kernel knows: linear layers, rectifiers and dropout between them,
cross-entropy of classes, momentum, float32, and a batch whose samples fill its tiles. All else goes
another way.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from forwardly.checks import values_readable
from forwardly.fast.algebra.products import InFloat32
from forwardly.fast.compiling import no_numba
from forwardly.fast.cpu_step.masks import mask
from forwardly.fast.engine import Engine
from forwardly.fast.sgd import FEWEST_NUMBERS, MOST_SAMPLES, Trained, is_large, suits_kernels
from forwardly.fast.threads import Pool, pool
from forwardly.losses import check_classes, is_of_softmax
from forwardly.network import Stage
from forwardly.network.step import Kernels
from forwardly.rule import Credit, Rule
from forwardly.rules.pepita import PEPITA


class WholeStep(Engine):
    """See the module docstring."""

    name = "whole_step"

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._workspace: object = None

    def why_not(self, x: Tensor, target: Tensor, trained: Trained) -> str:
        """What first speaks against it."""
        why = self._why_no_kernel()
        if why:
            return why
        rule = cast(PEPITA, self.rule)
        if not values_readable(x, target):
            return "operations are traced or counted"
        hidden, readout = (stage.synapse for stage in rule.network.stages)
        (n, d), k = (len(x), hidden.weight.shape[1]), len(readout.weight)
        if not is_large(hidden.weight) or n > MOST_SAMPLES:
            return (
                f"it is for {FEWEST_NUMBERS:,} weights in float32 on the CPU, and up to "
                f"{MOST_SAMPLES:,} samples"
            )
        read = rule.F, hidden.weight, hidden.bias, readout.weight, readout.bias
        suited = all(tensor is None or suits_kernels(tensor) for tensor in read)
        if not suited or target.device.type != "cpu":
            return "it is for contiguous float32 tensors on the CPU"
        if target.shape != (n,) or target.dtype != torch.int64:
            return "it is for classes"
        if not all(trained.is_compilable(layer.weight) for layer in (hidden, readout)):
            return "it is for weights that are trained with momentum"
        if rule.F.shape != (d, k):
            return "the rule's F is of other sizes"
        if missing := no_numba():
            return missing
        from forwardly.fast.cpu_step import shallow_kernel as kernel  # loads numba

        if not kernel.suits_processor():
            return "the processor has no AVX2"
        if not kernel.fills_tiles(n, d, k, torch.get_num_threads()):
            return f"a batch of {n} would leave much of its tiles empty"
        a_0 = x
        if rule.network.preparation:  # of two samples, as batch normalisation needs
            a_0 = rule.begin_step().prepare(x[:2])
        return "" if a_0.dim() == 2 else "it is for vectors"

    def step(self, x: Tensor, target: Tensor, trained: Trained) -> Credit:
        """All but the biases, whose updates are left to be applied."""
        from forwardly.fast.cpu_step import descent
        from forwardly.fast.cpu_step import shallow_kernel as kernel

        rule, openmp = cast(PEPITA, self.rule), cast(Pool, pool())
        first, last = rule.network.stages
        step = rule.begin_step(Kernels(mask=mask))
        a_0, target = step.prepare(x).contiguous(), target.contiguous()
        (n, d), (k, units) = a_0.shape, last.synapse.weight.shape
        check_classes(target, k)
        sizes = n, units, d, k, torch.get_num_threads()
        if not isinstance(self._workspace, kernel.Workspace) or self._workspace.sizes != sizes:
            self._workspace = kernel.Workspace(*sizes)
        _, *dropout = first.elementwise
        dropped = step.dropout_mask(dropout[0], (n, units), a_0) if dropout else None
        output, error = kernel.step(
            *(a_0, rule.F, target, dropped),
            *(trained.weight(stage.synapse.weight) for stage in (first, last)),
            biases=(first.synapse.bias, last.synapse.bias),
            sign=rule.sign,
            second=rule.output_error == "second",
            clean=rule.presynaptic == "clean",
            workspace=self._workspace,
            openmp=openmp,
        )
        if not descent.suits_processor():
            post, pre = self._workspace.hidden_update(a_0, clean=rule.presynaptic == "clean")

            def apply(to: Tensor, keep: float, times: float) -> None:
                InFloat32().add_outer(to, post, pre, keep, times / n)

            trained.add(first.synapse.weight, apply)
        updates: dict[str, Tensor] = {}
        if any("bias" in stage.trained for stage in (first, last)):
            learned = self._workspace.bias_updates()
            for stage, update in zip((first, last), learned, strict=True):
                if "bias" in stage.trained:
                    updates[f"{stage.name}.bias"] = update
        rule.move_buffers(rule.moved_buffers(step))
        return Credit(updates, output, rule.loss_value(output, target), error)

    def prepare(self, trained: Trained) -> None:
        """Have the kernel compiled, if the network may be one for it."""
        if self._why_no_kernel():
            return
        hidden, readout = (stage.synapse.weight for stage in self.rule.network.stages)
        compilable = all(map(trained.is_compilable, (hidden, readout)))
        if compilable and is_large(hidden) and not no_numba():
            from forwardly.fast.cpu_step import shallow_kernel as kernel

            if kernel.suits_processor():
                kernel.prepare()

    def _why_no_kernel(self) -> str:
        """What speaks against it, whatever the batch."""
        rule = self.rule
        if type(rule) is not PEPITA:
            return "it is for PEPITA"
        if altered := rule.network.altered:
            return altered
        if not _is_shallow(rule.network.stages):
            return "it is for one hidden layer of rectifiers, perhaps with dropout, and a readout"
        if rule.own_error is not None or not is_of_softmax(rule.loss):
            return "it is for nn.CrossEntropyLoss of classes"
        return "" if pool() is not None else "torch's OpenMP library is not GNU's"


def _is_shallow(stages: tuple[Stage, ...]) -> bool:
    if len(stages) != 2 or not all(
        type(stage.synapse) is nn.Linear and "weight" in stage.trained for stage in stages
    ):
        return False
    first, last = stages
    kinds = [type(part.module) for part in first.elementwise]
    follows = first.reshaping or last.elementwise or last.reshaping
    return not follows and kinds in ([nn.ReLU], [nn.ReLU, nn.Dropout])
