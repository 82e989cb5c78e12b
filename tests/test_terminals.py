"""Terminals of any encoding and width: the command says the same, and writes the same bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.table import Table

from forwardly.cli import app
from forwardly.commands import bench
from forwardly.commands.console import PlainConsole
from forwardly.commands.encoding import show_stand_ins, stand_in
from forwardly.fast import processors
from forwardly.rules import RULES
from test_cli import Command

ROOT = Path(__file__).parent.parent
COMMANDS = [name for name in app if not name.startswith("-")]

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WINDOWS = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}

PROGRAM = """
import json, os, sys, warnings
warnings.simplefilter("ignore", EncodingWarning)  # other people's
warnings.filterwarnings("error", category=EncodingWarning, module="forwardly")
from forwardly.cli import main
for width, *arguments in json.loads(sys.argv[1]):
    os.environ["COLUMNS"] = str(width)
    sys.argv = ["forwardly", *arguments]
    try:
        main()
    except SystemExit as end:
        print("\\f", end.code or 0, end="\\f")
"""


def run(
    commands: list[tuple[int, str]], environment: dict[str, str], cwd: Path
) -> tuple[list[bytes], list[int], bytes]:
    """What commands, in terminals of a width each, print; how they end; and all error messages.

    In one process, as importing torch takes seconds. Where a file of text is opened in the encoding
    of the locale they end with an exception.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    split = [(width, *command.split()) for width, command in commands]
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", PROGRAM, json.dumps(split)],
        capture_output=True,
        cwd=cwd,
        env={**kept, **environment},
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    parts = done.stdout.split(b"\f")[:-1]
    return parts[::2], [int(code) for code in parts[1::2]], done.stderr


def test_every_sign_that_we_use_has_a_stand_in() -> None:
    """All that is printed stands in the sources: help texts are docstrings."""
    sources = [*(ROOT / "src").rglob("*.py")]
    assert len(sources) > 60
    used = {sign for path in sources for sign in path.read_text("utf-8") if not sign.isascii()}
    assert {"≤", "…", "±", "×", "–", "ø", "σ"} <= used
    shown = {sign: stand_in(sign) for sign in used - {"\N{BRAILLE PATTERN BLANK}"}}
    assert not {sign: plain for sign, plain in shown.items() if not plain.isascii()}
    assert {sign for sign, plain in shown.items() if "?" in plain} == set()


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        *(("≤", "<="), ("é", "e"), ("Å", "A"), ("½", "1/2"), ("²", "2"), ("σ", "sigma")),
        *(("µ", "u"), ("Δ", "delta"), ("\xa0", " "), ("ﬁ", "fi"), ("⠋", "*"), ("語", "?")),
    ],
)
def test_stand_ins(sign: str, expected: str) -> None:
    assert stand_in(sign) == expected


def test_only_what_an_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("cp1252", "Ł → L, µ ± é ≤ …"), ("utf-8", ""), ("ascii", "")):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
        show_stand_ins()
        sys.stdout.write("Ł → L, µ ± é ≤ …")
        sys.stdout.flush()
        expected = {
            "cp1252": "L -> L, µ ± é <= …",
            "utf-8": "Ł → L, µ ± é ≤ …",
            "ascii": "L -> L, u +/- e <= ...",
        }[encoding]
        assert written.getvalue().decode(encoding) == expected


@pytest.mark.parametrize(
    ("environment", "encoding"), [(PLAIN, "ascii"), (WINDOWS, "cp1252")], ids=["C", "cp1252"]
)
def test_commands_can_be_read_everywhere(
    environment: dict[str, str], encoding: str, tmp_path: Path
) -> None:
    helps = [(width, f"{name} --help") for width in (20, 40, 80) for name in COMMANDS]
    others = [(80, "rules"), (80, "cite direct-feedback-alignment"), (80, "train --rule Łukasz")]
    said, codes, errors = run([*helps, *others], environment, tmp_path)
    listed, cited, _ = (part.decode(encoding) for part in said[-3:])
    assert codes == [*(0 for _ in helps), 0, 0, 2]
    for (_, command), part in zip(helps, said, strict=False):
        name = command.split()[0]
        assert f"forwardly {name}" in " ".join(part.decode(encoding).split())
    assert not [name for name in RULES if name not in listed]
    assert "?" not in listed
    assert f"author = {{{'Nokland' if encoding == 'ascii' else 'Nøkland'}, Arild}}" in cited
    assert "error: unknown rule 'Lukasz'; the known rules are" in errors.decode(encoding)


@pytest.mark.unchecked  # whole commands
def test_files_hang_on_no_terminal(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are the same as here, whatever the locale says, and however narrow it is."""
    here, plain = tmp_path / "here", tmp_path / "plain"
    for folder in (here, plain):
        folder.mkdir()
        (folder / "records").symlink_to(ROOT / "records" / "bfloat16", True)
    commands = (
        "teacher-student --epochs 20 --log-every 10 --engine readable --out taught",
        "audit --rules pepita --hidden 4 3 --out audited",
        "report",
    )
    monkeypatch.chdir(here)
    assert [command(*line.split()).returncode for line in commands] == [0, 0, 0]
    _, codes, errors = run([(20, line) for line in commands], PLAIN, plain)
    assert codes == [0, 0, 0]
    assert [line for line in errors.splitlines() if not line.endswith(b" left")] == []  # if slow
    written = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    timed = {"summary.json"}  # seconds
    compared = [path for path in written if path.name not in timed]
    assert len(compared) >= 9
    for path in compared:
        assert (here / path).read_bytes() == (plain / path).read_bytes(), path


def table(**options: Any) -> Table:
    made = Table(**options)
    made.add_column("rule")
    made.add_column("95 % interval", justify="right", no_wrap=True)
    made.add_column("what it is")
    made.add_row("adaptive-feedback-alignment", "0.69 … 0.72", "of several words, " * 4)
    made.add_row("pepita", "1.00 … 1.01", "unbreakablewordthatislong")
    return made


@pytest.mark.parametrize("width", [10, 40, 79, 90, 120, 300])
@pytest.mark.parametrize("options", [{}, {"box": None, "padding": (0, 1, 0, 0)}], ids=str)
def test_tables_cut_no_word(
    width: int,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    PlainConsole().table(table(**options))
    lines = capsys.readouterr().out.splitlines()
    said = "\n".join(lines)
    for whole in ("adaptive-feedback-alignment", "0.69 … 0.72", "unbreakablewordthatislong"):
        assert whole in said
    assert said.count("several") == 4
    assert max(map(cell_len, lines)) <= max(width, 90)


def test_wide_terminals_are_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    PlainConsole().table(table())
    assert ("of several words, " * 4).strip() in capsys.readouterr().out


@pytest.mark.parametrize("processor", ["", "6502", "Intel(R) Xeon(R) Processor @ 2.00GHz " * 9])
@pytest.mark.parametrize("width", [20, 200])
def test_a_processor_may_have_any_name(
    processor: str,
    width: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Lines are whole, however long: scripts look for what is in them."""
    monkeypatch.setattr(processors, "name", lambda: processor)
    case = replace(bench.CASES[0], why_not=lambda: "it would take time")
    monkeypatch.setattr(bench, "CASES", (case,))
    monkeypatch.setenv("COLUMNS", str(width))
    assert bench.bench(cases=(case.name,), quick=True, out=tmp_path / "b", threads=1) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{processor}, 1 threads; python ")
    assert "numpy" in first
