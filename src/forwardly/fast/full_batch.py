"""``FullBatchTraining`` in compiled epochs: every seed's network by a thread of its own."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from forwardly.fast.compiled import CompiledTraining, one_thread_a_product
from forwardly.full_batch import Batch, Errors
from forwardly.rule import Rule

Array = NDArray[np.float64]


class CompiledFullBatchTraining:
    """What ``FullBatchTraining`` does, for rules that ``CompiledTraining`` takes.

    Args:
        rules: the rule with the network of each seed. They are read, not changed.
        train: what they learn.
        validation: what they are only measured on.
        learning_rate: on updates averaged over the samples.
        threads: networks at once; one a processor if None.

    Attributes:
        epoch: epochs done.
        diverged: for each seed (counted from 0) that has diverged, the first epoch after which one
            of its weights was NaN or infinite. It stays there, and the others go on.
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
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)))
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

        def run(seed: int) -> int:
            train[:, seed], validation[:, seed], broken = self._networks[seed].train_full_batch(
                self._train[seed],
                self._validation[seed],
                learning_rate=self._rate,
                count=times,
                every=every,
            )
            return broken

        alive = [seed for seed in range(len(self._networks)) if seed not in self.diverged]
        with one_thread_a_product():
            running = {seed: self._pool.submit(run, seed) for seed in alive}
            try:
                wait(running.values())
            finally:  # Ctrl-C too lets all come to the end of these epochs, so that they stay level
                for seed, one in running.items():
                    if one.result():
                        self.diverged[seed] = self.epoch + one.result()
                first, self.epoch = self.epoch, self.epoch + times * every
        return [Errors(first + (i + 1) * every, train[i], validation[i]) for i in range(times)]

    def weights(self, seed: int) -> list[Array]:
        """The weights of one seed's network (counted from 0), (n_l, n_{l−1}) each."""
        return [weight.astype(np.float64) for weight in self._networks[seed].weights()]
