"""How models are read: stages, refusals, norms' statistics, local updates."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

import forwardly as fw
from forwardly.network import Network
from forwardly.testing import CASES, build
from test_laws import FACTORIES


def test_stages() -> None:
    layers = OrderedDict(
        flat=nn.Flatten(),
        body=nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU()),
        shape=nn.Unflatten(1, (2, 3)),
        late=nn.Tanh(),
        conv=nn.Conv1d(2, 2, 2),
        end=nn.Flatten(),
    )
    network = Network(nn.Sequential(layers))
    assert [part.name for part in network.preparation] == ["flat"]
    first, second = network.stages
    assert first.name == "body.0"
    assert [part.name for part in first.elementwise] == ["body.1", "body.2"]
    # An activation behind a reshaping module is not part of h, which has z's shape.
    assert [part.name for part in first.reshaping] == ["shape", "late"]
    assert (second.name, [part.name for part in second.reshaping]) == ("conv", ["end"])
    assert network.sizes() == (4, 6, 4)


def test_activities_of_a_pass() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten())
    model += nn.Sequential(nn.Linear(8, 3))
    network = Network(model.double())
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    step = network.step()
    first, second = step.activities(step.prepare(x))
    assert first.pre is x
    assert_close(first.z, model[0](x))
    assert (first.z < 0).any(), "an in-place activation must not overwrite what was recorded"
    assert_close(first.h, first.z.relu())
    assert_close(first.a, nn.functional.max_pool2d(first.h, 2).flatten(1))
    assert second.pre is first.a
    assert_close(second.a, model(x))


def test_an_inplace_activation_leaves_the_input_alone() -> None:
    rule = fw.PEPITA(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), nn.MSELoss())
    x = torch.randn(4, 3)
    before = x.clone()
    rule(x, torch.zeros(4, 2))
    assert torch.equal(x, before)


@pytest.mark.parametrize("rule", sorted({*FACTORIES} - {"forward-forward"}))  # it shows labels
def test_running_statistics_move_once_a_step_from_the_clean_pass(rule: str) -> None:
    case = next(case for case in CASES if case.name == "batch-norm")
    made, (x, target) = build(FACTORIES[rule], case), case.batch()
    expected = copy.deepcopy(made.model)
    for _ in range(3):
        with torch.no_grad():
            expected(x)
        made.accumulate(x, target)
    moved = dict(made.model.named_buffers())
    assert len(moved) == 6
    for name, buffer in expected.named_buffers():
        assert_close(moved[name], buffer)


def test_statistics_stand_still_in_eval_mode() -> None:
    case = next(case for case in CASES if case.name == "batch-norm")
    rule, (x, target) = build(FACTORIES["pepita"], case).eval(), case.batch()
    before = copy.deepcopy(dict(rule.model.named_buffers()))
    rule.accumulate(x, target)
    assert_close(dict(rule.model.named_buffers()), before, rtol=0, atol=0)


def test_backprop_trains_normalisation_too() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.PReLU())
    model += nn.Sequential(nn.Linear(3, 2))
    rule = fw.Backprop(model.double(), nn.CrossEntropyLoss())
    x, target = torch.randn(6, 4, dtype=torch.float64), torch.randint(2, (6,))
    updates = rule(x, target).updates
    copied = copy.deepcopy(model)
    nn.CrossEntropyLoss()(copied(x), target).backward()
    assert updates.keys() == dict(model.named_parameters()).keys()
    for name, parameter in copied.named_parameters():
        assert_close(updates[name], parameter.grad)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm1d(3),
        lambda: nn.LayerNorm(3),
        nn.PReLU,
    ],
)
def test_parameters_that_pepita_cannot_train(layer: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), layer(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"PEPITA trains .* 1\.weight.*requires_grad_\(False\)"):
        fw.PEPITA(model, nn.CrossEntropyLoss())
    model[1].requires_grad_(False)
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    updates = rule(torch.randn(5, 4), torch.randint(2, (5,))).updates
    assert updates.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("rule", FACTORIES)
def test_frozen_parameters_get_no_update(rule: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    made = fw.RULES[rule](model, nn.CrossEntropyLoss())
    updates = made.accumulate(torch.randn(5, 4), torch.randint(2, (5,))).updates
    hidden = {"0.bias"} if rule != "readout-only" else set[str]()
    assert updates.keys() == {"2.weight"} | hidden | made.learned.keys()
    assert model[0].weight.grad is None


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return 2 * super().forward(input)


SHARED = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2), r"must be an nn\.Sequential; given Linear"),
        (nn.Sequential(nn.ReLU()), "no weights to learn"),
        (nn.Sequential(nn.LSTM(4, 2), nn.Linear(4, 2)), r"(?s)'0', LSTM.*not supp"),
        (nn.Sequential(nn.Sequential(nn.LSTM(3, 4)), nn.Linear(4, 2)), r"'0\.0', LSTM"),
        (nn.Sequential(nn.Linear(3, 4), nn.RReLU(), nn.Linear(4, 2)), r"'1', RReLU"),
        (nn.Sequential(Doubled(3, 4), nn.ReLU(), nn.Linear(4, 2)), "Doubled, changes the forward"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), "'0' and '2' share one weight"),
        (nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), "no sizes yet"),
        (nn.Sequential(nn.MaxPool1d(2, return_indices=True), nn.Linear(4, 2)), "return_indices"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2)), r"'1', AvgPool2d.*follows the last"),
        (nn.Sequential(weight_norm(nn.Linear(3, 2))), "computed from others"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refused_models(model: nn.Module, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Network(model)


def test_linear_layers_take_positions_as_convolutions_do() -> None:
    """A linear layer on (n, positions, d) is a convolution of width one."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)).double()
    conv = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)).double()
    with torch.no_grad():
        conv[0].weight.copy_(linear[0].weight[:, :, None])
        conv[0].bias.copy_(linear[0].bias)
        by_channel = linear[3].weight.reshape(2, 5, 4).transpose(1, 2).flatten(1)
        conv[3].weight.copy_(by_channel)
        conv[3].bias.copy_(linear[3].bias)
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    target = torch.randn(6, 2, dtype=torch.float64)
    F = torch.randn(15, 2, dtype=torch.float64)
    F_conv = F.reshape(5, 3, 2).transpose(0, 1).reshape(15, 2)
    a = fw.PEPITA(linear, nn.MSELoss(), projection=F, input_shape=(5, 3))(x, target).updates
    b = fw.PEPITA(conv, nn.MSELoss(), projection=F_conv, input_shape=(3, 5))(
        x.transpose(1, 2), target
    ).updates
    assert_close(a["0.weight"][:, :, None], b["0.weight"])
    assert_close(a["0.bias"], b["0.bias"])
