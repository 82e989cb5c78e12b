"""Real ranks of a pipeline: forked, with gloo between them; what each found, saved to files.

    python pipeline_ranks.py FOLDER

Torch is imported once, so that a start takes a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import forwardly as fw
from forwardly.distributed import Pipeline

KINDS = (fw.PEPITA, fw.DRTP, fw.ForwardForward, fw.Backprop)
UNIT = 0.02
"""Seconds that a pass or an update sleeps."""


def asleep(method: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*given: Any) -> Any:
        result = method(*given)
        time.sleep(UNIT)
        return result

    return slow


def chain(layers: int, dropout: float) -> nn.Sequential:
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(6, 6), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*modules, nn.Linear(6, 4))


def trained(kind: Any, batches: int = 3, microbatches: int = 4) -> dict[str, Any]:
    """Weights and losses after some batches."""
    torch.manual_seed(0)
    rule = kind(chain(5, 0.2), nn.CrossEntropyLoss())
    pipeline = Pipeline(rule, microbatches)
    optimizer = torch.optim.SGD(pipeline.parameters(), lr=0.1, momentum=0.9)
    losses: list[float | None] = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(batches):
        x = torch.randn(10, 6, generator=generator)
        target = torch.randint(4, (10,), generator=generator)
        optimizer.zero_grad()
        loss = pipeline.accumulate(x, target)
        losses.append(None if loss is None else float(loss))
        optimizer.step()
    pipeline.gather()
    return {"state": rule.state_dict(), "losses": losses}


def timed(kind: Any, ranks: int, batches: int = 3) -> float:
    """Units of time a microbatch, where each pass and update sleeps for one."""
    torch.manual_seed(0)
    rule = kind(chain(ranks, 0.0), nn.CrossEntropyLoss())
    for name in ("carry", "learn"):
        setattr(rule, name, asleep(getattr(rule, name)))
    pipeline = Pipeline(rule, ranks)
    x, target = torch.randn(8, 6), torch.randint(4, (8,))
    pipeline.accumulate(x, target)
    start = time.monotonic()
    for _ in range(batches):
        pipeline.accumulate(x, target)
    end = time.monotonic()
    pipeline.gather()
    return (end - start) / batches / ranks / UNIT


def refused(rank: int) -> list[str]:
    """What is said where ranks are not given the same."""
    said: list[str] = []
    torch.manual_seed(rank)
    try:
        Pipeline(fw.PEPITA(chain(4, 0.0), nn.CrossEntropyLoss()), 2)
    except ValueError as error:
        said.append(str(error))
    return said


def work(folder: Path, rank: int) -> None:
    found: dict[str, Any] = {}
    for ranks in (4, 2):
        if rank >= ranks:
            return
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store-{ranks}", rank=rank, world_size=ranks
        )
        found["trained"] = {kind.__name__: trained(kind) for kind in KINDS}
        found["refused"] = refused(rank)
        if ranks == 4:
            kinds = (fw.PEPITA, fw.Backprop) * 2
            found["units"] = [(kind.__name__, timed(kind, ranks)) for kind in kinds]
        distributed.destroy_process_group()
        torch.save(found, folder / f"{ranks}-{rank}.pt")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # In one process; it also imports what the first step does.
    torch.save({"trained": {kind.__name__: trained(kind) for kind in KINDS}}, folder / "1-0.pt")
    others = 3
    children: list[int] = []
    rank = 0
    for number in range(1, others + 1):
        child = os.fork()
        if child == 0:
            rank, children = number, []
            break
        children.append(child)
    work(folder, rank)
    if rank > 0:
        os._exit(0)  # a copy of a process is not taken down in order
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
