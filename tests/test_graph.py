"""Models that are no chains: what is read of them, and that rules do there what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn import functional
from torch.testing import assert_close

import forwardly as fw
from copies import DUPLICATES, check_copy
from forwardly.network import Network, local
from forwardly.testing import CASES, Case, build, outputs_may_be_activated
from graphs import ANY_MODEL, GRAPHS, ConvBlock, takes
from test_laws import FACTORIES


class Wrapped(nn.Module):
    """A chain that does not say that it is one."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def graph(name: str) -> Case:
    return next(case for case in GRAPHS if case.name == name)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ANY_MODEL)
def test_a_chain_that_is_read_as_a_graph(
    name: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers to the last bit, wherever the chain has no closed form of its own."""
    rule, batch = build(FACTORIES[name], case), case.batch()
    monkeypatch.setattr(Network, "as_graph", True)
    with outputs_may_be_activated():
        other = FACTORIES[name](
            Wrapped(copy.deepcopy(rule.model)),
            case.loss(),
            input_shape=case.input_shape,
            generator=torch.Generator().manual_seed(7),
        )
    assert rule.network.graph is None
    assert other.network.graph is not None
    assert [f"layers.{stage.name}" for stage in rule.network.stages] == [
        stage.name for stage in other.network.stages
    ]
    (ours, moved), (theirs, also) = rule.run(*batch), other.run(*batch)
    assert_close(theirs.output, ours.output, rtol=0, atol=0)
    assert_close(theirs.error, ours.error, rtol=0, atol=0)
    exact = name not in CLOSED
    for update, value in ours.updates.items():
        theirs_too = theirs.updates[update if update.startswith("rule.") else f"layers.{update}"]
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {}
        assert_close(theirs_too, value, **tolerance)
    assert len(theirs.updates) == len(ours.updates)
    for buffer, value in moved.items():
        place = buffer.replace("model.", "model.layers.", 1)
        assert_close(also[place], value, rtol=0, atol=0)


CLOSED = {
    *("adaptive-feedback-alignment", "direct-feedback-alignment", "direct-kolen-pollack", "drtp"),
}
"""Rules for which chains have derivatives in closed form, equal but for rounding."""


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.fc1 = nn.Linear(6 * 4, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.dropout2d(torch.tanh(self.conv2(x)), 0.2, training=self.training)
        x = x.view(x.size(0), -1)
        return self.fc2(functional.relu(self.fc1(x)))


def test_a_chain_of_functions_is_a_chain() -> None:
    """With the fast paths of chains, and the updates of the same nn.Sequential."""
    torch.manual_seed(0)
    model = LeNet()
    like = nn.Sequential(
        *(model.conv1, nn.ReLU(), nn.MaxPool2d(2), model.conv2, nn.Tanh(), nn.Dropout2d(0.2)),
        *(nn.Flatten(), model.fc1, nn.ReLU(), model.fc2),
    )
    rules = [
        fw.PEPITA(
            each,
            nn.CrossEntropyLoss(),
            input_shape=(1, 10, 10),
            generator=torch.Generator().manual_seed(1),
        )
        for each in (model, like)
    ]
    assert all(rule.network.graph is None and not rule.network.altered for rule in rules)
    x, target = torch.randn(5, 1, 10, 10), torch.randint(3, (5,))
    ours, theirs = (list(rule(x, target).updates.values()) for rule in rules)
    assert_close(ours, theirs, rtol=0, atol=0)
    optimizer = fw.LocalSGD(rules[0], lr=0.1)
    optimizer.step(x, target)
    assert optimizer.path is not None
    assert optimizer.path.engine != "readable"
    rules[0].eval()  # dropout is off from here on, be it a function
    assert_close(rules[0](x, target).output, model(x))


@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_feedback_alignment_with_the_weights_is_backprop(case: Case) -> None:
    rule = build(fw.FeedbackAlignment, case)
    reference = fw.Backprop(rule.model, rule.loss, input_shape=case.input_shape)
    reference.noise = rule.noise
    for stage in rule.network.stages:
        if stage.sends_back:  # the others send theirs through their own weights, or none
            rule.B[stage.name].copy_(stage.synapse.weight.detach())
    x, target = case.batch()
    ours, theirs = rule(x, target), reference(x, target)
    assert_close(ours.output, theirs.output, rtol=0, atol=0)
    assert ours.updates.keys() == theirs.updates.keys()
    for name, update in theirs.updates.items():
        assert update.any()
        assert_close(ours.updates[name], update, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_backprop_is_the_gradient(case: Case) -> None:
    """Of the model itself, by torch's own engine, however the graph was read."""
    rule, (x, target) = build(fw.Backprop, case), case.batch()
    for module in rule.model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    credit = rule(x, target)
    output = copy.deepcopy(rule.model)(x)
    assert_close(credit.output, output)
    parameters = {n: p for n, p in rule.model.named_parameters() if p.requires_grad}

    def forward(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(copy.deepcopy(rule.model), parameters, (x,))

    found = vjp(forward, parameters)
    (gradient,) = found[1](credit.error.reshape(output.shape) / len(x))
    assert_close(credit.updates, gradient)


@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_mem_pepita_is_pepita(case: Case) -> None:
    rules = [build(FACTORIES[name], case) for name in ("pepita", "mem-pepita")]
    first, second = (rule(*case.batch()) for rule in rules)
    assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_pepita_tends_to_adaptive_feedback_alignment(case: Case) -> None:
    """As F becomes small, hidden updates of PEPITA over the scale of F tend to those of AFA."""
    rule, limit = build(fw.PEPITA, case), build(fw.AdaptiveFeedbackAlignment, case)
    x, target = case.batch()
    for each in (rule, limit):
        each.get_buffer("F").mul_(1e-6)
    ours, theirs = rule(x, target).updates, limit(x, target).updates
    hidden = {n for stage in rule.network.stages if not stage.is_readout for n in stage.updated}
    assert hidden
    for name in hidden:
        assert theirs[name].any()
        assert_close(ours[name] / 1e-6, theirs[name] / 1e-6, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["pepita", "mem-pepita", "sign-pepita", "hebbian-pepita", "adaptive-feedback-alignment"]
)
def test_the_folding_law(name: str) -> None:
    """h + relu(W h) learns as a chain of stacked layers whose identity carries h along.

    relu(W h) and h are the units of one layer with the weights [W; I], h being above 0; the next
    layer's weights are [V, V], so what it sees is their sum.
    """
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 5)
            self.second = nn.Linear(5, 5, bias=False)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.sigmoid(self.first(x))
            return self.head(h + torch.relu(self.second(h)))

    model = Residual().double()
    first, head = copy.deepcopy(model.first), copy.deepcopy(model.head)
    stacked, wide = nn.Linear(5, 10, bias=False), nn.Linear(10, 3)
    with torch.no_grad():
        stacked.weight.copy_(torch.cat([model.second.weight, torch.eye(5)]))
        wide.weight.copy_(torch.cat([head.weight, head.weight], dim=1))
        wide.bias.copy_(head.bias)
    chain = nn.Sequential(first, nn.Sigmoid(), stacked, nn.ReLU(), wide).double()
    rules = [
        FACTORIES[name](each, nn.CrossEntropyLoss(), generator=torch.Generator().manual_seed(3))
        for each in (model, chain)
    ]
    x, target = torch.randn(7, 6, dtype=torch.float64), torch.randint(3, (7,))
    ours, theirs = (rule(x, target) for rule in rules)
    assert_close(ours.output, theirs.output)
    for parameter in ("weight", "bias"):
        assert_close(ours.updates[f"first.{parameter}"], theirs.updates[f"0.{parameter}"])
    assert_close(ours.updates["second.weight"], theirs.updates["2.weight"][:5])
    # The readout's post is e in both, its pre the sum of the two halves.
    halves = theirs.updates["4.weight"].reshape(3, 2, 5).sum(1)
    assert_close(ours.updates["head.weight"], halves)
    assert_close(ours.updates["head.bias"], theirs.updates["4.bias"])


@pytest.mark.parametrize("case", GRAPHS, ids=str)
@pytest.mark.parametrize("name", ["pepita", "feedback-alignment", "direct-feedback-alignment"])
@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_copies(name: str, case: Case, duplicate: Callable[[fw.Rule], fw.Rule]) -> None:
    if takes(name, case):
        check_copy(build(FACTORIES[name], case), *case.batch(), duplicate)


def test_a_graph_is_plain_data() -> None:
    network = Network(ConvBlock(), (2, 4, 4))
    assert network.graph is not None
    found = copy.deepcopy(network.graph)
    assert [op.number for op in found.body] == [op.number for op in network.graph.body]


@pytest.mark.parametrize(
    ("norm", "shape", "over"),
    [
        (nn.GroupNorm(2, 4), (3, 4, 5), "groups"),
        (nn.RMSNorm(5), (3, 4, 5), ""),
        (nn.InstanceNorm1d(4, affine=True), (3, 4, 5), "positions"),
        (nn.LayerNorm(5), (3, 4, 5), "last"),
        (nn.BatchNorm3d(4), (3, 4, 2, 2, 2), "batch"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_the_scale_of_a_norm(norm: nn.Module, shape: tuple[int, ...], over: str) -> None:
    """What a norm multiplies its centred input by: norm(a) = scale ⊙ (a − mean) + shift."""
    torch.manual_seed(0)
    norm.double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    a = torch.randn(shape, dtype=torch.float64)
    mean = {
        "groups": a.reshape(3, 2, -1).mean(2).repeat_interleave(2, 1)[..., None],
        "": torch.zeros(()),
        "positions": a.mean(-1, keepdim=True),
        "last": a.mean(-1, keepdim=True),
        "batch": a.transpose(0, 1).flatten(1).mean(1).reshape(-1, 1, 1, 1),
    }[over]
    bias = getattr(norm, "bias", None)
    shift = torch.zeros(5) if bias is None else bias.detach()
    if over in {"groups", "positions", "batch"}:
        shift = shift.reshape(-1, *(1 for _ in shape[2:]))
    for plain in (False, True):
        weight = norm.weight.detach()
        scale = local.scale_of_norm(norm, a, plain=plain).detach()
        if plain:
            channels = over in {"groups", "positions", "batch"}
            scale = scale * (weight.reshape(-1, *(1 for _ in shape[2:])) if channels else weight)
        assert_close(scale * (a - mean) + shift, norm(a).detach())
