"""What the metadata promises is what is tested."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def named(*besides: str) -> set[str]:
    """All that is asked for, in the extras too, besides some of these."""
    extras = PROJECT["optional-dependencies"]
    return {
        *PROJECT["dependencies"],
        *(one for name, extra in extras.items() for one in extra if name not in besides),
    }


def test_the_lowest_versions_are_the_bounds() -> None:
    """`make test-lowest` installs these, so a bound is one that has been tried.

    Examples, exports and loggers run with the versions of constraints.txt only.
    """
    lines = (ROOT / "constraints-lowest.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+>=[\w.]+", one) for one in named())
    assert sorted(pinned) == sorted(
        one.replace(">=", "==")
        for one in named(
            *("cluster", "tune", "examples", "export", "executorch", "tensorboard"),
            *("wandb", "mlflow"),
        )
    )


def test_known_good_versions_are_within_the_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version.partition(".post")[0])]

    for one in named("wandb", "mlflow"):
        name, bound = one.split(">=")
        assert numbers(pins[name]) >= numbers(bound), one


def test_pythons_are_those_that_are_tested() -> None:
    said = [c for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    versions = [c.rsplit(" ", 1)[1] for c in said]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"PYTHON_LOWEST ?= python{versions[0]}\n" in makefile
    assert f"PYTHON_NEWEST ?= python{versions[-1]}\n" in makefile


def test_continuous_integration_runs_every_variant() -> None:
    """By targets of the Makefile, whose files are there."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    variants = set(re.findall(r"^(test(?:-[a-z]+)*):", makefile, re.MULTILINE))
    assert len(variants) == 9
    assert not [one for one in variants if not re.search(rf"\bmake .*\b{one}(?![\w-])", run)]
    assert "\ntodo=(dist " in run
    assert run.endswith("\nmake test\n")  # whose summary is the last line
    listed = re.findall(r"addprefix tests/test_,((?:[\w,\s\\])+)\)", makefile)
    names = {name for one in listed for name in one.replace("\\", " ").split()}
    assert len(names) > 25
    assert not [name for name in names if not (ROOT / "tests" / f"test_{name}.py").exists()]


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_can_be_read_by_the_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True)
    assert done.returncode == 0, done.stderr
