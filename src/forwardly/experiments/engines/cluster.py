"""Runs on the workers of a Dask cluster: of this machine, the lab's, Slurm's or anybody's.

What a worker sends back is a plain record, which the asking process alone writes; so no file system
need be shared. A run whose worker is lost is begun again by the scheduler elsewhere, and goes on
from its checkpoint where the worker finds one: in the folder ``FORWARDLY_WORK`` of its environment,
or in the asking command's, if the worker sees that too. So each run is executed at least once, and
recorded once.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence, Sized
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, final

from forwardly.data import load
from forwardly.errors import UsageError, in_a_line, missing
from forwardly.experiments.engines.signals import ignoring_ctrl_c
from forwardly.experiments.jobs import Ended, Job, Outcome, Restarted, State, train
from forwardly.experiments.provenance import versions
from forwardly.experiments.records import Record
from forwardly.experiments.settings import MOST_THREADS, at_least, require

PLACES = "local:4 (so many processes here), tcp://HOST:8786 (a Dask scheduler), slurm or ssh:FILE"
"""What can be named."""

_SECONDS_BETWEEN_REPORTS = 0.5
_SECONDS_TO_CONNECT = 15
_SECONDS_WITHOUT_SCHEDULER, _MINUTES_WITHOUT_RUNS = 60, 10
"""After which a worker and a scheduler that were begun by SSH end, as the command was killed."""
_SETTINGS = {
    # A worker that compiles does not answer meanwhile, and is not lost.
    "distributed.scheduler.worker-ttl": "10 minutes",
    # How many workers may be lost under a run before it is given up.
    "distributed.scheduler.allowed-failures": 10,
}
"""Of schedulers that we begin; others have their own."""
_SILENT = {"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical"}
"""Of workers here: what happens to them is told as news."""
_SPEAKING = {name: {"distributed": "info"} for name in ("logging", "distributed.logging")}
"""Of what is begun by SSH: Dask reads its addresses from what it says, and would wait for ever if
somebody's settings made it silent."""


