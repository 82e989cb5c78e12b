"""examples/ run, and docs/with-other-tools.md shows parts of them, or what runs here.

What needs a package that is not installed is skipped; ``make test-examples`` installs them all.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import forwardly as fw

pytestmark = pytest.mark.unchecked

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "with-other-tools.md").read_text("utf-8")
PACKAGES = {
    "lightning_manual_optimization": ("lightning",),
    "onnx_model": ("onnx", "onnxscript", "onnxruntime"),
    "optuna_search": ("optuna",),
    "plain_loop": (),
    "skorch_net": ("skorch",),
    "tensorboard_log": ("tensorboard",),
}
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def need(packages: tuple[str, ...]) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; make test-examples installs it")


def test_all_examples_are_run_and_shown() -> None:
    found = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert found == PACKAGES.keys()
    assert set(re.findall(r"\.\./examples/(\w+)\.py", PAGE)) == found


@pytest.mark.parametrize("name", PACKAGES)
def test_examples_run_and_learn(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    need(PACKAGES[name])
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages' doing
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    accuracy = re.search(r"accuracy: (\d+\.\d)%", last)
    assert accuracy is not None, last
    assert float(accuracy[1]) > 88


def test_the_page_shows_what_is_run() -> None:
    """Word for word from an example; the rest is run below."""
    files = [path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")]
    shown = [code for code in SNIPPETS if any(code in text for text in files)]
    run = [code for code in SNIPPETS if code not in shown]
    assert len(shown) == 5
    assert len(run) == 2
    for code in run:
        assert "ForwardlyClassifier" in code or "torchmetrics" in code


def test_the_pages_own_lines_for_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (code for code in SNIPPETS if "ForwardlyClassifier" in code)
    names: dict[str, Any] = {}
    exec(code, names)
    assert "pepita" in capsys.readouterr().out
    assert names["search"].best_score_ > 0.8


def test_torchmetrics_takes_a_credits_output() -> None:
    """And its collections take none of ours, as their docs say."""
    need(("torchmetrics",))
    torchmetrics: Any = importlib.import_module("torchmetrics")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    x, target = torch.randn(256, 6), torch.randint(0, 3, (256,))
    batches = list(zip(x.split(64), target.split(64), strict=True))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    (code,) = (code for code in SNIPPETS if "torchmetrics" in code)
    names: dict[str, Any] = {"rule": rule, "batches": batches}
    exec(code, names)
    found, ours = names["metrics"].compute(), fw.metrics.Accuracy()
    for x_batch, target_batch in batches:
        ours.update(rule(x_batch, target_batch).output, target_batch)
    assert float(found["MulticlassAccuracy"]) == pytest.approx(ours.compute())
    with pytest.raises(ValueError, match="MetricCollection"):
        torchmetrics.MetricCollection([ours])
