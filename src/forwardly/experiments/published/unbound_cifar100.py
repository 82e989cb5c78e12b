"""PEPITA beyond the papers' accuracy on CIFAR-100; see ``unbound``. Images are flipped.

Learning rates are those of ``unbound_cifar10``, as the data was not at hand where these were
chosen; the cells "rates/…" tell whether others are better.
"""

from __future__ import annotations

from forwardly.experiments.published import unbound_cifar10
from forwardly.experiments.published.unbound import unbound

EXPERIMENT = unbound(
    "cifar100",
    "CIFAR-100 beyond the papers' accuracy, all rules treated alike",
    unbound_cifar10.CHOSEN,
    ("flips", {"flip": True}),
)
