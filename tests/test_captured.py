"""Captured steps end where those end that are not, whatever happens between them.

CUDA's graphs are played by the processor, see ``graphs``.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import forwardly as fw
from cuda_graphs import Graphs, Played, graphs
from forwardly.fast import find
from forwardly.fast.cuda.watch import Watch
from test_laws import FACTORIES
from test_local_sgd import DESCENTS

__all__ = ["graphs"]

CLASSES, SAMPLES, PIXELS = 3, 8, (2, 4, 4)


def dense() -> nn.Sequential:
    layers = nn.Flatten(), nn.Linear(32, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 5), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(5, CLASSES))


def convolutional() -> nn.Sequential:
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, CLASSES))


def batches(count: int, samples: int = SAMPLES, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(samples, *PIXELS, dtype=torch.float64, generator=numbers),
            torch.randint(CLASSES, (samples,), generator=numbers),
        )
        for _ in range(count)
    ]


def made(
    name: str = "pepita", model: Callable[[], nn.Sequential] = dense, **descent: Any
) -> tuple[fw.Rule, fw.LocalSGD]:
    """A rule of a name; the same one for the same arguments."""
    torch.manual_seed(0)
    kind: Any = FACTORIES[name]
    network = model().double()
    own = torch.Generator().manual_seed(1)
    loss = nn.CrossEntropyLoss()
    rule = kind(network, loss, input_shape=PIXELS, generator=own)
    return rule, fw.LocalSGD(rule, **{"lr": 0.1, "momentum": 0.9, **descent})


def state(rule: fw.Rule, optimizer: fw.LocalSGD) -> list[Tensor]:
    momenta = [optimizer.state[p].get("momentum_buffer") for p in rule.parameters()]
    return [v.clone() for v in (*rule.state_dict().values(), *momenta) if v is not None]


def eager(optimizer: fw.LocalSGD) -> fw.LocalSGD:
    """The same optimizer without graphs."""
    engines: Any = optimizer._engines
    engines.graphs.failed = "not here"
    return optimizer


def step_by_step(optimizer: fw.LocalSGD, patch: pytest.MonkeyPatch) -> fw.LocalSGD:
    """The same in ``fit`` as on a device without graphs."""
    patch.setattr("forwardly.training.loop.why_not_launched", lambda _: "not here")
    return eager(optimizer)


def path_of(optimizer: fw.LocalSGD) -> find.Path:
    assert optimizer.path is not None
    return optimizer.path


def both(
    graphs: Graphs,
    change: Callable[[int, fw.Rule, fw.LocalSGD], Any] = lambda *_: None,
    steps: list[tuple[Tensor, Tensor]] | None = None,
    **options: Any,
) -> None:
    """Train with and without graphs; before each step there may be a change. Ends are equal."""
    steps = batches(8) if steps is None else steps
    ends = list[Any]()
    for captures in (False, True):
        rule, optimizer = made(**options)
        if not captures:
            eager(optimizer)
        seen = list[Any]()
        for number, (x, target) in enumerate(steps):
            change(number, rule, optimizer)
            if not captures:  # a state that was loaded has new engines
                eager(optimizer)
            seen.append(optimizer.step(x, target)[1:])
        assert str(optimizer.path).startswith("cuda_graph" if captures else "algebra")
        ends.append([seen, state(rule, optimizer)])
    assert_close(*ends, rtol=1e-12, atol=1e-14)
    assert graphs.replays


@pytest.mark.parametrize("model", [dense, convolutional])
@pytest.mark.parametrize("name", fw.RULES)
def test_every_rule(name: str, model: Any, graphs: Graphs) -> None:
    both(graphs, name=name, model=model)
    assert len(graphs) == 1
    assert graphs.replays == 8 - 3  # the first has no momentum yet, two more set libraries up


@pytest.mark.parametrize("descent", [*DESCENTS, {"momentum": 0.5, "dampening": 0.2}], ids=str)
@pytest.mark.parametrize("model", [dense, convolutional])
def test_every_descent(descent: dict[str, Any], model: Any, graphs: Graphs) -> None:
    dampening = descent.get("dampening", 0.0)
    settings = {n: v for n, v in descent.items() if n != "dampening"}

    def dampened(_: int, rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
        optimizer.param_groups[0] |= {"dampening": dampening, "maximize": dampening > 0}

    both(graphs, dampened, model=model, **{"momentum": 0.0, **settings})


CHANGES: dict[str, Callable[[int, fw.Rule, fw.LocalSGD], Any]] = {}
"""What happens before a step, after graphs of the steps before were captured."""


def change(what: Callable[[fw.Rule, fw.LocalSGD], Any]) -> None:
    CHANGES[what.__name__] = lambda number, rule, optimizer: (
        what(rule, optimizer) if number == 5 else None
    )


@change
def a_layer_is_frozen(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[1].requires_grad_(False)


@change
def another_rate_of_dropout(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[3].p = 0.6


@change
def no_more_dropout(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[3].eval()


@change
def another_activation(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[2] = nn.Sigmoid()


@change
def weights_elsewhere(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[1].weight.data = rule.model[1].weight.data.clone() + 0.1


@change
def weights_written_to(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.model[1].weight.data.mul_(0.5)


@change
def a_weight_replaced(rule: Any, optimizer: fw.LocalSGD) -> None:
    rule.model[6].weight = nn.Parameter(rule.model[6].weight.detach() * 2)
    optimizer.param_groups[0]["params"] = list(rule.parameters())


@change
def another_order_of_weights(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    weight = rule.model[1].weight
    weight.data = weight.data.T.contiguous().T


@change
def feedback_elsewhere(rule: Any, optimizer: fw.LocalSGD) -> None:
    rule.F = -rule.F


@change
def an_option_of_the_rule(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.sign = -1


@change
def an_option_of_the_loss(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.loss.label_smoothing = 0.3


@change
def another_loss(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.loss = nn.CrossEntropyLoss(label_smoothing=0.2)


@change
def another_rate(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    optimizer.param_groups[0]["lr"] = 0.01


@change
def another_momentum(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    optimizer.param_groups[0]["momentum"] = 0.5


@change
def decay(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.1


@change
def two_groups(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    first, *others = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["params"] = others
    optimizer.add_param_group({"params": [first], "lr": 0.02})


@change
def no_momenta_any_more(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    optimizer.state.clear()


@change
def momenta_elsewhere(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    for own in optimizer.state.values():
        own["momentum_buffer"] = own["momentum_buffer"] * -1


@change
def a_state_loaded(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    saved = copy.deepcopy(optimizer.state_dict())
    for own in saved["state"].values():
        own["momentum_buffer"] += 0.1
    optimizer.load_state_dict(saved)


@change
def weights_loaded(rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
    rule.load_state_dict({name: value * 2 for name, value in rule.state_dict().items()})


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_steps_is_seen(name: str, graphs: Graphs) -> None:
    both(graphs, CHANGES[name])
    if name == "another_order_of_weights":
        return  # of the same numbers
    ends = list[Any]()
    for changes in (CHANGES[name], lambda *_: None):  # it does change something
        rule, optimizer = made()
        for number, (x, target) in enumerate(batches(8)):
            changes(number, rule, optimizer)
            optimizer.step(x, target)
        ends.append(state(rule, optimizer))
    with pytest.raises(AssertionError):
        assert_close(*ends, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("when", [1, 2, 5])
def test_another_state_is_the_one_that_is_kept(when: int, graphs: Graphs) -> None:
    """Momenta begin anew, and lie in it."""

    def replaced(number: int, _: fw.Rule, optimizer: fw.LocalSGD) -> None:
        if number == when:
            optimizer.state = defaultdict(dict)

    both(graphs, replaced, steps=batches(10))


def test_feedback_turned_round_where_it_lies_is_seen(graphs: Graphs) -> None:
    ends = list[Any]()
    for captures in (False, True):
        torch.manual_seed(0)
        rule: Any = fw.PEPITA(
            nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double(),
            nn.CrossEntropyLoss(),
        )
        optimizer = fw.LocalSGD(rule, 0.1, 0.9)
        if not captures:
            eager(optimizer)
        for number in range(8):
            if number == 5:
                rule.F = rule.F.T
            optimizer.step(torch.eye(3).double(), torch.arange(3))
        ends.append(state(rule, optimizer))
    assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_a_hook_ends_it(graphs: Graphs) -> None:
    seen: list[object] = []

    def hooked(number: int, rule: fw.Rule, optimizer: fw.LocalSGD) -> None:
        if number == 5:
            rule.model[2].register_forward_hook(lambda *_: seen.append(number))

    with pytest.raises(AssertionError, match="assert False"):  # of the path
        both(graphs, hooked)
    rule, optimizer = made()
    for number, (x, target) in enumerate(batches(8)):
        hooked(number, rule, optimizer)
        optimizer.step(x, target)
    assert "module '2' has a hook" in path_of(optimizer).why_not["cuda_graph"]
    assert len(seen) > 6


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9),
    ],
    ids=["rate", "rate and momentum"],
)
def test_schedulers(scheduler: Any, graphs: Graphs) -> None:
    """A rate is read from a tensor; a momentum is what a graph was captured with."""
    steps, ends = batches(8), list[Any]()
    for captures in (False, True):
        rule, optimizer = made()
        if not captures:
            eager(optimizer)
        schedule = scheduler(optimizer)
        for x, target in steps:
            optimizer.step(x, target)
            schedule.step()
        ends.append(state(rule, optimizer))
    assert_close(*ends, rtol=1e-12, atol=1e-14)
    assert len(graphs) == (1 if "Exponential" in type(schedule).__name__ else 0)


def test_a_graph_a_shape(graphs: Graphs) -> None:
    """Whatever comes between, and no more of them than four at a time."""
    steps = [
        one for pair in zip(batches(8), batches(8, samples=3, seed=1), strict=True) for one in pair
    ]
    both(graphs, steps=steps)
    # The second shape's steps have momenta from the first on, so its graph comes first.
    assert [graph.replays for graph in graphs] == [6, 5]
    _, optimizer = made()
    graphs.clear()
    for _ in range(2):
        for samples in range(2, 7):
            for x, target in batches(3, samples):
                optimizer.step(x, target)
    assert len(graphs) >= 5  # those of two samples were gone when they came again
    engines: Any = optimizer._engines
    assert len(engines.graphs._held) == 4
    for samples in (3, 7):  # which replaces the shape that was not used for longest
        optimizer.step(*batches(1, samples)[0])
    assert [len(held._x) for held in engines.graphs._held.values()] == [5, 6, 3, 7]


def test_credits_are_the_callers(graphs: Graphs) -> None:
    _, optimizer = made()
    seen = [optimizer.step(x, target) for x, target in batches(8)]
    assert len({float(credit.loss) for credit in seen}) == 8
    assert len({float(credit.output.sum()) for credit in seen}) == 8
    assert len({float(credit.error[0, 0]) for credit in seen}) == 8


def spoiled(number: int, what: str) -> list[tuple[Tensor, Tensor]]:
    steps = batches(10)
    x, target = steps[number]
    if what == "class":
        target[2] = CLASSES
    elif what == "negative":
        target[2] = -1
    else:
        x[1, 0, 0, 0] = float(what)
    return steps


@pytest.mark.parametrize("what", ["nan", "inf", "-inf", "class", "negative"])
def test_a_wrong_batch_is_named_later(what: str, graphs: Graphs) -> None:
    _, optimizer = made()
    *before, after, _, _ = spoiled(6, what)
    for x, target in before:
        optimizer.step(x, target)
    with pytest.raises(ValueError, match="batch 7 has a NaN or an infinity, or a target that"):
        optimizer.step(*after)
    assert graphs.replays == 7 - 3
    _, optimizer = made()
    for x, target in spoiled(9, what):
        optimizer.step(x, target)
    with pytest.raises(ValueError, match="batch 10 has"):
        optimizer.state_dict()
    optimizer.state_dict()  # which says it once


def test_the_first_wrong_batch_is_named() -> None:
    watch, loss = Watch(torch.device("cpu")), nn.CrossEntropyLoss()
    for number in range(5):
        x, target = torch.zeros(4, 2), torch.tensor([0, 1, 2, 3 if number == 3 else 0])
        if number == 1:
            x[0, 0] = torch.nan
        watch.count()
        assert_close(watch.look(loss, x, target, 3), target.clamp(max=2))
    with pytest.raises(ValueError, match="batch 2 has"):
        watch.settle()
    watch.count()
    watch.look(loss, torch.full((1, 1), torch.inf), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match="batch 1 has"):
        watch.settle()


@pytest.mark.parametrize("what", ["nan", "class"])
def test_before_there_is_a_graph_it_is_named_at_once(what: str, graphs: Graphs) -> None:
    rule, optimizer = made()
    (x, target), *_ = spoiled(0, what)
    before = state(rule, optimizer)
    with pytest.raises(ValueError, match=r"first in sample 1|class indices must be 0 to 2"):
        optimizer.step(x, target)
    assert_close(state(rule, optimizer), before, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [-0.1, 0.2], ids=str)
def test_probabilities_are_watched_too(wrong: float, graphs: Graphs) -> None:
    _, optimizer = made()
    for number, (x, target) in enumerate(batches(5)):
        shares = nn.functional.one_hot(target, CLASSES).double()
        if number == 4:
            shares[0] = torch.tensor([1 - wrong, wrong, 0.0 if wrong < 0 else wrong])
        optimizer.step(x, shares)
    with pytest.raises(ValueError, match="batch 5 has"):
        optimizer.settle()


def test_numbers_are_watched_too(graphs: Graphs) -> None:
    rule, _ = made()
    other = fw.PEPITA(rule.model, nn.MSELoss())
    optimizer = fw.LocalSGD(other, 0.01, 0.9)
    for number, (x, target) in enumerate(batches(5)):
        numbers = nn.functional.one_hot(target, CLASSES).double()
        numbers[0, 0] = torch.nan if number == 4 else 3.0
        optimizer.step(x, numbers)
    with pytest.raises(ValueError, match="batch 5 has"):
        optimizer.settle()


class Own(fw.PEPITA):  # pyright: ignore[reportGeneralTypeIssues]
    """A user's."""


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (lambda model: Own(model, nn.CrossEntropyLoss()), "Own is no rule of forwardly"),
        (
            lambda model: fw.PEPITA(model, nn.CrossEntropyLoss(), error=lambda y, _: y),
            "error= is a function",
        ),
        (lambda model: fw.PEPITA(model.bfloat16(), nn.CrossEntropyLoss()), "float32 and float64"),
    ],
    ids=["a rule", "an error", "half precision"],
)
@pytest.mark.filterwarnings("ignore:PEPITA subtracts two passes")
def test_what_python_decides_is_not_captured(rule: Any, why: str, graphs: Graphs) -> None:
    made = rule(dense())
    optimizer = fw.LocalSGD(made, 0.1)
    dtype = next(made.parameters()).dtype
    for x, target in batches(5):
        optimizer.step(x.to(dtype), target)
    assert why in path_of(optimizer).why_not["cuda_graph"]
    assert not graphs


