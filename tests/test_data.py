"""Data sets: formats, splits, and downloads from a server that misbehaves."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from forwardly import data
from forwardly.data import npz
from forwardly.data.sources import SOURCES
from forwardly.data.teacher_student import TaskSettings, draw
from forwardly.errors import UsageError
from real_data import real_data

SHA256 = {  # of the four arrays' bytes in Keras' order, from the originals
    "mnist": "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    "cifar10": "80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
}


def arrays(samples: int = 30, shape: tuple[int, ...] = (6, 5), classes: int = 10) -> npz.Arrays:
    random_numbers = np.random.default_rng(0)
    made: npz.Arrays = {}
    for part, n in (("train", samples), ("test", 7)):
        made[f"x_{part}"] = random_numbers.integers(0, 256, (n, *shape), dtype=np.uint8)
        made[f"y_{part}"] = random_numbers.integers(0, classes, n, dtype=np.uint8)
    return made


def idx(values: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return gzip.compress(head + values.tobytes())


def cifar(values: npz.Arrays, folder: str, batches: list[str], test: str, coarse: bool) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        parts = [
            *zip(
                batches,
                np.array_split(values["x_train"], len(batches)),
                np.array_split(values["y_train"], len(batches)),
                strict=True,
            ),
            (test, values["x_test"], values["y_test"]),
        ]
        for name, x, y in parts:
            labels = [y[:, None] // 5, y[:, None]] if coarse else [y[:, None]]
            planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
            raw = np.concatenate([*labels, planes], 1).astype(np.uint8).tobytes()
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return content.getvalue()


def originals(name: str) -> tuple[npz.Arrays, dict[str, bytes]]:
    if name in ("mnist", "fashion-mnist"):
        made = arrays()
        return made, {
            file: idx(made[key]) for file, key in zip(SOURCES[name].files, npz.KEYS, strict=True)
        }
    made = arrays(shape=(32, 32, 3), classes=10 if name == "cifar10" else 100)
    (file,) = SOURCES[name].files
    if name == "cifar10":
        batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
        return made, {file: cifar(made, "cifar-10-batches-bin", batches, "test_batch.bin", False)}
    return made, {file: cifar(made, "cifar-100-binary", ["train.bin"], "test.bin", True)}


class Server:
    """A folder a mirror, served on this machine; counts requests and cuts files short."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                path = Path(self.translate_path(self.path))
                if path.suffix == ".cut" or not path.with_name(path.name + ".cut").exists():
                    super().do_GET()
                    return
                content = path.with_name(path.name + ".cut").read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])  # and hangs up

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self._thread = threading.Thread(target=self._http.serve_forever)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def mirror(self, name: str, files: dict[str, bytes]) -> str:
        folder = self.root / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return f"http://127.0.0.1:{self._http.server_address[1]}/{name}/"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "www"
    root.mkdir()
    with Server(root) as made:
        yield made


def use(monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes], *mirrors: str) -> None:
    """Let a data set come from these mirrors, with the checksums of these files."""
    checksums = {
        file: f"sha256:{hashlib.sha256(content).hexdigest()}" for file, content in files.items()
    }
    changed = replace(SOURCES[name], mirrors=mirrors, files=checksums, validation=5)
    monkeypatch.setitem(SOURCES, name, changed)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("progress", [False, True])
def test_originals_are_downloaded_and_converted_once(
    name: str, progress: bool, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, files = originals(name)
    use(monkeypatch, name, files, server.mirror("good", files))
    first = data.load(name, tmp_path / "data", progress=progress)
    asked = len(server.requests)
    assert asked == len(files)
    second = data.load(name, tmp_path / "data")
    assert len(server.requests) == asked
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f"{name}.npz"]
    kept = npz.read(tmp_path / "data" / f"{name}.npz")
    for key in npz.KEYS:
        np.testing.assert_array_equal(kept[key], made[key])
    x = made["x_test"]
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    for loaded in (first, second):
        np.testing.assert_array_equal(loaded.test.x.numpy(), x)
        np.testing.assert_array_equal(loaded.test.target.numpy(), made["y_test"])
        assert (len(loaded.train), len(loaded.validation)) == (25, 5)


