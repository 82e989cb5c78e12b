"""Published experiments, one a file: settings, published figures and where they stand.

``EXPERIMENTS`` has those that ``forwardly reproduce`` knows, by name.
"""

from __future__ import annotations

from forwardly.errors import UsageError
from forwardly.experiments.experiment import Experiment
from forwardly.experiments.published import (
    any_module,
    bfloat16,
    dellaferrera2022_table1,
    dellaferrera2022_tutorial,
    hinton2022,
    sanfiz2021,
    srinivasan2023_depth,
    srinivasan2023_table,
    unbound_cifar10,
    unbound_cifar100,
    unbound_convolution,
    unbound_depth,
    unbound_fashion_mnist,
    unbound_mnist,
    unbound_rules,
)

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        dellaferrera2022_table1,
        dellaferrera2022_tutorial,
        srinivasan2023_table,
        srinivasan2023_depth,
        hinton2022,
        bfloat16,
        unbound_cifar10,
        unbound_cifar100,
        unbound_mnist,
        unbound_fashion_mnist,
        unbound_depth,
        unbound_convolution,
        unbound_rules,
        any_module,
        sanfiz2021,
    )
}


def experiment(name: str) -> Experiment:
    """The experiment of that name; hyphens are as good as underscores.

    Raises:
        UsageError: that lists the known ones.
    """
    found = EXPERIMENTS.get(name.replace("-", "_"))
    if found is None:
        known = ", ".join((*EXPERIMENTS, "teacher_student"))
        given = f"unknown experiment {name!r}" if name else "no experiment given"
        raise UsageError(f"{given}; the known ones are {known}")
    return found
