"""PEPITA's compiled whole step: what the readable rule does, and only where it may be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import forwardly as fw
from forwardly.fast.cpu_step import descent, shallow_kernel
from forwardly.fast.threads import pool

pytestmark = pytest.mark.skipif(
    pool() is None or not shallow_kernel.suits_processor(),
    reason="needs GNU's OpenMP and AVX2",
)

N, D, UNITS, K = 66, 600, 130, 10


def network(
    d: int = D, units: int = UNITS, k: int = K, *between: nn.Module, bias: bool = False
) -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.Linear(units, k, bias=bias)
    return nn.Sequential(nn.Flatten(), nn.Linear(d, units, bias=bias), nn.ReLU(), *between, last)


def batch(n: int = N, d: int = D, k: int = K) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return torch.rand(n, d, generator=numbers), torch.randint(k, (n,), generator=numbers)


def rule_of(model: nn.Module, **options: Any) -> fw.PEPITA:
    numbers = torch.Generator().manual_seed(2)
    given = {"loss": nn.CrossEntropyLoss(), "projection": fw.feedback.uniform(1.0), **options}
    return fw.PEPITA(model, generator=numbers, **given)


@pytest.fixture(params=["descent", "torch"])
def taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each step that was the kernel's, whoever then takes the step on W₁."""
    steps: list[int] = []
    monkeypatch.setattr(descent, "suits_processor", lambda: request.param == "descent")
    original = shallow_kernel.step

    def counted(x: Tensor, *given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        steps.append(len(x))
        return original(x, *given, **options)

    monkeypatch.setattr(shallow_kernel, "step", counted)
    return steps


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def trained(
    make: Callable[[], fw.PEPITA], data: list[tuple[Tensor, Tensor]], **options: Any
) -> tuple[fw.PEPITA, fw.LocalSGD, list[fw.Credit]]:
    rule = make()
    optimizer = fw.LocalSGD(rule, lr=0.1, **options)
    return rule, optimizer, [optimizer.step(*batch) for batch in data]


def assert_same_training(
    make: Callable[[], fw.PEPITA],
    data: list[tuple[Tensor, Tensor]],
    still: tuple[str, ...] = (),
    **options: Any,
) -> None:
    ours, theirs = (trained(make, data, fast=fast, **options) for fast in (True, False))
    for credit, expected in zip(ours[2], theirs[2], strict=True):
        assert credit.updates == {}
        torch.testing.assert_close(credit[1:], expected[1:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours[0].state_dict(), theirs[0].state_dict(), rtol=1e-3, atol=3e-5)
    torch.testing.assert_close(
        ours[1].state_dict()["state"], theirs[1].state_dict()["state"], rtol=1e-3, atol=3e-5
    )
    before = make().state_dict()
    for name, weight in ours[0].model.state_dict().items():
        changed = (weight - before[f"model.{name}"]).abs().max()
        assert (changed == 0) if name in still else (changed > 3e-4), name


SIZES = [
    (70, 480, 160, 10),  # whole tiles only
    (66, 1033, 131, 7),  # rows, columns and a strip that fill none
    (140, 600, 130, 10),  # two blocks of columns
    (71, 16384, 5, 3),  # fewer units than a thread's tile
]
OPTIONS = [
    {},
    {"sign": -1},
    {"output_error": "second"},
    {"presynaptic": "clean"},
    {"presynaptic": "clean", "output_error": "second", "sign": -1},
]


@pytest.mark.parametrize(
    ("n", "d", "units", "k", "options", "threads"),
    [  # sizes, options and threads: each pair
        (*sizes, options, 1 + (i + j) % 3)
        for i, sizes in enumerate(SIZES)
        for j, options in enumerate(OPTIONS)
    ],
    indirect=["threads"],
    ids=str,
)
def test_equals_the_readable_rule(
    n: int, d: int, units: int, k: int, options: dict[str, Any], threads: int, taken: list[int]
) -> None:
    data = [batch(n, d, k)] * 3
    assert_same_training(lambda: rule_of(network(d, units, k), **options), data, momentum=0.9)
    assert taken == [n] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.5, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "weight_decay": 0.01, "nesterov": True},
    ],
    ids=str,
)
def test_descends_as_it_is_told(settings: dict[str, Any], taken: list[int]) -> None:
    assert_same_training(lambda: rule_of(network()), [batch()] * 3, **settings)
    assert len(taken) == 3


