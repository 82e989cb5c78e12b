"""Guards shown to bite: wrong versions of a rule, each of which the tests must reject.

A mutant is the rule's own source with one piece replaced, so that it stays up to date; a piece that
is not found exactly once fails.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import forwardly as fw
from test_laws import LARGE
from test_pepita import NETWORKS, OPTIONS, equals_the_reference

# what is wrong, file, piece, replacement
PEPITA = [
    ("hidden sign flipped", "rules/pepita.py", "first.h - second.h", "second.h - first.h"),
    (
        "pre-activations for activities",
        "rules/pepita.py",
        "first.h - second.h",
        "first.z - second.z",
    ),
    ("error not added", "rules/pepita.py", "torch.add(a_0, ", "torch.add(torch.zeros_like(a_0), "),
    ("sign ignored", "rules/pepita.py", "alpha=sign", "alpha=1"),
    ("sign always minus", "rules/pepita.py", "alpha=sign", "alpha=-1"),
    (
        "presynaptic option turned round",
        "rules/pepita.py",
        'self.presynaptic == "modulated"',
        'self.presynaptic == "clean"',
    ),
    (
        "output error always the first",
        "rules/pepita.py",
        'e if self.output_error == "first" else self.error(modulated[-1].a, target)',
        "e",
    ),
    (
        "output error option turned round",
        "rules/pepita.py",
        'self.output_error == "first"',
        'self.output_error == "second"',
    ),
    (
        "output layer learns like a hidden one",
        "rules/pepita.py",
        "posts[-1] = e_output.reshape(clean[-1].z.shape)",
        "pass",
    ),
    ("F transposed in value", "rules/pepita.py", "(e @ F.T)", "(e.flip(1) @ F.T)"),
    (
        "masks drawn anew for the second pass",
        "rules/pepita.py",
        "modulated = list(step.activities(a_0_err))",
        "modulated = list(self.network.step(self.noise if self.noise is None else self.noise + 1)"
        ".activities(a_0_err))",
    ),
    (
        "input changed in place",
        "rules/pepita.py",
        "torch.add(a_0, (e @ F.T).reshape(a_0.shape), alpha=sign)",
        "a_0.add_((e @ F.T).reshape(a_0.shape), alpha=sign)",
    ),
    ("F a parameter", "rules/pepita.py", 'rule.register_buffer("F", ', "rule.F = nn.Parameter("),
    (
        "sum for mean",
        "network.py",
        "self._correlation(post, pre) / n",
        "self._correlation(post, pre)",
    ),
    ("bias summed over the batch", "network.py", "post.sum(positions) / n", "post.sum(positions)"),
    (
        "bias averaged over positions",
        "network.py",
        "post.sum(positions) / n",
        "post.mean(positions)",
    ),
    ("padding with zeros only", "network.py", "mode=mode)", 'mode="constant")'),
    ("h taken before the norms", "network.py", "Activity(pre, z, h, a)", "Activity(pre, z, z, a)"),
    (
        "h taken after dropout only in a",
        "network.py",
        "Activity(pre, z, h, a)",
        "Activity(pre, z, z.relu(), a)",
    ),
    ("softmax forgotten", "losses.py", "return functional.softmax(output, dim=1)", "return output"),
    (
        "error averaged",
        "losses.py",
        "return prediction(loss, output) - ",
        "return 0.5 * prediction(loss, output) - 0.5 * ",
    ),
    (
        "updates subtracted from .grad",
        "rule.py",
        "parameter.grad += update",
        "parameter.grad -= update",
    ),
    ("updates overwrite .grad", "rule.py", "parameter.grad += update", "parameter.grad = update"),
]


@pytest.fixture
def mutate(tmp_path: Path) -> Iterator[Callable[[str, str, str], ModuleType]]:
    """A function that imports a copy of the package with one piece of one file replaced."""
    ours = {name: module for name, module in sys.modules.items() if _is_ours(name)}

    def mutate(file: str, piece: str, replacement: str) -> ModuleType:
        copy = tmp_path / "forwardly"
        shutil.copytree(Path(fw.__file__).parent, copy)
        text = (copy / file).read_text()
        assert text.count(piece) == 1, f"{piece!r} stands {text.count(piece)} times in {file}"
        (copy / file).write_text(text.replace(piece, replacement))
        for name in ours:
            del sys.modules[name]
        sys.path.insert(0, str(tmp_path))
        mutant = importlib.import_module("forwardly")
        assert mutant.__file__ == str(copy / "__init__.py")
        return mutant

    yield mutate
    with contextlib.suppress(ValueError):  # the piece was not found
        sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]
    sys.modules.update(ours)


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "forwardly"


def _checks(rule: type[fw.Rule]) -> Iterator[Callable[[], None]]:
    """What test_laws.py and test_pepita.py hold PEPITA to."""
    for case in NETWORKS:
        for options in OPTIONS:
            yield partial(equals_the_reference, rule, case, options)
    kit = importlib.import_module("forwardly.testing")  # the mutated package's
    for law in kit.LAWS:
        for case in kit.CASES:
            yield partial(law, partial(rule, projection=LARGE), case)


def _rejected(rule: type[fw.Rule]) -> bool:
    for check in _checks(rule):
        try:
            check()
        except AssertionError:  # and no other: a mutant that crashes shows nothing
            return True
    return False


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("file", "piece", "replacement"), [m[1:] for m in PEPITA], ids=[m[0] for m in PEPITA]
)
def test_wrong_pepita_is_rejected(
    mutate: Callable[[str, str, str], ModuleType], file: str, piece: str, replacement: str
) -> None:
    assert _rejected(mutate(file, piece, replacement).PEPITA)


@pytest.mark.unchecked
def test_the_right_pepita_is_not_rejected(mutate: Callable[[str, str, str], ModuleType]) -> None:
    same = "first.h - second.h"
    assert not _rejected(mutate("rules/pepita.py", same, same).PEPITA)
