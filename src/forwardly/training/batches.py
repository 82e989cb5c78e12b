"""Where batches come from: tensors in memory in a seeded order, or a user's own loader.

A run resumes bit for bit where its order does. That of tensors in memory hangs on a generator whose
state is in the checkpoint. A loader's hangs on torch's, NumPy's and Python's global generators and
on the loader's own ``generator``, which are saved as well; a sampler or a data set with random
numbers of its own, or a stream, cannot be taken back to where it was.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import numbers
import random
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from forwardly.data import Split, arrays
from forwardly.data.arrays import is_frame
from forwardly.data.dataset import SMALL, Dataset, count_of, put_aside, split_of
from forwardly.data.preprocessing import as_numbers
from forwardly.errors import UsageError
from forwardly.rule import Rule

Batch = tuple[Tensor, Tensor]
_AT_ONCE = 1000
"""Samples that are evaluated at once."""


class Batches(ABC):
    """An epoch's batches, again and again.

    Attributes:
        count: how many there are in an epoch; None where nobody knows.
        size: samples a batch; None where a loader's sampler decides.
        smallest: how many samples the smallest batch has.
    """

    count: int | None
    size: int | None
    smallest: int

    @abstractmethod
    def described(self) -> str:
        """What it is, for a run that is to go on with the same."""

    @abstractmethod
    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 1, as numbers."""

    @abstractmethod
    def once(self) -> Iterator[Batch]:
        """All samples, for evaluation; no random state moves."""

    @abstractmethod
    def first(self, samples: int) -> Batch | None:
        """The first so many samples, if they can be seen without an effect on the order."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the order of the next epochs hangs on; plain data."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@final
class InMemory(Batches):
    """Tensors in memory, their order drawn anew in each epoch.

    Args:
        split: samples and targets.
        batch: samples a step.
        seed: of the order.
        drop_last: whether to leave out what does not fill a batch.
        place: a parameter of the model, which has the type and device of a batch.
    """

    def __init__(self, split: Split, batch: int, seed: int, drop_last: bool, place: Tensor) -> None:
        self.split, self.batch, self._place = split, batch, place
        self.size = batch
        self._order = torch.Generator().manual_seed(seed)
        whole = math.floor if drop_last else math.ceil
        self.count = whole(len(split) / batch)
        left = 0 if drop_last else len(split) % batch
        self.smallest = left or min(batch, len(split))

    def described(self) -> str:
        """See ``Batches``."""
        return f"{len(self.split)} samples in memory"

    def order(self) -> Tensor:
        """The next epoch's order of all samples."""
        return torch.randperm(len(self.split), generator=self._order, device="cpu")

    def epoch(self, number: int) -> Iterator[Batch]:  # noqa: ARG002
        """See ``Batches``."""
        order = self.order().to(self.split.x.device)
        for start in range(0, (self.count or 0) * self.batch, self.batch):
            yield self.at(order[start : start + self.batch])

    def once(self) -> Iterator[Batch]:
        """See ``Batches``."""
        for start in range(0, len(self.split), _AT_ONCE):
            yield self.at(slice(start, start + _AT_ONCE))

    def first(self, samples: int) -> Batch:
        """See ``Batches``."""
        return self.at(slice(samples))

    def state(self) -> dict[str, Any]:
        """See ``Batches``."""
        return {"order": self._order.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Batches``."""
        self._order.set_state(state["order"])

    def at(self, chosen: Tensor | slice) -> Batch:
        """The samples of these numbers, on the device of the model."""
        x, target = self.split.batch(chosen, self._place.dtype)
        return x.to(self._place.device), target.to(self._place.device)


@final
class Loaded(Batches):
    """A loader's batches, each a pair (x, target).

    Args:
        loader: of torch's, or of a subclass.
        place: see ``InMemory``.
    """

    def __init__(self, loader: DataLoader[Any], place: Tensor) -> None:
        self.loader: Any = loader  # which torch types in part
        self._place = place
        self.stream = isinstance(self.loader.dataset, IterableDataset)
        try:
            self.count = len(loader)
        except TypeError:  # a stream's
            self.count = None
        self.size = loader.batch_size
        self.smallest = self.size or 1
        if not self.stream and not loader.drop_last:
            with contextlib.suppress(TypeError):  # a sampler of no length
                self.smallest = len(self.loader.sampler) % self.smallest or self.smallest
        self._generators = _generators_of(self.loader)
        self._looked_at: Batch | None = None
        self._asked_for = 0

    def described(self) -> str:
        """See ``Batches``."""
        count = "" if self.count is None else f" of {self.count} batches"
        return f"a loader{count} with {len(self._generators)} generators"

    def epoch(self, number: int) -> Iterator[Batch]:
        """See ``Batches``."""
        for sampler in (self.loader.sampler, self.loader.batch_sampler):
            if hasattr(sampler, "set_epoch"):  # torch's distributed one
                sampler.set_epoch(number - 1)
        for batch in self.loader:
            yield self._numbers(batch)

    def once(self) -> Iterator[Batch]:
        """See ``Batches``."""
        with same_random_states(*self._generators):
            for batch in self.loader:
                yield self._numbers(batch)

    def first(self, samples: int) -> Batch | None:
        """See ``Batches``; those that the sampler gives first, the same ones again and again."""
        if self._asked_for < samples:
            self._asked_for = samples
            with same_random_states(*self._generators):
                self._looked_at = self._taken(samples)
        if self._looked_at is None:
            return None
        x, target = self._looked_at
        return x[:samples], target[:samples]

    def _taken(self, samples: int) -> Batch | None:
        sampler = self.loader.batch_sampler
        if self.stream or sampler is None or self.loader.num_workers:
            return None  # a data set may ask which worker it is in
        indices: list[Any] = []
        for batch in sampler:
            indices += batch
            if len(indices) >= samples:
                break
        if not indices:
            return None
        dataset = self.loader.dataset
        return self._numbers(self.loader.collate_fn([dataset[i] for i in indices[:samples]]))

    def state(self) -> dict[str, Any]:
        """See ``Batches``."""
        version, words, gauss = random.getstate()
        kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
        return {
            "generators": [generator.get_state() for generator in self._generators],
            "python": [version, list(words), gauss],
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],  # pyright: ignore
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See ``Batches``."""
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))

    def _numbers(self, batch: Any) -> Batch:
        if not (isinstance(batch, tuple | list) and len(cast(list[Any], batch)) == 2):
            raise UsageError(
                f"a batch must be a pair (x, target); the loader gives {_described(batch)}. Write "
                "a collate_fn that makes a pair of it"
            )
        pair = cast(list[Any], batch)
        if not all(isinstance(value, Tensor) for value in pair):
            raise UsageError(
                f"a batch must be a pair of tensors; the loader gives {_described(batch)}"
            )
        x, target = (cast(Tensor, value).to(self._place.device) for value in pair)
        if target.is_floating_point():
            target = target.to(self._place.dtype)
        elif target.dtype in SMALL:
            target = target.long()
        return as_numbers(x, self._place.dtype), target


