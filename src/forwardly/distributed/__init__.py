"""One run over several processes, on one machine or several, by ``torch.distributed``.

    DataParallel    processes share out each batch
    Pipeline        each has some of the network's stages

May import ``training`` and what is below it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwardly.distributed.data_parallel import DataParallel
    from forwardly.distributed.launch import joined
    from forwardly.distributed.pipeline import Pipeline

__all__ = ["DataParallel", "Pipeline", "joined"]

_HOMES = {"DataParallel": "data_parallel", "Pipeline": "pipeline", "joined": "launch"}


def __getattr__(name: str) -> Any:
    """What takes torch's collectives, when it is first asked for; ``timetable`` does not."""
    if name in _HOMES:
        return getattr(import_module(f"forwardly.distributed.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'forwardly.distributed' has no attribute {name!r}")
