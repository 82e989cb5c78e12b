"""One run over several processes, on one machine or several, by ``torch.distributed``.

May import ``training``, ``rule``, ``network``, ``errors``, ``checks`` and ``fast``.
"""

from __future__ import annotations

from forwardly.distributed.data_parallel import DataParallel
from forwardly.distributed.launch import joined

__all__ = ["DataParallel", "joined"]
