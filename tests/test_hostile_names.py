"""Hostile names in every place that writes a page, a figure, a table or to a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import generate
import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib import rc_context
from rich.table import Table
from torch import nn

import forwardly as fw
from forwardly.audit import AuditReport
from forwardly.audit.page import render as render_audit
from forwardly.audit.questions import Evidence
from forwardly.cli import main
from forwardly.commands import bench, reproduce, teacher_student
from forwardly.commands.console import PlainConsole, bars
from forwardly.experiments import figures, records, report, results
from forwardly.experiments.curves import spread_figure, training_figure
from forwardly.experiments.experiment import Cell, Experiment
from forwardly.experiments.history import History
from forwardly.experiments.jobs import Job, Outcome, State
from forwardly.experiments.recipe import Recipe
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.teacher_student import PARTS, TeacherStudent
from forwardly.files.text import visible
from forwardly.models import mlp
from hostile import CHROMIUM, CONTROLS, NAMES, Page, drawing, ran

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="folders cannot have such names"),
    pytest.mark.unchecked,  # stand-ins take the place of runs and reports
    # Signs that matplotlib's font has not, and names that leave no room for the lines.
    pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout not applied"),
]

TEMPLATES = Path(fw.__file__).parent / "files" / "templates"


def shown(page: Page, place: str, names: tuple[str, ...]) -> int:
    """How many names stand in the page, as text, behind the word for their place; all must."""
    text = flat(" ".join([*page.text, *page.labels]))
    for name in names:
        assert flat(f"{place} {name}") in text, (place, name)
    return len(names)


def flat(text: str) -> str:
    """Visible text, its breaks and spaces alike, as layouts and browsers have them."""
    return " ".join(visible(text, keep="\n\t").split())


def put(folder: Path, rows: str = "", **changes: Any) -> None:
    """A record as anybody might write one."""
    content: dict[str, Any] = {
        "experiment": "toy",
        "cell": "column/row",
        "seed": 0,
        "recipe": RECIPE.as_data(),
        "result": {"test_accuracy": 0.5, "diverged": None, "epochs": 3},
        "environment": {"versions": {}, "platform": "here"},
    }
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content | changes), "utf-8")
    heads = "epoch,validation_accuracy"
    plain = f"{heads}\n1,0.5\n2,0.6\n3,0.7\n"
    (folder / "epochs.csv").write_text(rows or plain, "utf-8", newline="")


RECIPE = Recipe("pepita", "digits", {f"option {name}": f"choice {name}" for name in NAMES})

UTF8 = tuple(name for name in NAMES if not re.search("[\ud800-\udfff]", name))
"""Those that a file of text may have."""


def can_be_a_file(name: str) -> bool:
    """Whether this system's encoding has the name's characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return not re.search("[/\0\ud800]", name)


FILE_NAMES = tuple(filter(can_be_a_file, NAMES if sys.platform == "linux" else UTF8))
"""Those that a folder may have."""


