"""Flips, shifts and crops: against loops over pixels, and the same whatever stops or trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import forwardly as fw
from forwardly.data import Augmentation
from forwardly.errors import UsageError
from test_noise import numbers_of

HEIGHT, WIDTH, N = 6, 9, 12
Command = Callable[..., Any]


def images(n: int = N, channels: int = 2) -> Tensor:
    values = torch.rand(n, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    return values.double()


def at(image: NDArray[Any], row: float, column: float) -> NDArray[Any]:
    """Between four pixels; beyond the edge, the edge."""
    row, column = np.clip(row, 0, HEIGHT - 1), np.clip(column, 0, WIDTH - 1)
    top, left = int(row), int(column)
    below, right = min(top + 1, HEIGHT - 1), min(left + 1, WIDTH - 1)
    down, along = row - top, column - left
    upper = (1 - along) * image[:, top, left] + along * image[:, top, right]
    lower = (1 - along) * image[:, below, left] + along * image[:, below, right]
    return (1 - down) * upper + down * lower


def changed(image: NDArray[Any], kind: Augmentation, draw: Callable[[int], int]) -> NDArray[Any]:
    """One image, pixel by pixel; ``draw`` gives its number of a stream, 0 to 2⁶⁴ − 1."""
    if kind.crop < 1:
        share, x, y = (draw(which) // 2**40 / 2**24 for which in (3, 4, 5))
        side = kind.crop + (1 - kind.crop) * share
        top, left = y * (1 - side) * HEIGHT, x * (1 - side) * WIDTH
        made = np.empty_like(image)
        for i in range(HEIGHT):
            for j in range(WIDTH):
                made[:, i, j] = at(
                    image, top + side * (i + 0.5) - 0.5, left + side * (j + 0.5) - 0.5
                )
        image = made
    if kind.shift:
        down, right = (draw(which) // 2 % (2 * kind.shift + 1) - kind.shift for which in (1, 2))
        made = np.zeros_like(image)
        for i in range(HEIGHT):
            for j in range(WIDTH):
                if 0 <= i + down < HEIGHT and 0 <= j + right < WIDTH:
                    made[:, i, j] = image[:, i + down, j + right]
        image = made
    if kind.flip and draw(0) // 2 % 2:
        image = image[:, :, ::-1]
    return image


@pytest.mark.parametrize(
    "kind",
    [
        Augmentation(flip=True),
        Augmentation(shift=2),
        Augmentation(shift=20),
        Augmentation(crop=0.5),
        Augmentation(True, 1, 0.7),
    ],
    ids=repr,
)
def test_each_image_is_as_loops_have_it(kind: Augmentation) -> None:
    x, (seed, epoch, batch) = images(), (7, 3, 41)
    drawn = [numbers_of(seed, (epoch - 1) * 2**24 + batch, which, N) for which in range(6)]
    expected = [
        changed(image, kind, lambda which, i=i: drawn[which][i])
        for i, image in enumerate(x.numpy())
    ]
    before = x.clone()
    made = kind(x, seed, epoch, batch)
    # Shares are drawn in float32, which has no more digits.
    assert np.allclose(made, np.stack(expected), rtol=0, atol=1e-6)
    assert not torch.equal(made, x)
    assert torch.equal(x, before)


def test_chances() -> None:
    x = torch.zeros(4000, 1, HEIGHT, WIDTH)
    x[:, :, 2, 3] = 1
    made = Augmentation(shift=1)(x, 0, 1, 1)
    places = made.flatten(1).argmax(1)
    counts = [
        int((places == row * WIDTH + column).sum()) for row in (1, 2, 3) for column in (2, 3, 4)
    ]
    assert sum(counts) == 4000  # each as likely; five standard deviations of a binomial
    assert all(abs(count - 4000 / 9) < 5 * (4000 / 9 * 8 / 9) ** 0.5 for count in counts)
    flipped = int((Augmentation(flip=True)(x, 0, 1, 1)[:, 0, 2, WIDTH - 4] == 1).sum())
    assert abs(flipped - 2000) < 5 * 1000**0.5


def test_anew_in_each_batch_and_epoch() -> None:
    kind, x = Augmentation(flip=True, shift=3), images()
    made = [kind(x, *place) for place in ((0, 1, 1), (0, 1, 2), (0, 2, 1), (1, 1, 1))]
    assert all(not torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])
    assert torch.equal(kind(x, 0, 2, 1), made[2])


def test_any_seed_that_a_generator_takes() -> None:
    kind, x = Augmentation(shift=3), images()
    assert torch.equal(kind(x, 2**64 - 1, 1, 1), kind(x, -1, 1, 1))


def test_nothing_is_nothing() -> None:
    vectors = torch.ones(3, 5)
    assert Augmentation()(vectors, 0, 1, 1) is vectors
    assert not Augmentation()
    assert not Augmentation(False, 0, 1.0)


class Seen(nn.Module):
    """Keeps what it is given in training."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.judged: list[Tensor] = []

    def hook(self, module: nn.Module, given: tuple[Tensor]) -> None:
        (self.seen if module.training else self.judged).append(given[0].clone())


