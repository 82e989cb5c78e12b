"""What a trained model says of samples, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forwardly import data, files
from forwardly.data import arrays, read
from forwardly.errors import UsageError
from forwardly.experiments.recipe import Recipe, load_data
from forwardly.experiments.run_folder import MODEL
from forwardly.fast.devices import Chosen, as_exact_as_processors, choose, multiply_adds
from forwardly.files.fields import Fields
from forwardly.losses import prediction
from forwardly.saving import Saved
from forwardly.saving import read as read_model
from forwardly.training import evaluating

_AT_ONCE = 1000


@dataclass(frozen=True)
class Evaluated:
    """A model on samples whose targets are known.

    Attributes:
        names: of the samples.
        labels: of the classes; none where numbers are learned.
        target: class indices (n,), or numbers (n, k).
        predicted: the same; and of classes the probabilities, (n, k).
    """

    names: Sequence[str]
    labels: Sequence[str]
    target: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: NDArray[Any] | None

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How many samples of each class (row) were taken for each class (column)."""
        from sklearn.metrics import confusion_matrix  # pyright: ignore

        among = range(len(self.labels))
        return cast(Any, confusion_matrix)(self.target, self.predicted, labels=list(among))

    def figures(self) -> dict[str, Any]:
        """Of classes accuracy, and precision and recall of each; of numbers MAE, RMSE and R²."""
        from sklearn import metrics  # pyright: ignore

        sk = cast(Any, metrics)
        found: dict[str, Any] = {"samples": len(self.target)}
        if not self.labels:
            several = len(self.target) > 1  # of one there is no R²
            return found | {
                "mae": float(sk.mean_absolute_error(self.target, self.predicted)),
                "rmse": float(sk.mean_squared_error(self.target, self.predicted) ** 0.5),
                "r2": float(sk.r2_score(self.target, self.predicted)) if several else None,
            }
        precision, recall, f1, count = sk.precision_recall_fscore_support(
            self.target, self.predicted, labels=list(range(len(self.labels))), zero_division=0.0
        )
        classes = {
            label: {
                "samples": int(count[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, label in enumerate(self.labels)
        }
        return found | {
            "accuracy": float((self.target == self.predicted).mean()),
            "classes": classes,
        }


def model_of(run: Path, model: str | None = None) -> Saved:
    """The model of a run's folder, or of a file.

    Args:
        run: which.
        model: the function that makes it, if the file has none; see ``saving.read``.

    Raises:
        UsageError: if there is none, or it is of another function.
    """
    path = run / MODEL if run.is_dir() else run
    if run.is_dir() and not files.is_there(path):
        why = "the run has not ended well" if (run / "config.json").exists() else "it is no run"
        raise UsageError(
            f"there is no {MODEL} in {run}: {why}; continue it by forwardly train --resume, or "
            "name another"
        )
    return read_model(path, model)


def device_for(saved: Saved, name: str) -> Chosen:
    """The device of a name for what a model says; the model is moved there.

    Raises:
        UsageError: if there is no such device, or it has no numbers of the model's type.
    """
    rule = saved.rule
    weight = rule.network.stages[0].synapse.weight
    shape = saved.data.sample_shape if saved.data is not None else None
    work = None if shape is None else multiply_adds(rule, shape, _AT_ONCE)
    chosen = choose(name, work, weight.dtype)
    as_exact_as_processors(chosen.device)
    rule.to(chosen.device)
    return chosen


def predict(saved: Saved, x: Tensor) -> NDArray[Any]:
    """What the model says of samples that are not prepared yet: probabilities, or numbers (n, k).

    Raises:
        UsageError: if they are not such as it takes.
    """
    rule = saved.rule
    weight = next(rule.model.parameters())
    parts: list[Tensor] = []
    try:
        if saved.data is not None and saved.data.preprocessing is not None:
            x = saved.data.preprocessing(x)
        with evaluating(rule):
            for some in torch.split(x, _AT_ONCE):  # pyright: ignore
                numbers = data.as_numbers(some, weight.dtype).to(weight.device)
                parts.append(prediction(rule.loss, rule.predict(numbers)).cpu())
    except (RuntimeError, ValueError, TypeError) as problem:
        said = str(problem).partition("\n")[0]
        given = tuple(x.shape[1:])
        raise UsageError(f"the model does not take samples of {given}: {said}") from None
    said = torch.cat(parts)
    arrays.check_finite(said, "what the model makes of the samples")
    return said.numpy()


def of_file(saved: Saved, path: Path) -> tuple[read.Samples, NDArray[Any]]:
    """A file's samples, and what the model says of them."""
    samples = read.samples(path, saved.data)
    return samples, predict(saved, arrays.samples(samples.x, str(path)))


def evaluated(saved: Saved, samples: read.Samples, said: NDArray[Any]) -> Evaluated:
    """Held to the targets.

    Raises:
        UsageError: if there are none, or others than were learned.
    """
    if samples.target is None:
        raise UsageError("there are no targets to hold predictions to: predict needs none")
    classes = _learns_classes(saved)
    known = _labels(saved, said.shape[1]) if classes else None
    task = "classification" if classes else "regression"
    target, _ = arrays.targets(samples.target, task, known, "the target")
    if len(target) != len(said):
        raise UsageError(f"there are {len(said)} samples and {len(target)} targets")
    if not classes:
        if target.shape != said.shape:
            raise UsageError(f"targets are {tuple(target.shape)}, predictions {said.shape}")
        return Evaluated(samples.names, (), target.numpy(), said, None)
    names = [str(label) for label in known or ()]
    return Evaluated(samples.names, names, target.numpy(), said.argmax(1), said)


def labels_of(saved: Saved, outputs: int) -> list[str]:
    """What its classes are called; none where it learned numbers."""
    return [str(label) for label in _labels(saved, outputs)] if _learns_classes(saved) else []


def test_part(run: Path, saved: Saved, data_root: Path | None) -> tuple[read.Samples, NDArray[Any]]:
    """The samples that a run put aside for the test, and what its model says of them.

    Raises:
        UsageError: if the run does not say what it learned from, or that is not there any more.
    """
    path = run / "config.json"
    if not run.is_dir() or not path.exists():
        raise UsageError(f"{run} does not say what it learned from: name samples by --data")
    config = Fields.read(path)
    try:
        recipe = Recipe.from_data(config.fields("recipe").content)
    except (TypeError, ValueError) as problem:
        raise UsageError(f"{path}: {problem}") from None
    dataset = load_data(recipe, config.whole("run_seed"), data_root, progress=True)
    if "data_sha256" in config and config.text("data_sha256") != dataset.sha256():
        raise UsageError(
            f"{recipe.data} is not what {run} learned from any more, so its test part may hold "
            "samples that were learned: name others by --data"
        )
    bare = Saved(saved.rule, None)  # they are prepared already
    x = dataset.test.x
    target: NDArray[Any] = dataset.test.target.numpy()
    if dataset.labels:
        target = np.array(dataset.labels, object)[target]
    names = [str(number) for number in range(1, len(target) + 1)]
    return read.Samples(x.numpy(), target, names), predict(bare, x)


def _learns_classes(saved: Saved) -> bool:
    if saved.data is not None:
        return saved.data.classes
    return isinstance(saved.rule.loss, torch.nn.CrossEntropyLoss)


def _labels(saved: Saved, outputs: int) -> Sequence[arrays.Label]:
    return (saved.data.labels if saved.data is not None else ()) or range(outputs)
