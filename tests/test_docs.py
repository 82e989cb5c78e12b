"""What a reader sees is executed, and what it says in figures is in the records."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accuracy
import generate
import pytest
import torch

import forwardly as fw
from forwardly.cli import app
from forwardly.experiments import records
from forwardly.experiments.comparison import LEARNING_RATES, Comparison
from forwardly.experiments.teacher_student import PARTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("document", generate.DOCUMENTS, ids=lambda path: path.name)
def test_figures_are_as_generated(document: Path) -> None:
    assert generate.generated(document) == document.read_text("utf-8"), "run `make docs`"


@pytest.mark.parametrize(("record", "hidden"), [("digits", 128), ("digits-16", 16)])
def test_comparisons_are_of_the_experiment(record: str, hidden: int) -> None:
    summary = json.loads(
        (ROOT / "records" / "compare" / record / "summary.json").read_text("utf-8")
    )
    settings = summary["settings"]
    assert settings == json.loads(json.dumps(asdict(Comparison(hidden=(hidden,)))))
    assert summary["status"] == "finished"
    assert summary["uncommitted_changes"] is False
    if hidden == 128:
        assert summary["learning_rates"] == LEARNING_RATES
    else:
        assert {*summary["learning_rates_from"].values()} == {"searched"}
    assert summary["rules"].keys() == fw.RULES.keys()
    for row in summary["rules"].values():
        assert len(row["accuracies"]) == 5


def test_the_audits_record_is_of_all_rules() -> None:
    """That it is what the audit says is test_defaults.py's."""
    content = json.loads((ROOT / "records" / "audit" / "audit.json").read_text("utf-8"))
    assert content["uncommitted_changes"] is False
    assert content["rules"].keys() == fw.RULES.keys()
    assert (ROOT / "records" / "audit" / "audit.html").exists()


def test_readme_example_runs_and_learns() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    batches = [(torch.rand(32, 1, 28, 28), torch.randint(10, (32,)))] * 20
    namespace: dict[str, object] = {"loader": batches}
    exec(snippet, namespace)
    rule, credit = namespace["rule"], namespace["credit"]
    assert isinstance(rule, fw.PEPITA)
    assert isinstance(credit, fw.Credit)
    assert credit.updates.keys() == {"1.weight", "4.weight"}
    assert rule(*batches[0]).loss < torch.tensor(10.0).log() - 0.5


def _anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert len(documents) >= 11
    links, anchors = 0, 0
    for document in documents:
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text("utf-8")):
            if link.startswith("http"):
                continue
            target, _, anchor = link.partition("#")
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {link}"
            assert not anchor or anchor in _anchors(path), f"{document.name}: {link}"
            links += 1
            anchors += bool(anchor)
    assert links >= 30
    assert anchors >= 6


def test_decisions_are_dated_and_one_is_for_each_kind_of_fault() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    decisions, users = text.split("\n## What a user's code may do\n")
    starts = [part for part in decisions.split("\n\n") if part.startswith("**")]
    assert len(starts) > 50
    for start in starts:
        assert re.search(r"20\d\d-\d\d-\d\d", start), start
    assert re.search(r"20\d\d-\d\d-\d\d", users)
    assert re.findall(r"^\*\*\((\w)\) ", users, re.MULTILINE) == list("abcdefghij")
    tests = re.findall(r"(test_\w+)\.py", users)
    assert len(tests) >= 12
    for name in tests:
        assert (ROOT / "tests" / f"{name}.py").exists(), name


def test_commands_and_names_in_the_documents_exist() -> None:
    """Of each line ``forwardly …`` the command and its options; of ``fw.…`` the names."""
    commands, names = 0, 0
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        if document.name == "CHANGELOG.md":
            continue
        text = document.read_text("utf-8")
        for line in re.findall(r"(?:^    |`)(forwardly [a-z-]+[^`#\n]*)", text, re.MULTILINE):
            if line == "forwardly --help":
                continue
            _, command, *rest = line.split()
            options = {part for part in rest if part.startswith("--")}
            known = {
                name for one in app[command].assemble_argument_collection() for name in one.names
            }
            assert options <= known, line
            commands += 1
        for name in re.findall(r"\bfw((?:\.[A-Za-z_]\w*)+)", text):
            found: Any = fw
            for part in name[1:].split("."):
                found = getattr(found, part)
            names += 1
    assert commands >= 10
    assert names >= 30


@pytest.mark.parametrize("record", PARTS)
def test_records_are_of_the_experiment(record: str) -> None:
    folder = ROOT / "records" / "teacher-student" / record
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["settings"] == json.loads(json.dumps(asdict(PARTS[record])))
    assert config["uncommitted_changes"] is False
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["status"] == "finished"
    with (folder / "metrics.csv").open() as file:
        last = {(row["rule"], row["seed"]): row for row in csv.DictReader(file)}
    for name, rule in summary["rules"].items():
        assert len(rule["seeds"]) + len(rule["diverged"]) == PARTS[record].seeds
        for seed, final in rule["seeds"].items():
            row = last[name, seed]
            assert row["epoch"] == "100000"
            assert float(row["val_mae"]) == final["val_mae"]


def test_every_citation_is_a_rules() -> None:
    folder = Path(fw.__file__).parent / "rules"
    keys = re.findall(r"^@\w+\{(\w+),", (folder / "papers.bib").read_text("utf-8"), re.MULTILINE)
    cited = [
        key
        for file in folder.glob("*.py")
        for key in re.findall(
            r'^    paper = paper\("(\w+)"\)', file.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert len(keys) == len(set(keys)) == 18
    assert set(keys) == set(cited)
    assert len(cited) == len(fw.RULES)


def test_citations_are_complete() -> None:
    for name, rule in fw.RULES.items():
        paper = rule.paper
        assert paper.url.startswith("https://"), name
        for part in (str(paper.year), "@", "title = {", "author = {"):
            assert part in paper.bibtex
        for author in paper.authors:
            assert author.split()[-1] in paper.bibtex


def test_versions_agree() -> None:
    assert f"version: {fw.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f'version = "{fw.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"## {fw.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_figure_of_accuracies_has_what_is_recorded() -> None:
    """Reproduced and published of the paper's rules, and of the unbound row with most seeds."""
    made = {(p.rule, p.kind): p for p in accuracy.points(records.read_all(ROOT / "records"))}
    assert made["pepita", "published"][2:] == (52.57, 0.36, 10)
    assert made["pepita", "reproduced"].accuracy == pytest.approx(52.25, abs=0.005)
    assert made["backprop", "reproduced"].seeds == 3
    assert made["pepita", "unbound, flips"].accuracy > 58
    assert {rule for rule, _ in made} >= {"backprop", "readout-only", "pepita", "drtp"}
    drawn = {line.get_label() for line in accuracy.draw([*made.values()]).axes[0].containers}
    assert drawn == {kind for _, kind in made}
    assert (ROOT / "docs" / "accuracy.svg").exists()
