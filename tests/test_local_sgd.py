"""LocalSGD ends where ``accumulate`` and torch's SGD do, for every rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

import forwardly as fw
from forwardly.audit.costs import peak_bytes
from forwardly.fast.algebra import ASSIGN, Assign
from forwardly.rule import Rule

DESCENTS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]
PEPITA_OPTIONS: list[dict[str, Any]] = [
    {},
    {"output_error": "second"},
    {"presynaptic": "clean", "sign": -1},
]


def dense() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = (nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 7))
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(7, 4, bias=False)).double(), (3, 4)


def convolutional() -> tuple[nn.Sequential, tuple[int, ...]]:
    first = nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(6, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(5, 4)
    return nn.Sequential(*first, *second).double(), (2, 4, 4)


def sequences() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = nn.Linear(5, 6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)
    return nn.Sequential(*layers).double(), (3, 5)


def build(name: str, make: Any, **options: Any) -> tuple[Rule, tuple[int, ...]]:
    model, shape = make()
    generator = torch.Generator().manual_seed(0)
    more: dict[str, Any] = {} if fw.RULES[name].feedback_path == "" else options
    kind: Any = fw.RULES[name]
    rule = kind(model, nn.CrossEntropyLoss(), input_shape=shape, generator=generator, **more)
    return rule, shape


def worst(a: Rule, b: Rule) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def train_both(
    rule: Rule, shape: tuple[int, ...], descent: dict[str, Any], fast: bool = True, steps: int = 3
) -> tuple[Rule, torch.optim.Optimizer, torch.optim.Optimizer]:
    ours = copy.deepcopy(rule)
    theirs = torch.optim.SGD(rule.parameters(), lr=0.05, **descent)
    local = fw.LocalSGD(ours, 0.05, **descent, fast=fast)
    numbers = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.rand(6, *shape, dtype=torch.float64, generator=numbers)
        target = torch.randint(4, (6,), generator=numbers)
        theirs.zero_grad()
        expected = rule.accumulate(x, target)
        theirs.step()
        credit = local.step(x, target)
        torch.testing.assert_close(credit.output, expected.output)
        torch.testing.assert_close(credit.loss, expected.loss)
        torch.testing.assert_close(credit.error, expected.error)
        assert credit.updates == {}
    return ours, theirs, local


@pytest.mark.parametrize("make", [dense, convolutional])
@pytest.mark.parametrize("name", fw.RULES)
def test_equals_accumulate_and_sgd(name: str, make: Any) -> None:
    for descent in DESCENTS:
        for options in PEPITA_OPTIONS if name == "pepita" else [{}]:
            rule, shape = build(name, make, **options)
            start = copy.deepcopy(rule)
            ours, _, _ = train_both(rule, shape, descent)
            assert worst(rule, start) > 1e-3
            assert worst(rule, ours) < 1e-12, (descent, options)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(5, 6), nn.Linear(6, 4)), (5,)),
        ((nn.Linear(5, 6), nn.Identity(), nn.Linear(6, 7), nn.Linear(7, 4)), (5,)),
        ((nn.Linear(5, 4),), (5,)),
        ((nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4)), (2, 4, 4)),
        ((nn.Conv2d(2, 3, 3), nn.MaxPool2d(1), nn.Flatten(), nn.Linear(12, 4)), (2, 4, 4)),
        ((nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 4)), (2, 4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", PEPITA_OPTIONS)
def test_activities_that_are_the_pre_activation_itself(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Where nothing follows a synapse, what the fast path writes over may still be needed."""
    model = nn.Sequential(*copy.deepcopy(layers)).double()
    rule, _ = build("pepita", lambda: (model, shape), **options)
    ours, _, _ = train_both(rule, shape, {"momentum": 0.9})
    assert worst(rule, ours) < 1e-12


@pytest.mark.parametrize("make", [dense, convolutional, sequences])
def test_fast_paths_can_be_switched_off(make: Any) -> None:
    for fast in (True, False):
        rule, shape = build("pepita", make)
        ours, _, _ = train_both(rule, shape, {"momentum": 0.9}, fast)
        assert worst(rule, ours) < 1e-12


def test_the_fast_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("fast")

    monkeypatch.setitem(ASSIGN, fw.PEPITA, Assign(refuse))
    rule, shape = build("pepita", dense)
    batch = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))
    with pytest.raises(RuntimeError, match="fast"):
        fw.LocalSGD(rule, 0.1).step(*batch)
    fw.LocalSGD(rule, 0.1, fast=False).step(*batch)