def batches_of(
    data: Any, place: Tensor, *, batch: int = _AT_ONCE, seed: int = 0, drop_last: bool = False
) -> Batches:
    """Batches of a part: a ``Split``, a data set or loader of torch's, or a pair of arrays.

    A data set of torch's is shuffled, by the seed, unless it is a stream.

    Raises:
        UsageError: if it is empty, or cannot be learned from.
        TypeError: if it is nothing of that kind.
    """
    if isinstance(data, DataLoader):
        if drop_last:
            raise UsageError("a DataLoader has its own drop_last=: make the loader with it")
        return Loaded(cast(DataLoader[Any], data), place)
    if type(data) is torch.utils.data.TensorDataset and len(data.tensors) == 2:
        data = Split(*data.tensors)  # a subclass may give other samples than it holds
    if isinstance(data, TorchDataset):
        if hasattr(cast(Any, data), "__len__") and not len(cast(Any, data)):
            raise UsageError("the data set is empty")
        options: dict[str, Any] = {"batch_size": batch, "drop_last": drop_last}
        if not isinstance(data, IterableDataset):
            options |= {"shuffle": True, "generator": torch.Generator().manual_seed(seed)}
        return Loaded(DataLoader(cast(TorchDataset[Any], data), **options), place)
    if not isinstance(data, Split):
        raise TypeError(
            f"data must be a Dataset, a Split, a data set or DataLoader of torch, or a pair (x, "
            f"target) of arrays; given is {_described(data)}"
        )
    return InMemory(data, batch, seed, drop_last, place)


