"""The output error is the derivative of the loss of one sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from forwardly.losses import check_loss, output_error

pytestmark = pytest.mark.unchecked

OUTPUT = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([2, 0, 1, 2])
PROBABILITIES = OUTPUT.flip(0).softmax(1)


@pytest.mark.parametrize(
    ("loss", "target", "scale"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), CLASSES, 1),
        (nn.CrossEntropyLoss(reduction="sum"), PROBABILITIES, 1),
        (nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.2), CLASSES, 1),
        (nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.2), PROBABILITIES, 1),
        (nn.BCEWithLogitsLoss(reduction="sum"), PROBABILITIES, 1),
        (nn.MSELoss(reduction="sum"), PROBABILITIES, 0.5),
    ],
)
def test_error_is_the_derivative(loss: nn.Module, target: Tensor, scale: float) -> None:
    output = OUTPUT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scale * loss(output, target), output)
    assert_close(output_error(loss, OUTPUT, target), gradient)


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_error_does_not_depend_on_the_reduction(kind: type[nn.Module], reduction: str) -> None:
    expected = output_error(kind(), OUTPUT, PROBABILITIES)
    assert_close(output_error(kind(reduction=reduction), OUTPUT, PROBABILITIES), expected)


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (
            nn.CrossEntropyLoss(),
            torch.tensor([0, 1, 3, 2]),
            "0 to 2, .* 3 outputs; the target has 3",
        ),
        (nn.CrossEntropyLoss(), torch.tensor([0, -1, 2, 2]), "the target has -1"),
        (nn.CrossEntropyLoss(), CLASSES.int(), "4 class indices .* given is torch.int32"),
        (nn.CrossEntropyLoss(), PROBABILITIES[:, :2], r"4 × 3 class prob.* of shape \(4, 2\)"),
        (nn.CrossEntropyLoss(), 2 * PROBABILITIES, "sum to 1 in each sample; of several labels"),
        (nn.CrossEntropyLoss(), PROBABILITIES.round(), "must be 0 or more and sum to 1"),
        (nn.CrossEntropyLoss(), torch.tensor([[2.0, -1, 0]] * 4), "must be 0 or more and sum"),
        (nn.MSELoss(), PROBABILITIES.cfloat(), "given is torch.complex64"),
        (nn.MSELoss(), PROBABILITIES[:, 0], r"shape \(4, 3\); given is .* of shape \(4,\)"),
        (nn.BCEWithLogitsLoss(), CLASSES, r"shape \(4, 3\); given is torch.int64"),
    ],
)
def test_wrong_targets(loss: nn.Module, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        output_error(loss, OUTPUT, target)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.L1Loss(), r"L1Loss\(\); supported are nn\.CrossEntropyLoss.*pass error="),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), "weight=.*is not supported"),
        (nn.CrossEntropyLoss(ignore_index=0), "ignore_index=.*is not supported"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), "pos_weight=.*is not supported"),
    ],
)
def test_refused_losses(loss: nn.Module, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check_loss(loss)


def test_cross_entropy_needs_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"\(samples, classes\); the model's is \(4, 3, 1\)"):
        output_error(nn.CrossEntropyLoss(), OUTPUT[..., None], CLASSES)
