"""Runs side by side, each in a process of this machine, which may be killed."""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from queue import Empty
from typing import Any, final

from forwardly.errors import UsageError
from forwardly.experiments.engines.signals import STOP, without_signals
from forwardly.experiments.jobs import Ended, Job, Outcome, Restarted, State, train
from forwardly.experiments.records import Record

_MOST_LOSSES = 3
"""How often the process of one run may be killed before it is given up: memory is short then."""


@final
class Processes:
    """An ``Engine`` of so many processes, each of which runs one job after the other.

    A process that is killed is replaced, and its run goes on from the checkpoint; the others do not
    notice.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def train(
        self, jobs: Iterable[Job], given_up: Collection[int] = ()
    ) -> Generator[State | Restarted | Ended]:
        """See ``Engine``."""
        running: dict[Future[Record | Outcome], tuple[int, Job, _Process]] = {}
        left, again = iter(enumerate(jobs)), deque[tuple[int, Job]]()
        idle, losses = list[_Process](), Counter[int]()
        try:
            while True:
                while len(running) < self._count:
                    number, job = again.popleft() if again else next(left, (-1, None))
                    if job is None:
                        break
                    process = idle.pop() if idle else _Process()
                    running[process.begin(number, job)] = number, job, process
                if not running:
                    return
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for number, _, process in running.values():
                    yield from process.news()
                    process.stop.value = number in given_up
                for future in done:
                    number, job, process = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        process.end()
                        losses[number] += 1
                        if losses[number] == _MOST_LOSSES:
                            raise UsageError(
                                f"a process was killed while it ran {job.name}, {_MOST_LOSSES} "
                                "times; if memory ran out, give fewer --jobs. Checkpoints are "
                                "kept, and the same command goes on"
                            ) from None
                        again.append((number, job))
                        yield Restarted(number, "its process was killed")
                    else:
                        idle.append(process)
                        yield Ended(number, result)
        finally:
            ours = [*idle, *(process for _, _, process in running.values())]
            for process in ours:
                process.stop.value = True
            try:
                for process in ours:
                    process.end()
            except KeyboardInterrupt:  # again, from somebody who does not want to wait
                for child in active_children():
                    child.kill()  # a checkpoint is whole, whatever happens
                raise


class _Process:
    """A pool of one process, with a queue of its own: one that is killed may keep its lock.

    Attributes:
        stop: whether its job is to stop.
    """

    def __init__(self) -> None:
        context = get_context("spawn")  # torch's threads do not survive a fork
        self._queue = context.Queue()
        self.stop = context.RawValue("b", 0)  # no lock that a stopped process keeps
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(self.stop, self._queue)
        )

    def begin(self, number: int, job: Job) -> Future[Record | Outcome]:
        """Run a job."""
        self.stop.value = False
        with without_signals():
            return self._pool.submit(_work, number, job)

    def news(self) -> Generator[State]:
        """What it has reported since it was asked last."""
        with suppress(Empty):
            while True:
                yield State(*self._queue.get_nowait())

    def end(self) -> None:
        """Wait for its job, if it has one, and end it."""
        self._pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}
"""What ``_begin`` gives a process, for ``_work``."""


def _begin(stop: Any, queue: Any) -> None:
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    _worker.update(stop=stop, queue=queue)


def _work(number: int, job: Job) -> Record | Outcome:
    def stop() -> bool:
        parent = parent_process()
        if parent is not None and not parent.is_alive():  # killed; nobody waits for an answer
            os._exit(1)
        return bool(_worker["stop"].value)

    def report(epoch: float, accuracy: float | None) -> None:
        _worker["queue"].put((number, epoch, accuracy))

    if job.recorded:  # by another command, meanwhile
        return "finished"
    return train(job, report, stop)
