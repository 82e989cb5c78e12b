"""Joining the processes that ``torchrun`` begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from forwardly.errors import UsageError
from forwardly.fast import processors

_NEEDED = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@contextmanager
def joined(
    device: str = "cpu", *, timeout: timedelta = timedelta(minutes=30)
) -> Generator[torch.device]:
    """Be one of the processes of ``torchrun``, as its environment says, within a block.

    Processors talk by gloo, CUDA GPUs by NCCL. Where all processes are on this machine, nothing
    listens beyond it. Torch gets this process's share of the machine's processors as threads.
    Attempts of ``torchrun --max-restarts`` do not see each other's addresses, by which a new one
    would wait for processes that are dead.

    Args:
        device: "cpu", or "cuda", of which each process of a machine takes one GPU.
        timeout: how long to wait for a process that does not answer.

    Yields:
        The device of this process.

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
    local, here = int(given["LOCAL_RANK"]), int(given["LOCAL_WORLD_SIZE"])
    place = torch.device(device)
    if place.type == "cuda":
        if torch.cuda.device_count() < here:
            raise UsageError(
                f"there are {here} processes on this machine and {torch.cuda.device_count()} GPUs: "
                f"begin as many processes as GPUs"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    elif place.type != "cpu":
        raise UsageError(f"several processes can train on cpu or cuda; given is {device}")
    if here == int(given["WORLD_SIZE"]) and sys.platform in _LOOPBACK:
        given.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK[sys.platform])
    torch.set_num_threads(max(1, processors.count() // here))
    store, rank, count = next(distributed.rendezvous("env://", timeout=timeout))
    distributed.init_process_group(
        "nccl" if place.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"attempt {attempt(given)}", store),
        rank=rank,
        world_size=count,
        timeout=timeout,
    )
    try:
        yield place
    finally:
        distributed.destroy_process_group()


def attempt(environment: Mapping[str, str]) -> int:
    """How often ``torchrun`` has begun the processes again."""
    return int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
