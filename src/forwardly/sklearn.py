"""Networks that learn by any rule, as estimators of scikit-learn: ``fw.sklearn``.

    ForwardlyClassifier     class probabilities by softmax, cross-entropy
    ForwardlyRegressor      one number a sample, squared error

They hold to scikit-learn's conventions (its ``check_estimator`` passes), so pipelines, grid search,
cross-validation and calibration take them. Parameters have the names that its ``MLPClassifier``
gives them. What is trained is ``models.mlp`` with biases, by ``fit`` and ``LocalSGD``.
"""

# scikit-learn has no annotations.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from forwardly import models
from forwardly.data import Split
from forwardly.errors import UsageError, check_rules
from forwardly.rule import Rule
from forwardly.rules.options import build, take_options
from forwardly.rules.plugins import all_rules
from forwardly.training import LocalSGD, evaluating, fit

Estimator = TypeVar("Estimator", bound="_Network")
_DTYPES = (np.float64, np.float32)
"""What samples are computed in: their own type, if it is one of these, or else the first."""
_SAMPLES_AT_ONCE = 1000


class _Network(BaseEstimator, ABC):
    """What both have in common; see ``ForwardlyClassifier``."""

    _rate: float
    """The learning rate, where none is given."""

    def __init__(
        self,
        rule: str | type[Rule] = "pepita",
        *,
        hidden_layer_sizes: int | tuple[int, ...] = (100,),
        activation: str = "relu",
        dropout: float = 0.0,
        learning_rate_init: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_size: int = 32,
        max_iter: int = 100,
        rule_options: Mapping[str, Any] | None = None,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.rule = rule
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.rule_options = rule_options
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self: Estimator, X: Any, y: Any) -> Estimator:
        """Learn from samples X (n, d) with targets y (n,), ``max_iter`` times from each."""
        (epochs,) = _whole("max_iter", self.max_iter)
        new = not (self.warm_start and hasattr(self, "model_"))
        return self._learn(X, y, epochs=epochs, new=new)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a network; labels may be known before."""
        return hasattr(self, "model_")

    @abstractmethod
    def _encode(self, y: NDArray[Any], first: bool) -> tuple[Tensor, int, nn.Module]:
        """Targets as the loss takes them, how many outputs they need, and the loss.

        ``first`` is whether ``y`` says what targets there are.
        """

    def _learn(
        self: Estimator, X: Any, y: Any, *, epochs: int, new: bool, known: bool = False
    ) -> Estimator:
        """Train; a ``new`` network, or that which there is. ``known``: what targets there are."""
        numeric = isinstance(self, RegressorMixin)
        (batch,) = _whole("batch_size", self.batch_size)
        samples, y = _validated(self, X, y, y_numeric=numeric, dtype=_DTYPES, reset=new)
        target, outputs, loss = self._encode(y, new and not known)
        x = torch.tensor(samples)  # a copy, as torch warns of arrays that are read-only
        if new:
            self._build(x, outputs, loss)
        self._optimizer.param_groups[0].update(self._descent())
        early = self.early_stopping and epochs > 1
        run = fit(
            self.rule_,
            Split(x, target),
            self._optimizer,
            epochs=epochs,
            batch=batch,
            seed=self._seed + self.n_iter_,
            validation=self.validation_fraction if early else None,
            patience=_whole("n_iter_no_change", self.n_iter_no_change)[0] if early else None,
            keep="best" if early else "last",
            progress=False,
        )
        self.n_iter_ += len(run.rows)
        self.loss_curve_ += run.curve("loss")
        if run.diverged is not None:
            raise ValueError(
                f"training diverged in epoch {self.n_iter_}: the loss is not finite. Scale X, e.g. "
                "by a StandardScaler before it, or lower learning_rate_init, which is "
                f"{self._descent()['lr']}"
            )
        return self

    def _build(self, x: Tensor, outputs: int, loss: nn.Module) -> None:
        """A new network with its rule and optimizer."""
        random = check_random_state(self.random_state)
        self._seed = int(random.randint(2**31 - 1))
        generator = torch.Generator().manual_seed(self._seed)
        model = models.mlp(
            x.shape[1],
            _whole("hidden_layer_sizes", self.hidden_layer_sizes),
            outputs,
            activation=self.activation,
            dropout=self.dropout,
            bias=True,
            generator=generator,
        ).to(x.dtype)
        kind = self._kind()
        self.rule_ = build(
            kind,
            model,
            loss,
            take_options(kind.__name__, kind, self.rule_options or {}),
            learning_rate=self._descent()["lr"],
            input_shape=tuple(x.shape[1:]),
            generator=generator,
        )
        self.model_ = model
        self._optimizer = LocalSGD(self.rule_, **self._descent())
        self.n_iter_ = 0
        self.loss_curve_: list[float] = []

    def _descent(self) -> dict[str, Any]:
        given = self.learning_rate_init
        rate = self._rate if given is None else given
        return {"lr": rate, "momentum": self.momentum, "weight_decay": self.weight_decay}

    def _kind(self) -> type[Rule]:
        if isinstance(self.rule, str):
            known, _ = all_rules()
            check_rules([self.rule], known)
            return known[self.rule]
        if not (isinstance(self.rule, type) and issubclass(self.rule, Rule)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"rule must be a rule's name or its class; given {self.rule!r}")
        return self.rule

    def _output(self, X: Any) -> Tensor:
        """The network's output for each sample, in float64."""
        check_is_fitted(self)
        samples = _validated(self, X, dtype=_DTYPES, reset=False)
        x = torch.tensor(samples).to(next(self.model_.parameters()))
        with evaluating(self.rule_):
            parts = [self.rule_.predict(part) for part in x.split(_SAMPLES_AT_ONCE)]
        return torch.cat(parts).double()


