"""The plausibility audit: what a rule does, measured on its traced training step.

``audit(rule, x, target)`` answers the four questions with which the PEPITA paper opens, for any
rule, from the graph of operations that one call of it is; see ``docs/audit.md``.

May import ``training`` and what is below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor

from forwardly.audit.costs import Costs, checkpointed_backprop, costs
from forwardly.audit.flow import follow
from forwardly.audit.questions import Answers, answer
from forwardly.audit.trace import trace
from forwardly.network.diagonal import Diagonal
from forwardly.rule import Rule

__all__ = ["Answers", "AuditReport", "Costs", "audit", "checkpointed_backprop"]


@dataclass(frozen=True)
class AuditReport:
    """What was found.

    Attributes:
        rule: the name of the rule's class.
        layers: names of the synapses by layer, counted from 1; in a model that is no chain by the
            longest way from the input, several a layer.
        samples: how many the batch has.
        answers: to the four questions, with evidence.
        costs: of one training step on that batch.
        operations: how many the graph has.
    """

    rule: str
    layers: dict[int, str]
    samples: int
    answers: Answers
    costs: Costs
    operations: int

    def _repr_html_(self) -> str:
        """In a notebook: the answers as a table."""
        from forwardly.audit.page import summary  # which needs jinja2

        return summary(self)

    def as_data(self) -> dict[str, Any]:
        """Plain data, for audit.json."""
        return {
            "rule": self.rule,
            "layers": self.layers,
            "samples": self.samples,
            **self.answers.as_data(),
            "costs": self.costs.as_data(),
            "operations": self.operations,
        }


def audit(rule: Rule, x: Tensor, target: Tensor) -> AuditReport:
    """Trace ``rule(x, target)`` and answer the four questions from the graph alone.

    Neither the rule's name nor its class attributes are looked at.

    Args:
        rule: any rule, its model of two hidden layers or more: with one, direct feedback alignment
            and feedback alignment are the same.
        x: a batch.
        target: its targets.

    Raises:
        TypeError: if a weight is used several times.
        TypeError, ValueError: what the rule raises for the batch.
    """
    network = rule.network
    if network.graph is not None and network.shared:
        raise TypeError(
            f"the audit tells layers by their weights, and {min(network.shared)} is used several "
            "times, so it is of several layers: audit the rule on a model without shared weights"
        )
    traced = trace(rule, x, target)
    layers: dict[int, str] = {}
    for l, stage in sorted(zip(network.layers(), network.stages, strict=True), key=itemgetter(0)):
        if not isinstance(stage.part.module, Diagonal):
            layers[l] = f"{layers[l]}, {stage.name}" if l in layers else stage.name
    return AuditReport(
        type(rule).__name__,
        layers,
        len(x),
        answer(follow(traced)),
        costs(rule, x, target, traced.macs),
        sum(node.op == "call_function" for node in traced.graph.nodes),
    )
