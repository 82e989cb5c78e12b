"""The experiment: against a transcript of the post's loop, its draws, its arrays, its folder."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forwardly as fw
from forwardly.data import teacher_student as arrays
from forwardly.data.teacher_student import Task, draw, output
from forwardly.errors import UsageError
from forwardly.experiments import results
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.teacher_student import MOST_AT_ONCE, Run, TeacherStudent, training
from reference.blog import teacher_student

BLOG = TeacherStudent()
SHORT = replace(BLOG, epochs=20, log_every=5)
CLEAN = "pepita:presynaptic=clean"


def tasks(settings: TeacherStudent) -> list[Task]:
    return [draw(settings, np.random.default_rng(settings.seed + i)) for i in range(settings.seeds)]


def finished(settings: TeacherStudent, given: list[Task] | None = None) -> Run:
    run = Run(settings, given or tasks(settings))
    for _ in run.advance():
        pass
    return run


def test_defaults_are_the_posts() -> None:
    assert (
        TeacherStudent(
            rules=("pepita", "readout-only", "backprop"),
            seeds=1,
            seed=99,
            epochs=100_000,
            hidden=(8,),
            learning_rate=5e-4,
            dtype="float64",
            log_every=100,
            engine="compiled",
            inputs=16,
            teacher_hidden=8,
            outputs=1,
            train_samples=1000,
            validation_samples=500,
            teacher_sd=0.5,
            student_bound=0.5,
            feedback_bound=0.03,
        )
        == BLOG
    )


@pytest.mark.parametrize(
    ("rule", "engine"),
    [*product(BLOG.rules, ("compiled", "readable")), (CLEAN, "compiled")],
)
def test_equals_the_transcript_of_the_posts_loop(rule: str, engine: str) -> None:
    """From the same arrays, over 2,000 epochs, the MAE of both sets after every update."""
    task = draw(BLOG, np.random.default_rng(99))
    expected_train, expected_validation, w1, w2 = teacher_student(
        *task[:4], *task.weights, task.F, learning_rate=5e-4, epochs=2000, rule=rule
    )
    run = finished(replace(BLOG, rules=(rule,), epochs=2000, log_every=1, engine=engine), [task])
    history = run.histories[rule]
    assert history.epochs == list(range(1, 2001))
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(np.stack(history.train)[:, 0], expected_train, **close)
    np.testing.assert_allclose(np.stack(history.validation)[:, 0], expected_validation, **close)
    ours = run.trainings[rule].weights(0)
    np.testing.assert_allclose(ours[0], w1.T, **close)
    np.testing.assert_allclose(ours[1], w2.T, **close)
    moved = np.abs(w1 - task.weights[0]).max()
    assert moved == 0 if rule == "readout-only" else moved > 0.1


def test_hidden_layer_learns() -> None:
    """PEPITA gets below the control, and backprop below PEPITA; going down would show nothing."""
    run = finished(replace(BLOG, epochs=1500, log_every=1500, seeds=4, seed=101))
    final = {name: history.validation[-1] for name, history in run.histories.items()}
    assert not any(history.diverged for history in run.histories.values())
    assert final["pepita"].mean() < 0.7 * final["readout-only"].mean()
    assert final["backprop"].mean() < 0.7 * final["pepita"].mean()


def test_draws_have_the_posts_distributions() -> None:
    many = replace(BLOG, inputs=400, hidden=(300,), outputs=20, teacher_hidden=300)
    task = draw(many, np.random.default_rng(0))
    assert task.x_train.shape == (1000, 400)
    assert task.x_val.shape == (500, 400)
    assert task.y_train.shape == (1000, 20)
    assert [w.shape for w in task.weights] == [(400, 300), (300, 20)]
    assert task.F.shape == (20, 400)
    for x, y in ((task.x_train, task.y_train), (task.x_val, task.y_val)):
        np.testing.assert_array_equal(output(task.teacher, x), y)
    for values, low, high in (
        (task.x_train, 0, 1),
        (task.weights[0], -0.5, 0.5),
        (task.weights[1], -0.5, 0.5),
        (task.F, -0.03, 0.03),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.02)
    # Var y = 300 · 0.25 · E[h²], with E[h²] = ½ Var z and Var z = 400 · E[x²] · 0.25
    assert task.y_train.std() == pytest.approx(
        math.sqrt(300 * 0.25 * 0.5 * 400 / 3 * 0.25), rel=0.1
    )


@pytest.mark.unchecked  # traces each rule
def test_rules_start_from_the_same_arrays() -> None:
    task = draw(SHORT, np.random.default_rng(0))
    for rule in set(fw.RULES) - {"forward-forward"}:
        for ours, w in zip(training(rule, [task], SHORT).weights(0), task.weights, strict=True):
            np.testing.assert_array_equal(ours, w.T)


@pytest.mark.unchecked
@pytest.mark.parametrize("rule", ["feedback-alignment", "drtp", "sign-symmetry-batch"])
def test_feedback_of_their_own_follows_the_seed(rule: str) -> None:
    settings = replace(SHORT, rules=(rule,), learning_rate=1e-5)
    first, again = (finished(settings).histories[rule].train[-1] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.unchecked  # traces a rule
def test_options_of_a_rule() -> None:
    """Beside the rule without, by either engine; F is the task's but where an option sets it."""
    rules = ("pepita", "pepita:sign=1,presynaptic=modulated", CLEAN, "pepita:projection=0.5")
    histories = finished(replace(SHORT, rules=rules)).histories
    assert tuple(histories) == rules
    assert {row[0] for row in histories[CLEAN].rows()} == {CLEAN}
    plain, same, clean, longer = (np.stack(history.train) for history in histories.values())
    readable = finished(replace(SHORT, rules=(CLEAN,), engine="readable")).histories[CLEAN]
    np.testing.assert_allclose(readable.train, clean, rtol=1e-10)
    np.testing.assert_array_equal(same, plain)
    assert 1e-6 < np.abs(clean / plain - 1).max() < 0.01
    assert np.abs(longer / plain - 1).max() > 0.05


