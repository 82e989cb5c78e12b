"""Joining the processes that ``torchrun`` begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from forwardly.errors import UsageError
from forwardly.fast import processors

Result = TypeVar("Result")

_NEEDED = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class FirstFailedError(Exception):
    """In the other processes, that the first could not do what it was to do."""


@dataclass(frozen=True)
class Joined:
    """One of the processes.

    Attributes:
        rank: which, from 0.
        count: how many there are.
        device: where it computes.
    """

    rank: int
    count: int
    device: torch.device

    def first_alone(self, do: Callable[[], Result]) -> Result | None:
        """What a function gives in the first process; None in the others, once it is done.

        Raises:
            FirstFailedError: in the others, if it raises something in the first.
        """
        done = torch.zeros((), device=self.device)
        try:
            if self.rank == 0:
                result = do()
                done += 1
                return result
        finally:
            distributed.broadcast(done, src=0)
        if not done:
            raise FirstFailedError
        return None

    def from_first(self, text: str) -> str:
        """The text that the first process has given."""
        given: list[str] = [text]
        distributed.broadcast_object_list(given, src=0, device=self.device)
        return given[0]


@contextmanager
def joined(device: str = "cpu", *, timeout: timedelta = timedelta(minutes=30)) -> Generator[Joined]:
    """Be one of the processes of ``torchrun``, as its environment says, within a block.

    Processors talk by gloo, CUDA GPUs by NCCL. Where all processes are on this machine, gloo
    listens on its loopback device alone; ``torchrun`` itself listens on all addresses. Torch gets
    this process's share of the machine's processors as threads.
    Attempts of ``torchrun --max-restarts`` do not see each other's addresses, by which a new one
    would wait for processes that are dead.

    Args:
        device: "cpu", or "cuda", of which each process of a machine takes one GPU.
        timeout: how long to wait for a process that does not answer.

    Raises:
        UsageError: if ``torchrun`` has not begun this process, or there are fewer GPUs than
            processes.
    """
    given = os.environ
    if missing := [name for name in _NEEDED if name not in given]:
        raise UsageError(
            f"this process is not one of several ({missing[0]} is not set): begin them by "
            "torchrun, e.g. torchrun --nproc-per-node 2 -m forwardly train --data-parallel"
        )
    if not distributed.is_available():
        raise UsageError("this torch was built without torch.distributed: install another")
    local, here = int(given["LOCAL_RANK"]), int(given["LOCAL_WORLD_SIZE"])
    if device not in ("cpu", "cuda"):
        raise UsageError(f"several processes train on cpu or on cuda; given is {device}")
    if device == "cuda":
        if torch.cuda.device_count() < here:
            raise UsageError(
                f"there are {here} processes on this machine and {torch.cuda.device_count()} GPUs: "
                "begin as many processes as there are GPUs"
            )
        torch.cuda.set_device(local)
    if here == int(given["WORLD_SIZE"]) and sys.platform in _LOOPBACK:
        given.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK[sys.platform])
    torch.set_num_threads(max(1, processors.count() // here))
    from torch._C._distributed_c10d import PrefixStore  # where there is one
    from torch.distributed.rendezvous import (
        rendezvous,  # pyright: ignore[reportUnknownVariableType]
    )

    store, rank, count = next(rendezvous("env://", timeout=timeout))
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=PrefixStore(f"attempt {attempt()}", store),
        rank=rank,
        world_size=count,
        timeout=timeout,
    )
    try:
        yield Joined(rank, count, torch.device(f"cuda:{local}" if device == "cuda" else "cpu"))
        # None leaves while others still talk to it.
        distributed.barrier()  # pyright: ignore[reportUnknownMemberType]
    finally:
        distributed.destroy_process_group()


def attempt() -> int:
    """How often ``torchrun`` has begun the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_first() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_of_others(problem: RuntimeError) -> bool:
    """Whether torch has noticed that another process has ended, or does not answer."""
    return isinstance(problem, distributed.DistError) or "gloo" in str(problem)