def test_fast_pepita_gives_the_same_credit() -> None:
    """The updates themselves, where no optimizer takes them."""
    for make in (dense, convolutional, sequences):
        for options in PEPITA_OPTIONS:
            rule, shape = build("pepita", make, **options)
            x, target = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))
            expected = rule(x, target)
            with torch.no_grad():
                credit = ASSIGN[fw.PEPITA].function(rule, x, target, rule.network.step(rule.noise))
            assert credit.updates.keys() == expected.updates.keys()
            torch.testing.assert_close(credit.updates, expected.updates, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("term", ["modulated", "clean"])
@pytest.mark.parametrize("make", [dense, convolutional, sequences])
def test_fast_mem_pepita_gives_the_same_credit(make: Any, term: str) -> None:
    rule, shape = build("mem-pepita", make, presynaptic=term)
    x, target = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))
    expected = rule(x, target)
    with torch.no_grad():
        credit = ASSIGN[fw.MemPEPITA].function(rule, x, target, rule.network.step(rule.noise))
    assert credit.updates.keys() == expected.updates.keys()
    torch.testing.assert_close(credit, expected, rtol=1e-12, atol=1e-13)


def test_fast_mem_pepita_holds_four_layers() -> None:
    """And no more in a deeper network; backprop holds them all."""
    n, units = 64, 256
    peaks: list[int] = []
    for depth in (8, 16):
        layers = [module for _ in range(depth) for module in (nn.Linear(units, units), nn.ReLU())]
        rule = fw.MemPEPITA(nn.Sequential(*layers, nn.Linear(units, 10)), nn.CrossEntropyLoss())
        local = fw.LocalSGD(rule, 0.1, 0.9)
        batch = torch.rand(n, units), torch.randint(10, (n,))
        local.step(*batch)
        peaks.append(peak_bytes(lambda local=local, batch=batch: [*local.step(*batch).updates]))
    assert peaks[0] == peaks[1]
    assert peaks[0] < 4.5 * n * units * 4


def test_the_fast_path_saves_a_product_with_the_input() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    n, d, h, k = 32, 500, 100, 10
    model = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, k, bias=False))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    batch = torch.rand(n, d), torch.randint(k, (n,))
    counts: list[int] = []
    for fast in (False, True):
        with FlopCounterMode(display=False) as counter:
            fw.LocalSGD(rule, 0.1, fast=fast).step(*batch)
        counts.append(counter.get_total_flops() // 2)
    readout_only_needed_once = n * h * k  # of the modulated pass
    # By the fast path the correction, n k h, F e and updates are added in place, which the counter
    # does not see.
    in_place = n * k * d + n * d * h + n * h * k
    saved = n * d * h - k * d * h + readout_only_needed_once + in_place
    assert counts[0] - counts[1] == saved


def test_parameters_of_no_group_stay() -> None:
    rule, shape = build("pepita", dense)
    before = copy.deepcopy(rule.model.state_dict())
    local = fw.LocalSGD(rule, 0.1, 0.9, params=[rule.model.get_parameter("1.weight")])
    local.step(torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,)))
    changed = {
        name for name, value in rule.model.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"1.weight"}


def test_groups_have_rates_of_their_own() -> None:
    rule, shape = build("pepita", convolutional)
    other = copy.deepcopy(rule)
    x, target = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))

    def groups(of: Rule) -> list[dict[str, Any]]:
        first, *rest = of.model.parameters()
        return [{"params": [first], "lr": 0.001}, {"params": rest, "momentum": 0.5}]

    theirs = torch.optim.SGD(groups(rule), lr=0.1)
    rule.accumulate(x, target)
    theirs.step()
    fw.LocalSGD(other, 0.1, params=groups(other)).step(x, target)
    assert worst(rule, other) < 1e-13


def test_either_loads_what_the_other_saved() -> None:
    descent = {"momentum": 0.9, "weight_decay": 0.01}
    rule, shape = build("pepita", dense)
    ours, theirs, local = train_both(rule, shape, descent)
    crossed_theirs = torch.optim.SGD(rule.model.parameters(), lr=1.0, **descent)
    crossed_theirs.load_state_dict(local.state_dict())
    crossed_local = fw.LocalSGD(ours, 1.0)
    crossed_local.load_state_dict(theirs.state_dict())
    x, target = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))
    rule.model.zero_grad()
    rule.accumulate(x, target)
    crossed_theirs.step()
    crossed_local.step(x, target)
    assert worst(rule, ours) < 1e-12


