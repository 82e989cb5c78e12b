"""Defaults for new tensors are not ours to use, and not every device has float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import forwardly as fw
from forwardly.data import Dataset, Split
from forwardly.testing import CASES, Case, Factory, cases_for
from forwardly.training.measures import MEASURES
from test_laws import FACTORIES

SOME = ("regression", "dropout", "conv2d", "batch-norm")
EVERYWHERE = [
    pytest.param(make, case, id=f"{name}-{case}")
    for name, make in FACTORIES.items()
    for case in cases_for(make)
    if case.name in SOME
]
NETWORKS = {case.name: case for case in CASES}


@contextmanager
def other_defaults() -> Iterator[None]:
    """New tensors go to a device without values, and have a dtype that nothing here has."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


def on_processor(case: Case) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network and a batch in float32, whatever the defaults."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            x, target = case.batch()
            target = target.float() if target.is_floating_point() else target
            return case.model().float(), x.float(), target
    finally:
        torch.set_default_dtype(before)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole_life(make: Factory, case: Case) -> list[Tensor]:
    """Everything that a rule gives and changes, from its making on."""
    model, x, target = on_processor(case)
    rule = make(model, case.loss(), input_shape=case.input_shape, generator=seeded())
    seen: list[Tensor] = []
    for optimizer in (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        fw.LocalSGD(rule, lr=0.1, momentum=0.9, fast=False),
        fw.LocalSGD(rule, lr=0.1, momentum=0.9),
    ):
        if isinstance(optimizer, fw.LocalSGD):
            credit = optimizer.step(x, target)
        else:
            credit = rule.accumulate(x, target)
            optimizer.step()
        seen += [credit.loss, credit.error, *rule(x, target).updates.values()]
    seen += rule.state_dict().values()
    rule.eval()
    return [*seen, rule.predict(x)]


@pytest.mark.parametrize(("make", "case"), EVERYWHERE)
def test_other_defaults_change_no_rule(make: Factory, case: Case) -> None:
    expected = whole_life(make, case)
    with other_defaults():
        found = whole_life(make, case)
    assert_close(found, expected, rtol=0, atol=0)


def test_another_default_device_changes_nothing_either() -> None:
    """Set for good, not for a block."""
    expected = whole_life(fw.PEPITA, NETWORKS["dropout"])
    torch.set_default_device("meta")
    try:
        found = whole_life(fw.PEPITA, NETWORKS["dropout"])
    finally:
        torch.set_default_device(None)
    assert_close(found, expected, rtol=0, atol=0)


def large(dropout: float = 0.2) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that compiled steps are for, with a batch."""
    with torch.device("cpu"):
        layers = [nn.Linear(512, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 10)]
        model = nn.Sequential(*layers).float()
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=seeded())
        x = torch.rand(64, 512, generator=seeded(), dtype=torch.float32)
        return model, x, torch.randint(10, (64,), generator=seeded())


def dataset() -> Dataset:
    with torch.device("cpu"):
        x = torch.randn(60, 6, generator=seeded(), dtype=torch.float32)
        target = torch.randint(3, (60,), generator=seeded())
    parts = [Split(x[start::3], target[start::3]) for start in range(3)]
    return Dataset("made", 3, *parts)


def small(**options: Any) -> fw.PEPITA:
    with torch.device("cpu"):
        model = nn.Sequential(
            *(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
        ).float()
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=seeded())
    return fw.PEPITA(model, nn.CrossEntropyLoss(), generator=seeded(), **options)


def of_compiled_steps() -> object:
    found: list[Tensor] = []
    for deep in (False, True):
        model, x, target = large()
        if deep:
            model.insert(1, nn.Tanh())  # no network for the compiled step of one hidden layer
        rule = fw.PEPITA(model, nn.CrossEntropyLoss(), generator=seeded())
        optimizer = fw.LocalSGD(rule, lr=0.1, momentum=0.9)
        for _ in range(2):
            found += optimizer.step(x, target)[1:]
        found += model.state_dict().values()
    return found


def of_fit() -> object:
    rule = small()
    with torch.random.fork_rng():
        fitted = fw.fit(rule, dataset(), fw.LocalSGD(rule, lr=0.1), epochs=2, batch=16)
        measured = fw.evaluate(rule, dataset().test)
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in fitted.rows]
    return [*rows, measured, *rule.state_dict().values()]


def of_metrics() -> object:
    rule, data = small(projection=fw.feedback.product(1.0)), dataset().train
    accuracy, alignment = fw.metrics.Accuracy(), fw.metrics.UpdateAlignment()
    accuracy.update(rule.predict(data.x), data.target)
    alignment.update(rule, data.x, data.target)
    angles = fw.metrics.feedback_angle(rule), fw.metrics.layer_angles(rule)
    return [accuracy.compute(), dict(alignment.compute()), *angles]


def of_mirror() -> object:
    rule = small(projection=fw.feedback.product(1.0))
    mirror = fw.feedback.Mirror(rule, keep_norm=True, generator=seeded())
    mirror.step()
    mirror.load_state_dict(mirror.state_dict())
    mirror.step()
    return list(rule.state_dict().values())


def of_jacobian_mirror() -> object:
    rule, x = small(), dataset().train.x
    mirror = fw.feedback.JacobianMirror(rule, generator=seeded())
    mirror.step(x)
    mirror.load_state_dict(mirror.state_dict())
    mirror.step(x)
    return [mirror.mean, *rule.state_dict().values()]


def of_feedback() -> object:
    sizes = (6, 8, 3)
    makers = fw.feedback.uniform(), fw.feedback.normal(), fw.feedback.product()
    return [factor for make in makers for factor in make(sizes, seeded())]


def of_compiled_training() -> object:
    rule, data = small(), dataset().train
    training = fw.CompiledTraining(rule)
    training.train(data.x, data.target, learning_rate=0.1, epochs=3, batch=7)
    training.write_back()
    with torch.device("cpu"):
        target = nn.functional.one_hot(data.target, 3).float()
    return [training.mae(data.x, target), *rule.state_dict().values()]


def of_data() -> object:
    loaded = [fw.data.load(name) for name in ("digits", "mnist1d", "teacher-student")]
    parts = [part for one in loaded for part in (one.train, one.validation, one.test)]
    return [tensor for part in parts for tensor in (part.x, part.target)]


PARTS = (
    *(of_compiled_steps, of_fit, of_metrics, of_mirror, of_jacobian_mirror, of_feedback),
    *(of_compiled_training, of_data),
)


@pytest.mark.parametrize("part", PARTS)
def test_other_defaults_change_nothing(part: Callable[[], object]) -> None:
    expected = part()
    with other_defaults():
        found = part()
    assert_close(found, expected, rtol=0, atol=0)


def test_other_defaults_change_no_audit() -> None:
    data = dataset().train
    batch = data.x[:4], data.target[:4]
    expected = fw.audit(small(), *batch)
    with other_defaults():
        assert fw.audit(small(), *batch) == expected


class OnHost(Tensor):
    """What has been copied from the device, and all that is computed of it."""


class Float64Error(TypeError):
    """As such devices raise."""


class WithoutFloat64(TorchDispatchMode):
    """The processor as a device that has no float64, as Apple's MPS, but for what is ``OnHost``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        on_host = any(isinstance(one, OnHost) for one in tree_leaves(args))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64 and not on_host:
                raise Float64Error(f"{func} makes a tensor of float64")
        return result


