"""What ``distributed.Pipeline`` asks of torch.distributed, between threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any, TypeVar

from torch import Tensor

Result = TypeVar("Result")
SECONDS = 20


class Sent:
    """A message that is on its way."""

    def wait(self) -> None:
        """It was copied."""


class Ranks:
    """As much of the module as is asked for; each thread is a rank."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.own = threading.local()
        self.messages: dict[Any, Queue[Tensor]] = {}
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(ranks)
        self.shared: list[Any] = [None] * ranks
        self.errors: list[Exception] = []

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_backend(self) -> str:
        return "gloo"

    def get_rank(self) -> int:
        return self.own.rank

    def get_world_size(self) -> int:
        return self.ranks

    def queue(self, *key: int) -> Queue[Tensor]:
        with self.lock:
            return self.messages.setdefault(key, Queue())

    def isend(self, value: Tensor, rank: int, tag: int) -> Sent:
        assert value.is_contiguous()
        self.queue(self.own.rank, rank, tag).put(value.clone())
        return Sent()

    def recv(self, value: Tensor, rank: int, tag: int) -> None:
        sent = self.queue(rank, self.own.rank, tag).get(timeout=SECONDS)
        assert (sent.shape, sent.dtype) == (value.shape, value.dtype)
        value.copy_(sent)

    def all_gather_object(self, found: list[Any], own: Any) -> None:
        self.shared[self.own.rank] = own
        self.barrier.wait(SECONDS)
        found[:] = self.shared
        self.barrier.wait(SECONDS)

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """What each rank's work gives; no message may be left over."""

        def as_rank(rank: int) -> Result:
            self.own.rank = rank
            try:
                return work(rank)
            except Exception as error:
                self.errors.append(error)
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.ranks) as pool:
            done = [pool.submit(as_rank, rank) for rank in range(self.ranks)]
        if self.errors:
            raise self.errors[0]
        results = [rank.result() for rank in done]
        assert all(queue.empty() for queue in self.messages.values())
        return results
