"""ResNet-20 on CIFAR-10 by feedback alignment and its relatives: Sanfiz & Akrout, arXiv 2108.13446.

"Benchmarking the Accuracy and Robustness of Feedback Alignment Algorithms", with biotorch, their
library, whose table of benchmarks gives the classification errors of one seed. To be run on a GPU:
250 epochs of a run are days of a processor.

Settings are those of the configuration files in their repository: batches of 128, momentum 0.9,
weight decay 0.0001, 250 epochs, learning rate 0.1 (0.001 for direct feedback alignment) divided by
ten after 100, 150 and 200, images flipped and shifted by up to four pixels, 5,000 training images
put aside for validation.

Deviations
    The model of the last epoch is tested; theirs is the best on the validation images.
    Weights begin as torch draws them, theirs are Xavier's, and so are their feedback weights: ours
    of feedback alignment are of the length that these have where a layer has as many channels as
    the one before, and those of sign symmetry are √2 times as long, our rule's own.
    New channels of a shortcut are the last ones; theirs are half before, half behind.
    Their direct feedback alignment of convolutions is another rule: one kernel spreads the error
    evenly over the map, and what arrives goes on through norms and shortcuts by backprop. Ours has
    a random matrix for each layer's whole map, and its published error is no more than a relation.
Not known: how their images of validation and the seeds of the table's figures were chosen, but that
the files say 2021.
"""

from __future__ import annotations

from collections.abc import Mapping

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.recipe import Recipe

_ERRORS = {
    "backprop": 8.63,
    "sign-symmetry-uniform": 10.05,
    "sign-symmetry-batch": 11.02,
    "sign-symmetry-fixed": 11.2,
    "feedback-alignment": 32.16,
    "direct-feedback-alignment": 45.94,
}
"""In percent of the test images."""
_OPTIONS: Mapping[str, Mapping[str, float]] = {"feedback-alignment": {"backward": 0.71}}
_RATES = {"direct-feedback-alignment": 0.001}
_NOTES = {"direct-feedback-alignment": "biotorch has another rule of this name"}


def recipe(rule: str) -> Recipe:
    """How a rule is trained."""
    return Recipe(
        rule,
        "cifar10",
        _OPTIONS.get(rule, {}),
        model="resnet20",
        learning_rate=_RATES.get(rule, 0.1),
        weight_decay=1e-4,
        batch=128,
        epochs=250,
        milestones=(100, 150, 200),
        validation=5000,
        preprocessing="standardise",
        flip=True,
        shift=4,
    )


def _cells() -> dict[str, Cell]:
    where = "biotorch's table of benchmarks, ResNet-20"
    cells = {
        f"resnet20-cifar10/{rule}": Cell(
            recipe(rule), Published(round(100 - error, 2), None, 1, where), _NOTES.get(rule, "")
        )
        for rule, error in _ERRORS.items()
    }
    cells["resnet20-cifar10/readout-only"] = Cell(recipe("readout-only"))
    return cells


EXPERIMENT = Experiment(
    "sanfiz2021",
    "ResNet-20 on CIFAR-10 by feedback alignment and its relatives",
    "https://arxiv.org/abs/2108.13446",
    _cells(),
    missing="the paper's other networks, optimizers and data sets",
)
