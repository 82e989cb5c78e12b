"""People's own data: arrays, frames and loaders for ``fit``, files for ``train``."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import forwardly as fw
from forwardly.data import npz, read
from forwardly.errors import UsageError

N, D, K = 24, 5, 3
DRAWN = np.random.default_rng(0)
X: NDArray[np.float32] = DRAWN.random((N, D), dtype=np.float32)
Y: NDArray[np.int64] = DRAWN.permutation(np.arange(N) % K)


class Frame:
    """As much of a pandas frame as is asked for; ``test_frames_of_pandas`` has a real one."""

    def __init__(self, columns: dict[Any, Any]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, list):
            return Frame({name: self._columns[name] for name in which})
        return self._columns[which]

    def to_numpy(self) -> Any:
        return np.stack(list(self._columns.values()), axis=1)


def rule(outputs: int = K, loss: nn.Module | None = None) -> fw.Rule:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(D, 7), nn.ReLU(), nn.Linear(7, outputs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return fw.PEPITA(model, loss or nn.CrossEntropyLoss(), generator=generator)


def trained(data: Any, ours: fw.Rule | None = None, **options: Any) -> dict[str, Tensor]:
    ours = ours or rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1, momentum=0.5)
    fw.fit(ours, data, optimizer, **{"epochs": 2, "batch": 7, **options})
    return {name: value.clone() for name, value in ours.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def as_dataset(validation: Any = None) -> fw.Dataset:
    split = fw.Split(torch.from_numpy(X), torch.from_numpy(Y))
    none = fw.Split(split.x[:0], split.target[:0])
    return fw.Dataset("mine", K, split, validation or none, none)


TABLE = {f"c{i}": X[:, i] for i in range(D)}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ((X, Y), {}),
        ((torch.from_numpy(X), torch.from_numpy(Y)), {}),
        ((X.tolist(), Y.tolist()), {}),
        ((np.asfortranarray(X), Y[:, None].astype(np.int32)), {}),
        ((X[::-1][::-1], Y.astype(">i2")), {}),
        (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), {}),
        (Frame({**TABLE, "kind": Y}), {"target": "kind"}),
        (Frame({"kind": Y, **TABLE}), {"target": "kind"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_of_these_are_the_same_data(data: Any, options: dict[str, Any]) -> None:
    assert same(trained(data, **options), trained(as_dataset()))


def loader(seed: int = 3, **options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return DataLoader(tensors, 7, shuffle=True, generator=generator, **options)


def test_a_loader_is_taken_in_its_own_order() -> None:
    ours = rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1, momentum=0.5)
    batches = loader()
    for _ in range(2):
        for x, target in batches:
            optimizer.zero_grad()
            ours.accumulate(x, target)
            optimizer.step()
    assert same(trained(loader()), dict(ours.state_dict()))


class Noisy(torch.utils.data.Dataset[Any]):
    """Samples that change each time, by all three global generators."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        noise = torch.rand(()) + np.random.random() + random.random()
        return torch.from_numpy(X)[i] + noise, int(Y[i])


@pytest.mark.unchecked  # checks of lists draw from Python's generator, which item they look at
def test_a_loader_resumes_bit_for_bit(tmp_path: Path) -> None:
    def batches() -> DataLoader[Any]:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(5)
        return DataLoader(Noisy(), 7, shuffle=True)

    first, second, path = rule(), rule(), tmp_path / "b.pt"
    alone = trained(batches(), first, epochs=3, checkpoint=tmp_path / "a.pt")
    trained(batches(), second, epochs=2, checkpoint=path)
    _ = torch.rand(3), np.random.random(3), random.random()  # what happens in between
    again = trained(DataLoader(Noisy(), 7, shuffle=True), epochs=3, checkpoint=path, resume=True)
    assert same(alone, again)