def trained(
    rule: type[fw.Rule] = fw.PEPITA, data: Any = None, **options: Any
) -> tuple[fw.Rule, Seen]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(HEIGHT * WIDTH * 2, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    made = rule(model.double(), nn.CrossEntropyLoss())
    seen = Seen()
    model[0].register_forward_pre_hook(seen.hook)
    target = torch.arange(N) % 3
    data = (images(), target) if data is None else data
    given: dict[str, Any] = {"epochs": 3, "batch": 5, "augment": Augmentation(True, 1, 0.8)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    fw.fit(made, data, optimizer, **{**given, **options})
    return made, seen


@pytest.mark.parametrize("loader", [False, True])
def test_a_run_that_is_continued_sees_the_same_images(tmp_path: Path, loader: bool) -> None:
    def data() -> Any:
        pairs = TensorDataset(images(), torch.arange(N) % 3)
        generator = torch.Generator().manual_seed(3)
        return DataLoader(pairs, 5, shuffle=True, generator=generator) if loader else None

    whole, _ = trained(data=data())
    for epochs in (1, 2, 3):
        path = tmp_path / "checkpoint.pt"
        part, _ = trained(data=data(), epochs=epochs, checkpoint=path, resume=True)
        del part
    last, _ = trained(data=data(), checkpoint=path, resume=True)
    plain, _ = trained(data=data(), augment=None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, last.state_dict()[name])
    assert not torch.equal(whole.model[1].weight, plain.model[1].weight)  # pyright: ignore
    with pytest.raises(UsageError, match="augment"):
        trained(data=data(), checkpoint=path, resume=True, epochs=4, augment=None)


def test_all_rules_see_the_same_images_and_validation_sees_its_own() -> None:
    aside = images(4)
    options: dict[str, Any] = {"validation": (aside, torch.arange(4) % 3)}
    _, reference = trained(fw.DRTP, **options)
    # The first is what fit tries beforehand.
    _, *seen = reference.seen
    assert len(seen) == 9
    assert len(reference.judged) >= 3
    assert all(torch.equal(x, aside[: len(x)]) for x in reference.judged)
    originals = {x.numpy().tobytes() for x in images()}
    assert not any(x.numpy().tobytes() in originals for batch in seen for x in batch)
    for rule in (fw.PEPITA, fw.AdaptiveFeedbackAlignment, fw.ReadoutOnly):
        _, other = trained(rule, **options)
        assert all(torch.equal(a, b) for a, b in zip(other.seen[1:], seen, strict=True))


def test_what_is_no_image_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    optimizer = fw.LocalSGD(rule, 0.1)
    with pytest.raises(UsageError, match=r"of images .* the shape \(4,\)"):
        fw.fit(
            rule,
            (torch.rand(6, 4), torch.arange(6) % 2),
            optimizer,
            epochs=1,
            augment=Augmentation(flip=True),
        )


@pytest.mark.unchecked  # to see the library's own word
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"flip": 1}, TypeError, "flip must be of class bool"),
        ({"shift": 1.5}, TypeError, "shift must be of class int"),
        ({"shift": -1}, UsageError, "shift must be at least 0 pixels; given -1"),
        ({"crop": 0}, UsageError, "crop must be above 0 and at most 1; given 0"),
        ({"crop": 1.1}, UsageError, "crop must be above 0 and at most 1; given 1.1"),
        ({"crop": float("nan")}, UsageError, "crop must be above 0"),
    ],
)
def test_settings_that_make_no_sense(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Augmentation(**given)