def test_why_seeds_diverge() -> None:
    """At the post's rate since the readout overshoots; with a long F since W₁F amplifies itself."""
    post = replace(BLOG, seeds=10)
    for i, task in enumerate(tasks(post)):
        h = np.maximum(task.x_train @ task.weights[0], 0)
        step = post.learning_rate * np.linalg.eigvalsh(h.T @ h)[-1]
        assert (step > 2) == (post.seed + i == 100)

    post = replace(BLOG, rules=("pepita", CLEAN), seed=101, seeds=4, epochs=100)
    long = replace(post, feedback_bound=10 * post.feedback_bound, learning_rate=1e-4)
    for settings, low, high in ((post, 0, 0.05), (long, 0.25, 1.0)):
        run = finished(settings)
        modulated, clean = (
            [
                math.log(np.linalg.norm(run.trainings[name].weights(i)[0] @ task.F.T))
                for i, task in enumerate(tasks(settings))
            ]
            for name in settings.rules
        )
        apart = np.subtract(modulated, clean)
        assert (apart > low).all(), apart
        assert (apart < high).all(), apart


def test_readout_only_leaves_the_hidden_layer() -> None:
    run = finished(SHORT)
    hidden, readout = run.trainings["readout-only"].weights(0)
    np.testing.assert_array_equal(hidden, run.before()[0])
    assert not np.allclose(readout, run.before()[1])


def test_seeds_at_once_are_seeds_one_by_one() -> None:
    together = finished(replace(SHORT, seeds=3, hidden=(5, 4)))
    for i in range(3):
        alone = finished(replace(SHORT, seed=SHORT.seed + i, hidden=(5, 4)))
        for name, history in alone.histories.items():
            np.testing.assert_allclose(
                np.stack(together.histories[name].train)[:, i], np.stack(history.train)[:, 0]
            )


