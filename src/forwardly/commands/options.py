"""Options that commands have in common, or take from the fields of a settings dataclass."""

from __future__ import annotations

import re
from typing import Literal

from cyclopts import Parameter

from forwardly.errors import UsageError
from forwardly.experiments.settings import MOST_THREADS, at_least, require


def fields_but(*names: str) -> Parameter:
    """Make an option of every field of a dataclass but these; help is its docstring's."""
    return Parameter(name="*", parse=re.compile(f"^(?!({'|'.join(names)})$)"))


def set_threads(threads: int | None) -> None:
    """Let torch use so many processor threads, if a number is given.

    Raises:
        UsageError: if there cannot be so many.
    """
    import torch

    require(at_least(1), threads=threads)
    require(MOST_THREADS, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)


def preprocessing(centre: bool, standardise: bool) -> Literal["centre", "standardise"] | None:
    """What is to be done to samples.

    Raises:
        UsageError: if both are asked for.
    """
    if centre and standardise:
        raise UsageError("--centre is a part of --standardise: give one of them")
    return "standardise" if standardise else "centre" if centre else None
