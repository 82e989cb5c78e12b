"""Every rule that claims to train hidden layers does: it beats readout-only where that cannot win.

On the digits a frozen hidden layer of 16 units loses too much; on the teacher–student problem it
is not the teacher's. The control has the learning rate that is best for it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats

import forwardly as fw
from forwardly.experiments.digits import Digits, train
from forwardly.experiments.teacher_student import Run, TeacherStudent, draw
from forwardly.statistics import difference

BOTTLENECKS = {
    activation: Digits(hidden=(16,), activation=activation, seeds=8, epochs=15)
    for activation in ("relu", "tanh")
}

# activation and learning rate, found on validation images; seeds, more where the gain is smaller
ON_DIGITS = {
    "adaptive-feedback-alignment": ("relu", 0.3, 4),
    "backprop": ("relu", 0.1, 4),
    "direct-feedback-alignment": ("relu", 0.1, 4),
    "drtp": ("tanh", 0.03, 8),
    "feedback-alignment": ("relu", 0.1, 4),
    "forward-forward": ("relu", 0.3, 8),
    "hebbian-pepita": ("relu", 0.3, 4),
    "mem-pepita": ("relu", 0.3, 4),
    "pepita": ("relu", 0.3, 4),
    "sign-symmetry-batch": ("relu", 0.1, 4),
    "sign-symmetry-fixed": ("relu", 0.1, 4),
    "sign-symmetry-uniform": ("relu", 0.1, 4),
}

# learning rate on summed updates, bound of F, epochs. Signs of errors do not shrink, and the two
# halves of the time-local form cancel only at small rates: neither gains on the digits.
ON_TEACHER_STUDENT = {
    "sign-pepita": (2e-4, 0.06, 5000),
    "time-local-pepita": (2e-5, 0.15, 8000),
}


def test_every_claim_is_tested() -> None:
    claims = {name for name, rule in fw.RULES.items() if rule.trains != "readout"}
    assert ON_DIGITS.keys() | ON_TEACHER_STUDENT.keys() == claims


@cache
def control(activation: str) -> list[float]:
    settings = BOTTLENECKS[activation]
    return [train("readout-only", settings, seed, 0.3)[1] for seed in range(settings.seeds)]


@pytest.mark.parametrize("rule", ON_DIGITS)
def test_beats_readout_only_on_digits(rule: str) -> None:
    activation, rate, seeds = ON_DIGITS[rule]
    settings = BOTTLENECKS[activation]
    ours = [train(rule, settings, seed, rate)[1] for seed in range(seeds)]
    change = difference(ours, control(activation)[:seeds])
    assert change is not None
    assert change.mean > 0.02
    assert change.p < 0.05


@pytest.mark.parametrize("rule", ON_TEACHER_STUDENT)
def test_beats_readout_only_on_teacher_student(rule: str) -> None:
    rate, bound, epochs = ON_TEACHER_STUDENT[rule]
    settings = TeacherStudent(
        rules=(rule, "readout-only"),
        seeds=6,
        seed=103,
        epochs=epochs,
        log_every=epochs,
        learning_rate=rate,
        feedback_bound=bound,
    )
    run = Run(settings, [draw(settings, np.random.default_rng(103 + i)) for i in range(6)])
    for _ in run.advance():
        pass
    ours, theirs = (run.histories[name].validation[-1] for name in settings.rules)
    # in logarithms, as seeds differ in scale
    tested = stats.ttest_rel(np.log(ours), np.log(theirs), alternative="less")
    assert tested.pvalue < 0.05
    assert ours.mean() < 0.9 * theirs.mean()