@contextmanager
def without_float64() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, WithoutFloat64():
        patch.setattr(Tensor, "cpu", lambda tensor: tensor.clone().as_subclass(OnHost))
        yield


def test_the_device_without_float64_has_none() -> None:
    x = torch.zeros(3)
    with without_float64():
        assert x.cpu().double().sum().dtype == torch.float64
        with pytest.raises(Float64Error):
            x.double()
        with pytest.raises(Float64Error):
            torch.zeros((), dtype=torch.float64)


@pytest.mark.unchecked  # there is no such generator here
def test_feedback_is_drawn_where_there_is_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rand", "randn"):
        draw = getattr(torch, name)

        def drawn(*sizes: Any, device: torch.device, draw: Any = draw, **more: Any) -> Tensor:
            assert device.type == "mps"
            return draw(*sizes, **{**more, "generator": None})

        monkeypatch.setattr(torch, name, drawn)
    generator = SimpleNamespace(device=torch.device("mps"))
    makers = fw.feedback.uniform(), fw.feedback.normal(), fw.feedback.product()
    for make in makers:
        assert {factor.dtype for factor in make((6, 8, 3), generator)} == {torch.float32}


def on_device(make: Factory, case: Case) -> tuple[fw.Rule, Tensor, Tensor]:
    model, x, target = on_processor(case)
    # Feedback is drawn on the host, in float64, before the rule is moved.
    rule = make(model, case.loss(), input_shape=case.input_shape, generator=seeded())
    return rule, x, target


@pytest.mark.parametrize(("make", "case"), EVERYWHERE)
def test_steps_need_no_float64(make: Factory, case: Case) -> None:
    rule, x, target = on_device(make, case)
    optimizer = torch.optim.SGD(rule.model.parameters(), lr=0.1, momentum=0.9)
    with without_float64():
        rule.accumulate(x, target)
        optimizer.step()
        for fast in (False, True):
            fw.LocalSGD(rule, lr=0.1, momentum=0.9, fast=fast).step(x, target)
        rule.eval()
        rule.predict(x)


@pytest.mark.parametrize("name", FACTORIES)
def test_training_and_measuring_need_no_float64(name: str) -> None:
    make, data = FACTORIES[name], dataset()
    model = small().model
    rule = make(model, nn.CrossEntropyLoss(), input_shape=(6,), generator=seeded())
    measures = list(MEASURES.values())
    with without_float64():
        fitted = fw.fit(
            rule, data, fw.LocalSGD(rule, lr=0.1), epochs=1, batch=16, measures=measures
        )
        fw.evaluate(rule, data.test)
    assert fitted.diverged is None


def test_mirrors_need_no_float64() -> None:
    rule, other = small(projection=fw.feedback.product(1.0)), small()
    mirror = fw.feedback.Mirror(rule, keep_norm=True, generator=seeded())
    whole = fw.feedback.JacobianMirror(other, generator=seeded())
    with without_float64():
        fw.fit(rule, dataset(), fw.LocalSGD(rule, lr=0.1), epochs=1, batch=16, mirror=mirror)
        fw.fit(other, dataset(), fw.LocalSGD(other, lr=0.1), epochs=1, batch=16, mirror=whole)
        fw.metrics.layer_angles(rule)
