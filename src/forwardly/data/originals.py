"""The formats in which data sets are published: MNIST's idx files, CIFAR's binary batches."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardly.data.npz import KEYS, Arrays

Bytes = NDArray[np.uint8]


def idx(paths: list[Path]) -> Arrays:
    """Train images and labels, test images and labels, each a gzipped idx file of bytes."""
    return dict(zip(KEYS, map(_idx, paths), strict=True))


def cifar10(paths: list[Path]) -> Arrays:
    """The archive of six batches; a record is the class and 3 × 32 × 32 bytes."""
    folder = "cifar-10-batches-bin"
    train = [f"{folder}/data_batch_{i}.bin" for i in range(1, 6)]
    return _cifar(paths[0], train, f"{folder}/test_batch.bin", labels=1)


def cifar100(paths: list[Path]) -> Arrays:
    """The archive of two batches; a record is the coarse and the fine class and the image."""
    folder = "cifar-100-binary"
    return _cifar(paths[0], [f"{folder}/train.bin"], f"{folder}/test.bin", labels=2)


def _idx(path: Path) -> Bytes:
    with gzip.open(path) as file:
        content = file.read()
    # Two zeros, 8 for bytes, the number of dimensions; then each as a big-endian integer.
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(shape))


def _cifar(path: Path, train: list[str], test: str, labels: int) -> Arrays:
    with tarfile.open(path) as archive:
        records = {name: _records(archive, name, labels) for name in (*train, test)}
    images, classes = zip(*(records[name] for name in train), strict=True)
    arrays = (np.concatenate(images), np.concatenate(classes), *records[test])
    return dict(zip(KEYS, arrays, strict=True))


def _records(archive: tarfile.TarFile, name: str, labels: int) -> tuple[Bytes, Bytes]:
    """Images (n, 32, 32, 3) and the last of each record's labels (n,)."""
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{archive.name!r} has no file {name}")
    records = np.frombuffer(file.read(), np.uint8).reshape(-1, labels + 3072)
    images = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, labels - 1].copy()