@pytest.mark.parametrize(
    ("epochs", "log_every", "expected"),
    [
        (1, 100, [1]),
        (10, 3, [1, 2, 3, 6, 9, 10]),
        (300, 150, [1, 2, 4, 8, 16, 32, 64, 128, 150, 300]),
        (1030, 2000, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1030]),
    ],
)
def test_logged_epochs(epochs: int, log_every: int, expected: list[int]) -> None:
    run = finished(replace(BLOG, epochs=epochs, log_every=log_every))
    for name, history in run.histories.items():
        assert history.epochs == expected
        assert run.trainings[name].epoch == epochs
        assert history.seconds > 0


def test_float32_is_near_float64() -> None:
    exact, single = finished(SHORT), finished(replace(SHORT, dtype="float32"))
    for name, history in exact.histories.items():
        np.testing.assert_allclose(history.train[-1], single.histories[name].train[-1], rtol=1e-4)
        assert (history.train[-1] != single.histories[name].train[-1]).all()


def test_divergence_is_found_at_its_epoch() -> None:
    """With NumPy's loop as the judge of the epoch."""
    rule = "readout-only"
    settings = replace(BLOG, rules=(rule,), learning_rate=0.05, epochs=3000, log_every=1000)
    (task,) = tasks(settings)
    run = finished(settings)
    (found,) = run.histories[rule].diverged.values()
    for epochs, finite in ((found - 1, True), (found, False)):
        with np.errstate(all="ignore"):
            *_, w2 = teacher_student(
                *task[:4], *task.weights, task.F, learning_rate=0.05, epochs=epochs, rule=rule
            )
        assert np.isfinite(w2).all() == finite
    assert run.trainings[rule].epoch <= found + MOST_AT_ONCE
    assert 0 < max(run.histories[rule].epochs) < found


