"""What sharing out batches costs and gains on this machine: python docs/data_parallel.py.

Prints milliseconds a step, the median of many, by one process and by two on the same processors.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import distributed, nn

import forwardly as fw

STEPS = 60
CASES = {
    "784-1024-10, batch 64": (64, 784, 1024),
    "784-1024-10, batch 1024": (1024, 784, 1024),
}
WAYS = "one process", "one process, readable", "two processes", "two processes, exact"


def milliseconds(way: str, case: str) -> float:
    """Of a step of ``LocalSGD`` by PEPITA."""
    n, inputs, units = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 10))
    rule = fw.PEPITA(model, nn.CrossEntropyLoss())
    if way.startswith("two"):
        fw.distributed.DataParallel(rule, exact="exact" in way)
    optimizer = fw.LocalSGD(rule, 0.1, momentum=0.9, fast="readable" not in way)
    x, target = torch.rand(n, inputs), torch.randint(10, (n,))
    times: list[float] = []
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.step(x, target)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[STEPS // 4 :])


def measured(ways: list[str]) -> dict[str, dict[str, float]]:
    """Of these ways, in this process."""
    return {case: {way: milliseconds(way, case) for way in ways} for case in CASES}


def main() -> None:
    """Measure in this process, then in two of torchrun's."""
    two = [way for way in WAYS if way.startswith("two")]
    if "RANK" in os.environ:
        with fw.distributed.joined() as joined:
            found = measured(two)
            distributed.barrier()
            if joined.rank == 0:
                sys.stdout.write(json.dumps(found) + "\n")
        return
    found = measured([way for way in WAYS if way not in two])
    begun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__]
    said = subprocess.run(begun, check=True, capture_output=True, text=True).stdout  # noqa: S603
    for case, times in json.loads(said.splitlines()[-1]).items():
        found[case] |= times
    for case, times in found.items():
        for way, time_ in times.items():
            sys.stdout.write(f"{case:24} {way:24} {time_:8.2f} ms\n")


if __name__ == "__main__":
    main()
