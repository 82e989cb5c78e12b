"""How long a run will take here: as its records say, or as a few steps do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from statistics import median

import torch

from forwardly.data import Dataset, Split
from forwardly.data.sources import SOURCES
from forwardly.experiments import stress
from forwardly.experiments.recipe import Recipe, prepare_on
from forwardly.experiments.records import Record
from forwardly.training.local_sgd import LocalSGD

_IMAGES = {
    "mnist": (60_000, (1, 28, 28)),
    "fashion-mnist": (60_000, (1, 28, 28)),
    "cifar10": (50_000, (3, 32, 32)),
    "cifar100": (50_000, (3, 32, 32)),
}
"""Training images of the data sets that are downloaded, and their shape."""

_BATCHES = 8


def from_records(found: Iterable[Record], epochs: int) -> float | None:
    """Seconds of a run of so many epochs, by the median run's seconds an epoch; None of no record.

    Training and measuring the training set alone; on the machines that made the records, but for
    GPUs, where a run's seconds are its share of a batch.
    """
    here = (r for r in found if r.environment.get("device", "cpu") == "cpu")
    each = [r.result["seconds"] / len(r.rows) for r in here if r.result.get("seconds")]
    return median(each) * epochs if each else None


def from_timing(recipe: Recipe, threads: int) -> float | None:
    """Seconds of a run, by a few steps on made-up data; None for data of which no size is known.

    Args:
        recipe: of the run.
        threads: of the processor, as the run will have.
    """
    if recipe.data not in _IMAGES:
        return None
    count, _ = _IMAGES[recipe.data]
    samples = count - (recipe.validation or SOURCES[recipe.data].validation)
    samples = stress.samples_of(recipe.stress, samples)
    # What makes a step no longer is left out, so that alike recipes are timed once.
    alike = replace(
        recipe,
        options={},
        initial="he",
        learning_rate=1e-6,
        weight_decay=0.0,
        conv_rate=1.0,
        milestones=(),
        epochs=2,
        validation=None,
        stress=None,
    )
    return samples * recipe.epochs / _rate(json.dumps(alike.as_data()), threads)


@cache
def _rate(content: str, threads: int) -> float:
    """Samples a second of a recipe in JSON: in the second epoch on a few batches."""
    recipe = Recipe.from_data(json.loads(content))
    generator = torch.Generator().manual_seed(0)
    _, shape = _IMAGES[recipe.data]
    classes = SOURCES[recipe.data].classes

    def made(batches: int) -> Split:
        n = batches * recipe.batch
        return Split(
            torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8),
            torch.randint(classes, (n,), generator=generator),
        )

    dataset = Dataset(recipe.data, classes, made(_BATCHES), made(1), made(1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        prepared = prepare_on(dataset, recipe, 0)
        if isinstance(prepared.optimizer, LocalSGD):
            prepared.optimizer.prepare()
        return prepared.fit().rows[-1]["samples_per_second"]
    finally:
        torch.set_num_threads(before)
