"""Records that were cut short, edited or never were any: one line that names the file."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import generate
import numpy as np
import pytest

from forwardly.cli import main
from forwardly.data import npz
from forwardly.data import teacher_student as arrays
from forwardly.errors import UsageError
from forwardly.experiments import published, records, report, results, train_runs
from forwardly.experiments.experiment import Experiment
from forwardly.experiments.jobs import jobs_of
from forwardly.experiments.statistics import sd_text
from test_report import Page, fill, toy, train_run  # noqa: F401
from test_reproduction import jobs, never, nothing, run

pytestmark = pytest.mark.unchecked  # whole commands

COMMITTED = Path(__file__).parent.parent / "records"

MISSING = object()
WRONG: tuple[Any, ...] = (
    MISSING,
    None,
    "text",
    -1,
    1.5,
    10**15,
    10**400,
    math.nan,
    True,
    [],
    {"a": 1},
)


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in plain data; of lists, to the first item."""
    if way:
        yield way
    if isinstance(content, dict):
        for name, value in content.items():
            yield from places(value, (*way, name))
    elif isinstance(content, list) and content:
        yield from places(content[0], (*way, 0))


def damaged(path: Path) -> Iterator[str]:
    """The file is damaged, once a turn: every value in it replaced by every wrong one."""
    whole = path.read_text(encoding="utf-8")
    content = json.loads(whole)
    for way in places(content):
        for wrong in WRONG:
            changed = copy.deepcopy(content)
            *before, last = way
            inner = changed
            for name in before:
                inner = inner[name]
            if wrong is MISSING:
                del inner[last]
            else:
                inner[last] = wrong
            path.write_text(json.dumps(changed), encoding="utf-8")
            yield f"{way}: {'missing' if wrong is MISSING else wrong}"
    path.write_text(whole, encoding="utf-8")


def refused(read: Callable[[], object], path: Path, turns: Iterator[str]) -> set[str]:
    """The turns in which it was refused, in one line that names the file; else it was read."""
    found: set[str] = set()
    for turn in turns:
        try:
            read()
        except UsageError as mistake:
            message = str(mistake)
            assert str(path) in message, (turn, message)
            assert message.isprintable(), (turn, message)
            assert len(message) < len(str(path)) + 300, (turn, message)
            assert message.endswith("; restore it, or move its folder away"), (turn, message)
            found.add(turn)
        except Exception as mistake:
            raise AssertionError(f"{turn}: {mistake!r}") from mistake
    return found


@pytest.fixture
def place(toy: Experiment, tmp_path: Path) -> Path:  # noqa: F811
    """The folder of one of the records of a toy experiment."""
    fill(tmp_path, toy)
    return records.folder(tmp_path, toy.name, "fc-digits/pepita", 1)


def test_values_of_a_record(place: Path, tmp_path: Path, toy: Experiment) -> None:  # noqa: F811
    """The report and forwardly reproduce rely on what was read."""

    def read() -> None:
        found = [records.read(place)]
        assert report._environments(found)
        assert len(report._others(found)) <= 1
        for column in report.columns(toy, found):
            for line in column.recorded:
                _ = line.ours, line.distance, line.diverged
        jobs_of(
            toy,
            ["fc-digits/pepita"],
            1,
            first_seed=1,
            record_root=tmp_path,
            work=tmp_path / "work",
            data_root=None,
            threads=1,
        )

    path = place / "record.json"
    turns = [*damaged(path)]
    assert len(turns) > 300
    found = refused(read, place, damaged(path))  # a number of epochs is the other file's matter
    names = "experiment", "cell", "seed", "recipe", "result", "environment"
    for name in names:
        assert f"('{name}',): missing" in found
        assert f"('{name}',): None" in found
        assert f"('{name}',): []" in found
    for way in ("result', 'test_accuracy", "result', 'epochs", "environment', 'platform"):
        for wrong in ("missing", "None", "[]", "True"):
            assert f"('{way}'): {wrong}" in found
    for wrong in ("nan", "-1", "1.5", "text"):
        assert f"('result', 'test_accuracy'): {wrong}" in found
    recipe = [turn for turn in turns if "'recipe', " in turn]
    assert len(found & set(recipe)) > 0.9 * len(recipe)  # the others are the setting as it is