class ForwardlyClassifier(ClassifierMixin, _Network):
    """A network that learns classes by a rule of your choice.

    Args:
        rule: its name, see ``fw.RULES``, or its class.
        hidden_layer_sizes: of the hidden layers.
        activation: of the hidden layers: "relu", "tanh" or "sigmoid".
        dropout: the probability with which a hidden unit is dropped.
        learning_rate_init: of stochastic gradient descent, and it stays as it is; if None, 0.03 for
            classes and 0.001 for numbers, whose errors have no bound.
        momentum: of stochastic gradient descent.
        weight_decay: λ, added to updates as λW.
        batch_size: samples a step.
        max_iter: passes over the training samples, all of them but for ``early_stopping``.
        rule_options: of the rule, such as {"sign": -1}; numbers for "projection" and "backward" are
            scales of ``fw.feedback.uniform``.
        warm_start: whether ``fit`` goes on where it ended, rather than anew.
        early_stopping: whether ``fit`` puts samples aside, ends when it does not predict them
            better any more, and keeps the network that predicted them best.
        validation_fraction: the share that is put aside.
        n_iter_no_change: after so many passes without an improvement it ends.
        random_state: of weights, feedback, dropout and the order of batches.

    Attributes:
        classes_: the labels, sorted.
        rule_: the rule, with its feedback.
        model_: the network, a plain torch model.
        loss_curve_: the mean loss of each epoch.
        n_iter_: epochs done.
        n_features_in_: d.

    Raises:
        ValueError: by ``fit``, if a parameter or the data makes no sense, or training diverges.
    """

    _rate = 0.03

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> ForwardlyClassifier:
        """Learn once from each sample, going on from where it is.

        Args:
            X: (n, d).
            y: (n,).
            classes: all labels that there will be; needed in the first call.
        """
        new = not hasattr(self, "model_")
        if new and classes is None:
            raise ValueError("the first call of partial_fit needs classes: all labels to come")
        if classes is not None:
            labels = unique_labels(classes)
            if not new and not np.array_equal(labels, self.classes_):
                raise ValueError(f"classes were {self.classes_} in the first call; now {labels}")
            self.classes_ = labels
        return self._learn(X, y, epochs=1, new=new, known=True)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, (n, k), by softmax."""
        return self._output(X).softmax(1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each sample, (n,)."""
        index = self._output(X).argmax(1).numpy()
        return self.classes_[index]

    def _encode(self, y: NDArray[Any], first: bool) -> tuple[Tensor, int, nn.Module]:
        check_classification_targets(y)
        if first:
            self.classes_ = unique_labels(y)
        index = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (unknown := self.classes_[index] != y).any():
            raise ValueError(f"y has the label {y[unknown][0]!r}; classes are {self.classes_}")
        return torch.from_numpy(index), len(self.classes_), nn.CrossEntropyLoss()


class ForwardlyRegressor(RegressorMixin, _Network):
    """A network that learns one number a sample by a rule of your choice.

    Targets are standardised for training, and predictions scaled back: the size of an error, which
    some rules add to the input, would otherwise depend on the unit.

    Parameters and errors are those of ``ForwardlyClassifier``.

    Attributes:
        target_mean_: of the targets seen first.
        target_scale_: their standard deviation; ``model_`` gives (target − mean) / scale.
        rule_, model_, loss_curve_, n_iter_, n_features_in_: see ``ForwardlyClassifier``.
    """

    _rate = 0.001

    def partial_fit(self, X: Any, y: Any) -> ForwardlyRegressor:
        """Learn once from each sample, going on from where it is; the first call sets the scale."""
        return self._learn(X, y, epochs=1, new=not hasattr(self, "model_"))

    def predict(self, X: Any) -> NDArray[np.float64]:
        """A number for each sample, (n,)."""
        output = self._output(X)[:, 0].numpy()
        return self.target_mean_ + self.target_scale_ * output

    def _encode(self, y: NDArray[Any], first: bool) -> tuple[Tensor, int, nn.Module]:
        if first:
            self.target_mean_ = float(y.mean())
            self.target_scale_ = float(y.std()) or 1.0
        target = (y - self.target_mean_) / self.target_scale_
        return torch.tensor(target, dtype=torch.float64)[:, None], 1, nn.MSELoss()


def _whole(name: str, given: Any) -> tuple[int, ...]:
    """One or several whole numbers above 0."""
    try:
        numbers = tuple(map(operator.index, np.atleast_1d(given).tolist()))
    except (TypeError, ValueError):
        numbers = (0,)
    if min(numbers, default=1) < 1:
        raise UsageError(f"{name} must be whole and above 0; given {given!r}")
    return numbers


def _validated(estimator: BaseEstimator, X: Any, *y: Any, **options: Any) -> Any:
    """X, and y if it is given, as arrays that fit what the estimator has seen."""
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # below scikit-learn 1.6
        return estimator._validate_data(X, *y, **options)  # pyright: ignore
    return validate_data(estimator, X, *y, **options)