def test_layers_may_have_settings_of_their_own(taken: list[int]) -> None:
    found: list[list[Tensor]] = []
    for fast in (True, False):
        rule = rule_of(network())
        first, last = rule.model.parameters()
        own = {"momentum": 0.5, "weight_decay": 0.05, "nesterov": True}
        groups = [{"params": [first], "lr": 0.3}, {"params": [last], **own}]
        optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9, params=groups, fast=fast)
        for _ in range(3):
            optimizer.step(*batch())
        found.append([first, last])
    torch.testing.assert_close(*found, rtol=1e-3, atol=3e-5)
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("frozen", "output_error", "threads"),
    [
        (frozen, output_error, 1 + (i + j) % 3)
        for i, frozen in enumerate([(), ("1.bias",), ("3.bias",)])
        for j, output_error in enumerate(["first", "second"])
    ],
    indirect=["threads"],
    ids=str,
)
def test_biases_are_added_and_learn(
    output_error: str, frozen: tuple[str, ...], taken: list[int], threads: int
) -> None:
    def make() -> fw.PEPITA:
        model = network(bias=True)
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        return rule_of(model, output_error=output_error)

    assert_same_training(make, [batch()] * 3, momentum=0.9, weight_decay=0.01, still=frozen)
    assert len(taken) == 3


def test_one_layer_alone_may_have_a_bias(taken: list[int]) -> None:
    for biases in ((True, False), (False, True)):

        def make(biases: tuple[bool, bool] = biases) -> fw.PEPITA:
            torch.manual_seed(0)
            first, last = nn.Linear(D, UNITS, biases[0]), nn.Linear(UNITS, K, biases[1])
            return rule_of(nn.Sequential(first, nn.ReLU(), last))

        assert_same_training(make, [batch()] * 2, momentum=0.9)
    assert len(taken) == 4


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("output_error", ["first", "second"])
def test_dropout_has_the_same_masks(output_error: str, taken: list[int], threads: int) -> None:
    def make() -> fw.PEPITA:
        return rule_of(network(D, UNITS, K, nn.Dropout(0.3)), output_error=output_error)

    assert_same_training(make, [batch()] * 3, momentum=0.9)
    assert len(taken) == 3


def test_batches_may_change_in_size(taken: list[int]) -> None:
    """Say, the last of an epoch; those that fill no tile, or no cache, go the general way."""
    x, target = batch(1030)
    data = [(x[:n], target[:n]) for n in (66, 70, 5, 1030, 66)]
    assert_same_training(lambda: rule_of(network()), data, momentum=0.9)
    assert taken == [66, 70, 66]


def test_inputs_may_lie_otherwise_in_memory(taken: list[int]) -> None:
    x, target = batch()
    scattered = target.repeat_interleave(2)[::2]
    for given in (
        (x.T.contiguous().T, target),
        (x.reshape(N, 3, 10, 20).transpose(1, 2), target),
        (x, scattered),
    ):
        assert_same_training(lambda: rule_of(network()), [given], momentum=0.9)
    assert len(taken) == 3


def hooked() -> fw.PEPITA:
    model = network()
    model[2].register_forward_hook(lambda *_: None)
    return rule_of(model)


def frozen() -> fw.PEPITA:
    model = network()
    model[1].requires_grad_(False)
    return rule_of(model)


def other(hidden: nn.Linear, *following: nn.Module) -> fw.PEPITA:
    return rule_of(nn.Sequential(hidden, *following))


def linear(inputs: int, units: int) -> nn.Linear:
    return nn.Linear(inputs, units, bias=False)


