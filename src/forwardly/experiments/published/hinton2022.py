"""Forward-Forward on MNIST: section 3.3 of Hinton, arXiv 2212.13345.

Two hidden layers of 500 rectifiers without biases, a quarter as wide and half as deep as the
paper's network of 4 × 2000, which has 1.36 % test errors after 60 epochs. Wrong labels are likely
ones, as in the paper. Batches of 64, momentum 0.9, 20 epochs, learning rate divided by ten after 12
and 18 of them; no images are changed, nothing is dropped or decayed. Backprop and readout-only have
the same network and schedule.

Settings were chosen on validation images: of Forward-Forward the length of labels, the threshold
and the learning rate, of the others the learning rate of 0.03, 0.1 and 0.3; after four epochs on
20,000 images.

Deviations
    2,000 training images are put aside for validation, so 58,000 are learned. See also
    ``rules.forward_forward``.
"""

from __future__ import annotations

from collections.abc import Mapping

from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.recipe import Recipe

_PUBLISHED = Published(98.64, None, None, "section 3.3, 4 × 2000 units, 60 epochs")


def _recipe(
    rule: str, rate: float, options: Mapping[str, float | int | str] | None = None
) -> Recipe:
    return Recipe(
        rule,
        "mnist",
        options or {},
        hidden=(500, 500),
        learning_rate=rate,
        epochs=20,
        milestones=(12, 18),
    )


EXPERIMENT = Experiment(
    name="hinton2022",
    title="Forward-Forward on MNIST",
    url="https://arxiv.org/abs/2212.13345",
    cells={
        "fc-mnist/forward-forward": Cell(
            _recipe("forward-forward", 0.5, {"negatives": "likely"}),
            _PUBLISHED,
            note="2 × 500 units",
        ),
        "fc-mnist/backprop": Cell(_recipe("backprop", 0.03)),
        "fc-mnist/readout-only": Cell(_recipe("readout-only", 0.1)),
    },
    missing="the unsupervised, convolutional and recurrent networks of the paper, and 4 × 2000",
)
