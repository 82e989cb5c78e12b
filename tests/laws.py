"""What holds for every rule, as functions that raise AssertionError where it does not.

A law takes a factory (model, loss, generator, input_shape) → rule, so that a wrong version of a
rule can be put to the same laws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.testing import assert_close

import forwardly as fw
from zoo import Case

Factory = Callable[[nn.Module, nn.Module, torch.Generator, tuple[int, ...]], fw.Rule]


def build(make: Factory, case: Case, seed: int = 0, **changes: object) -> fw.Rule:
    loss = changes.get("loss", case.loss())
    assert isinstance(loss, nn.Module)
    return make(case.model(seed), loss, torch.Generator().manual_seed(seed + 7), case.input_shape)


def without_dropout(rule: fw.Rule) -> fw.Rule:
    for module in rule.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            module.eval()
    return rule


def credit_has_the_contracts_form(make: Factory, case: Case) -> None:
    rule, (x, target) = build(make, case), case.batch()
    credit = rule(x, target)
    parameters = dict(rule.model.named_parameters())
    last = rule.network.stages[-1].name
    expected = {
        name for name in parameters if rule.trains != "readout" or name.startswith(f"{last}.")
    }
    assert set(credit.updates) == expected
    for name, update in credit.updates.items():
        assert update.shape == parameters[name].shape
        assert update.dtype == parameters[name].dtype
        assert not update.requires_grad
    own = {f"model.{name}" for name in parameters}
    assert {name for name, _ in rule.named_parameters()} == own, "feedback is no parameter"
    assert credit.output.shape == credit.error.shape == (len(x), case.outputs)
    assert credit.loss.shape == ()
    assert not credit.loss.requires_grad
    assert_close(credit.loss, case.loss()(credit.output, target))


def output_is_the_models(make: Factory, case: Case) -> None:
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    # On a copy, as torch's own pass in training mode moves running statistics.
    assert_close(rule(x, target).output, copy.deepcopy(rule.model)(x))
    rule.eval()
    assert_close(rule(x, target).output, rule.model(x))
    assert_close(rule.predict(x), rule.model(x))


def nothing_is_changed(make: Factory, case: Case) -> None:
    rule, (x, target) = build(make, case), case.batch()
    before = copy.deepcopy((rule.state_dict(), x, target))
    grads = [p.grad for p in rule.parameters()]
    random = torch.random.get_rng_state()
    first, second = rule(x, target), rule(x, target)
    assert_close((rule.state_dict(), x, target), before, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert grads == [p.grad for p in rule.parameters()]
    assert [m.training for m in rule.modules()] == [True for _ in rule.modules()]
    assert_close(first, second, rtol=0, atol=0)


def accumulate_adds_to_grad(make: Factory, case: Case) -> None:
    rule, (x, target) = build(make, case), case.batch()
    first = rule.accumulate(x, target)
    for name, parameter in rule.model.named_parameters():
        if name in first.updates:
            assert parameter.grad is not None
            assert_close(parameter.grad, first.updates[name], rtol=0, atol=0)
        else:
            assert parameter.grad is None
    kept = {name: update.clone() for name, update in first.updates.items()}
    second = rule.accumulate(x, target)
    for name, update in kept.items():
        assert_close(rule.model.get_parameter(name).grad, update + second.updates[name])


def no_error_no_update(make: Factory, case: Case) -> None:
    rule = build(make, case, loss=nn.MSELoss())
    x, _ = case.batch()
    _, target = case.batch()
    target = rule(x, torch.zeros(len(x), case.outputs, dtype=torch.float64)).output
    credit = rule(x, target)
    assert not credit.error.any()
    for name, update in credit.updates.items():
        assert not update.any(), name


def batch_is_the_mean_of_its_samples(make: Factory, case: Case) -> None:
    if not case.per_sample:
        return
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    whole = rule(x, target).updates
    singles = [rule(x[i : i + 1], target[i : i + 1]).updates for i in range(len(x))]
    for name, update in whole.items():
        assert update.any(), f"{name} has no update, which shows nothing"
        assert_close(update, torch.stack([single[name] for single in singles]).mean(0))


def hidden_units_have_no_order(make: Factory, case: Case) -> None:
    """Permuting a dense net's hidden units permutes the updates with them."""
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    names = [stage.name for stage in rule.network.stages]
    linear = [rule.model.get_submodule(name) for name in names]
    if len(names) < 2 or not all(isinstance(module, nn.Linear) for module in linear):
        return
    before = rule(x, target).updates
    order = torch.randperm(linear[0].weight.shape[0], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        linear[0].weight.copy_(linear[0].weight[order])
        if linear[0].bias is not None:
            linear[0].bias.copy_(linear[0].bias[order])
        linear[1].weight.copy_(linear[1].weight[:, order])
    after = rule(x, target).updates
    for name, update in before.items():
        expected = update
        if name.startswith(f"{names[0]}."):
            expected = update[order]
        elif name == f"{names[1]}.weight":
            expected = update[:, order]
        assert_close(after[name], expected)


def no_feedback_no_hidden_update(make: Factory, case: Case) -> None:
    """With F = 0 only the readout learns, and as under ReadoutOnly."""
    rule, (x, target) = build(make, case), case.batch()
    if "F" not in dict(rule.named_buffers()):
        return
    rule.get_buffer("F").zero_()
    updates = rule(x, target).updates
    readout = fw.ReadoutOnly(rule.model, rule.loss)
    if rule.network.dropouts:
        readout.noise = rule.noise
    expected = readout(x, target).updates
    for name, update in updates.items():
        if name in expected:
            assert update.any()
            assert_close(update, expected[name])
        else:
            assert not update.any()


def seeds_can_be_batched(make: Factory, case: Case) -> None:
    rules = [build(make, case, seed) for seed in range(3)]
    x, target = case.batch()
    alone = [rule(x, target) for rule in rules]
    parameters, buffers = stack_module_state([*rules])

    def call(state: dict[str, Tensor]) -> fw.Credit:
        return functional_call(rules[0], state, (x, target))

    together = vmap(call)({**parameters, **buffers})
    for i, credit in enumerate(alone):
        assert_close(together.output[i], credit.output)
        for name, update in credit.updates.items():
            assert_close(together.updates[name][i], update)


def state_can_be_saved(make: Factory, case: Case) -> None:
    rule, other, (x, target) = build(make, case, 0), build(make, case, 1), case.batch()
    rule.accumulate(x, target)
    other.load_state_dict(rule.state_dict())
    assert_close(other(x, target), rule(x, target), rtol=0, atol=0)


def precision_is_the_models(make: Factory, case: Case) -> None:
    rule, (x, target) = build(make, case), case.batch()
    exact = rule(x, target)
    rule.float()
    single = rule(x.float(), target if target.dtype == torch.int64 else target.float())
    for name, update in single.updates.items():
        assert update.dtype == torch.float32
        assert_close(update.double(), exact.updates[name], rtol=1e-3, atol=1e-5)


def local_updates_are_derivatives(make: Factory, case: Case) -> None:
    """Of ⟨post, synapse(pre)⟩, the mean over the batch, for any post; whatever the padding."""
    rule, (x, _) = build(make, case), case.batch()
    step = rule.network.step()
    layers = list(step.activities(step.prepare(x)))
    for stage, layer in zip(rule.network.stages, layers, strict=True):
        post = torch.randn(layer.z.shape, generator=torch.Generator().manual_seed(5)).double()
        parameters = dict(stage.synapse.named_parameters())
        mean = (stage.synapse(layer.pre.detach()) * post).sum() / len(x)
        gradients = torch.autograd.grad(mean, list(parameters.values()))
        updates = stage.synapse_update(post, layer.pre)
        for name, gradient in zip(parameters, gradients, strict=True):
            assert_close(updates[f"{stage.name}.{name}"], gradient)


LAWS = [
    local_updates_are_derivatives,
    credit_has_the_contracts_form,
    output_is_the_models,
    nothing_is_changed,
    accumulate_adds_to_grad,
    no_error_no_update,
    batch_is_the_mean_of_its_samples,
    hidden_units_have_no_order,
    no_feedback_no_hidden_update,
    seeds_can_be_batched,
    state_can_be_saved,
    precision_is_the_models,
]
