"""A compiled step on a weight and its momentum: the definition, whatever the shapes and threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor, nn

import forwardly as fw
from forwardly.fast.compiling import compile_cached
from forwardly.fast.cpu_step import descent, tiles
from forwardly.fast.cpu_step.addresses import matrix
from forwardly.fast.cpu_step.tiles import Coefficients, Shape, descending_tile, shape_of_tile
from forwardly.fast.sgd import Descent, Outer, Weight
from forwardly.fast.threads import pool

OPENMP = pool()
pytestmark = pytest.mark.skipif(OPENMP is None, reason="torch came without GNU's OpenMP")

SETTINGS = [
    Descent(0.9, 0.0, 0.1, False),
    Descent(0.5, 0.01, 0.2, False),
    Descent(0.9, 0.0, 0.1, True),
    Descent(0.5, 0.01, 0.2, True),
]


def made(units: int, inputs: int, n: int) -> tuple[Tensor, Tensor, Outer]:
    numbers = torch.Generator().manual_seed(0)
    weight, momentum, post, pre = (
        torch.randn(shape, generator=numbers)
        for shape in ((units, inputs), (units, inputs), (n, units), (n, inputs))
    )
    return weight, momentum, Outer(post, pre, 1 / n)


def descend(weight: Tensor, momentum: Tensor, update: Outer, settings: Descent) -> bool:
    assert OPENMP is not None
    return descent.descend(Weight(weight, momentum, settings), update, OPENMP)


def by_definition(
    weight: Tensor, momentum: Tensor, update: Outer, settings: Descent
) -> tuple[Tensor, Tensor]:
    """torch.optim.SGD's step, in float64."""
    post, pre, W, M = (t.double() for t in (update.post, update.pre, weight, momentum))
    g = update.scale * torch.einsum("nu,ni->ui", post, pre) + settings.weight_decay * W
    M = settings.momentum * M + g
    step = g + settings.momentum * M if settings.nesterov else M
    return W - settings.lr * step, M


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("units", "inputs", "n"),
    [
        (64, 480, 16),  # whole tiles only
        (64, 48 + 16 + 5, 7),  # thin tiles, and columns that fill none
        (61, 1000, 3),  # rows that fill none
        (5, 700, 2),  # no tile at all
        (9, 3, 1),  # nor a vector
        (32, 96, 600),  # many samples
    ],
)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_equals_the_definition(
    units: int, inputs: int, n: int, settings: Descent, threads: int
) -> None:
    weight, momentum, update = made(units, inputs, n)
    expected = by_definition(weight, momentum, update, settings)
    assert descend(weight, momentum, update, settings)
    for ours, theirs in zip((weight, momentum), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_what_the_update_is_made_of_need_not_lie_in_order() -> None:
    weight, momentum, update = made(64, 480, 16)
    expected = by_definition(weight, momentum, update, SETTINGS[0])
    scattered = Outer(update.post.T.contiguous().T, update.pre.repeat(1, 2)[:, :480], update.scale)
    assert descend(weight, momentum, scattered, SETTINGS[0])
    torch.testing.assert_close(weight.double(), expected[0], rtol=1e-5, atol=1e-5)


def test_what_it_is_not_for_is_left_alone() -> None:
    """Other types, and weights that lie otherwise in memory."""
    weight, momentum, update = made(64, 480, 16)
    double = Outer(update.post.double(), update.pre.double(), update.scale)
    lying = torch.zeros(480, 64).T
    for given in (
        (weight.double(), momentum.double(), double),
        (lying, momentum, update),
        (weight, lying, update),
        (weight, momentum, double),
    ):
        before = [given[0].clone(), given[1].clone()]
        assert not descend(*given, SETTINGS[0])
        assert all(torch.equal(a, b) for a, b in zip(before, given[:2], strict=True))


def test_autograd_sees_that_weights_have_changed() -> None:
    weight, momentum, update = made(64, 480, 16)
    weight.requires_grad_()
    loss = (weight**2).sum()
    with torch.no_grad():
        assert descend(weight, momentum, update, SETTINGS[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("shape", [Shape(8, 3, 16), Shape(4, 3, 8), Shape(8, 3, 4), Shape(1, 1, 1)])
def test_tiles_of_other_processors(shape: Shape) -> None:
    """LLVM makes vectors of any length of those that there are."""
    tile: Any = descending_tile(shape)
    rows, columns, n = shape.rows, shape.vectors * shape.lanes, 5
    weight, momentum, update = made(rows, columns, n)
    expected = by_definition(weight, momentum, update, SETTINGS[1])
    W, M, post, pre = (t.numpy() for t in (weight, momentum, update.post, update.pre))  # pyright: ignore

    @njit
    def call(W, M, post, pre, coefficients):  # pyright: ignore
        tile(matrix(post.T), matrix(pre), n, matrix(M), matrix(W), coefficients)

    numbers = [np.float32(x) for x in (update.scale, 0.5, 0.01, 0.2, 0.0)]
    call(W, M, post, pre, Coefficients(*numbers))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(weight.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(momentum.double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "are_32"),
    [({"avx512f": True}, True), ({"neon": True}, True), ({"avx2": True}, False), (None, False)],
)
def test_tiles_leave_registers_free(
    features: dict[str, bool] | None, are_32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> dict[str, bool]:
        if features is None:
            raise RuntimeError("unknown")
        return features

    monkeypatch.setattr(tiles.binding, "get_host_cpu_features", told)
    monkeypatch.setattr(tiles.config, "CPU_FEATURES", None)
    shape = shape_of_tile()
    assert shape.rows * shape.vectors + shape.vectors < 32
    assert tiles.has_32_registers() == are_32


def test_tiles_are_of_the_processor_that_numba_compiles_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its variables may name another than this; what it keeps is told apart by them."""
    monkeypatch.setattr(tiles.binding, "get_host_cpu_features", lambda: {"avx512f": True})
    for features, avx, expected in (
        (None, 1, True),
        (None, 0, False),
        ("+avx2,+fma,-avx512f", 1, False),
        ("+avx2,+avx512f", 1, True),
        ("", 1, False),
    ):
        monkeypatch.setattr(tiles.config, "CPU_FEATURES", features)
        monkeypatch.setattr(tiles.config, "ENABLE_AVX", avx)
        assert tiles.has_avx512() == expected


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same() -> None:
    """A function of no file stands for one in a folder that cannot be written to."""
    of_no_file: dict[str, Any] = {}
    exec("def plus_one(x): return x + 1", of_no_file)
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(of_no_file["plus_one"])
    assert compile_cached(njit, of_no_file["plus_one"])(1) == 2


@pytest.mark.parametrize("suits", [True, False])
@pytest.mark.parametrize("name", ["pepita", "mem-pepita", "backprop", "direct-feedback-alignment"])
def test_training_takes_it(name: str, suits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For wide layers with momentum where it is quicker, unless fast paths are switched off."""
    taken: list[tuple[int, ...]] = []
    original = descent.descend

    def counted(trained: Weight, *given: Any) -> bool:
        taken.append(tuple(trained.weight.shape))
        return original(trained, *given)

    monkeypatch.setattr(descent, "descend", counted)
    monkeypatch.setattr(descent, "suits_processor", lambda: suits)
    x, target = torch.randn(16, 300), torch.arange(16) % 4
    for options, expected in (
        ({"momentum": 0.9}, [(256, 300)] * suits),
        ({"momentum": 0.9, "fast": False}, []),
        ({"momentum": 0.0}, []),
    ):
        taken.clear()
        model = nn.Sequential(nn.Linear(300, 256), nn.ReLU(), nn.Linear(256, 4))
        fw.LocalSGD(fw.RULES[name](model, nn.CrossEntropyLoss()), lr=0.1, **options).step(x, target)
        assert taken == expected
