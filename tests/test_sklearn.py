"""Estimators of scikit-learn: its own checks, its tools, and ``fit`` by other names."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_circles
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from forwardly import models
from forwardly.sklearn import ForwardlyClassifier, ForwardlyRegressor

pytestmark = pytest.mark.unchecked

X, Y = (part[:300] for part in load_digits(return_X_y=True))
X = X / 16


@parametrize_with_checks([ForwardlyClassifier(max_iter=20), ForwardlyRegressor(max_iter=20)])
def test_scikit_learns_own_checks(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("options", [{}, {"sign": -1, "projection": 0.2}])
def test_is_fit_by_other_names(options: dict[str, Any]) -> None:
    """The same network as by hand, bit for bit."""
    given: dict[str, Any] = {"hidden_layer_sizes": (20, 15), "activation": "tanh", "dropout": 0.1}
    estimator = ForwardlyClassifier(
        "pepita",
        **given,
        learning_rate_init=0.1,
        momentum=0.5,
        weight_decay=0.01,
        batch_size=30,
        max_iter=2,
        rule_options=options,
        random_state=3,
    ).fit(X, Y)
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    numbers = torch.Generator().manual_seed(seed)
    model = models.mlp(
        64, (20, 15), 10, activation="tanh", dropout=0.1, bias=True, generator=numbers
    ).double()
    own = {"projection": fw.feedback.uniform(options["projection"])} if options else {}
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), generator=numbers, **{**options, **own})
    part = fw.data.Split(torch.tensor(X), torch.tensor(Y))
    run = fw.fit(
        rule,
        fw.data.Dataset("digits", 10, part, part, part),
        fw.LocalSGD(rule, 0.1, 0.5, 0.01),
        epochs=2,
        batch=30,
        seed=seed,
    )
    assert_close(estimator.rule_.state_dict(), rule.state_dict(), rtol=0, atol=0)
    assert estimator.loss_curve_ == run.curve("loss")
    assert estimator.rule_.model is estimator.model_
    assert type(estimator.model_) is nn.Sequential
    probable = model.eval()(torch.tensor(X)).softmax(1).detach().numpy()
    np.testing.assert_array_equal(estimator.predict_proba(X), probable)


def test_grid_search_over_a_pipeline_cross_validation_and_calibration() -> None:
    pipeline = make_pipeline(StandardScaler(), ForwardlyClassifier(max_iter=5, random_state=0))
    grid = {
        "forwardlyclassifier__rule": ["pepita", fw.Backprop],
        "forwardlyclassifier__learning_rate_init": [1e-9, 0.05],
    }
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.best_params_["forwardlyclassifier__learning_rate_init"] == 0.05
    assert search.best_score_ > 0.75
    assert cross_val_score(pipeline, X, Y, cv=2).min() > 0.7
    calibrated = CalibratedClassifierCV(pipeline, cv=2).fit(X, Y)
    assert calibrated.score(X, Y) > 0.8
    copied = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(copied.predict_proba(X), search.predict_proba(X))


@pytest.mark.parametrize("name", fw.RULES)
def test_every_rule(name: str) -> None:
    """Forward-Forward's predictions are not its model's output."""
    estimator = ForwardlyClassifier(name, hidden_layer_sizes=30, max_iter=2, random_state=0)
    estimator.fit(X, Y)
    assert type(estimator.rule_) is fw.RULES[name]
    scores = estimator.rule_.eval().predict(torch.tensor(X))
    np.testing.assert_array_equal(estimator.predict(X), scores.argmax(1).numpy())


def test_it_learns_what_needs_a_bias() -> None:
    """A network of ReLUs without biases gives a multiple of itself along each ray from 0."""
    x, y = make_circles(300, noise=0.05, factor=0.5, random_state=0)
    found = ForwardlyClassifier(max_iter=30, random_state=0).fit(x, y)
    assert found.score(x, y) > 0.95


def test_labels_of_any_kind_and_batches_without_some() -> None:
    names = np.array(["no", "maybe", "yes"])
    y = names[Y % 3]
    estimator = ForwardlyClassifier(max_iter=30, random_state=0).fit(X, y)
    assert list(estimator.classes_) == sorted(names)
    assert estimator.score(X, y) > 0.8
    streamed = ForwardlyClassifier(random_state=0)
    with pytest.raises(ValueError, match="first call of partial_fit needs classes"):
        streamed.partial_fit(X, y)
    streamed.partial_fit(X[y == "yes"], y[y == "yes"], classes=names)
    for _ in range(10):
        streamed.partial_fit(X, y)
    assert streamed.n_iter_ == len(streamed.loss_curve_) == 11
    assert streamed.score(X, y) > 0.7
    with pytest.raises(ValueError, match=r"y has the label .*zzz.*; classes are"):
        streamed.partial_fit(X, np.where(y == "no", "zzz", y))
    with pytest.raises(ValueError, match=r"classes were .* in the first call; now"):
        streamed.partial_fit(X, y, classes=names[:2])


def test_warm_starts_and_calls_of_partial_fit_go_on() -> None:
    """With momentum, and in another order of batches in each pass, as one fit would."""
    once = ForwardlyClassifier(max_iter=1, warm_start=True, random_state=0).fit(X, Y)
    again = clone(once).fit(X, Y).partial_fit(X, Y)
    once.fit(X, Y)
    assert_close(once.rule_.state_dict(), again.rule_.state_dict(), rtol=0, atol=0)
    assert once.n_iter_ == 2
    start = clone(once).set_params(warm_start=False).fit(X, Y)
    assert start.loss_curve_ == once.loss_curve_[:1]
    assert start.fit(X, Y).n_iter_ == 1
    before = start.model_[1].weight.clone()
    start.set_params(learning_rate_init=0.0).partial_fit(X, Y)
    assert torch.equal(start.model_[1].weight, before)
    batches: list[NDArray[Any]] = []
    start.model_[0].register_forward_hook(lambda *seen: batches.append(seen[2].numpy().copy()))
    start.partial_fit(X, Y).partial_fit(X, Y)
    whole = [batch for batch in batches if len(batch) == 32]
    assert len(whole) == 2 * (300 // 32)
    assert not any(np.array_equal(a, b) for a, b in zip(whole, whole[300 // 32 :], strict=False))


def test_regression_does_not_depend_on_the_unit() -> None:
    y = X[:, 20] - 2 * X[:, 43] + X[:, 28] * X[:, 36]
    metres = ForwardlyRegressor(max_iter=40, random_state=0).fit(X, y)
    assert metres.score(X, y) > 0.8
    assert metres.predict(X).shape == y.shape
    feet = clone(metres).fit(X, 1000 * y + 5)
    np.testing.assert_allclose(feet.predict(X), 1000 * metres.predict(X) + 5)
    assert metres.partial_fit(X, y).n_iter_ == 41
    constant = clone(metres).fit(X, np.full(len(X), 7.0))
    np.testing.assert_allclose(constant.predict(X), 7, atol=1.0)


def test_samples_keep_their_precision() -> None:
    single = ForwardlyClassifier(max_iter=1).fit(X.astype(np.float32), Y)
    assert {p.dtype for p in single.model_.parameters()} == {torch.float32}
    assert single.predict_proba(X).shape == (300, 10)


def test_a_rule_that_needs_the_learning_rate_is_told() -> None:
    estimator = ForwardlyClassifier("time-local-pepita", max_iter=1).fit(X, Y)
    assert estimator.rule_.learning_rate == 0.03


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rule": "pepitta"}, "unknown rule 'pepitta'; the known rules are .*pepita"),
        ({"rule": 3}, "rule must be a rule's name or its class; given 3"),
        ({"rule": nn.Linear}, "rule must be a rule's name or its class"),
        ({"hidden_layer_sizes": (10, 0)}, r"hidden_layer_sizes must be .* given \(10, 0\)"),
        ({"hidden_layer_sizes": 1.5}, r"hidden_layer_sizes must be .* given 1\.5"),
        ({"max_iter": 0}, "max_iter must be whole and above 0; given 0"),
        ({"batch_size": 2.5}, r"batch_size must be whole and above 0; given 2\.5"),
        ({"activation": "swish"}, "activation must be one of 'relu', 'tanh'.*given 'swish'"),
        ({"learning_rate_init": 1e6, "rule": "backprop"}, "diverged in epoch .*which is 1000000"),
    ],
)
def test_mistakes_are_named(parameters: dict[str, Any], message: str) -> None:
    given = {"max_iter": 3, **parameters}
    with pytest.raises(ValueError, match=message):
        ForwardlyRegressor(**given).fit(X, Y)


def test_early_stopping_keeps_the_best_of_samples_put_aside() -> None:
    x, y = load_digits(return_X_y=True)
    x = x / 16
    given = {"max_iter": 60, "random_state": 0, "learning_rate_init": 0.1}
    early = ForwardlyClassifier(**given, early_stopping=True, n_iter_no_change=2).fit(x, y)
    assert early.n_iter_ < 60
    assert ForwardlyClassifier(**{**given, "max_iter": 3}).fit(x, y).n_iter_ == 3
    with pytest.raises(ValueError, match=r"validation must be 1 to 1796.* given 2000"):
        ForwardlyClassifier(early_stopping=True, validation_fraction=2000).fit(x, y)
