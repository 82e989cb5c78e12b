"""The laws that hold for every rule, as a kit: ``check_rule(MyRule)`` checks all of them.

A law is a function (make, case) that raises AssertionError where it does not hold. ``make`` builds
the rule, as its class does: make(model, loss, input_shape=…, generator=…). ``CASES`` are small
networks in float64, one for each thing that a stage may hold.
"""

# ruff: noqa: S101, since laws are assertions

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.testing import assert_close

from forwardly.network.normalisation import Normalise
from forwardly.network.share import Share
from forwardly.rule import Credit, Rule
from forwardly.rules.readout_only import ReadoutOnly

Factory = Callable[..., Rule]
"""What builds the rule under test: a rule's class, or what is called as one."""

Law = Callable[[Factory, "Case"], None]


@dataclass(frozen=True)
class Case:
    """A network with the shape of its inputs and a loss."""

    name: str
    layers: Callable[[], list[nn.Module]]
    input_shape: tuple[int, ...]
    outputs: int
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    per_sample: bool = True  # a sample's activity does not depend on the others'

    def model(self, seed: int = 0) -> nn.Sequential:
        """The network, its weights drawn from ``seed``."""
        with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
            # torch.manual_seed would take traces of the stack for every kind of device.
            torch.default_generator.manual_seed(seed)
            model = nn.Sequential(*self.layers()).double()
            for norm in model.modules():
                if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                    assert norm.running_mean is not None
                    norm.running_mean.uniform_(-1, 1)
        return model

    def batch(self, n: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
        """``n`` inputs and targets."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((n, *self.input_shape), generator=generator, dtype=torch.float64)
        if self.loss is nn.CrossEntropyLoss:
            return x, torch.randint(self.outputs, (n,), generator=generator)
        return x, torch.rand((n, self.outputs), generator=generator, dtype=torch.float64)

    def __str__(self) -> str:
        """Its name, for reports."""
        return self.name


CASES: list[Case] = [
    Case("one-layer", lambda: [nn.Linear(5, 3)], (5,), 3),
    Case(
        "dense",
        lambda: [
            *(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU()),
            nn.Linear(4, 3),
        ],
        (7,),
        3,
    ),
    Case(
        "regression",
        lambda: [nn.Linear(6, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 2)],
        (6,),
        2,
        nn.MSELoss,
    ),
    Case(
        "probabilities",
        lambda: [nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)],
        (2, 3),
        2,
        nn.BCEWithLogitsLoss,
    ),
    Case(
        "activated-output",
        lambda: [nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 2), nn.Sigmoid()],
        (6,),
        2,
        nn.MSELoss,
    ),
    Case(
        "dropout",
        lambda: [
            *(nn.Dropout(0.2), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(0.5)),
            nn.Sequential(nn.Linear(8, 7), nn.Sequential(nn.Dropout(0.3), nn.ELU())),
            nn.Linear(7, 3),
        ],
        (9,),
        3,
    ),
    Case(
        "conv2d",
        lambda: [
            *(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, (1, 2), groups=2, bias=False), nn.Tanh(), nn.Dropout2d(0.3)),
            *(nn.Flatten(), nn.Linear(6 * 2 * 1, 3)),
        ],
        (2, 9, 8),
        3,
    ),
    Case(
        "conv2d-padding",
        lambda: [
            *(nn.Unflatten(1, (1, 6, 5)), nn.Conv2d(1, 3, (2, 3), padding="same"), nn.SiLU()),
            *(nn.Conv2d(3, 2, 3, padding=(2, 1), padding_mode="reflect"), nn.ReLU()),
            nn.Conv2d(2, 2, 2, padding=1, padding_mode="circular", dilation=(2, 1)),
            *(nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(8, 2)),
        ],
        (30,),
        2,
    ),
    Case(
        "conv1d",
        lambda: [
            *(nn.Conv1d(3, 4, 3, stride=2, dilation=2), nn.Softplus(), nn.Dropout1d(0.4)),
            *(nn.AvgPool1d(2, padding=1), nn.Conv1d(4, 2, 2), nn.Flatten(), nn.Linear(4, 3)),
        ],
        (3, 13),
        3,
    ),
    Case(
        "conv-readout",
        lambda: [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 4, (3, 2)), nn.Flatten()],
        (1, 4, 3),
        4,
    ),
    Case(
        "layer-norm",
        lambda: [
            *(nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False), nn.ReLU()),
            nn.Linear(5, 3),
        ],
        (6,),
        3,
    ),
    Case(
        "normalise",
        lambda: [
            *(nn.Linear(6, 5), nn.ReLU(), Normalise(), nn.Linear(5, 4), nn.Tanh(), Normalise()),
            nn.Linear(4, 3),
        ],
        (6,),
        3,
    ),
    Case(
        "batch-norm",
        lambda: [
            *(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(12, 5), nn.BatchNorm1d(5, affine=False, momentum=None), nn.ReLU()),
            nn.Linear(5, 3),
        ],
        (2, 3, 3),
        3,
        per_sample=False,
    ),
]


def check_rule(
    make: Factory,
    *,
    exempt: Collection[str] = (),
    report: Callable[[str], None] | None = None,
    cases: Sequence[Case] | None = None,
) -> None:
    """Check every law on every network.

    Args:
        make: the rule's class, or a function that builds it the same way.
        exempt: names of laws that do not hold for this rule, by its definition.
        report: called with "law, case" before each check.
        cases: networks to check it on, of any form; those of ``CASES`` that it takes, if None.

    Raises:
        AssertionError: that says which law does not hold, and on which network.
        ValueError: if ``exempt`` names no law.
        RuntimeError: under ``python -O``, which leaves assertions out, so that all would hold.
    """
    if not __debug__:
        raise RuntimeError("the laws are assertions, which python -O leaves out: run without -O")
    unknown = set(exempt) - {law.__name__ for law in LAWS}
    if unknown:
        raise ValueError(
            f"no law is called {', '.join(sorted(unknown))}; the laws are "
            f"{', '.join(law.__name__ for law in LAWS)}"
        )
    laws = [law for law in LAWS if law.__name__ not in exempt]
    for law, case in product(laws, cases_for(make) if cases is None else cases):
        if report is not None:
            report(f"{law.__name__}, {case}")
        try:
            law(make, case)
        except AssertionError as failure:
            raise AssertionError(f"{law.__name__}, network {case}: {failure}") from failure


def cases_for(make: Factory) -> list[Case]:
    """The networks that the rule accepts: only classifiers if it is taught by labels."""
    if build(make, CASES[0]).teacher == "label":
        return [case for case in CASES if case.loss is nn.CrossEntropyLoss]
    return list(CASES)


def build(make: Factory, case: Case, seed: int = 0, loss: nn.Module | None = None) -> Rule:
    """The rule on the network of a case."""
    with outputs_may_be_activated():
        return make(
            case.model(seed),
            case.loss() if loss is None else loss,
            input_shape=case.input_shape,
            generator=torch.Generator().manual_seed(seed + 7),
        )


@contextmanager
def outputs_may_be_activated() -> Generator[None]:
    """No warning of models that end in an activation, as one of the cases does on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model ends in")
        yield


def without_dropout(rule: Rule) -> Rule:
    """The rule with its dropout modules switched off."""
    for module in rule.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            module.eval()
    return rule


def credit_has_the_contracts_form(make: Factory, case: Case) -> None:
    """Updates of the trained parameters, of their shapes and dtypes; no autograd graph anywhere."""
    rule, (x, target) = build(make, case), case.batch()
    credit = rule(x, target)
    assert set(credit.updates) == rule.trained | rule.learned.keys()
    parameters = {name: rule.parameter(name) for name in credit.updates}
    for name, update in credit.updates.items():
        assert update.shape == parameters[name].shape
        assert update.dtype == parameters[name].dtype
        assert not update.requires_grad
    places = {f"model.{name}" for name, _ in rule.model.named_parameters()}
    places |= {rule.place(name) for name in rule.learned}
    assert {name for name, _ in rule.named_parameters()} == places, "feedback is no parameter"
    assert credit.output.shape == credit.error.shape == (len(x), case.outputs)
    assert credit.loss.shape == ()
    assert not credit.loss.requires_grad
    if rule.teacher != "label":
        assert_close(credit.loss, case.loss()(credit.output, target))


def output_is_the_models(make: Factory, case: Case) -> None:
    """The clean pass is the model's own forward pass; so is ``predict``."""
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    if rule.teacher == "label":
        return
    # On a copy, as torch's own pass in training mode moves running statistics.
    assert_close(rule(x, target).output, copy.deepcopy(rule.model)(x))
    rule.eval()
    assert_close(rule(x, target).output, rule.model(x))
    assert_close(rule.predict(x), rule.model(x))


def nothing_is_changed(make: Factory, case: Case) -> None:
    """Calling a rule changes nothing, and does the same again."""
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
    """``accumulate`` adds the updates to ``.grad``, and only those."""
    rule, (x, target) = build(make, case), case.batch()
    first = rule.accumulate(x, target)
    own = {**dict(rule.model.named_parameters()), **rule.learned}
    for name, parameter in own.items():
        if name in first.updates:
            assert parameter.grad is not None
            assert_close(parameter.grad, first.updates[name], rtol=0, atol=0)
        else:
            assert parameter.grad is None
    once = {name: update.clone() for name, update in first.updates.items()}
    second = rule.accumulate(x, target)
    for name, update in once.items():
        assert_close(rule.parameter(name).grad, update + second.updates[name])


def no_error_no_update(make: Factory, case: Case) -> None:
    """Where the error teaches, a network without error stays as it is."""
    if build(make, case).teacher == "label":
        return
    rule = build(make, case, loss=nn.MSELoss())
    x, _ = case.batch()
    target = rule(x, torch.zeros(len(x), case.outputs, dtype=torch.float64)).output
    credit = rule(x, target)
    assert not credit.error.any()
    last = rule.network.stages[-1].name
    for name, update in credit.updates.items():
        if rule.teacher == "error" or name.startswith(f"{last}."):
            assert not update.any(), name


def batch_is_the_mean_of_its_samples(make: Factory, case: Case) -> None:
    """The update for a batch is the mean of those for its samples."""
    if not case.per_sample:
        return
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    whole = rule(x, target).updates
    singles = [rule(x[i : i + 1], target[i : i + 1]).updates for i in range(len(x))]
    for name, update in whole.items():
        assert update.any(), f"{name} has no update, which shows nothing"
        assert_close(update, torch.stack([single[name] for single in singles]).mean(0))


def shares_add_up_to_the_batch(make: Factory, case: Case) -> None:
    """What shares of a batch say, weighted by their samples, is what the batch says.

    With dropout and the rule's own random numbers, which belong to a sample's place in the batch.
    """
    rule, (x, target) = build(make, case), case.batch()
    if rule.needs_whole_batch or not case.per_sample:
        return
    rule.check_batch(x, target)
    n = len(x)
    shares = [Share(0, n - 2, n), Share(n - 2, 2, n)]
    (whole, moved), parts = rule.run(x, target), [rule.run_share(x, target, s) for s in shares]

    def together(values: list[Tensor]) -> Tensor:
        return sum(
            (value * (share.count / n) for value, share in zip(values, shares, strict=True)),
            torch.zeros_like(values[0]),
        )

    for name, update in whole.updates.items():
        assert_close(together([part.updates[name] for part, _ in parts]), update)
    for name, value in moved.items():
        if value.is_floating_point():
            assert_close(together([buffers[name] for _, buffers in parts]), value)
    assert_close(torch.cat([part.output for part, _ in parts]), whole.output)
    assert_close(torch.cat([part.error for part, _ in parts]), whole.error)


def hidden_units_have_no_order(make: Factory, case: Case) -> None:
    """Permuting a dense net's hidden units permutes the updates with them."""
    rule, (x, target) = without_dropout(build(make, case)), case.batch()
    names = [stage.name for stage in rule.network.stages]
    synapses = [stage.synapse for stage in rule.network.stages]
    if (
        rule.network.graph is not None
        or len(names) < 2
        or not all(isinstance(synapse, nn.Linear) for synapse in synapses)
    ):
        return
    first, second = cast(list[nn.Linear], synapses[:2])
    before = rule(x, target).updates
    order = torch.randperm(first.out_features, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.copy_(parameter[order])
        second.weight.copy_(second.weight[:, order])
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
    with outputs_may_be_activated():
        readout = ReadoutOnly(rule.model, rule.loss, input_shape=case.input_shape)
    readout.noise = rule.noise
    expected = readout(x, target).updates
    for name, update in updates.items():
        if name in expected:
            assert update.any()
            assert_close(update, expected[name])
        else:
            assert not update.any()


def seeds_can_be_batched(make: Factory, case: Case) -> None:
    """``torch.vmap`` over stacked states gives the results of each rule alone."""
    rules = [build(make, case, seed) for seed in range(3)]
    x, target = case.batch()
    alone = [rule(x, target) for rule in rules]
    parameters, buffers = stack_module_state([*rules])

    def call(state: dict[str, Tensor]) -> Credit:
        return functional_call(rules[0], state, (x, target))

    together = vmap(call)({**parameters, **buffers})
    for i, credit in enumerate(alone):
        assert_close(together.output[i], credit.output)
        for name, update in credit.updates.items():
            assert_close(together.updates[name][i], update)


def state_can_be_saved(make: Factory, case: Case) -> None:
    """A rule that loads another's state computes what the other does."""
    rule, other, (x, target) = build(make, case, 0), build(make, case, 1), case.batch()
    rule.accumulate(x, target)
    other.load_state_dict(rule.state_dict())
    assert_close(other(x, target), rule(x, target), rtol=0, atol=0)


def precision_is_the_models(make: Factory, case: Case) -> None:
    """In single precision: updates in single precision, near those in double."""
    rule, (x, target) = build(make, case), case.batch()
    exact = rule(x, target)
    rule.float()
    single = rule(x.float(), target if target.dtype == torch.int64 else target.float())
    for name, update in single.updates.items():
        assert update.dtype == torch.float32
        assert_close(update.double(), exact.updates[name], rtol=1e-3, atol=1e-5)


def local_updates_are_derivatives(make: Factory, case: Case) -> None:
    """They are those of ⟨post, synapse(pre)⟩, averaged over the batch, for any post."""
    rule, (x, _) = build(make, case), case.batch()
    step = rule.network.step()
    layers = list(step.activities(step.prepare(x)))
    for stage, layer in zip(rule.network.stages, layers, strict=True):
        post = torch.randn(layer.z.shape, generator=torch.Generator().manual_seed(5)).double()
        parameters = {name: rule.model.get_parameter(name) for _, name in stage.part.parameters}
        mean = (stage.synapse(layer.pre.detach()) * post).sum() / len(x)
        gradients = torch.autograd.grad(mean, list(parameters.values()))
        updates = stage.synapse_update(post, layer.pre, samples=len(x))
        for name, gradient in zip(parameters, gradients, strict=True):
            assert_close(updates[name], gradient)


LAWS: list[Law] = [
    local_updates_are_derivatives,
    credit_has_the_contracts_form,
    output_is_the_models,
    nothing_is_changed,
    accumulate_adds_to_grad,
    no_error_no_update,
    batch_is_the_mean_of_its_samples,
    shares_add_up_to_the_batch,
    hidden_units_have_no_order,
    no_feedback_no_hidden_update,
    seeds_can_be_batched,
    state_can_be_saved,
    precision_is_the_models,
]