def test_a_diverging_seed_does_not_stop_the_others() -> None:
    settings = replace(BLOG, rules=("pepita",), seeds=2, epochs=400)  # seed 100 diverges at 311
    history = finished(settings).histories["pepita"]
    assert history.diverged == {100: 311}
    rows = list(history.rows())
    assert [(seed, epoch) for _, seed, epoch, _, _ in rows if epoch >= 100] == [
        *((99, epoch) for epoch in (100, 200, 300, 400)),
        *((100, epoch) for epoch in (100, 200, 300)),
    ]
    errors = history.curves("validation")
    assert np.isfinite(errors[0]).all()
    assert np.isnan(errors[1]).tolist() == [epoch == 400 for epoch in history.epochs]
    alone = finished(replace(settings, seeds=1)).histories["pepita"]
    assert history.mean_and_sd("train")[0] == pytest.approx(alone.mean_and_sd("train")[0])
    assert history.mean_and_sd("train")[1] is None


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rules": ("pepita", "hebb")},
            "unknown rule 'hebb'; the known rules are .*, pepita, readout-only",
        ),
        ({"rules": ()}, "no rule given"),
        ({"rules": ("forward-forward",)}, "forward-forward learns classes, and this is a regress"),
        ({"rules": ("pepita", "pepita")}, "named twice"),
        ({"rules": (CLEAN, "pepita", CLEAN)}, f"named twice: {CLEAN}, pepita, {CLEAN}"),
        ({"rules": ("hebb:sign=1",)}, "unknown rule 'hebb'; the known rules are"),
        ({"rules": ("forward-forward:threshold=1",)}, "forward-forward:threshold=1 learns classes"),
        ({"rules": ("pepita:",)}, "given as NAME=VALUE; given ''"),
        ({"rules": ("pepita:clean",)}, "given as NAME=VALUE; given 'clean'"),
        ({"rules": ("pepita:sign=1,sign=1",)}, "option sign is given twice"),
        ({"rules": ("pepita:presynaptic=old",)}, "presynaptic must be modulated or clean; given"),
        ({"rules": ("backprop:sign=1",)}, "backprop has no option 'sign'; backprop has no options"),
        ({"epochs": 0}, "epochs must be at least 1; given 0"),
        ({"epochs": -5}, "epochs must be at least 1; given -5"),
        ({"seeds": 0}, "seeds must be"),
        ({"log_every": 0}, "log_every must be"),
        ({"seed": -1}, "seed must be at least 0; given -1"),
        ({"hidden": ()}, "hidden must be"),
        ({"hidden": (8, 0)}, r"hidden must be .* given \[8, 0\]"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and at most 1e[+]30; given 0"),
        ({"learning_rate": math.nan}, "given nan"),
        ({"dtype": "float16"}, "dtype must be float64 or float32; given 'float16'"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(BLOG, **change)


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    task = draw(replace(BLOG, hidden=(8, 5, 3)), np.random.default_rng(0))
    arrays.save(task, tmp_path / "a.npz")
    loaded = arrays.load(tmp_path / "a.npz")
    for ours, theirs in zip(loaded[:4], task[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(loaded.weights) == 4
    for ours, theirs in zip((*loaded.weights, loaded.F), (*task.weights, task.F), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _blog_arrays() -> dict[str, Any]:
    task = draw(BLOG, np.random.default_rng(0))
    return {
        **{name: getattr(task, name) for name in ("x_train", "y_train", "x_val", "y_val", "F")},
        "w1": task.weights[0],
        "w2": task.weights[1],
    }


def test_arrays_as_julia_writes_them(tmp_path: Path) -> None:
    """Column-major, single precision, targets as vectors."""
    given = {name: np.asfortranarray(a, dtype=np.float32) for name, a in _blog_arrays().items()}
    given["y_train"], given["y_val"] = given["y_train"].ravel(), given["y_val"].ravel()
    np.savez(tmp_path / "julia.npz", **given)
    task = arrays.load(tmp_path / "julia.npz")
    assert task.y_train.shape == (1000, 1)
    np.testing.assert_allclose(task.y_train, output(task.weights, task.x_train) * 0 + task.y_train)
    assert finished(SHORT, [task]).histories["pepita"].epochs == [1, 2, 4, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"F": None}, "has no array F; needed are x_train, y_train, x_val, y_val, F, w1, w2"),
        ({"w2": None}, "has no array w2"),
        ({"w1": np.ones((8, 16))}, r"w1|x_train must have the shape"),
        ({"w2": np.ones((7, 1))}, r"w2 must have the shape \(8, 1\).*its shape is \(7, 1\)"),
        ({"F": np.ones((16, 1))}, r"F must have the shape \(1, 16\).*its shape is \(16, 1\)"),
        ({"y_val": np.ones(499)}, r"y_val must have the shape \(500, 1\).*\(499,\)"),
        ({"x_val": np.full((500, 16), math.nan)}, "x_val has a NaN or an infinity"),
        ({"x_train": np.ones((1000, 15))}, r"x_train must have the shape \(1000, 16\)"),
        ({"w1": np.array("text")}, "w1 must be an array of real numbers"),
        ({"w1": np.ones(16)}, r"w1 must have the shape"),
        ({"F": np.ones((1, 16), dtype=complex)}, "F must be an array of real numbers.*complex"),
        (
            {"F": np.array([[None] * 16])},
            "not a readable .npz file .*objects, which are not loaded",
        ),
    ],
)
def test_malformed_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {name: a for name, a in (_blog_arrays() | change).items() if a is not None}
    np.savez(tmp_path / "a.npz", **given)
    with pytest.raises(UsageError, match=message):
        arrays.load(tmp_path / "a.npz")


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*nowhere\.npz"):
        arrays.load(tmp_path / "nowhere.npz")
    for name, content in {"text": b"hello", "empty": b"", "zip": b"PK\x03\x04broken"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="not a readable"):
            arrays.load(tmp_path / name)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(UsageError, match="not a readable"):
        arrays.load(tmp_path / "one.npy")
    with pytest.raises(UsageError, match="not a readable"):
        arrays.load(tmp_path)


def test_the_folder(tmp_path: Path) -> None:
    settings = replace(SHORT, seeds=2, seed=7)
    folder = RunFolder.new(tmp_path / "a" / "b", "teacher-student")
    given = tasks(settings)
    results.write_start(folder, settings, given[0], None, {"device": "cpu"})
    run = finished(settings, given)
    results.write_results(folder, run, "finished")

    assert sorted(path.name for path in folder.path.iterdir()) == sorted(
        [
            *("config.json", "arrays.npz", "metrics.csv", "summary.json"),
            *("mae.png", "mae.svg", "network.svg"),
        ]
    )
    with (folder.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rule", "seed", "epoch", "train_mae", "val_mae"]
    assert len(rows) == 3 * 2 * 7
    pepita = [row for row in rows if row["rule"] == "pepita" and row["seed"] == "8"]
    assert [row["epoch"] for row in pepita] == ["1", "2", "4", "5", "10", "15", "20"]
    assert float(pepita[-1]["val_mae"]) == run.histories["pepita"].validation[-1][1]

    config = json.loads((folder.path / "config.json").read_text("utf-8"))
    assert config["settings"]["seed"] == 7
    assert config["versions"].keys() == {"python", "forwardly", "torch", "numpy"}

    summary = json.loads((folder.path / "summary.json").read_text("utf-8"))
    assert summary["status"] == "finished"
    assert summary["rules"].keys() == set(settings.rules)
    final = summary["rules"]["pepita"]["final"]
    assert final["epoch"] == 20
    assert final["val_mae"] == pytest.approx(run.histories["pepita"].validation[-1].mean())
    assert final["val_mae_sd"] == pytest.approx(run.histories["pepita"].validation[-1].std(ddof=1))
    best = summary["rules"]["pepita"]["best"]
    assert best["val_mae"] == min(errors.mean() for errors in run.histories["pepita"].validation)
    assert summary["rules"]["pepita"]["seconds"] > 0

    drawing = (folder.path / "network.svg").read_text("utf-8")
    assert re.findall(r"<!-- (teacher|student before|after .*) -->", drawing) == [
        "teacher",
        "student before",
        *(f"after {rule}" for rule in settings.rules),
    ]

    # the first seed's arrays start the same run again
    again = finished(replace(settings, seeds=1), [arrays.load(folder.path / "arrays.npz")])
    assert again.histories["pepita"].train[-1][0] == pytest.approx(
        run.histories["pepita"].train[-1][0], rel=1e-12
    )


@pytest.mark.parametrize(("times", "every"), [(1, 2), (1, 403), (3, 110), (7, 60), (400, 1)])
def test_seeds_shared_by_threads_train_as_one_after_another(times: int, every: int) -> None:
    """Bit for bit, also where a seed diverges (the one of 100 does after 311 epochs)."""
    settings = replace(BLOG, rules=("pepita",), seeds=9, seed=95)
    tasks = [draw(settings, np.random.default_rng(settings.seed + i)) for i in range(9)]
    alone = Run(settings, tasks, 1).trainings["pepita"]
    expected = [*alone.advance(times, every), *alone.advance(2, 3)]
    for threads in (2, 3, 16):
        together = Run(settings, tasks, threads).trainings["pepita"]
        found = [*together.advance(times, every), *together.advance(2, 3)]
        assert together.epoch == alone.epoch == times * every + 6
        assert together.diverged == alone.diverged == ({5: 311} if times * every > 311 else {})
        for one, other in zip(found, expected, strict=True):
            assert one.epoch == other.epoch
            np.testing.assert_array_equal(one.train, other.train)
            np.testing.assert_array_equal(one.validation, other.validation)
        for seed in range(9):
            for w, v in zip(together.weights(seed), alone.weights(seed), strict=True):
                np.testing.assert_array_equal(w, v)
