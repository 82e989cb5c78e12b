"""What a user has made of torch's modules and losses is obeyed, or refused: never left out."""

from __future__ import annotations

import copy
import math
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm
from torch.testing import assert_close

import forwardly as fw
from forwardly.network.alterations import alteration
from forwardly.network.kinds import SUPPORTED
from forwardly.network.step import Kernels

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))
HALF = torch.arange(20) < 10


def net(*behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 20), *(behind or (nn.ReLU(),)), nn.Linear(20, 3)).double()


def lesion(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output * HALF


def residual(_: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
    return output + 0.5 * given[0].sin()


def in_place(_: nn.Module, __: Any, output: Tensor) -> None:
    output[:, 10:] = 0


def before(_: nn.Module, given: tuple[Tensor]) -> Tensor:
    return given[0] * HALF


class Clip(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input.clamp(0, 0.2)


class Named(nn.Tanh):
    """A subclass that changes nothing."""


def _hooked(module: nn.Module, hook: Any, pre: bool = False) -> nn.Module:
    module.register_forward_pre_hook(hook) if pre else module.register_forward_hook(hook)
    return module


def _patched(module: nn.Module) -> nn.Module:
    module.forward = types.MethodType(lambda _, a: a.clamp(-0.1, 0.3), module)  # type: ignore[method-assign]
    return module


BEHIND: dict[str, Callable[[], list[nn.Module]]] = {
    "lesion by a hook": lambda: [_hooked(nn.ReLU(), lesion)],
    "lesion in place": lambda: [_hooked(nn.Identity(), in_place), nn.Tanh()],
    "residual hook": lambda: [_hooked(nn.Tanh(), residual)],
    "pre-hook": lambda: [_hooked(nn.ReLU(), before, pre=True)],
    "hook on dropout": lambda: [nn.ReLU(), _hooked(nn.Dropout(0.3), lesion)],
    "hook on batch norm": lambda: [_hooked(nn.BatchNorm1d(20, affine=False), lesion), nn.ReLU()],
    "hook on layer norm": lambda: [
        _hooked(nn.LayerNorm(20, elementwise_affine=False), lesion),
        nn.ReLU(),
    ],
    "subclass": lambda: [Clip()],
    "subclass that changes nothing": lambda: [Named()],
    "forward method of its own": lambda: [_patched(nn.Tanh())],
}
"""What stands behind a synapse, altered."""


def autograd(rule: fw.Rule) -> dict[str, Tensor]:
    """The gradient of the model as torch differentiates it, with the rule's dropout masks."""
    model = copy.deepcopy(rule.model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            step = rule.network.step(rule.noise)
            list(step.activities(step.prepare(X)))
            (mask,) = step._masks.values()
            hooks = dict(module._forward_hooks)
            module.p = 0
            module._forward_hooks.clear()
            module.register_forward_hook(lambda _, __, a, mask=mask: a * mask)
            for hook in hooks.values():
                module.register_forward_hook(hook)
    nn.functional.cross_entropy(model(X), Y).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("what", BEHIND)
def test_backprop_sees_alterations(what: str) -> None:
    rule = fw.Backprop(net(*BEHIND[what]()), nn.CrossEntropyLoss())
    expected = autograd(rule)
    assert_close(rule(X, Y).updates, expected)
    altered = copy.deepcopy(rule)
    optimizer = fw.LocalSGD(altered, 1.0)
    optimizer.step(X, Y)
    for name, parameter in rule.model.named_parameters():
        assert_close(altered.model.get_parameter(name), parameter - expected[name])


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("name", sorted({*fw.RULES} - {"forward-forward", "time-local-pepita"}))
def test_every_path_sees_alterations(what: str, name: str) -> None:
    """The fast path, the readable path, and where the hidden layer learns, the cut units do not."""
    kind: Any = fw.RULES[name]
    made = kind(net(*BEHIND[what]()), nn.CrossEntropyLoss(), generator=torch.Generator())
    before = copy.deepcopy(made)
    expected = made(X, Y).updates
    fw.LocalSGD(made, 1.0).step(X, Y)
    for key, parameter in before.model.named_parameters():
        moved = parameter - made.model.get_parameter(key)
        assert_close(moved, expected.get(key, torch.zeros_like(moved)), rtol=1e-9, atol=1e-11)
    own = ("node-perturbation", "weight-perturbation", "foton")  # noise, or orthogonal rows
    if "lesion" in what and "0.weight" in expected and name not in own:
        assert not expected["0.weight"][10:].any()
        assert expected["0.weight"][:10].any()


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("name", ["direct-feedback-alignment", "feedback-alignment"])
def test_derivatives_are_of_what_runs(what: str, name: str) -> None:
    """With the feedback that the network itself has, these rules give backprop's hidden update."""
    reference = fw.Backprop(net(*BEHIND[what]()), nn.CrossEntropyLoss(), generator=_generator())
    kind: Any = fw.RULES[name]
    rule = kind(reference.model, nn.CrossEntropyLoss(), generator=_generator())
    readout = rule.network.stages[-1].synapse.weight.detach()
    if name == "feedback-alignment":
        rule.get_buffer("B_2").copy_(readout)
    else:
        rule.get_buffer("B_1").copy_(readout.T)
    assert_close(rule(X, Y).updates["0.weight"], reference(X, Y).updates["0.weight"])


@pytest.mark.parametrize("what", BEHIND)
def test_tangents_are_of_what_runs(what: str) -> None:
    rule = fw.ReadoutOnly(net(*BEHIND[what]()), nn.CrossEntropyLoss(), generator=_generator())
    step, stage = rule.network.step(rule.noise), rule.network.stages[0]
    layer = next(step.activities(step.prepare(X)))
    change = torch.randn(X.shape, generator=_generator(), dtype=X.dtype)
    expected = torch.func.jvp(lambda a: next(step.activities(a)).h, (X,), (change,))[1]
    assert_close(step.tangent(stage, layer, change)[0], expected)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_class_that_is_patched_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, a: a.clamp(0, 0.2))
    rule = fw.Backprop(net(), nn.CrossEntropyLoss())
    assert rule.network.altered == "module '1' has a forward method of its own"
    assert_close(rule(X, Y).updates, autograd(rule))


def test_nothing_of_torchs_is_taken_for_an_alteration() -> None:
    made = [
        *(nn.Linear(2, 2), nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.LayerNorm(2)),
        *(nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.Unflatten(1, (1, 2)), nn.Threshold(0, 0)),
        *(nn.MaxPool1d(2), nn.MaxPool2d(2), nn.AvgPool1d(2), nn.AvgPool2d(2)),
        *(nn.AdaptiveMaxPool1d(2), nn.AdaptiveMaxPool2d(2)),
        *(nn.AdaptiveAvgPool1d(2), nn.AdaptiveAvgPool2d(2)),
    ]
    rest = {*SUPPORTED} - {type(module) for module in made}
    made += [kind() for kind in rest]
    assert len(made) == len(SUPPORTED) == 43
    assert [alteration(module) for module in made] == [""] * len(made)


class Lateral(nn.ReLU):
    """Not elementwise, and of another shape."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.cat([input, input], 1)


class Variational(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input * torch.rand_like(input)


class Weighed(nn.Conv1d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return 2 * super()._conv_forward(input, weight, bias)


def _pruned() -> nn.Module:
    linear = nn.Linear(6, 20)
    prune.random_unstructured(linear, "weight", 0.5)
    return linear


def _old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        return weight_norm(nn.Linear(6, 20))


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.exp()


def _parametrised(module: nn.Module, name: str = "weight") -> nn.Module:
    parametrize.register_parametrization(module, name, Positive())
    return module


def _backward_hook(module: nn.Module) -> nn.Module:
    module.register_full_backward_hook(lambda *_: None)
    return module


def _gradient_hook(module: nn.Linear, accumulated: bool = False) -> nn.Linear:
    if accumulated:
        module.weight.register_post_accumulate_grad_hook(lambda _: None)
    else:
        module.weight.register_hook(lambda gradient: 0 * gradient)
    return module


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(_pruned(), nn.Linear(20, 3)), "'0', Linear.*computed from others"),
        (lambda: nn.Sequential(_old_weight_norm(), nn.Linear(20, 3)), "computed from others"),
        (
            lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 3))),
            "remove_parametrizations",
        ),
        (lambda: nn.Sequential(_parametrised(nn.Linear(6, 3), "bias")), "computed from others"),
        (
            lambda: nn.Sequential(nn.Linear(6, 3), _parametrised(nn.PReLU()), nn.Linear(3, 3)),
            "ParametrizedPReLU, has modules of its own inside",
        ),
        (
            lambda: nn.Sequential(nn.Linear(6, 4), Variational(), nn.Linear(4, 3)),
            r"a Variational, changes the forward pass of nn\.Dropout",
        ),
        (lambda: nn.Sequential(Weighed(1, 1, 1)), "a Weighed, changes the forward"),
        (lambda: nn.Sequential(_patched(nn.Linear(6, 3))), "changes the forward pass of nn.Linear"),
        (lambda: _patched(net()), r"must be an nn\.Sequential; given Sequential"),
        (lambda: _hooked(net(), lesion), "the model is an nn.Sequential with a hook"),
        (
            lambda: nn.Sequential(_hooked(net(), lesion)),
            "module '0' is an nn.Sequential with a hook.*register the hook on one of these",
        ),
        (lambda: nn.Sequential(_backward_hook(nn.Linear(6, 3))), "'0' has a backward hook"),
        (lambda: _backward_hook(net()), "the model has a backward hook"),
        (lambda: nn.Sequential(_gradient_hook(nn.Linear(6, 3))), "'0.weight' has a gradient hook"),
        (
            lambda: nn.Sequential(_gradient_hook(nn.Linear(6, 3), accumulated=True)),
            "change .grad between accumulate and the optimizer's step",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused(model: Callable[[], nn.Module], message: str) -> None:
    for kind in (fw.PEPITA, fw.Backprop, fw.ReadoutOnly):
        with pytest.raises((TypeError, ValueError), match=message):
            kind(model(), nn.CrossEntropyLoss())


def test_what_is_not_elementwise_is_refused() -> None:
    rule = fw.ReadoutOnly(
        nn.Sequential(nn.Linear(6, 10), Lateral(), nn.Linear(20, 3)).double(), nn.CrossEntropyLoss()
    )
    with pytest.raises(
        ValueError, match=r"synapse '0' must be elementwise.*\(32, 20\).*\(32, 10\)"
    ):
        rule(X, Y)


@pytest.mark.parametrize("name", fw.RULES)
def test_hooks_on_a_synapse_may_look(name: str) -> None:
    """And see each pass with its own input and output; what they would change is refused."""
    kind: Any = fw.RULES[name]
    rule = kind(net(), nn.CrossEntropyLoss(), generator=_generator())
    expected = rule(X, Y).updates
    seen: list[tuple[Tensor, Tensor]] = []
    handle = rule.model[0].register_forward_hook(lambda _, a, z: seen.append((a[0], z)))
    assert_close(rule(X, Y).updates, expected)
    passes = 1 if rule.forward_passes == 2 and not rule.compares_passes else rule.forward_passes
    assert len(seen) == passes
    assert_close(seen[0][1], nn.functional.linear(seen[0][0], *rule.model[0].parameters()))
    handle.remove()
    for hook in (lesion, in_place):
        handle = rule.model[0].register_forward_hook(hook)
        with pytest.raises(TypeError, match="a hook changes what goes into or comes out of"):
            rule(X, Y)
        handle.remove()
    rule.model[2].register_forward_pre_hook(before)
    with pytest.raises(TypeError, match="the synapse '2'"):
        fw.LocalSGD(rule, 0.1).step(X, Y)


def test_hooks_on_all_modules_are_refused_but_torchs_own() -> None:
    from torch.nn.modules.module import register_module_forward_hook
    from torch.utils.flop_counter import FlopCounterMode

    rule = fw.PEPITA(net(), nn.CrossEntropyLoss())
    with FlopCounterMode(display=False):
        rule(X, Y)
    handle = register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ValueError, match="a hook on all modules"):
            fw.PEPITA(net(), nn.CrossEntropyLoss())
        with pytest.raises(ValueError, match="a hook on all modules"):
            rule(X, Y)
    finally:
        handle.remove()
    rule(X, Y)


class Opposed(fw.PEPITA):  # pyright: ignore[reportGeneralTypeIssues]
    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return -super().error(output, target)


def test_what_is_made_of_a_rule() -> None:
    """A subclass is obeyed; of hooks and methods of an instance not every path would know."""
    rule = Opposed(net(), nn.CrossEntropyLoss(), generator=_generator())
    expected = rule(X, Y).updates
    other = fw.PEPITA(net(), nn.CrossEntropyLoss(), generator=_generator())
    assert_close(expected["2.bias"], -other(X, Y).updates["2.bias"])
    before = copy.deepcopy(rule.model)
    fw.LocalSGD(rule, 1.0).step(X, Y)
    for name, parameter in before.named_parameters():
        assert_close(parameter - rule.model.get_parameter(name), expected[name])
    other.error = rule.error
    for step in (other, other.accumulate, fw.LocalSGD(other, 0.1).step):
        with pytest.raises(ValueError, match=r"method error was replaced.*pass error="):
            step(X, Y)


def test_hooks_on_a_rule_are_refused() -> None:
    """Only one of the ways to call it would call them."""
    rule = fw.PEPITA(net(), nn.CrossEntropyLoss())
    for register in (
        lambda: rule.register_forward_hook(lambda *_: None),
        lambda: rule.register_forward_pre_hook(lambda *_: None),
        lambda: rule.register_full_backward_hook(lambda *_: None),
    ):
        handle = register()
        for step in (rule, rule.accumulate, fw.LocalSGD(rule, 0.1).step):
            with pytest.raises(ValueError, match="the rule has a hook, which accumulate"):
                step(X, Y)
        handle.remove()
    rule(X, Y)


def test_compiled_epochs_are_for_unaltered_networks() -> None:
    with pytest.raises(TypeError, match=r"no compiled training.*module '1' has a hook"):
        fw.CompiledTraining(fw.PEPITA(net(_hooked(nn.ReLU(), lesion)), nn.CrossEntropyLoss()))
    training = fw.CompiledTraining(rule := fw.PEPITA(net(), nn.CrossEntropyLoss()))
    rule.model[1].register_forward_hook(lesion)
    for use in (lambda: training.train(X, Y, learning_rate=0.1), training.write_back):
        with pytest.raises(ValueError, match="changed since its weights were copied"):
            use()


class Focal(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input, target) ** 2


class Plain(nn.CrossEntropyLoss):
    """A subclass that changes nothing."""


@pytest.mark.parametrize("kind", [fw.Backprop, fw.PEPITA, fw.ForwardForward])
def test_losses_that_are_something_else(kind: Any) -> None:
    losses = [Focal(), _patched(nn.CrossEntropyLoss()), _hooked(nn.CrossEntropyLoss(), lesion)]
    for loss in losses:
        with pytest.raises(TypeError, match=r"changes what nn\.CrossEntropyLoss computes.*error="):
            kind(net(), loss)
    expected = kind(net(), nn.CrossEntropyLoss(), generator=_generator())(X, Y)
    assert_close(kind(net(), Plain(), generator=_generator())(X, Y), expected)


def test_a_loss_that_changes_is_seen() -> None:
    rule = fw.Backprop(net(), nn.CrossEntropyLoss())
    rule.loss = nn.MSELoss()
    target = torch.rand(32, 3, dtype=torch.float64)
    assert_close(rule(X, target).error, rule.model(X).detach() - target)
    rule.loss = nn.CrossEntropyLoss()
    rule.loss.label_smoothing = 0.3
    assert_close(rule(X, Y).loss, rule.loss(rule.model(X), Y).detach())
    rule.loss.weight = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"weight=.* is not supported"):
        rule(X, Y)
    rule.loss = Focal()
    with pytest.raises(TypeError, match="changes what nn"):
        fw.LocalSGD(rule, 0.1).step(X, Y)


GROUPS: list[dict[str, Any]] = [
    {"maximize": True},
    {"maximize": True, "momentum": 0.9, "weight_decay": 0.1},
    {"maximize": True, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
    {"dampening": 0.5},
    {"foreach": True, "momentum": 0.5},
    {"lr": torch.tensor(0.2)},
]


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("how", ["given", "set", "loaded"])
def test_settings_of_a_group_are_obeyed(group: dict[str, Any], how: str) -> None:
    ours, theirs = (fw.PEPITA(net(), nn.CrossEntropyLoss(), generator=_generator()) for _ in "ab")

    def groups(rule: fw.Rule) -> list[dict[str, Any]]:
        return [{"params": list(rule.model.parameters()), **group}]

    sgd = torch.optim.SGD(groups(theirs), 0.1)
    if how == "given":
        local = fw.LocalSGD(ours, 0.1, params=groups(ours))
    else:
        local = fw.LocalSGD(ours, 0.1)
        if how == "set":
            local.param_groups[0].update(group)
        else:
            local.load_state_dict(sgd.state_dict())
    for _ in range(3):
        sgd.zero_grad()
        theirs.accumulate(X, Y)
        sgd.step()
        local.step(X, Y)
    assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"betas": (0.9, 0.99)}, "has the settings dampening, lr, .*unknown: betas"),
        ({"differentiable": True}, "unknown: differentiable"),
        ({"lr": -1.0}, "lr must be at least 0; given -1"),
        ({"lr": "fast"}, "lr must be a number; given 'fast'"),
        ({"lr": torch.tensor([0.1, 0.2])}, "lr must be a number; given tensor"),
        ({"momentum": math.nan}, "momentum must be at least 0; given nan"),
        ({"dampening": math.inf}, "dampening must be finite; given inf"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.5}, "and no dampening"),
    ],
)
def test_settings_of_a_group_that_are_refused(change: dict[str, Any], message: str) -> None:
    rule = fw.PEPITA(net(), nn.CrossEntropyLoss())
    before = copy.deepcopy(rule.state_dict())
    local = fw.LocalSGD(rule, 0.1)
    local.param_groups[0].update(change)
    with pytest.raises((TypeError, ValueError), match=message):
        local.step(X, Y)
    assert_close(rule.state_dict(), before, rtol=0, atol=0)


def test_settings_of_another_optimizer_are_refused() -> None:
    rule = fw.PEPITA(net(), nn.CrossEntropyLoss())
    local = fw.LocalSGD(rule, 0.1)
    local.load_state_dict(torch.optim.Adam(rule.model.parameters()).state_dict())
    with pytest.raises(ValueError, match="missing or unknown: amsgrad, betas"):
        local.step(X, Y)


CHAINED = ("backprop", "error-broadcast", "feedback-alignment", "kolen-pollack")
"""Rules whose readout learns from the error times the derivative of what follows it."""


@pytest.mark.parametrize("name", fw.RULES)
def test_an_output_that_is_activated_is_told_of(name: str) -> None:
    """Rules that learn their readout from e itself cannot be compared with backprop there."""
    model = nn.Sequential(*net(), nn.Sigmoid())
    loss = nn.CrossEntropyLoss() if name == "forward-forward" else nn.MSELoss()
    target = Y if name == "forward-forward" else torch.rand(32, 3, dtype=torch.float64)
    perturbed = "perturbation" in name
    chained = perturbed or "symmetry" in name or name in CHAINED
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rule = fw.RULES[name](model, loss)
        rule.look()
    told = [str(one.message) for one in caught if "ends in Sigmoid()" in str(one.message)]
    assert len(told) == (not chained)
    if name in ("hebbian-pepita", "time-local-pepita") or perturbed:
        return
    credit = rule(X, target)
    slope = credit.output * (1 - credit.output) if chained else 1
    assert_close(credit.updates["2.bias"], (credit.error * slope).mean(0))


def halved(*args: Any) -> Tensor:
    return 0.5 * args[-1]


def test_kernels_leave_an_altered_module_to_itself() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model.append(nn.Linear(18, 3))
    model[2].register_forward_hook(halved)
    rule, x = fw.PEPITA(model, nn.CrossEntropyLoss(), input_shape=(1, 8, 8)), torch.rand(4, 1, 8, 8)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the kernel was taken for a module with a hook")

    step = rule.begin_step(Kernels(max_pool=refuse))
    *_, last = step.activities(step.prepare(x))
    assert_close(last.h, model(x))