def hostile_report(
    root: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = NAMES
) -> str:
    """A report with hostile names in all that it is made of, behind a word for each place."""
    in_tables = [name for name in names if name in UTF8]
    column = " ".join(name.replace("/", "") for name in names)
    cells = {f"column {column}/row {name}": Cell(RECIPE, note=f"note {name}") for name in names}
    toy = Experiment("toy", " ".join(f"title {name}" for name in names), "https://a.org", cells)
    monkeypatch.setattr(report, "EXPERIMENTS", {"toy": toy})
    heads = ["epoch", "validation_accuracy", *(f"alignment/layer {name}" for name in in_tables)]
    table = io.StringIO()
    writer = csv.writer(table)  # noqa: TID251, not ours
    writer.writerow([*heads, "alignment/99.readout"])
    writer.writerows([epoch, 0.5, *[0.1] * len(in_tables), 1] for epoch in (1, 2, 3))
    for number, cell in enumerate(cells):
        put(root / f"known-{number}", table.getvalue() if number == 0 else "", cell=cell)
    for number, name in enumerate(names):
        environment = {
            "versions": {f"package {name}": f"version {name}"},
            "platform": f"platform {name}",
            "device": f"device {name}",
            "revision": f"r {name}",
        }
        put(root / f"experiment-{number}", experiment=f"experiment {name}", environment=environment)
        put(root / f"cell-{number}", cell=f"cell {name}")
    source = Path(__file__).parent.parent / "records" / "teacher-student" / "default"
    summary = json.loads((source / "summary.json").read_text("utf-8"))
    rule = summary["rules"]["pepita"]
    summary["rules"] = {f"rule {name}": rule for name in names}
    for name in FILE_NAMES:
        folder = root / f"folder {name}"
        folder.mkdir()
        shutil.copy(source / "config.json", folder)
        (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    shutil.copy(source / "mae.png", root / f"folder {FILE_NAMES[0]}")
    for number, name in enumerate(names):
        folder = root / (f"run {name}" if name in FILE_NAMES else f"run-{number}")
        folder.mkdir()
        settings = {f"setting {name}": f"value {name}"}
        recipe = {"rule": f"trained by {name}", "data": f"on {name}", "epochs": 3} | settings
        config = json.dumps({"recipe": recipe, "run_seed": number})
        (folder / "config.json").write_text(config, "utf-8")
        (folder / "epochs.csv").write_text("epoch,validation_loss\n1,0.5\n2,0.4\n", "utf-8")
    return report.render([root])


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(hostile_report(tmp_path, monkeypatch))
    everywhere = [
        "row",
        "note",
        "title",
        "option",
        "choice",
        "package",
        "version",
        "platform",
        "device",
        "experiment",
        "rule",
        "trained by",
        "on",
        "setting",
        "value",
    ]
    counted = sum(shown(page, place, NAMES) for place in everywhere)
    counted += shown(page, "run", FILE_NAMES)
    counted += shown(page, "r", tuple(name[:8] for name in NAMES))
    counted += shown(page, "toy/cell", NAMES)
    counted += shown(page, "update of layer", UTF8)
    counted += shown(page, "folder", FILE_NAMES)
    assert counted > 18 * 25
    assert len(page.identifiers) > 25 * 10


def audited(rule: type[fw.Rule] = fw.PEPITA) -> AuditReport:
    make: Any = rule
    model = mlp(6, (5, 4), 3)
    return fw.audit(make(model, nn.CrossEntropyLoss()), torch.rand(4, 6), torch.arange(4) % 3)


def hostile_audit() -> str:
    found = audited()
    reports: dict[str, AuditReport] = {}
    for name in NAMES:
        evidence = (Evidence(f"what {name}", f"operation {name}", f"line {name}"),)
        a = found.answers
        needs = {
            l: replace(n, signals=(f"signal {name}",), feedback=(f"feedback {name}", "F"))
            for l, n in a.locality.layers.items()
        }
        reports[f"rule {name}"] = replace(
            found,
            answers=replace(
                a,
                transport=replace(a.transport, evidence=evidence),
                frozen=replace(a.frozen, evidence=evidence),
                locality=replace(a.locality, layers=needs),
            ),
        )
    return render_audit(reports, " ".join(f"model {name}" for name in NAMES), (1, 2))


def test_audit() -> None:
    page = Page(hostile_audit())
    places = ["rule", "what", "operation", "line", "signal", "feedback", "model"]
    assert sum(shown(page, place, NAMES) for place in places) > 7 * 25
    assert len(page.labels) == len(NAMES)


def test_templates_leave_nothing_unescaped() -> None:
    """And all of them stand on the one that forbids scripts."""
    templates = list(TEMPLATES.glob("**/*.jinja"))
    assert {path.name for path in templates} == {
        *("base.html.jinja", "report.html.jinja", "audit.html.jinja", "learn.html.jinja")
    }
    for path in templates:
        text = path.read_text("utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text)
        assert not re.search(r"=\s*\{\{", text), "an attribute without quotes"
        assert path.name == "base.html.jinja" or text.startswith('{% extends "base.html.jinja" %}')


def hostile_run(names: tuple[str, ...]) -> Any:
    """Stands in for a run of rules of these names, of which the second seed diverged."""
    histories: dict[str, History] = {}
    for name in names:
        histories[name] = History(name, (1, 2), diverged={2: 20})
        for epoch in (10, 20, 30):
            histories[name].log(epoch, np.array([1.0, 2.0]), np.array([0.5, 3.0]))
    weights = [np.ones((3, 2)), -np.ones((1, 3))]
    one = SimpleNamespace(weights=lambda _: weights, epoch=30)
    return SimpleNamespace(
        histories=histories,
        trainings=dict.fromkeys(names, one),
        before=lambda _: weights,
        teacher=lambda _: weights,
        settings=TeacherStudent(),
    )


def drawn(path: Path, names: tuple[str, ...], kind: str) -> int:
    """How many names stand in a figure that is safe; all must, where its text is text."""
    text = flat(" ".join(drawing(path.read_text("utf-8"))))
    for name in names:
        assert kind == "path" or flat(visible(name)) in text, name
    return len(names)


@pytest.mark.parametrize("kind", ["path", "none"])
def test_figures(kind: str, tmp_path: Path) -> None:
    """Their letters drawn, as in files, and as text, which shows what they are."""
    points = [
        {
            "axis": f"axis {name}",
            "value": value,
            "seconds": {"pepita": 1e-6 * value},
            "macs": {"pepita": 10 * value},
        }
        for name in NAMES[:3]
        for value in (1, 2, 4)
    ]
    rows = [{"epoch": float(e), "loss": 1.0, "validation_loss": 2.0} for e in (1, 2)]
    written = 0
    all_names = NAMES if kind == "none" else NAMES[:8]
    with rc_context({"svg.fonttype": kind}):
        for names in (all_names[::2], all_names[1::2]):
            results.write_figures(RunFolder(tmp_path), hostile_run(names))
            spread = spread_figure(dict.fromkeys(names, ((1.0, 2.0, 3.0),)), "label")
            figures.save(spread, tmp_path / "spread.svg")
            for file in ("mae.svg", "network.svg", "spread.svg"):
                written += drawn(tmp_path / file, names, kind)
        for name in all_names[::3]:  # by the same way as those above
            figures.save(training_figure(rows, name, f"{name} on data"), tmp_path / "curves.svg")
            written += drawn(tmp_path / "curves.svg", (name,), kind)
        figures.save(figures.scaling_figure(points), tmp_path / "scaling.svg")
        drawing((tmp_path / "scaling.svg").read_text("utf-8"))
    assert written == 3 * len(all_names) + len(all_names[::3])
    assert (tmp_path / "mae.png").read_bytes().startswith(b"\x89PNG")


def cells_of(text: str) -> list[list[str]]:
    """The cells of a table that keeps to a row a line, none of them a formula."""
    assert not CONTROLS.search(text)
    rows = [next(csv.reader([line])) for line in text.splitlines()]
    for row in rows:
        assert len(row) == len(rows[0])
        for cell in row:
            try:
                float(cell)
            except ValueError:
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d")), cell
    return rows


def test_tables(tmp_path: Path) -> None:
    rows = [{"epoch": 1.0, **dict.fromkeys(NAMES, -1.5)}]
    names, values = cells_of(records.table(rows))
    assert len(names) == len(set(names)) == 1 + len(NAMES)
    assert values == ["1", *["-1.5"] * len(NAMES)]
    results.write_metrics(RunFolder(tmp_path), hostile_run(NAMES))
    metrics = cells_of((tmp_path / "metrics.csv").read_text("utf-8"))
    assert len(metrics) == 1 + len(NAMES) * (3 + 1)
    assert [row[0] for row in metrics[1::4]] == [
        ("'" if name[0] in "=+-@\uff1d" else "") + visible(name) for name in NAMES
    ]


def test_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell a name, which shows as it is; Markdown has nothing to say in it."""
    made = generate
    table = "\n".join(made.table(("rule", *NAMES), [(name, *NAMES) for name in NAMES]))
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(table)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    text = re.findall(r"<t[hd]>(.*?)</t[hd]>", html, re.DOTALL)
    assert len(text) == (1 + len(NAMES)) ** 2
    page = [flat(Texts.of(cell)) for cell in text[1 : 1 + len(NAMES)]]
    assert page == [flat(visible(name)) for name in NAMES]

    for kind in ("audit", "bench"):
        shutil.copytree(Path(__file__).parent.parent / "records" / kind, tmp_path / kind)
    monkeypatch.setattr(made, "ALL_RECORDS", tmp_path)
    content = json.loads((tmp_path / "audit" / "audit.json").read_text("utf-8"))
    content["rules"] = dict.fromkeys((*made.AUDITED, *NAMES), content["rules"]["pepita"])
    (tmp_path / "audit" / "audit.json").write_text(json.dumps(content), "utf-8")
    assert len(made.audit().splitlines()) == 2 + 5 + len(NAMES)
    content = json.loads((tmp_path / "bench" / "bench.json").read_text("utf-8"))
    for name in NAMES:
        content["processor"] = name
        (tmp_path / "bench" / "bench.json").write_text(json.dumps(content), "utf-8")
        machine = MarkdownIt("commonmark", {"html": True}).render(made.bench().splitlines()[-1])
        assert f"On {flat(visible(name))}, 2 threads" in flat(Texts.of(machine))


class Texts(Page):
    """The text of a piece of a page."""

    @classmethod
    def of(cls, piece: str) -> str:
        head = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
        return "".join(cls(head + piece).text)


def said(capsys: pytest.CaptureFixture[str], *names: str) -> str:
    """What was printed, which has no control characters but has the names, as they are."""
    out, err = capsys.readouterr()
    text = out + err
    assert not CONTROLS.search(text), text
    for name in names:
        assert flat(name) in flat(text), name
    return text


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "3000")


@pytest.mark.parametrize("terminal", [False, True])
def test_console(
    terminal: bool,
    wide: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    for name in NAMES:
        console = PlainConsole()
        assert console.is_terminal == terminal
        console.print(name, style="red")
        console.print(name, soft_wrap=True)
        table = Table(name, title=name, caption=name)
        table.add_column(name, no_wrap=True)
        table.add_row(name, name)
        console.print(table)
        with bars(console, "{task.fields[state]}") as progress:
            task = progress.add_task(name, total=2, state=name)
            progress.update(task, advance=1, description=name, state=name)
            progress.console.print(name)
        with console.status("waiting"):
            pass
        if terminal:  # then rich moves the cursor and colours, but no more than that
            out = capsys.readouterr().out
            left = re.sub(r"\x1b\[(\?25[lh]|[\d;]*m|\d*A|2K|1A)|\r", "", out)
            assert not CONTROLS.search(left), left
            assert "\x1b[2J" not in out
        else:
            said(capsys, name)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["forwardly", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


ARGUMENTS: tuple[tuple[str, ...], ...] = (
    ("NAME",),
    ("report", "NAME"),
    ("report", "--out", "NAME/x"),
    ("reproduce", "NAME"),
    ("reproduce", "bfloat16", "--cells", "NAME"),
    ("cite", "NAME"),
    ("audit", "--rules", "NAME"),
    ("bench", "--cases", "NAME"),
    ("compare", "--rules", "NAME"),
    ("teacher-student", "--rules", "NAME"),
    ("teacher-student", "--arrays", "NAME"),
    ("train", "--rule", "NAME"),
    ("train", "--data", "NAME"),
    ("train", "--data", "digits", "--rule-options", "NAME=NAME"),
    ("train", "--data", "NAME.csv"),
    ("train", "--data", "digits", "--target", "NAME"),
    ("predict", "NAME", "--data", "NAME"),
    ("evaluate", "NAME"),
    ("train", "--epochs", "NAME"),
    ("rules", "--NAME", "NAME"),
)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_mistakes_on_the_command_line(
    arguments: tuple[str, ...],
    wide: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        given = [argument.replace("NAME", name) for argument in arguments]
        assert call(monkeypatch, *given) == 2, name
        assert "error: " in said(capsys)


PLUGIN = """
import json, pathlib
import forwardly as fw

NAMES = json.loads(pathlib.Path(__file__).with_name("names.json").read_text("utf-8"))
ALL = " ".join(NAMES)

class Evil(fw.Rule):
    paper = fw.Paper(ALL, (ALL, ALL), 2026, ALL, ALL, "@misc{" + ALL + "}")
    uses_autograd, forward_passes, feedback_path = False, 1, ALL
    teacher, trains = "error", "readout"

    def assign(self, x, target, step):
        *_, last = step.activities(step.prepare(x))
        e = self.error(last.a, target)
        updates = step.update(self.network.stages[-1], e, last.pre)
        return fw.Credit(updates, last.a, self.loss_value(last.a, target), e)

class Bare(fw.Rule):
    teacher = ALL
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """An installed package whose rules have hostile names, as far as entry points can."""
    names = [n for n in UTF8 if "=" not in n and n.isprintable() == (len(n.splitlines()) < 2)]
    names += ["\x1b[2J\x1b]8;;x\x1b\\y", "[/a] [bold]b[/bold]"]
    names = [n for n in names if n == n.strip() and len(n.splitlines()) == 1 and n[0] != "-"]
    (tmp_path / "site" / "evil").mkdir(parents=True)
    (tmp_path / "site" / "evil" / "__init__.py").write_text(PLUGIN, "utf-8")
    (tmp_path / "site" / "evil" / "names.json").write_text(json.dumps(names), "utf-8")
    info = tmp_path / "site" / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n", "utf-8")
    lines = [f"{name} = evil:Evil" for name in names]
    lines += [f"{name} bare = evil:Bare" for name in names]
    (info / "entry_points.txt").write_text("\n".join(["[forwardly.rules]", *lines, ""]), "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tuple(names)


def test_rules_of_other_packages(
    plugins: tuple[str, ...],
    wide: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(plugins) > 10
    assert call(monkeypatch, "rules") == 0
    text = said(capsys, *plugins)
    assert text.count("its class attributes paper, uses_autograd, forward_passes") == len(plugins)
    assert call(monkeypatch, "cite", *plugins) == 0
    said(capsys, *plugins)
    assert call(monkeypatch, "cite", "nobody") == 2
    said(capsys, *plugins)
    some = [*plugins[:2], *plugins[-2:]]
    assert call(monkeypatch, "audit", "--out", "a", "--hidden=4", "--rules", *some) == 0
    said(capsys, *some)
    Page(Path("a/audit.html").read_text("utf-8"))
    for name in some:
        shutil.rmtree("t", ignore_errors=True)
        options = ("--data", "digits", "--epochs", "1", "--hidden", "4", "--out", "t")
        assert call(monkeypatch, "train", *options, f"--rule={name}") == 0
        said(capsys)
        assert call(monkeypatch, "train", *options[:-1], "u", f"--rule={name}", "--batch=0") == 2
        said(capsys)


def test_benchmark(wide: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratio = {"median": 1.0, "low": 0.9, "high": 1.1}
    cases = {
        f"case {name}": {
            "what": f"what {name}",
            "call": f"call {name}",
            "ratio": ratio,
            "must": 1.0,
            "hope": None,
            "lower": True,
            "verdict": f"verdict {name}",
            "median_seconds": {f"subject {name}": 1.0},
            "activation_bytes": {},
            "process_bytes": {},
        }
        for name in NAMES
    }
    bench._report({"cases": cases}, PlainConsole())
    one_line = [name for name in NAMES if "\n" not in name]  # others go on below, in their cells
    places = ("case", "call", "subject", "verdict")
    said(capsys, *(f"{place} {name}" for place in places for name in one_line))


def test_reproducing(
    wide: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [Job("toy", f"cell {name}", 0, RECIPE, tmp_path, tmp_path, None, 1) for name in NAMES]

    def ended() -> Iterator[State | tuple[int, Outcome]]:
        for number in range(len(jobs)):
            yield State(number, 0.5, 0.25)
            yield number, "taken" if number % 2 else "stopped"

    assert reproduce._run_jobs(jobs, ended(), PlainConsole()) == 1
    said(capsys, *(f"cell {name}" for name in NAMES))
    for name in FILE_NAMES:
        for part in PARTS:
            (tmp_path / name / "teacher-student" / part).mkdir(parents=True)
        assert (
            call(monkeypatch, "reproduce", "teacher-student", f"--records={tmp_path / name}") == 0
        )
        said(capsys, name)
        assert call(monkeypatch, "reproduce", f"--records={tmp_path / name}") == 0
        said(capsys, name)
    assert call(monkeypatch, "reproduce", f"--records={'x' * 4000}") == 2


def test_reports(
    wide: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Paths that are printed: of the page, and of what is wrong."""
    put(tmp_path / "good")
    for name in FILE_NAMES:
        out = f"--out={tmp_path / name}.html"
        assert call(monkeypatch, "report", str(tmp_path / "good"), out) == 0
        said(capsys, name)
        put(tmp_path / name, seed=-1, experiment=name)
        assert call(monkeypatch, "report", str(tmp_path)) == 2
        text = said(capsys)
        assert visible(name) in text
        assert len(text.splitlines()) == 1
        shutil.rmtree(tmp_path / name)


def test_teacher_student(wide: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in FILE_NAMES]
    code = teacher_student._report(hostile_run(NAMES), "interrupted", paths, PlainConsole())
    assert code == 130
    text = said(capsys, *NAMES, *FILE_NAMES)
    assert text.count("diverged (NaN or infinity)") == len(NAMES)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")
def test_in_a_browser(tmp_path: Path, profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name runs where nothing but the escaping keeps it from it; nor does a script that the
    escaping had let through.
    """
    (tmp_path / "records").mkdir()
    results.write_figures(RunFolder(tmp_path), hostile_run(NAMES[:8]))
    audit = hostile_audit()
    pages = {
        "report.html": hostile_report(tmp_path / "records", monkeypatch, NAMES[:8]),
        "audit.html": audit,
        "mae.svg": (tmp_path / "mae.svg").read_text("utf-8"),
        "network.svg": (tmp_path / "network.svg").read_text("utf-8"),
    }
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    for name, page in pages.items():
        (tmp_path / name).write_text(policy.sub("", page), "utf-8")
        assert not ran(tmp_path / name, profile), name
    attacked = audit.replace("<body>", f"<body>{NAMES[0]}")
    (tmp_path / "attacked.html").write_text(attacked, "utf-8")
    assert not ran(tmp_path / "attacked.html", profile), "the policy forbids it"
    (tmp_path / "attacked.html").write_text(policy.sub("", attacked), "utf-8")
    assert ran(tmp_path / "attacked.html", profile), "or else this test could not tell"
