"""The report: true to the records, safe to open, complete by itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from forwardly.errors import UsageError
from forwardly.experiments import records, report
from forwardly.experiments.experiment import Cell, Experiment, Published
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.records import Record
from forwardly.metrics import slowness
from test_cli import Command

EVIL = '<script>alert("x")</script>'
ENVIRONMENT: dict[str, Any] = {
    "versions": {"python": "3.11", "torch": EVIL},
    "revision": "0123456789abcdef",
    "uncommitted_changes": True,
    "platform": "here & there",
}
ACCURACIES = {"pepita": (0.96, 0.97, 0.975), "readout-only": (0.9, 0.92, 0.91), "drtp": ()}


def cell(rule: str, **changes: Any) -> Cell:
    recipe = Recipe(rule, "digits", {}, epochs=4, milestones=(4,), **changes)
    published = Published(97.0, 0.5, 10, "Table 1") if rule == "pepita" else None
    return Cell(recipe, published, note=EVIL if rule == "pepita" else "")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    cells = {f"fc-digits/{rule}": cell(rule) for rule in ACCURACIES}
    made = Experiment("toy2026", "A <b>toy</b>", "https://example.org", cells)
    monkeypatch.setattr(report, "EXPERIMENTS", {made.name: made})
    return made


def rows(last: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": float(epoch),
            "validation_accuracy": last - 0.1 / epoch,
            "angle/F": 90.0 + epoch,
            "alignment/1.weight": 0.01 * epoch,
            "alignment/3.weight": 0.99,
        }
        for epoch in range(1, 5)
    ]


def fill(root: Path, made: Experiment, **changes: Any) -> None:
    for rule, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            content: dict[str, Any] = {
                "experiment": made.name,
                "cell": f"fc-digits/{rule}",
                "seed": seed,
                "recipe": made.cells[f"fc-digits/{rule}"].recipe.as_data(),
                "result": {"test_accuracy": accuracy, "diverged": None, "epochs": 4},
                "environment": ENVIRONMENT,
                "rows": rows(accuracy),
            } | changes
            records.write(root, Record(**content))


def train_run(folder: Path, done: int, **changes: Any) -> Path:
    """What ``forwardly train`` leaves, of which so many of four epochs are done.

    Changes are of the recipe, or of the result where they are named as there; None of these, and
    the run has not ended.
    """
    names = "diverged", "test_accuracy", "test_loss"
    result = {name: changes.pop(name) for name in names if name in changes}
    seed = changes.pop("seed", 0)
    recipe = Recipe("pepita", "digits", epochs=4).as_data() | changes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "run_seed": seed}), "utf-8")
    kind = "loss" if recipe["data"] == "teacher-student" else "accuracy"
    rows = [{"epoch": float(e), f"validation_{kind}": 0.1 * e} for e in range(1, done + 1)]
    if rows:
        (folder / "epochs.csv").write_text(records.table(rows), "utf-8")
    if result:
        content = json.dumps({"epochs": done} | result)
        (folder / "result.json").write_text(content, "utf-8")
    return folder


class Page(HTMLParser):
    """Collects what a page refers to, its identifiers, tags and text."""

    VOID = ("meta", "br", "img", "link", "hr", "path", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.identifiers: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.identifiers.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_figures_of_the_table(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    page = Page(report.render([tmp_path]))
    assert not page.open
    text = re.sub(r"\s+", " ", page.text)
    mean = (96 + 97 + 97.5) / 3
    assert f"97.00 ± 0.50 {mean:.2f} ± 0.76 3 {mean - 97:+.2f}" in text
    error = (0.7637626**2 / 3 + 0.5**2 / 10) ** 0.5
    assert f"({(mean - 97) / error:+.1f} se)" in text
    over = report.difference([96.0, 97.0, 97.5], [90.0, 92.0, 91.0])
    assert over is not None
    assert over.text() in text
    curves = [[row["validation_accuracy"] for row in rows(last)] for last in ACCURACIES["pepita"]]
    slow = [slowness(curve, chance=0.1) for curve in curves]
    assert f"{sum(slow) / 3:.3f} ±" in text
    assert "Not run: fc-digits/drtp" in text
    assert "6 runs: revision 0123456789 with uncommitted changes" in text
    assert "learning_rate" in text
    for caption in ("Validation accuracy", "Angle between", "Cosine of the update of 1.weight"):
        assert caption in text
    assert "Cosine of the update of 3.weight" not in text


def test_the_page_escapes_what_it_shows(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    page = Page(report.render([tmp_path]))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 2  # the note and the version, as text
    assert "A <b>toy</b>" in page.text


def test_the_page_stands_alone(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    text = report.render([tmp_path])
    page = Page(text)
    assert page.tags.count("svg") == 3
    assert len(page.identifiers) == len(set(page.identifiers)) > 20
    for reference in page.references:
        if reference.startswith("#"):
            assert reference[1:] in page.identifiers
        else:
            assert reference == "https://example.org"  # a link of the text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_references_inside_figures_hold(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    text = report.render([tmp_path])
    page = Page(text)
    inside = re.findall(r"url\(#([^)]*)\)", text)
    assert inside
    assert set(inside) <= set(page.identifiers)


def test_a_seed_that_diverged_is_named_and_left_out(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    place = records.folder(tmp_path, toy.name, "fc-digits/pepita", 1)
    broken = records.read(place)
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    result = {"test_accuracy": None, "diverged": 2, "epochs": 2}
    records.write(tmp_path, Record(**(broken.__dict__ | {"result": result, "rows": rows(0.5)[:2]})))
    text = re.sub(r"\s+", " ", Page(report.render([tmp_path])).text)
    assert "96.75 ± 1.06 diverged: seed 1 2" in text


def test_outdated_records_are_refused(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy, recipe=cell("pepita", batch=7).recipe.as_data())
    with pytest.raises(UsageError, match=r"pepita/seed-0/record.json was made .*\(other: batch\)"):
        report.render([tmp_path])


def test_records_of_unknown_experiments_are_named(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy, experiment="other<2>")
    assert "not shown: other<2>" in Page(report.render([tmp_path])).text


def test_the_command(toy: Experiment, tmp_path: Path, command: Command) -> None:
    fill(tmp_path / "records", toy)
    done = command("report")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("report.html")
    assert Page((tmp_path / "report.html").read_text("utf-8")).text
    assert command("report", "records", "--out", "other.html").returncode == 0
    (tmp_path / "empty").mkdir()
    for arguments, message in {
        ("nowhere",): "there is no folder nowhere",
        ("empty",): "there is no record in empty; forwardly reproduce makes them",
        ("--out", "no/where.html"): "cannot write to no/where.html: No such file or directory",
    }.items():
        done = command("report", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_teacher_student_records_are_shown(toy: Experiment) -> None:
    root = Path(__file__).parent.parent / "records" / "teacher-student"
    page = Page(report.render([root]))
    text = re.sub(r"\s+", " ", page.text)
    assert "pepita 0.0985 0.1040 0 of 1" in text
    assert page.tags.count("img") >= 1
    assert all(r.startswith(("data:", "#", "https://")) for r in page.references)


def cells_of(page: str) -> list[dict[str, str]]:
    """The rows of the tables that become cards on a phone, by what each cell is called there."""
    rows: list[dict[str, str]] = []
    for table in re.findall(r'<table class="cards">(.*?)</table>', page, re.DOTALL):
        heads = [flat(head) for head in re.findall(r"<th\b[^>]*>(.*?)</th>", table, re.DOTALL)]
        for row in re.findall(r"<tr>(<td.*?)</tr>", table, re.DOTALL):
            cells = re.findall(r"<td\b([^>]*)>(.*?)</td>", row, re.DOTALL)
            labels = re.findall(r'data-label="([^"]*)"', row)
            assert labels == heads[1:], "a label is not its column's"
            rows.append(dict(zip(heads, (flat(text) for _, text in cells), strict=True)))
    return rows


def flat(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_runs_of_train_side_by_side(tmp_path: Path) -> None:
    good = {"diverged": None, "test_accuracy": 0.9533, "test_loss": 0.2}
    train_run(tmp_path / "a", 4, **good)
    train_run(tmp_path / "b", 2, learning_rate=0.25)
    train_run(tmp_path / "c", 3, rule="drtp", seed=5, diverged=3)
    train_run(tmp_path / "d/e", 4, data="teacher-student", diverged=None, test_loss=0.125)
    train_run(tmp_path / "f", 0, hidden=(8, 9))
    text = report.render([tmp_path])
    heads = ["run", "rule", "data", "seed", "hidden", "learning_rate", "epochs", "validation"]
    rows = cells_of(text)
    assert [list(row) for row in rows] == [[*heads, "test"]] * 5
    assert [tuple(row.values()) for row in rows] == [
        ("a", "pepita", "digits", "0", "1024", "0.1", "4", "40.00 %", "95.33 %"),
        ("b", "pepita", "digits", "0", "1024", "0.25", "2 of 4", "20.00 %", "unfinished"),
        ("c", "drtp", "digits", "5", "1024", "0.1", "3 of 4", "–", "diverged in epoch 3"),
        ("d/e", "pepita", "teacher-student", "0", "1024", "0.1", "4", "loss 0.4", "loss 0.125"),
        ("f", "pepita", "digits", "0", "8, 9", "0.1", "0 of 4", "–", "unfinished"),
    ]
    assert "Not run yet" not in text
    assert "momentum" in Page(text).text  # among all settings


def test_curves_of_runs_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one figure, as far as each has come, and without what a run that diverged measured."""
    drawn: list[dict[str, Any]] = []

    def spread_figure(series: dict[str, Any], label: str, **options: Any) -> Any:
        drawn.append(series)
        return original(series, label, **options)

    original = report.spread_figure
    monkeypatch.setattr(report, "spread_figure", spread_figure)
    for name, epochs, changes in (
        ("a", 4, {}),
        ("b", 3, {"diverged": 3}),
        ("c", 1, {"diverged": 1}),
    ):
        train_run(tmp_path / name, epochs, **changes)
    report.render([tmp_path])
    (series,) = drawn
    assert series == {
        "a": [pytest.approx([10, 20, 30, 40])],
        "b": [pytest.approx([10, 20])],
    }


