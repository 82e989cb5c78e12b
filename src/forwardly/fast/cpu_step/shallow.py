"""Whether a step is one for ``shallow_kernel``, PEPITA's with one hidden layer, and its call.

What is asked is what the kernel knows: linear layers, rectifiers and dropout between them,
cross-entropy of classes, momentum, float32, and a batch whose samples fill its tiles. All else goes
the general way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from forwardly.checks import values_readable
from forwardly.fast.compiling import no_numba
from forwardly.fast.cpu_step.masks import mask
from forwardly.fast.cpu_step.threads import pool
from forwardly.fast.sgd import FEWEST_NUMBERS, MOST_SAMPLES, Weight, suits_kernels
from forwardly.losses import check_classes, is_of_softmax
from forwardly.network import Part, Stage
from forwardly.network.step import Kernels
from forwardly.rule import Credit, Rule
from forwardly.rules.pepita import PEPITA

WeightOf = Callable[[Tensor], Weight | None]
"""A parameter with its momentum and settings, if it is trained with momentum."""


class Shallow:
    """Takes a rule's whole steps, where it can.

    Args:
        rule: any.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = cast(PEPITA, rule)
        self._workspace: object = None

    def prepare(self) -> None:
        """Have the kernel compiled, if the network may be one for it."""
        if _layers(self._rule) is not None and pool() is not None and not no_numba():
            from forwardly.fast.cpu_step import shallow_kernel as kernel

            if kernel.suits_processor():
                kernel.prepare()

    def step(self, x: Tensor, target: Tensor, weight_of: WeightOf) -> Credit | None:
        """Train on one batch, which is checked already.

        Returns:
            The rule's credit with the updates of biases only, which are yet to be applied; None if
            this step is none for the kernel. Then nothing has changed.
        """
        rule, openmp = self._rule, pool()
        layers = _layers(rule)
        if layers is None or openmp is None or rule.presynaptic != "modulated":
            return None
        if rule.own_error is not None or not is_of_softmax(rule.loss):
            return None
        W_1, W_2 = (synapse.weight for synapse in layers.synapses)
        if not values_readable(x, target, W_1) or W_1.numel() < FEWEST_NUMBERS:
            return None
        step = rule.begin_step(Kernels(mask=mask))
        a_0, target = step.prepare(x).contiguous(), target.contiguous()
        (n, k), (units, d) = (len(a_0), len(W_2)), W_1.shape
        if n > MOST_SAMPLES or a_0.dim() > 2 or target.shape != (n,) or target.dtype != torch.int64:
            return None
        if rule.F.shape != (d, k) or not all(map(suits_kernels, (a_0, rule.F, W_1, W_2))):
            return None
        if target.device.type != "cpu" or no_numba():
            return None
        from forwardly.fast.cpu_step import shallow_kernel as kernel  # loads numba

        threads = torch.get_num_threads()
        if not (kernel.suits_processor() and kernel.fills_tiles(n, d, k, threads)):
            return None
        hidden, readout = weight_of(W_1), weight_of(W_2)
        if hidden is None or readout is None:
            return None
        biases = layers.biases()
        momenta = hidden.momentum, readout.momentum
        if not all(suits_kernels(tensor) for tensor in (*momenta, *biases) if tensor is not None):
            return None
        check_classes(target, k)

        sizes = n, units, d, k, threads
        if not isinstance(self._workspace, kernel.Workspace) or self._workspace.sizes != sizes:
            self._workspace = kernel.Workspace(*sizes)
        dropped = None
        if layers.dropout is not None:
            dropped = step.dropout_mask(layers.dropout, (n, units), a_0)
        output, error = kernel.step(
            *(a_0, rule.F, target, dropped, hidden, readout),
            biases=biases,
            sign=rule.sign,
            second=rule.output_error == "second",
            workspace=self._workspace,
            openmp=openmp,
        )
        updates: dict[str, Tensor] = {}
        if any("bias" in stage.trained for stage in rule.network.stages):
            learned = self._workspace.bias_updates()
            for stage, update in zip(rule.network.stages, learned, strict=True):
                if "bias" in stage.trained:
                    updates[f"{stage.name}.bias"] = update
        rule.move_buffers(rule.moved_buffers(step))
        return Credit(updates, output, rule.loss_value(output, target), error)


class _Layers(NamedTuple):
    synapses: tuple[nn.Linear, nn.Linear]
    dropout: Part | None

    def biases(self) -> tuple[Tensor | None, Tensor | None]:
        first, last = self.synapses
        return first.bias, last.bias


def _layers(rule: Rule) -> _Layers | None:
    if type(rule) is not PEPITA or len(rule.network.stages) != 2:
        return None
    first, last = rule.network.stages
    if not (_is_linear(first) and _is_linear(last)) or last.elementwise or last.reshaping:
        return None
    kinds = [type(part.module) for part in first.elementwise]
    if first.reshaping or kinds not in ([nn.ReLU], [nn.ReLU, nn.Dropout]):
        return None
    synapses = cast(tuple[nn.Linear, nn.Linear], (first.synapse, last.synapse))
    _, *dropout = first.elementwise
    return _Layers(synapses, dropout[0] if dropout else None)


def _is_linear(stage: Stage) -> bool:
    return type(stage.synapse) is nn.Linear and "weight" in stage.trained