@pytest.mark.parametrize("fast", [True, False])
def test_momenta_that_lie_otherwise_or_are_of_another_model(fast: bool) -> None:
    """Compiled steps read and write where a momentum of the weight's own layout would lie."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    local = fw.LocalSGD(rule, 0.1, 0.9, fast=fast)
    x, target = torch.rand(64, 256), torch.randint(10, (64,))
    local.step(x, target)
    other = copy.deepcopy(local)
    state = copy.deepcopy(local.state_dict())
    momentum = state["state"][0]["momentum_buffer"]
    state["state"][0]["momentum_buffer"] = momentum.T.contiguous().T
    other.load_state_dict(state)
    local.step(x, target)
    other.step(x, target)
    assert worst(local.rule, other.rule) < 1e-6
    state["state"][0]["momentum_buffer"] = momentum[:3]
    with pytest.raises(ValueError, match=r"momentum of shape \(3, 256\).* shape \(256, 256\)"):
        local.load_state_dict(state)
    local.step(x, target)
    other.step(x, target)
    assert worst(local.rule, other.rule) < 1e-6


def test_schedulers_work() -> None:
    rule, shape = build("readout-only", dense)
    local = fw.LocalSGD(rule, 0.1)
    scheduler = MultiStepLR(local, [1])
    batch = torch.rand(6, *shape, dtype=torch.float64), torch.randint(4, (6,))
    local.step(*batch)
    scheduler.step()
    assert local.param_groups[0]["lr"] == pytest.approx(0.01)
    before = rule.model[-1].weight.clone()
    update = rule(*batch).updates["6.weight"]
    local.step(*batch)
    torch.testing.assert_close(rule.model[-1].weight, before - 0.01 * update)


def test_batch_normalisation_and_dropout_move_on() -> None:
    layers = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, affine=False), nn.ReLU()
    model = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(6, 4)).double()
    rule = fw.PEPITA(model, nn.CrossEntropyLoss(), generator=torch.Generator().manual_seed(2))
    ours, _, _ = train_both(rule, (5,), {"momentum": 0.9})
    assert worst(rule, ours) < 1e-12
    assert rule.noise is not None
    assert int(rule.noise[1]) == 3


def test_a_refused_batch_changes_nothing() -> None:
    rule, shape = build("pepita", dense)
    local = fw.LocalSGD(rule, 0.1, 0.9)
    before = copy.deepcopy(rule.state_dict())
    with pytest.raises(ValueError, match="NaN"):
        local.step(torch.full((6, *shape), torch.nan, dtype=torch.float64), torch.zeros(6).long())
    with pytest.raises(ValueError, match="class indices"):
        local.step(torch.rand(6, *shape, dtype=torch.float64), torch.full((6,), 4))
    assert all(value.equal(before[name]) for name, value in rule.state_dict().items())
    assert not local.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "must be at least 0; given -1"),
        ({"lr": 0.1, "momentum": -0.1}, "must be at least 0"),
        ({"lr": 0.1, "weight_decay": -0.1}, "must be at least 0"),
        ({"lr": 0.1, "nesterov": True}, "nesterov needs a momentum"),
        ({"lr": "fast"}, "lr must be a number; given 'fast'"),
        ({"lr": torch.ones(2)}, "lr must be a number; given tensor"),
        ({"lr": 0.1, "momentum": None}, "momentum must be a number; given None"),
        ({"lr": torch.inf}, "lr must be at least 0; given inf"),
    ],
)
@pytest.mark.unchecked
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    rule, _ = build("pepita", dense)
    with pytest.raises((TypeError, ValueError), match=message):
        fw.LocalSGD(rule, **options)


@pytest.mark.unchecked
def test_it_takes_a_rule() -> None:
    model, _ = dense()
    for given, what in ((model, "Sequential"), (model.parameters(), "generator")):
        with pytest.raises(TypeError, match=f"rule must be of class Rule; given is {what}"):
            fw.LocalSGD(given, 0.1)


@pytest.mark.unchecked
@pytest.mark.parametrize("quicker", [False, True])
@pytest.mark.parametrize("name", [n for n, rule in fw.RULES.items() if rule.updates_at_once])
def test_nothing_later_in_a_step_asks_for_a_layers_weights(name: str, quicker: bool) -> None:
    """So an update may be applied at once: here each makes its layer's weights unusable."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 4), nn.ReLU()),
        nn.Linear(4, 3),
    )
    rule: Any = fw.RULES[name](model, nn.CrossEntropyLoss())
    x, target = torch.randn(7, 6), torch.randint(3, (7,))
    expected, found = rule(x, target).updates, dict[str, torch.Tensor]()

    def apply(stage: Any, post: Any, pre: Any, less: Any) -> None:
        found.update(rule.network.step().update(stage, post, pre, less))
        for parameter in stage.synapse.parameters():
            parameter.fill_(torch.nan)

    assign = ASSIGN[type(rule)].function if quicker and type(rule) in ASSIGN else type(rule).assign
    with torch.no_grad():
        credit = assign(rule, x, target, rule.begin_step(apply=apply))
    found.update(credit.updates)
    assert found.keys() == expected.keys()
    for parameter, update in expected.items():
        torch.testing.assert_close(found[parameter], update, rtol=1e-4, atol=1e-6)
