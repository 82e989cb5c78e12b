"""PEPITA beyond the papers' accuracy on Fashion-MNIST; see ``unbound``. Images are flipped.

Learning rates are those of ``unbound_mnist``, as the data was not at hand where these were chosen;
the cells "rates/…" tell whether others are better.
"""

from __future__ import annotations

from forwardly.experiments.published import unbound_mnist
from forwardly.experiments.published.unbound import unbound

EXPERIMENT = unbound(
    "fashion-mnist",
    "Fashion-MNIST beyond the papers' accuracy, all rules treated alike",
    unbound_mnist.CHOSEN,
    ("flips", {"flip": True}),
    unbound_mnist.RATES,
)
