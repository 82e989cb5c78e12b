"""What a rule says of a step that may be cut between stages, as ``distributed.Pipeline`` cuts it.

A step is then made of passes, each of which goes through the stages one by one, and of an update
of each stage that needs no more than what the passes have left there. Such rules are ``ByStage``;
their ``assign`` has the same equations, from the same functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from forwardly.network import Stage, Step


class Pass(NamedTuple):
    """One of the passes of a step.

    Attributes:
        name: of the pass.
        after: the pass whose output it begins with; empty if it needs none.
        backward: whether it goes from the last stage to the first.
        to_readout: whether it goes through the last stage too.
    """

    name: str
    after: str = ""
    backward: bool = False
    to_readout: bool = True


class Microbatch:
    """Some samples of a batch, with what their passes have left at the stages.

    Attributes:
        x: samples.
        target: their targets.
        step: what their passes share.
        output: of the pass that the present one comes after, where there is one.
    """

    output: Tensor

    def __init__(self, x: Tensor, target: Tensor, step: Step) -> None:
        self.x, self.target, self.step = x, target, step
        self._left: dict[tuple[int, str], Any] = {}

    def leave(self, stage: Stage, name: str, what: Any) -> None:
        """Keep what the pass of that name needs to be remembered for at a stage."""
        self._left[stage.l, name] = what

    def left(self, stage: Stage, name: str) -> Any:
        """What that pass has left there: an ``Activity``, unless the rule's ``carry`` says else."""
        return self._left[stage.l, name]

    def forget(self) -> None:
        """Let everything go."""
        self._left.clear()


class ByStage(ABC):
    """A rule whose step may be cut between stages; beside ``Rule``, which it adds to."""

    passes: tuple[Pass, ...]
    """In the order in which they may begin; the first one's output is the model's."""

    products: ClassVar[int] = 1
    """How many products post ⊗ pre a hidden update is the sum of."""

    def begin(self, passing: Pass, batch: Microbatch) -> Tensor:
        """What a pass brings to its first stage (to its last, if it goes backward): a₀."""
        if passing.after:
            raise NotImplementedError(f"what the pass {passing.name!r} begins with")
        return batch.step.prepare(batch.x)

    def carry(self, passing: Pass, stage: Stage, value: Tensor, batch: Microbatch) -> Tensor:
        """One stage of a pass, which leaves something there: what it brings to the next.

        Args:
            passing: which.
            stage: a stage.
            value: what the pass has brought, one row a sample.
            batch: the samples.
        """
        layer = batch.step.through(stage, value)
        batch.leave(stage, passing.name, layer)
        return layer.a

    @abstractmethod
    def learn(self, stage: Stage, batch: Microbatch) -> dict[str, Tensor]:
        """The updates of a stage, averaged over these samples, once all passes have been there."""
