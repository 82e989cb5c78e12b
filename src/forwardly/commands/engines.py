"""Where commands have runs trained, by the options --jobs, --device and --cluster."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from forwardly.commands.console import PlainConsole
from forwardly.errors import UsageError
from forwardly.experiments.engines.processes import Processes
from forwardly.experiments.jobs import Engine
from forwardly.fast import processors


def threads_of(jobs: int, cluster: str | None) -> int:
    """Of a run: this machine's share; on other machines one, as workers have a thread a run."""
    if cluster is not None:
        kind, _, count = cluster.partition(":")
        if kind != "local" or not count.isdecimal():
            return 1
        jobs = int(count)
    return max(1, processors.count() // max(1, jobs))


def check_cluster(cluster: str, device: str, jobs: int | None) -> None:
    """Refuse options that do not go with a cluster.

    Raises:
        UsageError: that says which.
    """
    if device != "cpu":
        raise UsageError("runs on a cluster are its processors': leave --device out")
    if jobs is not None and cluster != "slurm":
        raise UsageError(
            f"how many runs there are at a time is the cluster's; given --jobs {jobs} with "
            f"--cluster {cluster}: leave --jobs out"
        )


@contextmanager
def engine_of(
    cluster: str | None, device: torch.device, jobs: int, console: PlainConsole
) -> Generator[Engine]:
    """Where runs are trained."""
    if cluster is not None:
        from forwardly.experiments.engines import cluster as clusters

        with clusters.cluster(cluster, jobs) as dask:
            console.say(f"The cluster's page is {dask.dashboard}")
            dask.wait(lambda: console.say("Waiting for a first worker; Ctrl-C ends that."))
            yield dask
    elif device.type != "cpu":
        from forwardly.experiments.engines.at_once import AtOnce

        yield AtOnce(device, jobs)
    else:
        yield Processes(jobs)
