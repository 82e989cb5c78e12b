"""A model that is changed after the rule was built: the next step sees it, or refuses it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close

import forwardly as fw

pytestmark = pytest.mark.unchecked

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(2)
    hidden = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(9, 3)).double()


def make(name: str, model: nn.Module, loss: nn.Module | None = None) -> fw.Rule:
    kind: Any = fw.RULES[name]
    generator = torch.Generator().manual_seed(3)
    return kind(model, loss or nn.CrossEntropyLoss(), generator=generator)


def _replace_head(model: nn.Sequential) -> None:
    torch.manual_seed(9)
    model[4] = nn.Linear(9, 3).double()


def _replace_parameter(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(torch.randn(9, 9, dtype=torch.float64))


def _swap_class(model: nn.Sequential) -> None:
    model[1].__class__ = nn.Sigmoid


def halve(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output / 2


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "head replaced": _replace_head,
    "activation swapped": lambda model: model.__setitem__(1, nn.Sigmoid()),
    "class swapped": _swap_class,
    "activation inserted": lambda model: model.insert(2, nn.LeakyReLU()),
    "activation removed": lambda model: model.pop(3),
    "parameter replaced": _replace_parameter,
    "weight frozen": lambda model: model[0].weight.requires_grad_(False),
    "layer frozen": lambda model: model[2].requires_grad_(False),
    "readout's bias frozen": lambda model: model[4].bias.requires_grad_(False),
    "bias removed": lambda model: setattr(model[2], "bias", None),
    "hook added": lambda model: model[1].register_forward_hook(halve),
    "dropout added": lambda model: model.insert(2, nn.Dropout(0.5)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", fw.RULES)
def test_the_next_step_sees_a_change(name: str, change: str) -> None:
    """As a rule that is built on the changed model, with the feedback that was drawn before."""
    rule = make(name, net())
    rule.accumulate(X, Y)
    CHANGES[change](rule.model)
    expected = make(name, rule.model)
    expected.load_state_dict(rule.state_dict(), strict=False)  # dropout is no state of it yet
    fresh = expected(X, Y)
    assert_close(rule(X, Y), fresh)
    assert rule.trained == expected.trained
    trained = copy.deepcopy(rule)
    fw.LocalSGD(trained, 1.0).step(X, Y)
    for key, parameter in rule.model.named_parameters():
        moved = parameter - trained.model.get_parameter(key)
        assert_close(moved, fresh.updates.get(key, torch.zeros_like(moved)), rtol=1e-9, atol=1e-11)


def test_training_goes_on_with_a_new_head() -> None:
    rule = make("pepita", net())
    _replace_head(rule.model)
    optimizer = torch.optim.SGD(rule.model.parameters(), 0.2)
    first = true = nn.functional.cross_entropy(rule.model(X), Y)
    for _ in range(100):
        optimizer.zero_grad()
        true = nn.functional.cross_entropy(rule.model(X), Y)
        assert_close(rule.accumulate(X, Y).loss, true.detach())
        optimizer.step()
    assert true < 0.9 * first


def test_thawed_parameters_learn_again() -> None:
    model = net()
    model[0].requires_grad_(False)
    rule = make("pepita", model)
    assert "0.weight" not in rule(X, Y).updates
    model[0].requires_grad_(True)
    assert rule(X, Y).updates.keys() == dict(model.named_parameters()).keys()
    model.insert(1, nn.BatchNorm1d(9).double())
    with pytest.raises(ValueError, match=r"trains .* other parameters: 1\.bias, 1\.weight"):
        rule(X, Y)
    model[1].requires_grad_(False)
    assert len(rule(X, Y).updates) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.append(nn.Linear(3, 3)), r"for weights of \(9, 6\), \(9, 9\), \(3, 9\); they"),
        (
            lambda m: m.__setitem__(4, nn.Linear(9, 4).double()),
            r"\(4, 9\) now: build the rule anew",
        ),
        (lambda m: m.pop(2), "build the rule anew"),
        (
            lambda m: setattr(m[4].weight, "data", torch.rand(4, 9, dtype=torch.float64)),
            r"\(4, 9\) now: build the rule anew",
        ),
        (
            lambda m: setattr(m[2].bias, "data", torch.rand(3, dtype=torch.float64)),
            r"the bias of '2' is \(3,\), its weight \(9, 9\)",
        ),
        (
            lambda m: setattr(m[2].weight, "data", torch.rand(9, dtype=torch.float64).expand(9, 9)),
            "several elements in one place of memory",
        ),
        (lambda m: m.__setitem__(1, nn.RReLU()), "'1', RReLU.*not supported"),
        (lambda m: m.__setitem__(2, m[0]), "'0' and '2' share one weight"),
        (lambda m: setattr(m[2], "bias", m[0].bias), "'0' and '2' share one weight or bias"),
        (lambda m: m.register_forward_hook(lambda *_: None), "the model is an nn.Sequential with"),
        (lambda m: m[0].weight.register_hook(lambda g: g), "'0.weight' has a gradient hook"),
        (lambda m: m[0].register_full_backward_hook(lambda *_: None), "'0' has a backward hook"),
        (lambda m: prune.random_unstructured(m[0], "weight", 0.5), "computed from others"),
        (lambda m: parametrizations.weight_norm(m[0]), "computed from others"),
        (
            lambda m: m[2].float(),
            r"on one device: 0\.weight is torch\.float64 .* 2\.weight",
        ),
        (lambda m: m[2].to("meta"), r"on one device: .* 2\.weight torch\.float64 on meta"),
    ],
)
def test_what_a_rule_cannot_follow_is_refused(
    change: Callable[[nn.Sequential], object], message: str
) -> None:
    for name in fw.RULES:
        rule = make(name, net())
        local = fw.LocalSGD(rule, 0.1, 0.9)
        local.step(X, Y)
        change(rule.model)
        before = copy.deepcopy([p.detach() for p in rule.model.parameters() if not p.is_meta])
        for _ in range(2):  # not the first time only
            for step in (rule, rule.accumulate, local.step):
                with pytest.raises((TypeError, ValueError), match=message):
                    step(X, Y)
        after = [p.detach() for p in rule.model.parameters() if not p.is_meta]
        assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("move", ["double", "half", "bfloat16"])
def test_the_rule_is_moved_and_not_the_model(move: str) -> None:
    for name in fw.RULES:
        rule = make(name, net().float())
        getattr(rule.model, move)()
        dtype = rule.model[0].weight.dtype
        has_feedback = any(b.is_floating_point() for b in rule.buffers())
        if has_feedback:
            with pytest.raises(TypeError, match=rf"the model is {dtype} on cpu, the rule's"):
                rule(X.to(dtype), Y)
            with pytest.raises(TypeError, match=r"the rule, not the model, e\.g\. rule\.to\('cpu'"):
                fw.LocalSGD(rule, 0.1).step(X.to(dtype), Y)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* drowns in")
            rule.to(dtype)
            updates = rule(X.to(dtype), Y).updates
        assert {update.dtype for update in updates.values()} == {dtype}


def test_samples_and_targets_are_where_the_model_is() -> None:
    rule = make("pepita", net())
    for x, y, name in ((X.to("meta"), Y, "x"), (X, Y.to("meta"), "the target")):
        for step in (rule, rule.accumulate, fw.LocalSGD(rule, 0.1).step):
            with pytest.raises(ValueError, match=f"{name} is on meta, the model on cpu: move one"):
                step(x, y)
    meta = make("pepita", net().to("meta"))
    assert meta(X.to("meta"), Y.to("meta")).output.device.type == "meta"


def test_momenta_follow_a_rule_that_is_moved() -> None:
    rule = make("pepita", net())
    theirs = copy.deepcopy(rule)
    local = fw.LocalSGD(rule, 0.1, 0.9)
    sgd = torch.optim.SGD(theirs.model.parameters(), 0.1, 0.9)

    def step(x: Tensor) -> None:
        local.step(x, Y)
        sgd.zero_grad()
        theirs.accumulate(x, Y)
        sgd.step()

    step(X)
    rule.float()
    theirs.float()
    step(X.float())
    assert_close(rule.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)


def test_half_precision_is_warned_of_where_passes_are_compared() -> None:
    for name, kind in fw.RULES.items():
        rule = make(name, net().float())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rule.bfloat16()
            for _ in range(2):
                rule(X.bfloat16(), Y)
        told = [str(one.message) for one in caught]
        assert len(told) == kind.compares_passes, name
        assert all("subtracts two passes, whose difference torch.bfloat16" in one for one in told)
    with pytest.warns(UserWarning, match="PEPITA subtracts two passes"):
        make("pepita", net().bfloat16())
    compared = {name for name, kind in fw.RULES.items() if kind.compares_passes}
    assert compared == {
        *("pepita", "mem-pepita", "sign-pepita", "hebbian-pepita", "time-local-pepita"),
        *("foton", "node-perturbation", "weight-perturbation"),
    }


def test_an_optimizer_of_parameters_that_are_gone_is_refused() -> None:
    rule = make("pepita", net())
    local = fw.LocalSGD(rule, 0.1, 0.9)
    local.step(X, Y)
    _replace_head(rule.model)
    with pytest.raises(ValueError, match=r"is not the model's.*make LocalSGD anew"):
        local.step(X, Y)
    with pytest.raises(ValueError, match="a parameter that is not the model's"):
        fw.LocalSGD(rule, 0.1, params=net().parameters())


def test_what_reads_the_network_sees_it_too() -> None:
    rule = fw.PEPITA(net(), nn.CrossEntropyLoss(), projection=fw.feedback.product())
    mirror = fw.feedback.Mirror(rule, noise=1.0, learning_rate=1.0, decay=0.0)
    with torch.no_grad():
        for parameter in rule.model.parameters():
            parameter.zero_()
    _replace_head(rule.model)
    before = rule.get_buffer("F_3").clone()
    mirror.step()
    assert (rule.get_buffer("F_3") != before).all()
    rule.model[2] = nn.Linear(9, 9).double()
    weights = [rule.model[l].weight.detach().T for l in (0, 2, 4)]
    expected = fw.metrics.angle(fw.feedback.chain(weights), rule.F)
    assert fw.metrics.feedback_angle(rule) == pytest.approx(expected, nan_ok=True)


def test_a_functional_call_is_no_change() -> None:
    """Other tensors in place of the parameters, frozen or not, mean the same rule."""
    model = net()
    model[0].bias.requires_grad_(False)
    rule = make("pepita", model)
    network = rule.network
    state = {name: 2 * value.detach() for name, value in rule.named_parameters()}
    credit = torch.func.functional_call(rule, state, (X, Y))
    assert rule.network is network
    assert "0.bias" not in credit.updates
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    assert_close(rule(X, Y), credit)


SHARED: list[tuple[Callable[[nn.Module], list[nn.Module]], Callable[[], nn.Module]]] = [
    (lambda m: [nn.Linear(6, 9), m, nn.Linear(9, 9), m, nn.Linear(9, 3)], nn.PReLU),
    (lambda m: [nn.Linear(6, 9), m, m, nn.Linear(9, 3)], nn.PReLU),
    (lambda m: [nn.Linear(6, 9), m, nn.Linear(9, 9), m, nn.Linear(9, 3)], lambda: nn.LayerNorm(9)),
    (lambda m: [m, nn.Linear(6, 6), nn.Sequential(m), nn.Linear(6, 3)], nn.PReLU),
    (lambda m: [nn.Linear(6, 9), m, nn.Linear(9, 9), m, nn.Linear(9, 3)], nn.Tanh),
]


@pytest.mark.parametrize(("layers", "module"), SHARED)
def test_modules_in_several_places_count_every_time(layers: Any, module: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers(module())).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    updates = make("backprop", model)(X, Y).updates
    nn.functional.cross_entropy(model(X), Y).backward()
    assert_close(updates, {name: p.grad for name, p in model.named_parameters()})


def test_one_parameter_of_several_modules_counts_every_time() -> None:
    model = nn.Sequential(
        *(nn.Linear(6, 9), nn.PReLU(), nn.Linear(9, 9), nn.PReLU(), nn.Linear(9, 3))
    ).double()
    model[3].weight = model[1].weight
    updates = make("backprop", model)(X, Y).updates
    nn.functional.cross_entropy(model(X), Y).backward()
    assert_close(updates, {name: p.grad for name, p in model.named_parameters()})


def test_a_synapses_parameter_in_another_module_is_one_that_cannot_be_trained() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 3)).double()
    model[1].weight.requires_grad_(False)
    model[1].bias = model[0].bias
    for name, kind in fw.RULES.items():
        if kind.trains == "synapses":
            with pytest.raises(ValueError, match=r"other parameters: 1\.bias\."):
                make(name, model)
    updates = make("backprop", model)(X, Y).updates
    nn.functional.cross_entropy(model(X), Y).backward()
    assert_close(updates["0.bias"], model[0].bias.grad)


def test_dropout_in_two_places_drops_other_units() -> None:
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(6, 9), drop, nn.Linear(9, 9), drop, nn.Linear(9, 3)).double()
    rule = make("readout-only", model)
    step = rule.network.step(rule.noise)
    list(step.activities(step.prepare(X)))
    first, second = step._masks.values()
    assert (first != second).any()


def test_what_cannot_be_in_two_places_is_refused() -> None:
    norm = nn.BatchNorm1d(9)
    layers = [nn.Linear(6, 9), norm, nn.Linear(9, 9), norm, nn.Linear(9, 3)]
    with pytest.raises(ValueError, match="modules '1' and '3' share their statistics"):
        make("backprop", nn.Sequential(*layers))
    plain = nn.BatchNorm1d(9, affine=False, track_running_stats=False)
    make("backprop", nn.Sequential(*(plain if layer is norm else layer for layer in layers)))
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    rows = torch.rand(12, 6)
    tied[0].weight = nn.Parameter(rows[:6])
    for share in (
        lambda: setattr(tied[1], "weight", nn.Parameter(tied[0].weight.data.T)),  # one memory
        lambda: setattr(tied[1], "weight", tied[0].weight),
        lambda: setattr(tied[1], "bias", tied[0].bias),
        lambda: setattr(tied[1], "weight", nn.Parameter(rows[3:9])),
        lambda: setattr(tied[1], "bias", nn.Parameter(rows[5])),
    ):
        tied[1] = nn.Linear(6, 6)
        share()
        with pytest.raises(ValueError, match="synapses '0' and '1' share one weight or bias"):
            make("backprop", tied)
    tied[1] = nn.Linear(6, 6)
    tied[1].weight = nn.Parameter(rows[6:])  # behind the other's
    make("backprop", tied)
    tied[1].weight = nn.Parameter(rows[10].expand(6, 6))
    with pytest.raises(ValueError, match=r"'1', Linear.* several elements in one place of memory"):
        make("backprop", tied)


def test_a_copy_is_of_its_own_model() -> None:
    """Its first step may be a functional call, in which a frozen parameter cannot be told."""
    rule = make("pepita", net())
    copied = copy.deepcopy(rule)
    values = {name: value.detach() for name, value in copied.state_dict().items()}
    updates = functional_call(copied, values, (X, Y)).updates
    assert_close(updates, rule(X, Y).updates)


def test_a_change_that_a_functional_call_cannot_see_is_refused() -> None:
    rule = make("pepita", net())
    rule.model[0].weight.requires_grad_(False)
    values = {name: value.detach() for name, value in rule.state_dict().items()}
    expected = functional_call(rule, values, (X, Y)).updates
    _replace_head(rule.model)
    with pytest.raises(ValueError, match=r"cannot be seen in a functional call.* rule\.look\(\)"):
        functional_call(rule, values, (X, Y))
    rule.look()
    assert functional_call(rule, values, (X, Y)).updates.keys() < expected.keys()
