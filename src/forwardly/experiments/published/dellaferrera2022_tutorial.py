"""The CIFAR-10 tutorial of PEPITA's authors: one run, its test accuracy over 100 epochs.

Dellaferrera & Kreiman, ICML 2022, arXiv 2201.11665; published are 35.12 % after epoch 1, 50.92 %
after 60, 52.58 % after 100, and a slowness of 0.9285 over the first 60 epochs, with acc_max 0.5179.

Deviations
    The run is that of Table 1's "pepita-second", whose settings are the same. Its curve is of the
    validation images, as the test images are looked at once, at the end.
"""

from __future__ import annotations

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.published import dellaferrera2022_table1 as table1

_SHARED = "fc-cifar10/pepita-second"

PUBLISHED_CURVE = {1: 35.12, 60: 50.92, 100: 52.58}
"""Epoch → test accuracy (%)."""

PUBLISHED_SLOWNESS = 0.9285

EXPERIMENT = Experiment(
    name="dellaferrera2022_tutorial",
    title="PEPITA's CIFAR-10 tutorial: accuracy over 100 epochs, and slowness",
    url="https://arxiv.org/abs/2201.11665",
    cells={
        "fc-cifar10/pepita": Cell(
            table1.EXPERIMENT.cells[_SHARED].recipe,
            Published(52.58, None, 1, "the tutorial's output, epoch 100"),
            shared=(table1.EXPERIMENT.name, _SHARED),
        )
    },
)