def test_a_run_of_train_that_goes_on_has_not_ended(tmp_path: Path) -> None:
    place = train_run(tmp_path / "a", 3, epochs=8, diverged=None, test_accuracy=0.9)
    rows = [{"epoch": float(e), "validation_accuracy": 0.5} for e in range(1, 6)]
    (place / "epochs.csv").write_text(records.table(rows), "utf-8")
    (row,) = cells_of(report.render([place]))
    assert (row["epochs"], row["test"]) == ("5 of 8", "unfinished")


def test_folders_of_runs_of_train(tmp_path: Path, command: Command) -> None:
    """What train itself leaves; each once, and called by what tells it from the others."""
    done = command("train", "--data=teacher-student", "--hidden=4", "--epochs=1", "--out=x/first")
    assert done.returncode == 0
    train_run(tmp_path / "y/second", 1)
    done = command("report", "x/first", "y/second", tmp_path / "y", "x/../x/first")
    assert done.returncode == 0
    rows = cells_of((tmp_path / "report.html").read_text("utf-8"))
    assert [row["run"] for row in rows] == ["x/first", "y/second"]
    assert rows[0]["test"].startswith("loss 0.")
    (tmp_path / "empty").mkdir()
    done = command("report", "x/first", "empty")
    assert done.returncode == 2
    assert "there is no record in empty; forwardly reproduce makes them" in done.stderr


def test_cards_are_labelled_as_their_columns(toy: Experiment, tmp_path: Path) -> None:
    fill(tmp_path, toy)
    root = Path(__file__).parent.parent / "records" / "teacher-student"
    rows = cells_of(report.render([tmp_path, root]))
    assert [row["rule"] for row in rows if "seeds" in row] == ["pepita " + EVIL, "readout-only"]
    assert [row["ours"] for row in rows if "ours" in row] == ["96.83 ± 0.76", "91.00 ± 1.00"]
    assert len(rows) > 2 + 3