def parts_of(
    data: Any, validation: Any, rule: Rule, target: str | None, seed: int
) -> tuple[Any, Any | None]:
    """What to train on and what to validate on, each as ``batches_of`` takes it.

    Args:
        data: as ``fit`` takes it.
        validation: the same.
        rule: whose loss says whether arrays are classes or numbers.
        target: of a frame, the column to learn.
        seed: which samples are put aside.

    Raises:
        UsageError: if they do not go together, or cannot be learned from.
    """
    if target is not None and not is_frame(data):
        raise UsageError(f"target= names a column of a frame; data is {_described(data)}")
    names = arrays.names_of(data)
    if isinstance(data, Dataset):
        if validation is None:
            return data.train, data.validation if len(data.validation) else None
        data = data.train
    elif is_frame(data) or _is_pair(data):
        data = _of_arrays(data, rule, target)
    if not isinstance(validation, numbers.Real):
        if isinstance(validation, Dataset):
            raise UsageError("validation= takes one part: say which, as in dataset.validation")
        if is_frame(validation):
            validation = arrays.like_columns(validation, names, "the validation part")
        arrays_given = _is_pair(validation) or is_frame(validation)
        aside = _of_arrays(validation, rule, target) if arrays_given else validation
        if isinstance(data, Split) and isinstance(aside, Split):
            kinds = {part.x.dtype == torch.uint8 for part in (data, aside)}
            if len(kinds) > 1:
                raise UsageError(
                    f"samples are {data.x.dtype} to train and {aside.x.dtype} to validate, and "
                    "bytes stand for 0 to 1: convert one"
                )
        return data, aside
    if isinstance(data, Split):
        return put_aside(data, validation, seed)
    if isinstance(data, TorchDataset) and not isinstance(data, IterableDataset):
        size = len(cast(Any, data))
        count = count_of(validation, size, "validation")
        generator = torch.Generator().manual_seed(seed)
        lengths = [size - count, count]
        train, aside = torch.utils.data.random_split(cast(Any, data), lengths, generator)
        return train, aside
    raise UsageError(
        f"of {_described(data)} no share can be put aside: pass validation= as a loader of its own"
    )


def _of_arrays(data: Any, rule: Rule, target: str | None) -> Split:
    """Arrays as the rule's loss takes them: class indices as they are, or numbers (n, k)."""
    if is_frame(data):
        if target is None:
            raise UsageError("of a frame, target= must name the column to learn")
        x, y = arrays.columns(data, target)
    else:
        x, y = data
    indices = isinstance(rule.loss, torch.nn.CrossEntropyLoss) or rule.own_error is not None
    return split_of(arrays.samples(x), arrays.targets_of(y, indices=indices))


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(cast(list[Any], data)) == 2


def _described(data: Any) -> str:
    if isinstance(data, tuple | list):
        kinds = (type(item).__name__ for item in itertools.islice(cast(list[Any], data), 4))
        return f"a {type(cast(object, data)).__name__} of {', '.join(kinds) or 'nothing'}"
    return f"a {type(data).__name__}"


def _generators_of(loader: Any) -> list[torch.Generator]:
    """Those of a loader and of its samplers, of which one may be in another."""
    places = [loader]
    for place in places:
        inner = (getattr(place, name, None) for name in ("sampler", "batch_sampler"))
        places += [found for found in inner if found is not None and found not in places]
    held = (getattr(place, "generator", None) for place in places)
    return list({id(g): g for g in held if isinstance(g, torch.Generator)}.values())


@contextlib.contextmanager
def same_random_states(*generators: torch.Generator) -> Generator[None]:
    """Global random states, and those of generators, are afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    states = [generator.get_state() for generator in generators]
    with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