OTHERS: dict[str, Callable[[], fw.PEPITA]] = {
    "a hook wants to see the activity": hooked,
    "a weight is frozen": frozen,
    "label smoothing": lambda: rule_of(network(), loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "an error of one's own": lambda: rule_of(network(), error=lambda y, _: 0 * y),
    "tanh": lambda: other(linear(D, UNITS), nn.Tanh(), linear(UNITS, K)),
    "two hidden layers": lambda: rule_of(network(D, UNITS, K, linear(UNITS, UNITS), nn.ReLU())),
    "a rectified output": lambda: other(linear(D, UNITS), nn.ReLU(), linear(UNITS, K), nn.ReLU()),
    "a small weight": lambda: rule_of(network(D, 16)),
    "few samples and outputs": lambda: rule_of(network(D, UNITS, 2)),
}


@pytest.mark.parametrize("why", OTHERS)
def test_other_steps_go_the_general_way(why: str, taken: list[int]) -> None:
    rule = OTHERS[why]()
    k = 2 if "few" in why else K
    n = 20 if "few" in why else N
    credit = fw.LocalSGD(rule, lr=0.1, momentum=0.9).step(*batch(n, D, k))
    assert taken == []
    assert credit.output.shape == (n, k)


def test_so_do_other_settings(taken: list[int]) -> None:
    for options in ({"momentum": 0.0}, {"momentum": 0.9, "fast": False}):
        fw.LocalSGD(rule_of(network()), lr=0.1, **options).step(*batch())
    x, target = batch()
    fw.LocalSGD(rule_of(network()).double(), lr=0.1, momentum=0.9).step(x.double(), target)
    soft = nn.functional.one_hot(target, K).float()
    fw.LocalSGD(rule_of(network()), lr=0.1, momentum=0.9).step(x, soft)
    with FlopCounterMode(display=False):  # which sees torch's own operations only
        fw.LocalSGD(rule_of(network()), lr=0.1, momentum=0.9).step(x, target)
    assert taken == []


def test_mistakes_are_refused_and_change_nothing(taken: list[int]) -> None:
    rule = rule_of(network(D, UNITS, K, nn.Dropout(0.3)))
    optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9)
    x, target = batch()
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    wrong = target.clone()
    wrong[3] = K
    with pytest.raises(ValueError, match=r"class indices must be 0 to 9.*the target has 10"):
        optimizer.step(x, wrong)
    with pytest.raises(ValueError, match="needs an input of shape"):
        optimizer.step(x[:, :-1], target)
    with pytest.raises(TypeError, match="the input is torch"):
        optimizer.step(x.double(), target)
    with pytest.raises(ValueError, match="NaN or an infinity"):
        optimizer.step(x / 0, target)
    assert all(torch.equal(value, before[name]) for name, value in rule.state_dict().items())
    assert taken == []


def test_a_network_that_diverged_is_seen_to(taken: list[int]) -> None:
    """A NaN reaches the output, as it does in torch's rectifier."""
    rule = rule_of(network())
    with torch.no_grad():
        rule.model[1].weight[3, 5] = torch.nan
    credit = fw.LocalSGD(rule, lr=0.1, momentum=0.9).step(*batch())
    assert taken == [N]
    assert credit.output.isnan().all()
    assert credit.loss.isnan()
    assert credit.error.isnan().all()


def test_autograd_sees_that_weights_have_changed() -> None:
    rule = rule_of(network())
    for weight in rule.model.parameters():
        loss = (weight**2).sum()
        fw.LocalSGD(rule, lr=0.1, momentum=0.9).step(*batch())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()  # pyright: ignore[reportUnknownMemberType]


def test_steps_can_be_compiled_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(descent, "suits_processor", lambda: True)
    monkeypatch.setattr(descent, "prepare", lambda: compiled.append("descent"))
    monkeypatch.setattr(shallow_kernel, "prepare", lambda: compiled.append("step"))
    for model, options, expected in (
        (network(), {"momentum": 0.9}, ["step", "descent"]),
        (network(), {"momentum": 0.9, "fast": False}, []),
        (network(), {"momentum": 0.0}, []),
        (network(D, 16), {"momentum": 0.9}, []),
        (network(D, UNITS, K, linear(UNITS, UNITS), nn.ReLU()), {"momentum": 0.9}, ["descent"]),
    ):
        compiled.clear()
        optimizer = fw.LocalSGD(rule_of(model), lr=0.1, **options)
        before = {name: value.clone() for name, value in optimizer.rule.state_dict().items()}
        optimizer.prepare()
        assert compiled == expected
        after = optimizer.rule.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