def test_what_cannot_be_captured_goes_on_without(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: out of luck\nCompile with …")

    monkeypatch.setattr("forwardly.fast.cuda.captured.graph_of", fails)
    ends = list[Any]()
    for captures in (False, True):
        rule, optimizer = made()
        if not captures:
            eager(optimizer)
        for x, target in batches(8):
            optimizer.step(x, target)
        ends.append(state(rule, optimizer))
    assert_close(*ends, rtol=1e-12, atol=1e-14)
    assert "could not be captured: CUDA error: out of luck" in str(optimizer.path)
    assert "Compile" not in str(optimizer.path)


def test_without_triton_the_path_says_so(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    without = "forwardly.fast.cuda.engine.no_triton"
    ends = list[Any]()
    for why in ("Triton is not there", ""):
        monkeypatch.setattr(without, lambda why=why: why)
        _, optimizer = made()
        optimizer.step(*batches(1)[0])
        ends.append(str(optimizer.path).partition("; ")[2])
    assert ends[0].endswith("not kernel: Triton is not there)")
    assert "kernel" not in ends[1]


@pytest.mark.parametrize("fast", [False, True])
def test_other_engines_are_given_what_was_checked(fast: bool) -> None:
    rule, _ = made()
    optimizer = fw.LocalSGD(rule, 0.1, 0.9, fast=fast)
    (x, target), *_ = spoiled(0, "nan")
    before = state(rule, optimizer)
    with pytest.raises(ValueError, match="first in sample 1"):
        optimizer.step(x, target)
    assert_close(state(rule, optimizer), before, rtol=0, atol=0)


def test_on_the_processor_there_are_none() -> None:
    _, optimizer = made()
    for x, target in batches(2):
        optimizer.step(x, target)
    assert path_of(optimizer).why_not["cuda_graph"] == "the batch is on cpu"
    optimizer.settle()


DATA = fw.Dataset.from_arrays(
    torch.rand(46, *PIXELS, generator=torch.Generator().manual_seed(3)),
    torch.arange(46) % CLASSES,
    validation=10,
)
"""36 samples to train on: four batches of 8 and one of 4."""


def fitted(captures: bool, epochs: int = 5, **options: Any) -> list[Any]:
    """Rows and the state at the end of a run."""
    rule, optimizer = made(options.pop("name", "pepita"), options.pop("model", dense), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    with pytest.MonkeyPatch.context() as patch:
        if not captures:
            step_by_step(optimizer, patch)
        fit = fw.fit(rule, DATA, optimizer, epochs=epochs, batch=8, scheduler=schedule, **options)
    rows = [{n: v for n, v in row.items() if "second" not in n} for row in fit.rows]
    return [*rows, state(rule, optimizer), schedule.get_last_lr()]


FITS: dict[str, dict[str, Any]] = {
    "images changed": {"augment": fw.data.Augmentation(flip=True, shift=1, crop=0.8)},
    "last batch dropped": {"drop_last": True},
    "the best kept": {"keep": "best"},
    "convolution": {"model": convolutional},
}


@pytest.mark.parametrize("name", [*FITS, *fw.RULES])
def test_fit(name: str, graphs: Graphs) -> None:
    options = FITS.get(name, {"name": name})
    ends = [fitted(captures, **options) for captures in (False, True)]
    assert_close(*ends, rtol=1e-10, atol=1e-12)
    assert len(ends[0]) == 7
    replays = sum(graph.replays for graph in graphs)
    assert replays >= 5 * 4 - 3
    # Of whole batches one graph, of the last ones another, from the fourth epoch on.
    assert len(graphs) == (1 if name == "last batch dropped" else 2)


def test_whole_batches_of_fit_are_launches(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last of an epoch is given to the optimizer as tensors."""
    sizes: list[int] = []
    step = fw.LocalSGD.step

    def counted(self: Any, x: Tensor, target: Tensor) -> Any:
        sizes.append(len(x))
        return step(self, x, target)

    monkeypatch.setattr(fw.LocalSGD, "step", counted)
    fitted(True)
    assert sizes == [4] * 5
    sizes.clear()
    fitted(True, drop_last=True)
    assert not sizes


@pytest.mark.parametrize("name", ["pepita", "node-perturbation", "mono-forward"])
def test_a_run_goes_on_bit_for_bit(name: str, graphs: Graphs, tmp_path: Path) -> None:
    whole = fitted(True, name=name, epochs=4)
    saved = tmp_path / "run.pt"
    fitted(True, name=name, epochs=2, checkpoint=saved)
    again = fitted(True, name=name, epochs=4, checkpoint=saved, resume=True)
    assert_close(again, whole, rtol=0, atol=0)
    assert len(graphs) > 2


@pytest.mark.parametrize("hooked", [False, True], ids=["", "with hooks"])
def test_a_change_within_an_epoch_is_seen(hooked: bool, graphs: Graphs) -> None:
    """And hooks of the model and of the optimizer are called, which ends the launches."""
    ends = list[Any]()
    for captures in (False, True):
        rule, optimizer = made()
        calls: list[object] = []
        batches_done: list[int] = []

        def on_batch(
            done: int, _: Any, rule: Any = rule, calls: Any = calls, all_done: Any = batches_done
        ) -> None:
            all_done.append(done)
            rule.model[3].p = 0.1 * done
            if len(all_done) == 8:
                rule.model[1].requires_grad_(False)
            if hooked and len(all_done) == 3:
                rule.model[2].register_forward_hook(lambda *_: calls.append(None))

        if hooked:
            optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append("step"))
        with pytest.MonkeyPatch.context() as patch:
            if not captures:
                step_by_step(optimizer, patch)
            fw.fit(rule, DATA, optimizer, epochs=3, batch=8, on_batch=on_batch)
        ends.append([state(rule, optimizer), len(calls)])
    assert_close(*ends, rtol=1e-12, atol=1e-14)
    assert ends[0][1] >= 15 or not hooked


def test_settings_within_an_epoch_are_refused(graphs: Graphs) -> None:
    rule, optimizer = made()

    def on_batch(done: int, _: Any) -> None:
        optimizer.param_groups[0]["amsgrad"] = True

    with pytest.raises(ValueError, match="unknown: amsgrad"):
        fw.fit(rule, DATA, optimizer, epochs=1, batch=8, drop_last=True, on_batch=on_batch)


def test_steps_in_other_modes(graphs: Graphs) -> None:
    ends = list[Any]()
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        rule, optimizer = made(name="backprop")
        with mode:
            for x, target in batches(8):
                optimizer.step(x.clone(), target.clone())
            fw.fit(rule, DATA, optimizer, epochs=2, batch=8)
        ends.append(state(rule, optimizer))
    for end in ends[1:]:
        assert_close(end, ends[0], rtol=0, atol=0)
    assert graphs.replays


def test_a_wrong_batch_of_a_loader_is_named_by_the_end_of_its_epoch(graphs: Graphs) -> None:
    rule, optimizer = made()
    x = DATA.train.x.double()
    x[-1] = torch.nan  # in the last batch, after which no step asks
    pairs = torch.utils.data.TensorDataset(x, DATA.train.target)

    class Same(torch.utils.data.Dataset[Any]):
        """Not one whose values can be looked at before."""

        def __len__(self) -> int:
            return 36

        def __getitem__(self, i: int) -> Any:
            return pairs[i]

    loader = torch.utils.data.DataLoader(Same(), batch_size=4)
    rows: list[object] = []
    with pytest.raises(ValueError, match="batch 9 has a NaN"):
        fw.fit(rule, loader, optimizer, epochs=3, on_epoch=rows.append)
    assert not rows


def test_mirrors_see_every_batch(graphs: Graphs) -> None:
    ends = list[Any]()
    for captures in (False, True):
        torch.manual_seed(0)
        rule = fw.PEPITA(dense().double(), nn.CrossEntropyLoss(), input_shape=PIXELS)
        optimizer = fw.LocalSGD(rule, 0.05, 0.9)
        mirror = fw.feedback.JacobianMirror(rule, generator=torch.Generator().manual_seed(2))
        with pytest.MonkeyPatch.context() as patch:
            if not captures:
                step_by_step(optimizer, patch)
            fw.fit(rule, DATA, optimizer, epochs=2, batch=8, mirror=mirror)
        ends.append(state(rule, optimizer))
    assert_close(*ends, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", fw.RULES)
def test_runs_at_once(name: str, graphs: Graphs) -> None:
    """Which the same class captures."""
    ends = list[Any]()
    for at_once in (False, True):
        torch.manual_seed(0)
        pairs = [made(name, lr=0.02) for _ in range(2)]
        rules, optimizers = zip(*pairs, strict=True)
        options: dict[str, Any] = {"epochs": 2, "batch": 8}
        if at_once:
            fits = fw.fit_seeds(rules, DATA, optimizers, seeds=(0, 1), **options)
        else:
            with pytest.MonkeyPatch.context() as patch:
                fits = [
                    fw.fit(rule, DATA, step_by_step(optimizer, patch), seed=seed, **options)
                    for seed, (rule, optimizer) in enumerate(pairs)
                ]
        ends.append(
            [[fit.rows[-1]["loss"], state(*pair)] for fit, pair in zip(fits, pairs, strict=True)]
        )
    assert_close(*ends, rtol=1e-8, atol=1e-10)
    assert [graph.replays for graph in graphs] == [6]


def test_what_the_played_graph_would_show() -> None:
    """It holds numbers and places fast, does nothing when captured, and asks for no value."""
    x, number = torch.zeros(3), 2.0
    made: list[Tensor] = []

    def work() -> None:
        made.append(x + number)
        x.add_(number)

    graph = Played(work)
    assert_close(x, torch.zeros(3))
    number = 5.0
    graph()
    graph()
    assert_close(x, torch.full((3,), 4.0))
    assert_close(made[0], torch.full((3,), 4.0))
    for asks in (lambda: float(x.sum()), lambda: x.nonzero(), lambda: torch.tensor([1.0])):
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            Played(asks)
