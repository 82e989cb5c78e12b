"""Models of a user's own, made by a function in a file, which commands take as FILE.py:FUNCTION.

    def build(input_shape, outputs):              # (3, 32, 32) and 10, say
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs))

The file is run as Python; modules beside it can be imported. Weights are drawn from torch's global
generator, which has the run's seed meanwhile. All of the model is made twice on trial: what would
be another model the second time could neither be resumed nor compared.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from forwardly.errors import UsageError, in_a_line

FORM = "FILE.py:FUNCTION"


class Own(NamedTuple):
    """What made a model.

    Attributes:
        model: as ``FORM`` says.
        sha256: of the file.
        seed: of torch's generator meanwhile.
    """

    model: str
    sha256: str
    seed: int


def is_own(model: str) -> bool:
    """Whether a text names a function in a file."""
    return re.fullmatch(r".*\.py:[^\W\d]\w*", model, re.DOTALL) is not None


def absolute(model: str) -> str:
    """The same function, wherever it is asked for."""
    path, function = _parts(model)
    return f"{path.absolute()}:{function}"


def sha256(model: str) -> str:
    """A checksum of the file.

    Raises:
        UsageError: if there is none.
    """
    return hashlib.sha256(_content(model)).hexdigest()


def function(model: str) -> Callable[[tuple[int, ...], int], object]:
    """The function that a text names; its file is run.

    Raises:
        UsageError: if there is no such file or function, or the file does not run.
    """
    path, name = _parts(model)
    module = _module(path, _content(model))
    found = getattr(module, name, None)
    if not callable(found):
        ours = [n for n, value in vars(module).items() if _is_of(value, module)]
        has = f"; it has {', '.join(ours)}" if ours else ""
        raise UsageError(f"there is no function {name} in {path}{has}")
    return cast(Callable[[tuple[int, ...], int], object], found)


def build(
    model: str,
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A model by its function, on the CPU; the global random state is left as it was.

    Args:
        model: as ``FORM`` says.
        input_shape: of a sample.
        outputs: k, classes or numbers.
        seed: of torch's generator meanwhile.
        dtype: of the weights.

    Raises:
        UsageError: if it cannot be made, is no module, does not make (n, outputs) of samples, or is
            another one when it is made again.
    """
    made_by = function(model)

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
            torch.default_generator.manual_seed(seed)
            try:
                with _importing_from(_parts(model)[0]):
                    result = made_by(tuple(input_shape), outputs)
            except Exception as problem:  # whatever somebody else's code may raise
                raise UsageError(
                    f"{model}, called with {tuple(input_shape)} and {outputs}, the shape of a "
                    f"sample and how many outputs, raises {in_a_line(problem)}"
                ) from None
        if not isinstance(result, nn.Module):
            raise UsageError(f"{model} must return an nn.Module; it returned {_short(result)}")
        return result.to("cpu", dtype)

    x = torch.rand(2, *input_shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    first, second = made(), made()
    one, other = (_output(model, twin, x) for twin in (first, second))
    if one.shape != (2, outputs):
        raise UsageError(
            f"the model of {model} must make {outputs} numbers of each sample; of two samples it "
            f"makes {tuple(one.shape)}"
        )
    ours, theirs = first.state_dict(), second.state_dict()
    alike = ours.keys() == theirs.keys() and all(_equal(ours[n], theirs[n]) for n in ours)
    if not alike or not _equal(one, other):
        raise UsageError(
            f"{model} makes another model each time, so no run could be repeated: draw all that is "
            "random from torch's global generator, which the command seeds"
        )
    return made()


def _output(model: str, network: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            output = network.eval()(x)
    except Exception as problem:  # whatever somebody else's code may raise
        raise UsageError(
            f"the model of {model} does not take two samples, {tuple(x.shape)}: "
            f"{in_a_line(problem)}"
        ) from None
    if not isinstance(output, Tensor):
        raise UsageError(f"the model of {model} must make a tensor; it makes {_short(output)}")
    return output


def _short(value: object) -> str:
    return f"{' '.join(repr(value).split()):.60}"


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):  # of get_extra_state
        return True
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _parts(model: str) -> tuple[Path, str]:
    path, _, name = model.rpartition(":")
    return Path(path), name


def _content(model: str) -> bytes:
    path, _ = _parts(model)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {path}; a model of your own is named as {FORM}"
        ) from None
    except (OSError, ValueError) as problem:
        said = getattr(problem, "strerror", None) or problem
        raise UsageError(f"cannot read {path}: {said}") from None


def _module(path: Path, content: bytes) -> ModuleType:
    """What is in a file, which is run once a process."""
    digest = hashlib.sha256(str(path.absolute()).encode() + b"\0" + content).hexdigest()
    name = f"forwardly_own_{digest[:16]}"  # by which pickle and dataclasses find its classes
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with _importing_from(path):
            exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102, it is asked for
    except (Exception, SystemExit) as problem:  # whatever somebody else's code may raise
        del sys.modules[name]
        kind = type(problem).__name__
        said = in_a_line(problem) if isinstance(problem, Exception) else f"{kind}: it ends Python"
        raise UsageError(f"{path} does not run: {said}") from None
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(path: Path) -> Generator[None]:
    """As when a file is run by itself: what lies beside it can be imported."""
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _is_of(value: object, module: ModuleType) -> bool:
    """Whether a function or class was defined there."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__