@contextmanager
def cluster(place: str, jobs: int) -> Generator[Dask]:
    """The engine of a cluster, which ends with the block if it was begun for it.

    Args:
        place: which, see ``PLACES``.
        jobs: of Slurm, how many of its jobs.

    Raises:
        UsageError: if there is no such cluster, it cannot be reached, or a package is missing.
    """
    kind, _, rest = place.partition(":")
    known = place == "slurm" or (kind in ("local", "tcp", "tls", "ssh") and rest)
    if not known or (kind == "local" and not rest.isdecimal()):
        raise UsageError(f"a cluster is {PLACES}; given {place!r}")
    if kind == "local":
        for must in (at_least(1), MOST_THREADS):
            require(must, processes=int(rest))
    dask, distributed = _package("dask"), _package("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is lost is told as news
    with ExitStack() as open_ones:
        open_ones.enter_context(dask.config.set(_SETTINGS))
        try:
            address: Any = place if kind in ("tcp", "tls") else _begun(kind, rest, jobs)
            if address != place:
                open_ones.callback(address.close)
            client = distributed.Client(address, timeout=_SECONDS_TO_CONNECT)
        except UsageError:
            raise
        except (OSError, ValueError, RuntimeError) as problem:
            raise UsageError(
                f"the cluster {place} cannot be begun or reached: {in_a_line(problem)}"
            ) from None
        open_ones.enter_context(client)
        yield Dask(client)


def _begun(kind: str, rest: str, jobs: int) -> Any:
    """A cluster of our own, by Dask's own means and settings."""
    dask, distributed = _package("dask"), _package("distributed")
    if kind == "local":
        with ignoring_ctrl_c(), dask.config.set(_SILENT):
            return distributed.LocalCluster(
                n_workers=int(rest),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                preload=ignoring_ctrl_c.__module__,
            )
    if kind == "ssh":
        _package("asyncssh")
        lines = map(str.strip, Path(rest).read_text("utf-8").splitlines())
        hosts = [line for line in lines if line and not line.startswith("#")]
        if not hosts:
            raise UsageError(f"{rest} names no host: it has one a line")
        worker = {"nthreads": 1, "death_timeout": _SECONDS_WITHOUT_SCHEDULER}
        with dask.config.set(_SPEAKING):
            return distributed.SSHCluster(
                [hosts[0], *hosts],
                worker_options=worker,
                scheduler_options={"idle_timeout": f"{_MINUTES_WITHOUT_RUNS} minutes"},
            )
    made = _package("dask_jobqueue").SLURMCluster()
    made.scale(jobs=jobs)
    return made


def _package(name: str) -> Any:  # none of them is typed throughout
    try:
        return import_module(name)
    except ImportError as problem:
        raise missing("for --cluster", name, "cluster", problem) from None


class Here(NamedTuple):
    """What a worker has, to be compared with the others.

    Attributes:
        versions: of forwardly, torch and numpy.
        data: of each data set, what its samples hash to; why it is not there, if it is not.
    """

    versions: dict[str, str]
    data: dict[str, tuple[str, str]]


def here(names: Sequence[str], data_root: Path | None) -> Here:
    """What this process has."""
    return Here(versions(), {name: _data(name, _there(data_root)) for name in names})


@cache
def _data(name: str, data_root: Path | None) -> tuple[str, str]:
    try:
        dataset = load(name, data_root)
    except UsageError as problem:
        return "", str(problem)
    return dataset.sha256(), ""


@final
class Dask:
    """An ``Engine`` of a Dask client's workers.

    Args:
        client: of a scheduler; it stays open.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def dashboard(self) -> str:
        """The address of the scheduler's page."""
        return self._client.dashboard_link

    def wait(self, waiting: Callable[[], None]) -> None:
        """Return when there is a worker; ``waiting`` is called before, if there is none yet."""
        if not self._client.scheduler_info(-1)["workers"]:
            waiting()
            self._client.wait_for_workers(1)

    def absent(self, names: Sequence[str], data_root: Path | None) -> dict[str, str]:
        """The data sets that a worker lacks, or has others of than the rest, and why.

        Raises:
            UsageError: if a worker has other versions than this process, or no forwardly.
        """
        found = self._client.run(here, names, data_root, on_error="return")
        ours, absent = versions(), dict[str, str]()
        first: dict[str, tuple[str, str]] = {}
        for worker, theirs in found.items():
            if not isinstance(theirs, Here):
                raise UsageError(
                    f"the worker {worker} cannot run forwardly {ours['forwardly']}: {theirs!r}"
                )
            _check_versions(worker, ours, theirs.versions)
            for name, (digest, why) in theirs.data.items():
                if why:
                    absent.setdefault(name, f"On the worker {worker}: {why}")
                elif digest != first.setdefault(name, (digest, worker))[0]:
                    other = first[name][1]
                    absent[name] = f"The workers {other} and {worker} have other samples of {name}."
        return absent

    def train(
        self, jobs: Iterable[Job], given_up: Collection[int] = ()
    ) -> Generator[State | Restarted | Ended]:
        """See ``Engine``."""
        topic = f"forwardly-{os.getpid()}-{time.monotonic_ns()}"
        news: SimpleQueue[State | int] = SimpleQueue()

        def reported(event: tuple[float, dict[str, Any]]) -> None:
            news.put(State(*event[1]["state"]))

        def ended(number: int, _: Any) -> None:
            news.put(number)

        left, begun, seen = iter(enumerate(jobs)), 0, set[int]()
        running: dict[int, tuple[Job, Any]] = {}
        self._client.subscribe_topic(topic, reported)
        try:
            while True:
                places = self._places()
                for number, job in islice(left, max(0, places - len(running))):
                    begun = number + 1
                    job.work.mkdir(parents=True, exist_ok=True)  # seen by workers that share it
                    job = replace(job, work=job.work.absolute())
                    future = self._client.submit(
                        _work, number, job, topic, versions(), key=_key(job), priority=-number
                    )
                    running[number] = job, future
                    future.add_done_callback(partial(ended, number))
                if not running and (places or (isinstance(jobs, Sized) and begun == len(jobs))):
                    return  # or else there is no worker to ask for a job for
                for number in running.keys() & {*given_up}:
                    running[number][1].cancel()
                with suppress(Empty):
                    one = news.get(timeout=0.5)  # or else Windows would not hear Ctrl-C
                    if isinstance(one, State) and one.epoch:
                        yield one
                    elif isinstance(one, State):  # it has begun
                        if one.job in seen:
                            yield Restarted(one.job, "its worker was lost")
                        seen.add(one.job)
                    elif one in running:
                        job, future = running.pop(one)
                        if one in given_up:
                            yield Ended(one, "stopped")
                            continue
                        done = self._result(job, future)
                        del future  # what is held would be made again with a lost worker
                        yield Ended(one, done.result)
                        self._forget(job, done)  # now it is recorded
        finally:
            self._client.unsubscribe_topic(topic)
            self._client.cancel([future for _, future in running.values()])

    def _places(self) -> int:
        """How many runs the workers take at a time."""
        return sum(self._client.nthreads().values())

    def _result(self, job: Job, future: Any) -> _Done:
        distributed = _package("distributed")
        try:
            return future.result()
        except distributed.KilledWorker:
            raise UsageError(
                f"workers were lost again and again while they ran {job.name}; if memory ran out, "
                "give each more. Checkpoints are kept, and the same command goes on"
            ) from None
        except distributed.CancelledError:
            raise UsageError(
                "the scheduler is gone. What has ended is recorded, and the same command goes on"
            ) from None

    def _forget(self, job: Job, done: _Done) -> None:
        """Remove a checkpoint that only the worker sees."""
        workers = self._client.scheduler_info(-1)["workers"]
        if done.checkpoint != job.checkpoint and done.worker in workers:
            self._client.run(done.checkpoint.unlink, True, workers=[done.worker], on_error="ignore")


class _Done(NamedTuple):
    """What a worker sends back."""

    result: Record | Outcome
    worker: str
    checkpoint: Path


def _key(job: Job) -> str:
    """The name of a run on the scheduler: two commands that want the same share it."""
    return f"{job.experiment}/{job.cell}/seed-{job.seed}/{job.recipe.sha256()}"


def _work(number: int, job: Job, topic: str, asked: dict[str, str]) -> _Done:
    """A task; it stops where nobody waits for it any more, as the client is gone or said so."""
    worker = _package("distributed").get_worker()
    key = worker.get_current_task()
    _check_versions(worker.address, asked, versions())  # it may have come late
    said = [0.0]

    def stop() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    def report(epoch: float, accuracy: float | None) -> None:
        if time.monotonic() - said[0] >= _SECONDS_BETWEEN_REPORTS:
            said[0] = time.monotonic()
            worker.log_event(topic, {"state": (number, epoch, accuracy)})

    worker.log_event(topic, {"state": (number, 0.0, None)})
    with _work_folder(job.work) as work:
        own = replace(job, work=work, data_root=_there(job.data_root))
        return _Done(train(own, report, stop), worker.address, own.checkpoint)


def _check_versions(worker: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    if theirs != ours:
        names = [name for name in ours if theirs.get(name) != ours[name]]
        raise UsageError(
            f"the worker {worker} has {_listed(names, theirs)}, and here is {_listed(names, ours)}:"
            " results would not be of one making. Install the same there"
        )


def _listed(names: Iterable[str], of: dict[str, str]) -> str:
    return " and ".join(f"{name} {of.get(name)}" for name in names)


def _there(data_root: Path | None) -> Path | None:
    """The asking command's folder of data sets where a worker sees it; else the worker's own."""
    return data_root if data_root is not None and data_root.is_dir() else None


@contextmanager
def _work_folder(asked: Path) -> Generator[Path]:
    """The worker's own, or that of the asking command if it is seen here, or one for this run."""
    if own := os.environ.get("FORWARDLY_WORK"):
        yield Path(own)
    elif asked.is_dir():
        yield asked
    else:
        with tempfile.TemporaryDirectory(prefix="forwardly-") as folder:
            yield Path(folder)