def test_a_data_set_of_torch_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    class Own(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            return X[i], Y[i]

    assert same(trained(Own(), seed=1), trained(Own(), seed=1))
    assert not same(trained(Own(), seed=1), trained(Own(), seed=2))
    path = tmp_path / "c.pt"
    trained(Own(), epochs=1, checkpoint=path)
    assert same(trained(Own(), checkpoint=path, resume=True), trained(Own()))
    ours = rule()
    fitted = fw.fit(ours, Own(), fw.LocalSGD(ours, 0.1), epochs=1, validation=0.25)
    assert "validation_accuracy" in fitted.rows[0]


@pytest.mark.parametrize("place", ["loader", "sampler", "batch_sampler", "in batch_sampler"])
def test_every_generator_of_a_loader_is_kept(place: str, tmp_path: Path) -> None:
    def batches() -> DataLoader[Any]:
        own = torch.Generator().manual_seed(3)
        tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        if place == "loader":
            return DataLoader(tensors, 7, shuffle=True, generator=own)
        sampler = RandomSampler(tensors, generator=own)
        if place == "sampler":
            return DataLoader(tensors, 7, sampler=sampler)
        whole = BatchSampler(sampler, 7, drop_last=False)
        if place == "batch_sampler":
            return DataLoader(tensors, batch_sampler=whole)
        return DataLoader(tensors, sampler=whole, batch_size=None)

    path = tmp_path / "c.pt"
    trained(batches(), epochs=1, checkpoint=path)
    assert same(trained(batches(), checkpoint=path, resume=True), trained(batches()))


def test_evaluating_and_measuring_move_no_generator() -> None:
    seen: list[Any] = []
    options: dict[str, Any] = {"measures": [lambda _, x, __: seen.append(x) or {}]}
    data = loader()
    plain = trained(loader())
    assert same(trained(data, validation=data, **options), plain)
    assert all(torch.equal(x, seen[0]) for x in seen)  # one batch, of samples that are trained on
    only = DataLoader(
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        4,
        sampler=SubsetRandomSampler(range(9)),
    )
    trained(only, **options)
    rows = {tuple(row) for row in X[:9].tolist()}
    assert {tuple(row) for row in seen[-1].tolist()} <= rows


def test_augmentation_of_a_subclass_is_not_lost() -> None:
    class Augmented(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            x, y = super().__getitem__(index)
            return x + 1, y

    tensors = torch.from_numpy(X), torch.from_numpy(Y)
    ours = rule()
    assert fw.evaluate(ours, Augmented(*tensors))["loss"] == pytest.approx(
        fw.evaluate(ours, (X + 1, Y))["loss"]
    )


def test_forward_forwards_training_accuracy_is_of_all_batches() -> None:
    model = nn.Sequential(nn.Linear(D, 7), nn.ReLU(), nn.Linear(7, K))
    ours = fw.ForwardForward(model, nn.CrossEntropyLoss())
    in_order = np.argsort(Y)
    data = TensorDataset(torch.from_numpy(X[in_order]), torch.from_numpy(Y[in_order]))
    row = fw.fit(ours, DataLoader(data, 8), fw.LocalSGD(ours, 0.1), epochs=1).rows[0]
    assert row["accuracy"] == pytest.approx(fw.evaluate(ours, (X, Y))["accuracy"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0.5}, "validation_batches '6 samples in memory' there, '12 samples"),
        ({"data": (X[1:], Y[1:])}, "batches '18 samples in memory' there, '17 samples in memory'"),
        (
            {"data": loader()},
            "batches '18 samples in memory' there, 'a loader of 4 batches wit",
        ),
        (
            {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
            r"loss .*label_smoothing=0\.1",
        ),
        ({"sign": -1}, "rule_options.sign '1' there, '-1' here"),
        ({"scheduler": True}, "scheduler None there, 'StepLR' here"),
    ],
)
def test_a_run_goes_on_as_the_same_run_only(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def run(data: Any = (X, Y), **given: Any) -> None:
        ours = rule(loss=given.pop("loss", None))
        ours = fw.PEPITA(ours.model, ours.loss, sign=given.pop("sign", 1), projection=ours.F)
        optimizer = torch.optim.SGD(ours.model.parameters(), 0.1)
        if given.pop("scheduler", False):
            given["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        if isinstance(data, tuple):
            given = {"validation": 0.25, **given}
        fw.fit(ours, data, optimizer, checkpoint=tmp_path / "c.pt", batch=7, **given)

    run(epochs=1)
    with pytest.raises(UsageError, match=message):
        run(epochs=2, resume=True, **changes)


def test_a_stream_is_learned_as_it_comes() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True)

    counted: list[tuple[int, int | None]] = []
    looked: list[int] = []
    ours = rule()
    fitted = fw.fit(
        ours,
        DataLoader(Stream(), 7),
        fw.LocalSGD(ours, 0.1),
        epochs=1,
        measures=[lambda _, x, __: {"samples": looked.append(len(x)) or 0.0}],
        on_batch=lambda done, of: counted.append((done, of)),
    )
    assert counted == [(done, None) for done in (1, 2, 3, 4)]
    assert "accuracy" in fitted.rows[0]
    assert looked == [3]  # a stream cannot be looked into: at its last batch


def test_validation_of_every_kind_gives_the_same_figures() -> None:
    split = fw.Split(torch.from_numpy(X[:9]), torch.from_numpy(Y[:9]))
    rows = []
    for validation in (split, (X[:9], Y[:9]), TensorDataset(split.x, split.target)):
        ours = rule()
        fitted = fw.fit(ours, (X, Y), fw.LocalSGD(ours, 0.1), epochs=1, validation=validation)
        rows.append({n: v for n, v in fitted.rows[0].items() if n.startswith("validation")})
    assert rows[0] == rows[1] == rows[2]
    assert rows[0]["validation_loss"] == pytest.approx(fw.evaluate(ours, split)["loss"])
    assert fw.evaluate(ours, (X[:9], Y[:9])) == fw.evaluate(ours, split)
    assert fw.evaluate(ours, DataLoader(TensorDataset(split.x, split.target), 4))["loss"] == (
        pytest.approx(fw.evaluate(ours, split)["loss"])
    )


def test_a_share_is_put_aside_and_not_trained_on() -> None:
    ours = rule()
    before = torch.get_rng_state()
    fitted = fw.fit(ours, (X, Y), fw.LocalSGD(ours, 0.1), epochs=1, validation=0.25, batch=N)
    assert torch.equal(before, torch.get_rng_state())
    aside = as_dataset().train
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    rest, held = order[:-6], order[-6:]
    other = rule()
    split = fw.Split(aside.x[rest], aside.target[rest])
    none = fw.Split(aside.x[held], aside.target[held])
    same_as = fw.fit(
        other, fw.Dataset("mine", K, split, none, none), fw.LocalSGD(other, 0.1), epochs=1, batch=N
    )
    for name in ("loss", "validation_loss", "validation_accuracy"):
        assert fitted.rows[0][name] == same_as.rows[0][name]


def test_without_validation_there_are_no_such_figures() -> None:
    ours = rule()
    optimizer = torch.optim.SGD(ours.model.parameters(), 0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
    fitted = fw.fit(ours, (X, Y), optimizer, epochs=3, scheduler=plateau)
    assert not any(name.startswith("validation") for name in fitted.rows[0])
    assert fitted.rows[-1]["learning_rate"] < 0.1  # the scheduler saw the training loss


def test_numbers_become_columns_for_a_loss_of_numbers() -> None:
    numbers = X.sum(1)
    by_column = trained((X, numbers[:, None]), rule(1, nn.MSELoss()))
    assert same(trained((X, numbers), rule(1, nn.MSELoss())), by_column)
    whole = trained((X, Y), rule(1, nn.MSELoss()))
    assert same(whole, trained((X, Y.astype(np.float32)[:, None]), rule(1, nn.MSELoss())))


def test_bytes_stand_for_0_to_1() -> None:
    shades = DRAWN.integers(0, 256, (N, D), dtype=np.uint8)
    assert same(trained((shades, Y)), trained((shades.astype(np.float32) / 255, Y)))
    tensors = TensorDataset(torch.from_numpy(shades), torch.from_numpy(Y))
    numbers = TensorDataset(torch.from_numpy(shades).float() / 255, torch.from_numpy(Y))
    first, second = (trained(DataLoader(data, 7)) for data in (tensors, numbers))
    assert same(first, second)
    table = {f"c{i}": shades[:, i] for i in range(D)}  # of a table they are numbers
    framed = trained(Frame({**table, "y": Y}), target="y")
    assert same(framed, trained((shades.astype(np.float32), Y)))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X, Y[:-1]), {}, f"{N} samples and {N - 1} targets"),
        ((X[:, 0], Y), {}, r"x must be \(samples, .* given is \(24,\)"),
        (
            (X, ["a", "b", "c"] * 8),
            {},
            "classes with names: make a Dataset of it",
        ),
        ((X.astype(object), Y), {}, "x must be numbers; given is an array of object"),
        ((X + 1j, Y), {}, "x must be numbers; given is an array of complex64"),
        (([[1, 2], [3]], [0, 1]), {}, "x is no array"),
        ((np.where(X < 0.1, np.nan, X), Y), {}, "there is a NaN or an infinity in x, first in"),
        ((np.ma.masked_less(X, 0.1), Y), {}, "x has masked values: fill them in"),
        ((X, Y + 1), {}, "class indices must be 0 to 2, as the model has 3 outputs; .* has 3"),
        ((X, Y), {"validation": 24}, "validation must be 1 to 23, as there are 24 training"),
        ((X, Y), {"validation": 1.0}, "or a share of them below 1; given 1.0"),
        ((X, Y), {"validation": True}, "or a share of them below 1; given True"),
        ((X, Y), {"validation": math.nan}, "or a share of them below 1; given nan"),
        ((X, Y), {"validation": as_dataset()}, "say which, as in dataset.validation"),
        ((X, Y), {"validation": ((X * 255).astype(np.uint8), Y)}, "bytes stand for 0 to 1: conv"),
        ((X, Y), {"validation": (X[:, :4], Y)}, "the model does not take the validation part"),
        ((torch.from_numpy(X).to_sparse(), Y), {}, r"x is sparse: make it dense, by .to_dense"),
        (
            (X, Y),
            {"measures": [lambda *_: {"loss": 0.0}]},
            "a measure calls its figure 'loss', which is taken",
        ),
        (loader(), {"drop_last": True}, "a DataLoader has its own drop_last"),
        (
            TensorDataset(torch.ones(0, D), torch.ones(0)),
            {},
            "the data set is empty",
        ),
        ((X, Y), {"validation": (X, Y, Y)}, "data must be a Dataset, .*; given is a tuple of nd"),
        ((X, Y), {"target": "kind"}, "target= names a column of a frame; data is a tuple of"),
        (Frame({**TABLE, "kind": Y}), {}, "target= must name the column to learn"),
        (Frame(TABLE), {"target": "kind"}, "there is no column 'kind' among c0, c1, c2, c3, c4"),
        (Frame({"kind": Y}), {"target": "kind"}, "no column beside the target 'kind'"),
        (
            Frame({**TABLE, "who": ["x"] * N, "kind": Y}),
            {"target": "kind"},
            r"columns of x must be numbers, all there; who are not: encode or drop them",
        ),
        (DataLoader(torch.from_numpy(X), 7), {}, "a batch must be a pair .*; the loader gives a T"),
        (
            DataLoader([{"x": X[0], "y": 1}] * 9, 3),
            {},
            r"must be a pair \(x, target\); the loader gives a dict",
        ),
        (loader(), {"validation": 0.1}, "of a DataLoader no share can be put aside"),
        (DataLoader(TensorDataset(torch.ones(0, D), torch.ones(0)), 2), {}, "gave no batch"),
        (3, {}, r"data must be a Dataset, a Split, .* given is a int"),
        (as_dataset(), {"data": X}, "unexpected keyword|multiple values"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    data: Any, options: dict[str, Any], message: str
) -> None:
    ours = rule()
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises((UsageError, TypeError, ValueError), match=message):
        trained(data, ours, **options)
    assert same(before, dict(ours.state_dict()))


PLAIN = {"x_train": X, "y_train": Y}


def write(path: Path, content: dict[str, Any]) -> Path:
    np.savez(path, **content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"x": X, "y": Y},
        {"X": X.astype(">f4"), "label": Y.astype(np.uint8)[:, None]},
        {"data": np.asfortranarray(X), "target": Y},
    ],
)
def test_arrays_of_a_file(content: dict[str, Any], tmp_path: Path) -> None:
    loaded = read.dataset(write(tmp_path / "my.npz", content), seed=3)
    assert (loaded.name, loaded.outputs, loaded.sample_shape) == ("my.npz", K, (D,))
    sizes = [len(part) for part in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [17, 2, 5]
    parts = loaded.train, loaded.validation, loaded.test
    found = {
        (tuple(x.tolist()), int(y))
        for part in parts
        for x, y in zip(part.x, part.target, strict=True)
    }
    assert found == {(tuple(x.tolist()), int(y)) for x, y in zip(X, Y, strict=True)}
    assert not torch.equal(read.dataset(tmp_path / "my.npz", seed=4).test.x, loaded.test.x)


def test_parts_of_a_file_stay_as_they_are(tmp_path: Path) -> None:
    images = DRAWN.integers(0, 256, (N, 6, 7, 3), dtype=np.uint8)
    content = {"x_train": images, "y_train": Y + 1, "x_val": images[:4], "y_val": Y[:4] + 1}
    path = write(tmp_path / "a.npz", {**content, "x_test": images[:9], "y_test": Y[:9] + 1})
    loaded = read.dataset(path)
    assert loaded.labels == (1, 2, 3)
    assert loaded.sample_shape == (3, 6, 7)
    assert torch.equal(loaded.train.x, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert torch.equal(loaded.test.target, torch.from_numpy(Y[:9]))
    assert len(loaded.validation) == 4


CSV = "a;kind;b\n" + "".join(f"{i};{'no' if i % 2 else 'yes'};{i / 4}\n\n" for i in range(20))


@pytest.mark.parametrize("head", ["", "\ufeff"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_tables(head: str, ends: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes((head + CSV).replace("\n", ends).encode())
    loaded = read.dataset(path, target="kind")
    assert loaded.labels == ("no", "yes")
    assert (loaded.columns, loaded.target_name) == (("a", "b"), "kind")
    whole = torch.cat([loaded.train.x, loaded.validation.x, loaded.test.x])
    assert {tuple(row) for row in whole.tolist()} == {(i, i / 4) for i in range(20)}


def test_a_tables_target(tmp_path: Path) -> None:
    rows = [f"{i},{i % 3},{i / 4}" for i in range(20)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,Class,b", *rows]), "utf-8")
    assert read.dataset(path).target_name == "Class"
    path.write_text("\n".join(["a,n,b", *rows]), "utf-8")
    numbers = read.dataset(path)
    assert (numbers.target_name, numbers.labels, numbers.outputs) == ("b", (), 1)
    assert not numbers.classes
    assert read.dataset(path, target="n").outputs == 3
    path.write_text("\n".join(["a,n", *(f"1,{7 * i}" for i in range(41))]), "utf-8")
    with pytest.raises(UsageError, match=r"has 41 different whole .*'regression' or 'cl"):
        read.dataset(path)
    assert read.dataset(path, task="regression").outputs == 1


def images(root: Path, **changes: Any) -> Path:
    image = pytest.importorskip("PIL.Image")
    for i, kind in enumerate(("cat", "dog") * 6):
        shades = np.full((5, 4, *changes.get("channels", ())), 20 * i, np.uint8)
        (root / kind).mkdir(parents=True, exist_ok=True)
        image.fromarray(shades).save(root / kind / f"{i}.png")
    return root


def test_folders_of_images(tmp_path: Path) -> None:
    loaded = read.dataset(images(tmp_path / "all"))
    assert (loaded.labels, loaded.sample_shape) == (("cat", "dog"), (1, 5, 4))
    for part in (loaded.train, loaded.validation, loaded.test):
        for x, y in zip(part.x, part.target, strict=True):
            assert int(x[0, 0, 0]) // 20 % 2 == y
    images(tmp_path / "parts" / "train", channels=(3,))
    images(tmp_path / "parts" / "test", channels=(3,))
    loaded = read.dataset(tmp_path / "parts")
    assert (len(loaded.test), len(loaded.train), len(loaded.validation)) == (12, 11, 1)
    assert loaded.sample_shape == (3, 5, 4)
    found = read.samples(tmp_path / "parts", loaded)
    assert found.names[0] == "cat/0.png"
    assert len(found.x) == 12


def test_preprocessing_is_of_the_training_part_alone() -> None:
    x = np.concatenate([X, np.full((N, 1), 2, np.float32)], 1)
    loaded = fw.Dataset.from_arrays(x, Y, test=(x + 5, Y))
    done = loaded.prepared("standardise")
    sd = x.std(0)
    sd[-1] = 1
    assert np.allclose(done.train.x.numpy(), (x - x.mean(0)) / sd, atol=1e-5)
    assert np.allclose(done.test.x.numpy(), (x + 5 - x.mean(0)) / sd, atol=1e-5)
    assert np.allclose(loaded.prepared("centre").test.x.numpy(), x + 5 - x.mean(0), atol=1e-5)
    shades = DRAWN.integers(0, 256, (N, 2, 3, 4), dtype=np.uint8)
    pictures = fw.Dataset.from_arrays(shades, Y).prepared("standardise")
    by_channel = shades / 255
    by_channel -= by_channel.mean((0, 2, 3), keepdims=True)
    by_channel /= by_channel.std((0, 2, 3), keepdims=True)
    assert np.allclose(pictures.train.x.numpy(), by_channel, atol=1e-5)
    assert pictures.preprocessing is not None
    assert torch.equal(pictures.preprocessing(torch.from_numpy(shades)), pictures.train.x)


def test_labels_of_arrays() -> None:
    names = np.array(["b", "a", "c"])[Y]
    loaded = fw.Dataset.from_arrays(X, names, validation=0.25, test=(X[:2], names[:2]))
    assert loaded.labels == ("a", "b", "c")
    assert loaded.test.target.tolist() == ["abc".index(name) for name in names[:2]]
    assert fw.Dataset.from_arrays(X, Y).labels == ()
    assert fw.Dataset.from_arrays(X, Y + 1).labels == (1, 2, 3)
    assert fw.Dataset.from_arrays(X, Y * 2).outputs == 5  # 1 and 3 may come in other data
    assert fw.Dataset.from_arrays(X, Y == 1).outputs == 2
    with pytest.raises(UsageError, match=r"the test target has the class 'd', .* learned: a, b, c"):
        fw.Dataset.from_arrays(X, names, test=(X[:1], ["d"]))


def test_frames_columns_are_known_by_name() -> None:
    """In the parts of a data set, and in fit's validation."""
    other = Frame({"y": Y, **{name: TABLE[name] for name in reversed(TABLE)}})
    data = fw.Dataset.from_arrays(Frame({**TABLE, "y": Y}), "y", test=other, validation=other)
    assert torch.equal(data.test.x, data.train.x)
    assert torch.equal(data.validation.x, data.train.x)
    ours = rule()
    fitted = fw.fit(
        ours,
        Frame({**TABLE, "y": Y}),
        fw.LocalSGD(ours, 0.1),
        epochs=1,
        target="y",
        validation=other,
    )
    assert fitted.rows[0]["validation_loss"] == pytest.approx(fw.evaluate(ours, (X, Y))["loss"])
    renamed = Frame({f"{name}'": values for name, values in TABLE.items()} | {"y": Y})
    with pytest.raises(UsageError, match=r"the test x must have the columns c0, .*; it has c0', c"):
        fw.Dataset.from_arrays(Frame({**TABLE, "y": Y}), "y", test=renamed)
    numbered = Frame({**dict(enumerate(TABLE.values())), 7: Y})
    assert torch.equal(fw.Dataset.from_arrays(numbered, "7").train.x, data.train.x)


@pytest.mark.unchecked
def test_preparing_again_is_one_preparation() -> None:
    twice = fw.Dataset.from_arrays(X, Y).prepared("centre").prepared("standardise")
    assert twice.preprocessing is not None
    assert np.allclose(twice.preprocessing(torch.from_numpy(X)), twice.train.x, atol=1e-6)
    assert torch.allclose(
        twice.train.x, fw.Dataset.from_arrays(X, Y).prepared("standardise").train.x
    )
    large = fw.Dataset.from_arrays(torch.from_numpy(X * 1000).half(), Y).prepared("standardise")
    assert np.allclose(large.train.x.std(0, correction=0), 1, atol=1e-3)
    with pytest.raises(
        ValueError, match="kind must be one of 'centre', 'standardise'; given 'center'"
    ):
        twice.prepared("center")


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("x", "target", "options", "message"),
    [
        (X, "kind", {}, r"'kind', is a column of a frame; x is a ndarray"),
        (X[:3], ["a", math.nan, "b"], {}, "the target lacks a value"),
        (X[:3], [1, None, 2], {}, "the target lacks a value"),
        (X[:2], np.array([math.inf, "a"], object), {}, "the target lacks a value"),
        (X, Y, {"test": ((X * 255).astype(np.uint8), Y)}, r"of one kind; given are .* torch.uint8"),
        (X, Y, {"test": 1.5}, "or a share of them below 1; given 1.5"),
    ],
)
def test_what_is_no_data_set_is_refused(
    x: Any, target: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fw.Dataset.from_arrays(x, target, **options)


def test_large_whole_numbers_are_names_of_classes() -> None:
    loaded = fw.Dataset.from_arrays(X, np.where(Y > 0, 20_000_000, 0))
    assert (loaded.outputs, loaded.labels) == (2, (0, 20_000_000))


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**TABLE, "kind": pandas.Categorical(np.array(list("abc"))[Y])})
    loaded = fw.Dataset.from_arrays(frame, "kind", test=frame[:3])
    assert torch.equal(loaded.train.x, torch.from_numpy(X))
    assert torch.equal(loaded.train.target, torch.from_numpy(Y))
    assert (loaded.columns, loaded.labels) == (tuple(TABLE), ("a", "b", "c"))
    assert len(loaded.test) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no zip", r"a\.npz is not a readable \.npz file of plain arrays"),
        ("a.npz", {"x": X}, r"has no targets to learn: name them by --target"),
        ("a.npz", {"p": X, "q": X, "r": Y}, "must have arrays x_train and y_train, or x and y; it"),
        ("a.npz", {"x": X, "y": Y[:3]}, "24 samples and 3 targets"),
        ("a.npz", {"x": X[:, :0], "y": Y}, r"none of it 0; given is \(24, 0\)"),
        ("a.npz", {"x": X, "y": np.array([None] * N)}, "holds Python objects, which are not"),
        (
            "a.npz",
            {**PLAIN, "x_test": X[:, :4], "y_test": Y},
            r"parts of a data set must have samples and targets of one kind; given are train",
        ),
        ("a.npz", {"x_test": X, "y_test": Y}, "has x_test and no x_train to learn from"),
        ("a.npz", {"x": X.astype(float) * 1e300, "y": Y}, "that float32 does not reach"),
        ("t.csv", b"a,b\n1,2\n3,\n", "line 3: b, which is learned, lacks a value"),
        ("t.csv", b"a,b\n1,2.5\n3,3.5\n3,n/a\n", "most of what is learned are numbers, and 'n/a'"),
        ("t.csv", "a,b\n1,\u00e9\n".encode("latin-1"), "save it as CSV UTF-8"),
        ("t.csv", b"", "the first line must name the columns"),
        ("t.csv", b"1,2\n3,4\n", "must name the columns; it has numbers"),
        ("t.csv", b"a,a\n3,4\n", "each by its own name"),
        ("t.csv", b"a,b\n", "has no samples"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"t\.csv, line 3, has 3 cells; the first line has 2"),
        ("t.csv", b"a,b\n1,2\n,2\n", r"t\.csv, line 3: a must be a number, and is ''"),
        ("t.csv", b"a,b\n1,2\nnan,2\n", "line 3: a must be a number, and is 'nan'"),
        ("t.csv", b'a,b\n1,"2\n', "is no line of a table: unexpected end"),
        ("t.csv", b"y\n1\n", "has no column beside the target"),
    ],
)
def test_bad_files_get_one_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as refused:
        read.dataset(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_bad_folders_get_one_line(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    root = images(tmp_path / "i")
    odd = root / "dog" / "z.png"

    def refused(message: str) -> None:
        with pytest.raises(UsageError, match=message) as problem:
            read.dataset(root)
        assert "\n" not in str(problem.value)

    image.new("L", (5, 4)).save(odd)
    refused(r"of one size: \S*cat/0.png is 4 × 5, \S*z.png 5 × 4; resize them")
    odd.write_bytes((root / "dog" / "1.png").read_bytes()[:45])
    refused(r"z\.png is (damaged|no image)")
    odd.write_text("text", "utf-8")
    refused(r"z\.png is no image")
    image.new("I;16", (4, 5)).save(odd)
    refused(r"z\.png has shades of the kind I;16, and 8 bits are needed")
    odd.unlink()
    os.mkfifo(odd)
    refused(r"z\.png is not a file")
    odd.unlink()
    (root / "empty").mkdir()
    refused(r"empty has no image \(\.png, ")
    with pytest.raises(UsageError, match="must have a folder for each class"):
        read.dataset(root / "dog")
    with pytest.raises(UsageError, match=r"there is no .*nowhere: name an \.npz file, a"):
        read.dataset(tmp_path / "nowhere")
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=r"pipe\.npz is not a file"):
        read.dataset(pipe)


def test_files_that_unpack_to_more_than_there_is_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.npz", PLAIN)
    monkeypatch.setattr(npz, "physical_memory", lambda: 100)
    with pytest.raises(UsageError, match="more than this machine has memory"):
        read.dataset(path)