def test_a_bad_mirror_is_passed_over(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, files = originals("mnist")
    corrupt = {name: content[:-9] + b"corrupted" for name, content in files.items()}
    cut = {f"{name}.cut": content for name, content in files.items()}
    mirrors = (
        server.mirror("absent", {}),
        server.mirror("corrupt", corrupt),
        server.mirror("cut", cut),
        "http://127.0.0.1:9/nobody/",
        server.mirror("good", files),
    )
    use(monkeypatch, "mnist", files, *mirrors)
    loaded = data.load("mnist", tmp_path / "data")
    np.testing.assert_array_equal(loaded.test.x[:, 0].numpy(), made["x_test"])


@pytest.mark.parametrize("kind", ["absent", "corrupt", "cut"])
def test_without_a_good_mirror_there_is_no_file_but_advice(
    kind: str, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, files = originals("mnist")
    served = {
        "absent": {},
        "corrupt": {name: content + b"?" for name, content in files.items()},
        "cut": {f"{name}.cut": content for name, content in files.items()},
    }[kind]
    use(monkeypatch, "mnist", files, server.mirror("bad", served))
    place = tmp_path / "data"
    with pytest.raises(UsageError) as caught:
        data.load("mnist", place)
    message = str(caught.value)
    for part in (
        "bad/train-images-idx3-ubyte.gz",
        f"mnist.npz (Keras' layout: uint8 x_train, y_train, x_test, y_test) into {place}",
        "FORWARDLY_DATA",
    ):
        assert part in message
    assert not [path for path in place.rglob("*") if path.is_file()]


def test_a_failed_download_leaves_good_files_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, files = originals("mnist")
    by_hand = tmp_path / "data" / "originals" / "mnist"
    by_hand.mkdir(parents=True)
    first, *others = files
    (by_hand / first).write_bytes(files[first])
    npz.write(tmp_path / "data" / "cifar10.npz", arrays(shape=(4, 4, 3)))
    use(monkeypatch, "mnist", files, server.mirror("bad", {}))
    with pytest.raises(UsageError):
        data.load("mnist", tmp_path / "data")
    assert (by_hand / first).read_bytes() == files[first]
    npz.read(tmp_path / "data" / "cifar10.npz")
    for name in others:  # put there by hand, no mirror is asked, and they are not taken away
        (by_hand / name).write_bytes(files[name])
    before = len(server.requests)
    data.load("mnist", tmp_path / "data")
    assert len(server.requests) == before
    assert sorted(path.name for path in by_hand.iterdir()) == sorted(files)


def test_a_damaged_original_put_there_by_hand_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, files = originals("mnist")
    by_hand = tmp_path / "originals" / "mnist"
    by_hand.mkdir(parents=True)
    (by_hand / next(iter(files))).write_bytes(b"half a fi")
    use(monkeypatch, "mnist", files, server.mirror("good", files))
    loaded = data.load("mnist", tmp_path)
    np.testing.assert_array_equal(loaded.test.x[:, 0].numpy(), made["x_test"])


def test_published_checksums_have_the_right_form() -> None:
    checked = 0
    for source in SOURCES.values():
        assert len(source.mirrors) > 1
        for checksum in source.files.values():
            kind, _, digits = checksum.partition(":")
            assert len(bytes.fromhex(digits)) == {"sha256": 32, "md5": 16}[kind]
            checked += 1
    assert checked == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, "has no array y_test"),
        (
            {"x_train": np.zeros((30, 6, 5))},
            r"x_train must be uint8 images .* float64 \(30, 6, 5\)",
        ),
        ({"y_train": np.zeros(29, np.uint8)}, "and y_train n integers"),
        ({"y_train": np.full(30, 10, np.uint8)}, "classes 10 to 10; expected are 0 to 9"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8)}, "x_train must be"),
    ],
)
def test_wrong_npz_files(change: npz.Arrays, message: str, tmp_path: Path) -> None:
    made = {k: v for k, v in (arrays() | change).items() if v is not None}
    np.savez(tmp_path / "mnist.npz", **made)
    with pytest.raises(UsageError, match=message):
        data.load("mnist", tmp_path, validation=3)


def test_a_truncated_npz_is_refused_not_replaced(tmp_path: Path) -> None:
    npz.write(tmp_path / "mnist.npz", arrays())
    whole = (tmp_path / "mnist.npz").read_bytes()
    (tmp_path / "mnist.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cannot be read .* delete it to download it anew"):
        data.load("mnist", tmp_path)
    assert len((tmp_path / "mnist.npz").read_bytes()) == len(whole) // 2


def test_an_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", **(arrays() | {"x_train": np.array([{}], dtype=object)}))
    with pytest.raises(UsageError, match="cannot be read"):
        data.load("mnist", tmp_path)


def test_labels_may_be_columns(tmp_path: Path) -> None:
    made = arrays()
    np.savez(tmp_path / "mnist.npz", **(made | {"y_test": made["y_test"][:, None]}))
    loaded = data.load("mnist", tmp_path, validation=3)
    np.testing.assert_array_equal(loaded.test.target.numpy(), made["y_test"])


def test_the_folder_comes_from_argument_then_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz.write(tmp_path / "mnist.npz", arrays())
    monkeypatch.setenv("FORWARDLY_DATA", str(tmp_path))
    assert len(data.load("mnist", validation=3).train) == 27
    monkeypatch.setenv("FORWARDLY_DATA", "/nowhere")
    assert len(data.load("mnist", tmp_path, validation=3).train) == 27
    monkeypatch.delenv("FORWARDLY_DATA")
    assert data.folder().name == "forwardly"


