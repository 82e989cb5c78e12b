"""Whether products in bfloat16 cost accuracy: PEPITA's rows of Table 1, once more in bfloat16.

Settings, seeds and the rows in float32 are those of ``dellaferrera2022_table1``. Updates, weights,
momentum and all that lies between products stay in float32; see
``forwardly.fast.algebra.products``.
"""

from __future__ import annotations

from dataclasses import replace

from forwardly.experiments.experiment import Cell, Experiment
from forwardly.experiments.published import dellaferrera2022_table1 as table1


def _cells(name: str) -> dict[str, Cell]:
    place = f"fc-{name}/pepita"
    recipe = table1.EXPERIMENT.cells[place].recipe
    return {
        f"fc-{name}/float32": Cell(recipe, shared=(table1.EXPERIMENT.name, place)),
        f"fc-{name}/bf16": Cell(replace(recipe, dtype="bf16")),
    }


EXPERIMENT = Experiment(
    name="bfloat16",
    title="PEPITA with products in bfloat16 and weights in float32",
    url="https://arxiv.org/abs/2201.11665",
    cells={cell: made for name in ("mnist", "cifar10") for cell, made in _cells(name).items()},
)
