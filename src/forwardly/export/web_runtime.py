"""ONNX Runtime for browsers: two files of the npm package onnxruntime-web, one release of it.

They come from a folder that is named, from the user's cache, or from npm's registry, and are
taken if their checksums are the release's.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from forwardly import data, files
from forwardly.data.download import fetch
from forwardly.errors import UsageError
from forwardly.files.text import visible

VERSION = "1.30.0"
VARIABLE = "FORWARDLY_ONNXRUNTIME_WEB"
_ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
_PACKED = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"

SCRIPT, WASM = NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


class WebRuntime(NamedTuple):
    """The runtime as files that a page carries.

    Attributes:
        script: an ES module for WebAssembly alone, one thread or several.
        wasm: what it runs.
    """

    script: bytes
    wasm: bytes


_CHECKSUMS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def find(folder: Path | None = None, *, progress: bool = False) -> WebRuntime:
    """The runtime's files.

    Args:
        folder: the package's ``dist``, or another folder with the two files; if None, the one that
            the variable FORWARDLY_ONNXRUNTIME_WEB names; if that is not set, the user's cache,
            which is filled from npm's registry where it is empty.
        progress: whether a bar is shown while 33 MB are downloaded.

    Raises:
        UsageError: if they are not there, are other files, or cannot be downloaded.
    """
    given = folder or (Path(named) if (named := os.environ.get(VARIABLE)) else None)
    if given is not None:
        return _read(given)
    cache = _cache()
    if not all((cache / name).is_file() for name in _CHECKSUMS):
        _download(cache, progress)
    return _read(cache)


def is_there() -> bool:
    """Whether ``find()`` needs no download."""
    return bool(os.environ.get(VARIABLE)) or all((_cache() / name).is_file() for name in NAMES)


def _cache() -> Path:
    return data.folder() / f"onnxruntime-web-{VERSION}"


def _read(folder: Path) -> WebRuntime:
    found: list[bytes] = []
    for name, checksum in _CHECKSUMS.items():
        path = folder / name
        try:
            content = path.read_bytes()
        except OSError as problem:
            raise UsageError(
                f"cannot read {visible(str(path))}: {problem.strerror}; name the folder dist of "
                f"onnxruntime-web {VERSION} (npm install onnxruntime-web@{VERSION}), or none, to "
                "have it downloaded"
            ) from None
        if hashlib.sha256(content).hexdigest() != checksum:
            raise UsageError(
                f"{visible(str(path))} is not the file of onnxruntime-web {VERSION} (wrong "
                "checksum)"
            )
        found.append(content)
    return WebRuntime(*found)


def _download(cache: Path, progress: bool) -> None:
    packed = cache.with_name(f"{cache.name}.tgz")
    if problem := fetch(_ADDRESS, packed, _PACKED, progress):
        raise UsageError(
            f"onnxruntime-web {VERSION}, which runs in the page, could not be downloaded from "
            f"{_ADDRESS} ({problem}); where it is installed, name its folder dist by the variable "
            f"{VARIABLE}"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tarfile.open(packed) as package:
            for name in NAMES:
                member = package.extractfile(f"package/dist/{name}")
                files.write(cache / name, b"" if member is None else member.read())
        packed.unlink()
    except OSError as problem:
        raise UsageError(
            f"cannot write to {visible(str(cache))}: {problem.strerror}; name another data folder "
            f"by the variable {data.VARIABLE}"
        ) from None
