"""Rules of other packages, found by their entry points; the commands that list and cite."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import forwardly as fw
from forwardly import testing
from forwardly.rules.plugins import all_rules
from test_cli import Command

GUIDE = Path(__file__).parent.parent / "docs" / "adding-a-rule.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.mark.unchecked
def test_the_guide_runs() -> None:
    found = snippets()
    assert len(found) == 3
    namespace: dict[str, object] = {"__name__": "guide"}
    for snippet in found:
        exec(snippet, namespace)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the guide's rule, and entry points that are wrong."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("", "utf-8")
    (tmp_path / "my_package" / "hidden_noise.py").write_text(snippets()[0], "utf-8")
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", "utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[forwardly.rules]\n"
        "hidden-noise = my_package.hidden_noise:HiddenNoise\n"
        "missing = my_package.nowhere:Rule\n"
        "number = math:pi\n"
        "pepita = my_package.hidden_noise:HiddenNoise\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_rules_of_other_packages(package: Path) -> None:
    rules, problems = all_rules()
    assert rules.keys() == fw.RULES.keys() | {"hidden-noise"}
    assert list(rules) == sorted(rules)
    assert rules["pepita"] is fw.PEPITA
    assert len(problems) == 3
    assert "missing (my_package.nowhere:Rule) does not load: ModuleNotFoundError" in problems[0]
    assert "number (math:pi) is not a subclass of forwardly.Rule" in problems[1]
    assert "the name 'pepita' is taken" in problems[2]


def test_rules_that_lack_what_commands_read(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named and left out, as a rule that does not load is."""
    monkeypatch.delitem(sys.modules, "my_package", raising=False)  # of another test
    (package / "my_package" / "bare.py").write_text(
        "import forwardly as fw\n"
        "class Bare(fw.Rule):\n"
        "    uses_autograd, forward_passes, feedback_path = False, 'two', ''\n"
        "    teacher, trains = 'nobody', 'all'\n"
        "class Anonymous(fw.PEPITA):\n"
        "    paper = fw.Paper('Title', (), 2026, '', '', '')\n"
    )
    entries = package / "my_package-1.0.dist-info" / "entry_points.txt"
    entries.write_text(
        "[forwardly.rules]\nbare = my_package.bare:Bare\nnobody = my_package.bare:Anonymous\n"
    )
    rules, problems = all_rules()
    assert rules == fw.RULES
    assert [problem.partition(" are missing")[0] for problem in problems] == [
        "bare (my_package.bare:Bare) is left out: its class attributes paper, forward_passes, "
        "teacher",
        "nobody (my_package.bare:Anonymous) is left out: its class attributes paper",
    ]


def test_laws_are_not_checked_without_assertions() -> None:
    """As python -O compiles them."""
    path = Path(str(testing.__file__))
    without: dict[str, Any] = {"__name__": testing.__name__}
    exec(compile(path.read_text("utf-8"), path, "exec", optimize=1), without)
    with pytest.raises(RuntimeError, match="the laws are assertions, which python -O leaves out"):
        without["check_rule"](fw.PEPITA)


def test_no_other_packages() -> None:
    assert all_rules() == (fw.RULES, [])


def test_rules_command(package: Path, command: Command) -> None:
    done = command("rules")
    assert done.returncode == 0
    for name in (*fw.RULES, "hidden-noise"):
        assert name in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("mem-pepita "))
    cells = r"mem-pepita +Pau et al\. +2023 +3 +no +F, from error to input +error"
    assert re.fullmatch(cells, line.strip())
    assert "missing" in done.stderr


def test_cite_command(command: Command) -> None:
    done = command("cite", "hebbian-pepita", "drtp", "time-local-pepita")
    assert done.returncode == 0
    assert done.stdout == fw.HebbianPEPITA.paper.bibtex + "\n" + fw.DRTP.paper.bibtex + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cite"], "no rule given; the known rules are adaptive"),
        (["cite", "pepita", "hebb"], "unknown rule 'hebb'; the known rules are adaptive"),
        (["compare", "--rules", "hebb"], "unknown rule 'hebb'"),
        (["compare", "--data", "minst"], "data must be one of mnist, fashion-mnist"),
        (["compare", "--seeds", "0"], "seeds must be at least 1; given 0"),
        (["compare", "--epochs", "-1"], "epochs must be at least 1; given -1"),
        (["compare", "--hidden", "0"], "hidden must be one or more layer sizes"),
        (["compare", "--activation", "sine"], 'Choose from: "relu", "tanh"'),
    ],
)
def test_mistakes(arguments: list[str], message: str, command: Command) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