def test_a_recipe_with_other_settings(place: Path, toy: Experiment, tmp_path: Path) -> None:  # noqa: F811
    content = json.loads((place / "record.json").read_text("utf-8"))
    content["recipe"] |= {"colour": "red", "batch": 7}
    (place / "record.json").write_text(json.dumps(content), "utf-8")
    words = r"seed-1/record.json was made with another recipe .*\(other: batch, colour\)"
    with pytest.raises(UsageError, match=words):
        report.render([tmp_path])


CONTENTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text("", "utf-8"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "zeros": lambda path: path.write_bytes(bytes(100)),
    "a half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "but a byte": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode("latin1").encode("utf-16")),
    "a list": lambda path: path.write_text("[]\n", "utf-8"),
    "a number": lambda path: path.write_text("3\n", "utf-8"),
    "null": lambda path: path.write_text("null\n", "utf-8"),
    "nested": lambda path: path.write_text("[" * 100_000, "utf-8"),
    "nested objects": lambda path: path.write_text('{"a":' * 100_000, "utf-8"),
    "long number": lambda path: path.write_text("1" * 10_000, "utf-8"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a page": lambda path: path.write_text("<!doctype html><script>alert(1)</script>\n", "utf-8"),
}
if os.name == "posix":
    CONTENTS["a pipe"] = lambda path: (path.unlink(), os.mkfifo(path))
    CONTENTS["a loop"] = lambda path: (path.unlink(), path.symlink_to(path))


def broken(path: Path) -> Iterator[str]:
    """The file is damaged as a whole, once a turn."""
    with tempfile.TemporaryDirectory() as kept:
        shutil.copy(path, kept)
        for name, damage in CONTENTS.items():
            damage(path)
            yield name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            shutil.copy(Path(kept) / path.name, path)


@pytest.mark.parametrize("name", ["record.json", "epochs.csv"])
def test_files_of_a_record(name: str, place: Path, tmp_path: Path) -> None:
    path = place / name
    found = refused(lambda: report.render([tmp_path]), path, broken(path))
    expected = set(CONTENTS)
    if name == "record.json":
        expected.remove("missing")  # then it is no record at all
        assert "but a byte" in found
    assert found == expected


TABLES = {
    "no names": "\n",
    "no rows": "epoch,validation_accuracy\n",
    "no epochs": "validation_accuracy\n0.1\n0.2\n0.3\n0.4\n",
    "too few rows": "epoch,validation_accuracy\n1,0.1\n2,0.2\n3,0.2\n",
    "too many rows": "epoch,validation_accuracy\n1,0.1\n2,0.2\n3,0.2\n4,0.1\n5,0.1\n",
    "an epoch twice": "epoch,validation_accuracy\n1,0.1\n2,0.2\n2,0.2\n4,0.1\n",
    "no accuracy": "epoch,loss\n1,0.1\n2,0.2\n3,0.2\n4,0.1\n",
    "an accuracy missing": "epoch,validation_accuracy\n1,0.1\n2,\n3,0.2\n4,0.1\n",
    "an accuracy of NaN": "epoch,validation_accuracy\n1,0.1\n2,nan\n3,0.2\n4,0.1\n",
    "an accuracy above 1": "epoch,validation_accuracy\n1,0.1\n2,90\n3,0.2\n4,0.1\n",
    "words": "epoch,validation_accuracy\n1,high\n2,low\n3,0.2\n4,0.1\n",
    "a name twice": "epoch,validation_accuracy,epoch\n1,0.1,1\n2,0.2,2\n3,0.2,3\n4,0.1,4\n",
    "a short line": "epoch,validation_accuracy\n1,0.1\n2\n3,0.2\n4,0.1\n",
    "a long line": "epoch,validation_accuracy\n1,0.1\n2,0.2,0.3\n3,0.2\n4,0.1\n",
    "a line cut short": "epoch,validation_accuracy\n1,0.1\n2,0.2\n3,0.2\n4,0.1",
    "an open quote": 'epoch,"validation_accuracy\n1,0.1\n2,0.2\n3,0.2\n4,0.1\n',
    "a huge cell": f"epoch,validation_accuracy\n1,{'1' * 200_000}\n2,0.2\n3,0.2\n4,0.1\n",
    "a long word": f"epoch,validation_accuracy\n1,{'a' * 100_000}\n2,0.2\n3,0.2\n4,0.1\n",
    "a zero byte": "epoch,validation_accuracy\0\n1,0.1\n2,0.2\n3,0.2\n4,0.1\n",
    "semicolons": "epoch;validation_accuracy\n1;0.1\n2;0.2\n3;0.2\n4;0.1\n",
}


def test_tables_of_a_record(place: Path) -> None:
    path = place / "epochs.csv"

    def turns() -> Iterator[str]:
        for name, table in TABLES.items():
            path.write_text(table, "utf-8")
            yield name

    assert refused(lambda: records.read(place), path, turns()) == set(TABLES)


def test_figures_of_extreme_values(place: Path, tmp_path: Path) -> None:
    """A loss on its way to infinity is no damage; it is drawn as far as it can be."""
    extreme = ("nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "-0.0", "1e30", "")
    names = [f"alignment/{i}.weight" for i in range(len(extreme))]
    heads = ["epoch", "validation_accuracy", "angle/F", *names, "alignment/².x", "alignment/"]
    lines = [[epoch, "0.5", extreme[int(epoch)], *extreme, "1", "2"] for epoch in "1234"]
    (place / "epochs.csv").write_text(
        "".join(f"{','.join(row)}\n" for row in (heads, *lines)), "utf-8"
    )
    page = Page(report.render([tmp_path]))
    # Accuracy, angle, and all layers but the last, the readout; one has no value at all.
    assert page.tags.count("svg") == 2 + (len(extreme) - 1 + 2) - 1


def test_the_same_run_twice(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "copy" / "seed-9")
    with pytest.raises(UsageError, match=r"holds the same run as .*copy/seed-9, which counts once"):
        report.render([tmp_path])


def test_cells_that_are_no_more_are_named(place: Path, tmp_path: Path) -> None:
    content = json.loads((place / "record.json").read_text("utf-8")) | {"cell": "fc-digits/old"}
    (place / "record.json").write_text(json.dumps(content), "utf-8")
    assert "not shown: toy2026/fc-digits/old." in report.render([tmp_path])


def test_parts_of_a_killed_write_are_no_records(place: Path, tmp_path: Path) -> None:
    before = len(records.read_all(tmp_path))
    shutil.copytree(place, place.parent / ".part-abc")
    (place.parent / ".part-abc" / "epochs.csv").unlink()
    assert len(records.read_all(tmp_path)) == before


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_may_not_be_read(toy: Experiment) -> None:  # noqa: F811
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        fill(root, toy)
        report.render([root])  # which imports what an ordinary user may not be allowed to read
        place = records.folder(root, toy.name, "fc-digits/pepita", 1)
        for path in (place / "record.json", place / "epochs.csv", place, place.parent):
            mode = path.stat().st_mode
            path.chmod(0)
            with (
                ordinary_user(),
                pytest.raises(UsageError, match=f"{path} cannot be read: Permission denied"),
            ):
                report.render([root])
            path.chmod(mode)
        with ordinary_user():
            assert report.render([root])


@pytest.fixture
def teacher_student(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    shutil.copytree(COMMITTED / "teacher-student" / "ten-seeds", folder)
    _shorten(folder / "summary.json", ("pepita",))
    return folder


@pytest.mark.parametrize(("name", "least"), [("config.json", 100), ("summary.json", 250)])
def test_values_of_a_teacher_student_record(name: str, least: int, teacher_student: Path) -> None:
    path = teacher_student / name
    assert len(list(damaged(path))) > least

    def read() -> None:
        summary = results.read(teacher_student)
        if summary is not None:  # config.json may be of something else
            for rule in summary.rules.values():
                assert sd_text(rule.train)
                assert sd_text(rule.validation)

    found = refused(read, path, damaged(path))
    for way in {
        "config.json": ["settings", "settings', 'seed", "settings', 'seeds"],
        "summary.json": ["rules", "rules', 'pepita", "rules', 'pepita', 'final', 'train_mae"],
    }[name]:
        for wrong in ("None", "[]", "text", "True"):
            keys = f"('{way}'" + ("," if "'" not in way else "")
            assert f"{keys}): {wrong}" in found


@pytest.mark.parametrize("name", ["config.json", "summary.json", "mae.png"])
def test_files_of_a_teacher_student_record(
    name: str,
    teacher_student: Path,
    toy: Experiment,  # noqa: F811
) -> None:
    path = teacher_student / name
    fill(teacher_student.parent, toy)
    found = refused(lambda: report.render([teacher_student.parent]), path, broken(path))
    expected = set(CONTENTS)
    if name == "mae.png":  # whose data is the browser's to judge, once it says that it is PNG
        expected -= {"a half", "but a byte"}
    assert found == expected - {"missing"}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return train_run(tmp_path / "run", 4, diverged=None, test_accuracy=0.9, test_loss=0.3)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_values_of_a_run_of_train(name: str, trained: Path) -> None:
    found = refused(lambda: train_runs.read_all(trained), trained, damaged(trained / name))
    ways = {
        "config.json": [
            "recipe",
            "run_seed",
            "recipe', 'rule",
            "recipe', 'data",
            "recipe', 'epochs",
        ],
        "result.json": ["epochs", "diverged", "test_accuracy", "test_loss"],
    }[name]
    for way in ways:
        for wrong in ("text", "[]", "True") if "'" not in way else ("missing", "None", "[]", "-1"):
            keys = f"('{way}'" + ("," if "'" not in way else "")
            assert f"{keys}): {wrong}" in found


@pytest.mark.parametrize("name", ["config.json", "epochs.csv", "result.json"])
def test_files_of_a_run_of_train(name: str, trained: Path) -> None:
    path = trained / name
    found = refused(lambda: train_runs.read_all(trained), path, broken(path))
    # Without the first it is no run, without the last it has not ended.
    lacking = set[str]() if name == "epochs.csv" else {"missing"}
    assert found == set(CONTENTS) - lacking


def test_tables_of_a_run_of_train(trained: Path) -> None:
    path = trained / "epochs.csv"

    def turns() -> Iterator[str]:
        for name, table in TABLES.items():
            path.write_text(table, "utf-8")
            yield name

    fine = {"no accuracy", "an accuracy missing", "an accuracy of NaN", "an accuracy above 1"}
    fine.add("a zero byte")  # in a name
    longer = {"too many rows"}  # it goes on, having been given more epochs
    assert refused(lambda: train_runs.read_all(trained), path, turns()) == (
        set(TABLES) - fine - longer
    )


def test_settings_nested_too_deep(trained: Path) -> None:
    path = trained / "config.json"
    content = json.loads(path.read_text("utf-8"))
    for _ in range(900):
        content["recipe"]["options"] = {"a": content["recipe"].get("options")}
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UsageError, match=r"config.json (must have fewer|is nested)"):
        train_runs.read_all(trained)


DOCUMENTED: dict[str, tuple[str, ...]] = {
    "audit/audit.json": ("audit",),
    "bench/bench.json": ("bench", "costs", "growth"),
    "compare/digits/summary.json": ("comparison",),
    "teacher-student/default/summary.json": ("teacher_student",),
    "teacher-student/ten-seeds/config.json": ("teacher_student",),
    "teacher-student/clean/summary.json": ("terms",),
}
"""What ``make docs`` reads, beside the records of runs, and what it makes of it."""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_records_that_the_documents_are_made_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate
    for folder in ("audit", "bench", "compare", "teacher-student"):
        shutil.copytree(COMMITTED / folder, tmp_path / folder)
    monkeypatch.setattr(made, "ALL_RECORDS", tmp_path)
    monkeypatch.setattr(made, "RECORDS", tmp_path / "teacher-student")
    monkeypatch.setattr(made, "DIGITS", tmp_path / "compare")
    monkeypatch.setattr(made, "AUDITED", ("pepita",))
    path = tmp_path / name
    for summary in tmp_path.rglob("*.json"):
        _shorten(summary, ("pepita", "online-small"))

    def read() -> None:
        for part in DOCUMENTED[name]:
            getattr(made, part)(*(["digits"] if part == "comparison" else []))

    read()
    found = refused(read, tmp_path, damaged(path))
    assert len(found) > 30
    assert refused(read, tmp_path, broken(path)) == set(CONTENTS)


def _shorten(path: Path, kept: tuple[str, ...]) -> None:
    """Leave out most rules and cases, and evidence, which are all alike."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("rules", "cases"):
        if isinstance(content.get(name), dict):
            content[name] = {one: content[name][one] for one in kept if one in content[name]}
            for one in content[name].values():
                for part in ("transport", "frozen"):
                    one.get(part, {}).pop("evidence", None)
                one.get("locality", {}).pop("layers", None)
                one.pop("costs", None)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def test_revisions_of_an_unfinished_run(tmp_path: Path) -> None:
    job = jobs(tmp_path)[0]
    job.folder.mkdir(parents=True)
    path = job.folder / "revisions.json"
    path.write_text("[]", "utf-8")

    def turns() -> Iterator[str]:
        yield from broken(path)
        for text in ("{}", '{"a": 1}', "[1]", '["abc"]', "[[1]]", "[[1, 2, 3]]", "[null]", '"ab"'):
            path.write_text(text, "utf-8")
            yield text

    found = refused(lambda: run(job, nothing, lambda: True), path, turns())
    assert found >= set(CONTENTS) - {"missing", "a list", "but a byte"}
    path.write_text('[["abc", true]]', "utf-8")
    assert run(job, nothing, never) == "finished"
    (made,) = records.read_all(tmp_path / "records")
    assert made.environment["earlier_revisions"] == ["abc"]
    assert made.environment["uncommitted_changes"] is True


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["task", "images"])
def test_damaged_arrays(kind: str, save: Callable[..., None], tmp_path: Path) -> None:
    """Of a damaged archive zipfile, zlib and numpy raise whatever comes to pass."""
    path = tmp_path / "a\nb.npz"
    names = npz.KEYS
    values: list[Any] = [np.ones((3, 4, 4), np.uint8), np.ones(3, np.int64)] * 2
    if kind == "task":
        names = ("x_train", "y_train", "x_val", "y_val", "w1", "w2", "F")
        values = [np.ones(shape) for shape in [(3, 2), (3, 1)] * 2 + [(2, 2), (2, 1), (1, 2)]]
    read = {"task": arrays.load, "images": npz.read}[kind]
    save(path, **dict(zip(names, values, strict=True)))
    whole, random, refusals = path.read_bytes(), np.random.default_rng(0), 0
    read(path)
    for _ in range(1000):
        content = bytearray(whole)
        for place in random.integers(len(whole), size=random.integers(1, 5)):
            content[place] = random.integers(256)
        path.write_bytes(bytes(content))
        with suppress(UsageError):
            read(path)
            continue
        refusals += 1
    assert refusals > 500


@pytest.mark.parametrize("command", ["report records", "reproduce toy2026 --seeds 2"])
def test_commands_end_in_one_line(
    command: str,
    toy: Experiment,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(tmp_path / "records", toy)
    place = records.folder(tmp_path / "records", toy.name, "fc-digits/pepita", 1)
    (place / "epochs.csv").write_bytes(b"\x89PNG\r\n")
    monkeypatch.setitem(published.EXPERIMENTS, toy.name, toy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["forwardly", *command.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    path = Path("records") / "toy2026" / "fc-digits" / "pepita" / "seed-1" / "epochs.csv"
    assert capsys.readouterr().err == (
        f"error: {path} is no text in UTF-8; restore it, or move its folder away\n"
    )
