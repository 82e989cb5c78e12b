"""The networks that the library has: their sizes in the papers, and that rules take them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import forwardly as fw
from forwardly import models
from forwardly.models.own import build
from graphs import ANY_MODEL
from test_laws import FACTORIES

# Traces are no tensors, which checked annotations of the models would say.
pytestmark = pytest.mark.unchecked


def numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnets_have_the_papers_sizes(depth: int, millions: float) -> None:
    """Table 6 of He et al. 2016."""
    found = numbers(models.ResNet(depth)) / 1e6
    assert round(found, 1 if depth == 110 else 2) == millions


def test_a_vision_transformer_has_the_papers_size() -> None:
    """ViT-Base of Dosovitskiy et al. 2021, Table 1: 86 million; for 1,000 classes."""
    with torch.device("meta"):
        base = models.VisionTransformer(224, patch=16, width=768, depth=12, heads=12, outputs=1000)
    assert numbers(base) // 10**6 == 86
    # That of public code, 86,567,656, has a class token and its position besides.
    assert numbers(base) == 86_567_656 - 2 * 768


def test_a_unet_has_the_papers_layers() -> None:
    """Ronneberger et al. 2015: "In total the network has 23 convolutional layers"."""
    with torch.device("meta"):
        layers = [
            m for m in models.UNet().modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
        ]
    assert len(layers) == 23


def test_a_residual_mlp() -> None:
    assert (
        numbers(models.ResidualMLP(6, 5, 2, outputs=3)) == 6 * 5 + 5 + 2 * (5 * 5 + 5) + 5 * 3 + 3
    )


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_a_depth_that_no_resnet_has(depth: int) -> None:
    with pytest.raises(ValueError, match="must be 6 n \\+ 2"):
        models.ResNet(depth)


def test_patches_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="patches must divide"):
        models.VisionTransformer(30)


SMALL = {
    "resnet": (lambda: models.ResNet(8, outputs=3), (3, 8, 8)),
    "vit": (
        lambda: models.VisionTransformer(8, patch=4, width=6, depth=2, heads=2, outputs=3),
        (3, 8, 8),
    ),
    "residual-mlp": (lambda: models.ResidualMLP(12, 6, 2, outputs=3), (3, 2, 2)),
}


@pytest.mark.parametrize("name", ANY_MODEL)
@pytest.mark.parametrize("network", SMALL)
def test_rules_take_them_as_they_are(name: str, network: str) -> None:
    """In one line, and all parameters that a rule trains get an update."""
    torch.manual_seed(0)
    make, shape = SMALL[network]
    model = make()
    rule = FACTORIES[name](model, nn.CrossEntropyLoss(), input_shape=shape)
    x, target = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    credit = rule.accumulate(x, target)
    trained = {n for n in credit.updates if not n.startswith("rule.")}
    everything = {n for n, _ in model.named_parameters()}
    assert trained == (everything if name != "readout-only" else set(rule.trained))
    assert all(update.isfinite().all() for update in credit.updates.values())
    rule.eval()
    assert_close(rule(x, target).output, model(x))


def test_what_the_documents_say(tmp_path: Path) -> None:
    """docs/any-module.md runs."""
    page = Path(__file__).parent.parent / "docs" / "any-module.md"
    snippet, own = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    namespace: dict[str, object] = {}
    exec(snippet, namespace)
    (tmp_path / "my.py").write_text(own, "utf-8")
    made = build(f"{tmp_path / 'my.py'}:build", (1, 28, 28), 10, seed=0)
    assert made(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    credit, resnet = namespace["credit"], namespace["resnet"]
    assert isinstance(credit, fw.Credit)
    assert isinstance(resnet, fw.PEPITA)
    assert len(resnet.network.stages) == 8 + 7  # layers with weights, and their norms


def test_an_image_for_an_image() -> None:
    torch.manual_seed(0)
    model = models.UNet(1, width=4, depth=2, outputs=1)
    rule = fw.FeedbackAlignment(model, nn.MSELoss(), input_shape=(1, 8, 8))
    x = torch.randn(3, 1, 8, 8)
    credit = rule(x, torch.zeros(3, 1, 8, 8))
    assert credit.updates.keys() == {n for n, _ in model.named_parameters()}
    assert len(rule.network.stages) == 13


@pytest.mark.parametrize("network", SMALL)
def test_they_are_saved_and_loaded(network: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = SMALL[network]
    rule = fw.PEPITA(make(), nn.CrossEntropyLoss(), input_shape=shape)
    x, target = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    rule.accumulate(x, target)
    fw.save(rule, tmp_path / "model.safetensors")
    other = fw.load(tmp_path / "model.safetensors")
    assert type(other.model) is type(rule.model)
    assert_close(other(x, target), rule(x, target), rtol=0, atol=0)


@pytest.mark.parametrize("model", ["resmlp", "resnet8", "vit", "vit8"])
def test_train(model: str, command: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    images = numbers.random((60, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "images.npz", x=images, y=numbers.integers(0, 3, 60))
    size = ["--hidden", "8", "8"] if model == "resmlp" else []
    given = ["--data", "images.npz", "--model", model, "--epochs", "1", "--out", "run", *size]
    done = command("train", *given)
    assert done.returncode == 0, done.stderr
    done = command("predict", "run", "--data", "images.npz", "--out", "classes.csv")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet8", "--dropout", "0.5"], "dropout is of the models mlp and conv"),
        (["--model", "vit", "--hidden", "3"], "hidden is of the models mlp and conv"),
        (["--model", "resmlp", "--hidden", "3", "4"], "of one size"),
        (["--model", "resnet20"], "needs images"),
    ],
    ids=["dropout", "hidden", "sizes", "images"],
)
def test_settings_of_other_models(
    options: list[str], message: str, command: Callable[..., CompletedProcess[str]]
) -> None:
    done = command("train", "--data", "digits", *options)
    assert done.returncode == 2
    assert message in done.stderr
