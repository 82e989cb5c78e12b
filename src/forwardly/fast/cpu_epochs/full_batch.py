"""``FullBatchTraining`` in compiled epochs, the seeds shared out among threads.

A thread takes one seed's epochs after another's. The last seeds are run in pieces, in turn: where
32 seeds are shared by two threads of which one is held up, the other would take a whole 17th.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from forwardly.fast import processors
from forwardly.fast.cpu_epochs.compiled import CompiledTraining, one_thread_a_product
from forwardly.fast.engine import Batch, Errors
from forwardly.rule import Rule

Array = NDArray[np.float64]


_PIECES = 4


class CompiledFullBatchTraining:
    """``training.full_batch.FullBatchTraining`` for rules that ``CompiledTraining`` takes.

    Arguments and attributes are the same. A seed that diverges stays where it is.

    Args:
        threads: networks at once; one a processor if None.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        train: Batch,
        validation: Batch,
        *,
        learning_rate: float,
        threads: int | None = None,
    ) -> None:
        self.epoch = 0
        self.diverged: dict[int, int] = {}
        self._rate = learning_rate
        self._threads = threads or processors.count()
        self._pool = ThreadPoolExecutor(self._threads)
        self._networks = [CompiledTraining(rule) for rule in rules]
        self._train, self._validation = (
            [
                network.arrays(x, target)
                for network, x, target in zip(self._networks, batch.x, batch.target, strict=True)
            ]
            for batch in (train, validation)
        )

    def prepare(self) -> None:
        """Have the loops compiled: seconds, once on a machine, as they are kept."""
        network = copy.deepcopy(self._networks[0])
        network.train_full_batch(
            self._train[0], self._validation[0], learning_rate=self._rate, count=1, every=1
        )

    def advance(self, times: int, every: int) -> list[Errors]:
        """Run ``times`` times ``every`` more epochs, and measure after each ``every``.

        Returns:
            The errors; of a seed that diverged, NaN from then on.
        """
        train, validation = np.full((2, times, len(self._networks)), np.nan)
        alive = [seed for seed in range(len(self._networks)) if seed not in self.diverged]
        shared = len(alive) > self._threads > 1
        in_pieces = set(alive[-2 * self._threads :] if shared else [])
        whole, pieces = _pieces(times, every, 1), _pieces(times, every, _PIECES)
        running: dict[int, Future[int]] = {seed: Future() for seed in alive}

        def run(seed: int, piece: int, epochs: int) -> None:
            own = pieces if seed in in_pieces else whole
            rows, count, between = own[piece]
            try:
                *errors, broken = self._networks[seed].train_full_batch(
                    self._train[seed],
                    self._validation[seed],
                    learning_rate=self._rate,
                    count=count,
                    every=between,
                )
            except BaseException as error:
                running[seed].set_exception(error)
                return
            if rows is not None:
                train[rows, seed], validation[rows, seed] = errors
            if broken or piece + 1 == len(own):
                running[seed].set_result(epochs + broken if broken else 0)
            else:
                self._pool.submit(run, seed, piece + 1, epochs + count * between)

        with one_thread_a_product():
            for seed in alive:
                self._pool.submit(run, seed, 0, 0)
            try:
                wait(running.values())
            finally:  # Ctrl-C too lets all come to the end of these epochs, so that they stay level
                for seed, future in running.items():
                    if future.result():
                        self.diverged[seed] = self.epoch + future.result()
                first, self.epoch = self.epoch, self.epoch + times * every
        return [Errors(first + (i + 1) * every, train[i], validation[i]) for i in range(times)]

    def weights(self, seed: int) -> list[Array]:
        """The weights of one seed's network (counted from 0), (n_l, n_{l−1}) each."""
        return [weight.astype(np.float64) for weight in self._networks[seed].weights()]


def _pieces(times: int, every: int, most: int) -> list[tuple[slice | None, int, int]]:
    """``times`` times ``every`` epochs in up to ``most`` pieces of about the same length.

    Each is which rows of errors it gives, if any, how often it measures them, and after how many
    epochs each.
    """
    if times > 1 or every < most:
        ends = [times * i // most for i in range(most + 1)]
        parts = [(start, stop) for start, stop in pairwise(ends) if start < stop]
        return [(slice(start, stop), stop - start, every) for start, stop in parts]
    ends = [every * i // most for i in range(most + 1)]
    *before, last = (stop - start for start, stop in pairwise(ends))
    return [*((None, 1, epochs) for epochs in before), (slice(0, 1), 1, last)]
