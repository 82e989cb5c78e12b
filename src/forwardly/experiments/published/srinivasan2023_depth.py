"""Depth in Srinivasan et al., "Forward Learning with Top-Down Feedback", arXiv 2302.05440.

PEPITA with one to five normalised hidden layers on CIFAR-10, where accuracy falls from 53.5 % to
about 49.6 %; backprop and readout-only at each depth.

Deviations
    As in ``srinivasan2023_table``, whose row "normalised" is the depth of one.
"""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.published import srinivasan2023_table as table

_SHARED = "fc-cifar10/normalised"
_ONE = table.EXPERIMENT.cells[_SHARED].recipe
_PUBLISHED = {
    1: Published(53.51, None, None, "the figure over depth"),
    5: Published(49.6, None, None, "the figure over depth, read off"),
}


def _cells(layers: int) -> dict[str, Cell]:
    recipe = replace(_ONE, hidden=(1024,) * layers)
    shared = (table.EXPERIMENT.name, _SHARED) if layers == 1 else None
    cells = {"pepita": Cell(recipe, _PUBLISHED.get(layers), shared=shared)}
    for rule in ("backprop", "readout-only"):
        cells[rule] = Cell(replace(recipe, rule=rule, options={}))
    return {f"depth-{layers}/{name}": cell for name, cell in cells.items()}


EXPERIMENT = Experiment(
    name="srinivasan2023_depth",
    title="PEPITA with one to five normalised hidden layers on CIFAR-10",
    url="https://arxiv.org/abs/2302.05440",
    cells={name: cell for layers in range(1, 6) for name, cell in _cells(layers).items()},
)