def test_digits_are_scikit_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, or by its function where there is no such file."""
    pixels, classes = load_digits(return_X_y=True)
    places = data.find_spec("sklearn"), ModuleSpec("sklearn", None, origin=str(tmp_path / "x.py"))
    for place in (*places, None):
        monkeypatch.setattr(data, "find_spec", lambda _, place=place: place)
        table = data._table_of_digits()  # pyright: ignore[reportPrivateUsage]
        assert (table[:, :-1] == pixels).all()
        assert (table[:, -1] == classes).all()


@pytest.mark.parametrize("name", ["digits", "mnist1d", "teacher-student"])
def test_splits_are_seeded_and_apart(name: str) -> None:
    one, again, other = data.load(name, seed=3), data.load(name, seed=3), data.load(name, seed=4)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(one, part).x, getattr(again, part).x)
    assert not torch.equal(one.validation.x, other.validation.x)
    rows = [{tuple(x) for x in part.x.tolist()} for part in (one.train, one.validation, one.test)]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_validation_is_taken_from_the_training_set(tmp_path: Path) -> None:
    made = arrays()
    made["x_train"][:, 0, 0] = range(30)
    npz.write(tmp_path / "mnist.npz", made)
    loaded = data.load("mnist", tmp_path, validation=4, seed=1)
    parts = [part.x[:, 0, 0, 0].tolist() for part in (loaded.train, loaded.validation)]
    assert sorted(parts[0] + parts[1]) == list(range(30))
    for part, split in zip(parts, (loaded.train, loaded.validation), strict=True):
        np.testing.assert_array_equal(split.target.numpy(), made["y_train"][part])
    for count in (0, 30, -1):
        with pytest.raises(UsageError, match=f"validation must be 1 to 29.* given {count}"):
            data.load("mnist", tmp_path, validation=count)


@pytest.mark.parametrize("name", ["digits", "teacher-student"])
def test_validation_counts_of_made_data(name: str) -> None:
    assert len(data.load(name, validation=17).validation) == 17
    with pytest.raises(UsageError, match="validation must be"):
        data.load(name, validation=0)


def test_bytes_stand_for_zero_to_one() -> None:
    split = data.Split(torch.tensor([[0, 51, 255]], dtype=torch.uint8), torch.tensor([4]))
    x, target = split.batch(torch.tensor([0, 0]), torch.float64)
    torch.testing.assert_close(x, torch.tensor([[0, 0.2, 1]] * 2, dtype=torch.float64))
    assert target.tolist() == [4, 4]


def test_numbers_keep_their_scale_and_targets_the_dtype() -> None:
    split = data.Split(torch.tensor([[3.0]]), torch.tensor([[2.0]], dtype=torch.float64))
    x, target = split.batch(slice(1), torch.float32)
    assert (x.item(), target.item(), target.dtype) == (3.0, 2.0, torch.float32)


def test_data_moves_to_a_device() -> None:
    moved = data.load("digits").to("meta")
    assert {part.x.device.type for part in (moved.train, moved.validation, moved.test)} == {"meta"}


def test_losses_fit_the_targets() -> None:
    assert isinstance(data.load("digits").loss(), torch.nn.CrossEntropyLoss)
    assert isinstance(data.load("teacher-student").loss(), torch.nn.MSELoss)


def test_teacher_student_is_the_blogs_task() -> None:
    task = draw(TaskSettings(), np.random.default_rng(5))
    loaded = data.load("teacher-student", seed=5)
    np.testing.assert_array_equal(loaded.train.x.numpy(), task.x_train)
    np.testing.assert_array_equal(loaded.train.target.numpy(), task.y_train)
    np.testing.assert_array_equal(loaded.validation.x.numpy(), task.x_val)
    assert len(loaded.test) == 500


@pytest.mark.unchecked  # checks of annotations draw which item of a tuple they look at
def test_making_data_leaves_random_states_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    data.load("mnist1d")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


def test_mnist1d_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mnist1d.data", None)
    with pytest.raises(UsageError, match=r"pip install 'forwardly\[mnist1d\]'"):
        data.load("mnist1d")


def test_unknown_data() -> None:
    with pytest.raises(UsageError, match="unknown data set 'minst'; the known ones are mnist, f"):
        data.load("minst")


@pytest.mark.parametrize("name", SHA256)
def test_real_data(name: str) -> None:
    root = real_data(name)
    digest = hashlib.sha256()
    kept = npz.read(root / f"{name}.npz")
    for key in npz.KEYS:
        digest.update(np.ascontiguousarray(kept[key]).tobytes())
    assert digest.hexdigest() == SHA256[name]
    loaded = data.load(name, root)
    assert loaded.sample_shape == ((1, 28, 28) if name == "mnist" else (3, 32, 32))
    sizes = len(loaded.train), len(loaded.validation), len(loaded.test)
    assert sizes == ((58_000 if name == "mnist" else 48_000), 2000, 10_000)
    assert set(loaded.train.target.tolist()) == set(range(10))
