"""What is learned from: ``Split``, samples with their targets; and ``Dataset``, three of them."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from forwardly.checks import one_of, values_readable
from forwardly.data import arrays
from forwardly.data.arrays import Label, Task
from forwardly.data.preprocessing import Kind, Preprocessing, as_numbers
from forwardly.errors import UsageError

Aside = Any
"""A share, a number of samples, a pair (x, target), or none."""

SMALL = (torch.uint8, torch.int8, torch.int16, torch.int32)
"""Kinds of whole numbers that are no class indices to torch's losses, and become some."""

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and targets.

    Attributes:
        x: (n, …), numbers; or bytes, which stand for 0 to 1.
        target: class indices (n,), or numbers (n, k).

    Raises:
        TypeError: if they are no tensors.
        ValueError: if there are not as many targets as samples.
    """

    x: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        """Refuse what cannot be samples with their targets."""
        for name, values in (("x", self.x), ("target", self.target)):
            if not isinstance(values, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"{name} of a Split must be a tensor; given is a {type(values).__name__}: "
                    "torch.as_tensor makes one of an array or a list"
                )
            if values.dim() == 0:
                raise ValueError(f"{name} of a Split must have a first dimension, of samples")
        if len(self.x) != len(self.target):
            raise ValueError(
                f"a Split has a target for each sample; given are {len(self.x)} samples and "
                f"{len(self.target)} targets"
            )

    def __len__(self) -> int:
        """n."""
        return len(self.x)

    def __repr__(self) -> str:
        """What there is, not the numbers."""
        shape, target = tuple(self.x.shape[1:]), self.target
        return (
            f"Split({len(self):,} samples of {shape} {self.x.dtype}, "
            f"targets of {tuple(target.shape[1:])} {target.dtype})"
        )

    def batch(self, index: Tensor | slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The samples at ``index`` as numbers of ``dtype``, and their targets."""
        target = self.target[index]
        if target.is_floating_point():
            target = target.to(dtype)
        elif target.dtype in SMALL:
            target = target.long()
        return as_numbers(self.x[index], dtype), target

    def to(self, device: torch.device | str) -> Split:
        """The same on another device."""
        return Split(self.x.to(device), self.target.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three parts.

    Attributes:
        name: as ``load`` takes it.
        outputs: k, the number of classes, or of the target's numbers.
        train: what is learned from.
        validation: put aside from the training set; for curves and for choosing settings.
        test: for one look, at the end.
        labels: what each class is called; none where they are called 0, 1, ….
        preprocessing: what was done to all samples, if anything; see ``prepared``.
        columns: of a table that samples are rows of.
        target_name: of the table's column that is learned.
        of_bytes: whether samples were bytes before they were prepared.

    Raises:
        ValueError: if the parts do not go together, or a class is not below ``outputs``.
    """

    name: str
    outputs: int
    train: Split
    validation: Split
    test: Split
    labels: tuple[Label, ...] = ()
    preprocessing: Preprocessing | None = None
    columns: tuple[str, ...] = ()
    target_name: str = ""
    of_bytes: bool = False

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        target: Any,
        *,
        validation: Aside = None,
        test: Aside = None,
        task: Task | None = None,
        seed: int = 0,
        name: str = "arrays",
    ) -> Dataset:
        """A data set of what you have: tensors, NumPy arrays, lists, or a frame of pandas.

        Args:
            x: (n, …), real numbers, samples first; bytes (uint8) are taken as shades, which stand
                for 0 to 1. Or a frame, whose columns are numbers.
            target: n classes, of any names, or numbers (n,) or (n, k). If x is a frame it may be
                the name of a column.
            validation: what to put aside for validation: a share such as 0.1, a number of samples,
                a pair (x, target) that is one already (or a frame with the same columns); or None
                for no validation part.
            test: the same for the test part.
            task: "classification" or "regression"; if None, floating-point targets are numbers to
                learn, all others classes. Classes that are no whole numbers from 0 on are
                sorted, and ``labels`` says what they are called.
            seed: which samples are put aside.
            name: of the data set.

        Raises:
            UsageError: if something cannot be learned from: no numbers, missing values, parts that
                do not go together.
        """
        if task not in (None, "classification", "regression"):
            raise UsageError(f"task must be classification or regression; given {task!r}")
        column = target if isinstance(target, str) else None
        if column is not None:
            x, target = arrays.columns(x, column)
        names = arrays.names_of(x)
        values, labels = arrays.targets(target, task)
        train = split_of(arrays.samples(x), values)
        kind = "classification" if labels else "regression"
        empty = Split(train.x[:0], train.target[:0])
        parts = {"test": empty, "validation": empty}
        for part, given in (("test", test), ("validation", validation)):
            if given is None:
                continue
            if isinstance(given, numbers.Real):
                train, parts[part] = put_aside(train, given, seed, part)
                continue
            if arrays.is_frame(given) and column is not None:
                given = arrays.columns(given, column)
            own_x, own_target = _pair(given, part)
            own_x = arrays.like_columns(own_x, names, f"the {part} x")
            values, _ = arrays.targets(own_target, kind, labels or None, f"the {part} target")
            parts[part] = split_of(arrays.samples(own_x, f"the {part} x"), values)
        outputs = len(labels) or train.target.shape[1]
        if labels == tuple(range(outputs)):
            labels = ()
        try:
            return cls(
                name,
                outputs,
                train,
                parts["validation"],
                parts["test"],
                labels,
                columns=names,
                target_name=column or "",
            )
        except ValueError as problem:
            raise UsageError(str(problem)) from None

    def prepared(self, kind: Kind) -> Dataset:
        """The same with all samples centred or standardised, by statistics of the training part.

        Args:
            kind: "centre" for means of 0, "standardise" for standard deviations of 1 as well; of
                each channel of images, of each number of other samples.
        """
        fitted = Preprocessing.of(self.train.x, one_of("kind", kind, ("centre", "standardise")))
        parts = {name: getattr(self, name) for name in _PARTS}
        done = {name: Split(fitted(part.x), part.target) for name, part in parts.items()}
        before = self.preprocessing
        fitted = fitted if before is None else before.then(fitted)
        of_bytes = self.of_bytes or self.train.x.dtype == torch.uint8
        return replace(self, preprocessing=fitted, of_bytes=of_bytes, **done)

    def __post_init__(self) -> None:
        """Refuse parts that do not go together; one without samples says nothing."""
        parts = {name: getattr(self, name) for name in _PARTS}
        filled = {name: part for name, part in parts.items() if len(part)}
        kinds = {
            name: (
                tuple(part.x.shape[1:]),
                part.x.dtype == torch.uint8,
                part.target.dim(),
                part.target.is_floating_point(),
            )
            for name, part in filled.items()
        }
        if len(set(kinds.values())) > 1:
            described = (
                f"{name} {part.x.dtype} {tuple(part.x.shape)} with {part.target.dtype} "
                f"{tuple(part.target.shape)}"
                for name, part in filled.items()
            )
            raise ValueError(
                "the parts of a data set must have samples and targets of one kind; given are "
                f"{', '.join(described)}"
            )
        if not self.classes:
            return
        for name, part in filled.items():
            if not values_readable(part.target):
                continue
            low, high = (int(end) for end in part.target.aminmax())
            if low < 0 or high >= self.outputs:
                raise ValueError(
                    f"classes must be 0 to {self.outputs - 1}, as the data set has {self.outputs} "
                    f"outputs; the {name} part has {low if low < 0 else high}. Targets that are "
                    "numbers, not classes, must be floating-point"
                )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

    @property
    def classes(self) -> bool:
        """Whether targets are classes, and not numbers."""
        return not self.train.target.is_floating_point() and self.train.target.dim() == 1

    def sha256(self) -> str:
        """A checksum of all samples and targets."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for values in (part.x, part.target):
                digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
                bytes_of = values.detach().cpu().contiguous().view(torch.uint8)
                digest.update(bytes_of.numpy().data)
        return digest.hexdigest()

    def loss(self) -> nn.Module:
        """What is usual for such targets: cross-entropy for classes, else squared error."""
        return nn.CrossEntropyLoss() if self.classes else nn.MSELoss()

    def to(self, device: torch.device | str) -> Dataset:
        """The same on another device."""
        parts = {name: getattr(self, name).to(device) for name in _PARTS}
        return replace(self, **parts)


def put_aside(train: Split, count: Any, seed: int, part: str = "validation") -> tuple[Split, Split]:
    """All but some samples, and these, both in a random order.

    Args:
        train: the samples.
        count: how many to put aside; or, below 1, which share of them.
        seed: of the order.
        part: for messages.

    Raises:
        UsageError: if nothing would be left on one side.
    """
    number = count_of(count, len(train), part)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed), device="cpu")
    rest, aside = order[:-number], order[-number:]
    return Split(train.x[rest], train.target[rest]), Split(train.x[aside], train.target[aside])


def count_of(given: Any, samples: int, part: str) -> int:
    """A number of samples, from 1 on, or a share of them below 1, as a number.

    Raises:
        UsageError: if it is neither, or leaves nothing on one side.
    """
    number = 0
    if type(given) is not bool and isinstance(given, numbers.Integral):
        number = int(given)
    elif isinstance(given, numbers.Real) and 0 < float(given) < 1:
        number = round(float(given) * samples)
    if not 0 < number < samples:
        raise UsageError(
            f"{part} must be 1 to {samples - 1}, as there are {samples} training samples, or a "
            f"share of them below 1; given {given}"
        )
    return number


def _pair(given: Any, part: str) -> tuple[Any, Any]:
    if isinstance(given, tuple | list) and len(cast(Sequence[Any], given)) == 2:
        x, target = cast(Sequence[Any], given)
        return x, target
    kind = type(cast(object, given)).__name__
    raise UsageError(
        f"{part} must be a share such as 0.1, a number of samples, or a pair (x, target); given is "
        f"a {kind}"
    )


def split_of(x: Tensor, target: Tensor) -> Split:
    """A ``Split``; what does not go together is a mistake of the user's."""
    try:
        return Split(x, target)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
