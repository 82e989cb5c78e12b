"""One run over several processes, on one machine or several, by ``torch.distributed``.

    DataParallel    processes share out each batch
    Pipeline        each has some of the network's stages

May import ``training`` and what is below it.
"""

from __future__ import annotations

from forwardly.distributed.data_parallel import DataParallel
from forwardly.distributed.launch import joined
from forwardly.distributed.pipeline import Pipeline

__all__ = ["DataParallel", "Pipeline", "joined"]
