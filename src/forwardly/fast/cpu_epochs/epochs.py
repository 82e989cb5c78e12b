"""Whole epochs, and the errors after them, compiled. See ``layout`` for the tuples."""

# pyright: basic

import numpy as np
from numba import njit

from forwardly.fast.compiling import compile_cached, compile_inner
from forwardly.fast.cpu_epochs.layout import BLOCK, Samples
from forwardly.fast.cpu_epochs.products import REORDERED, absolute_error, compiled
from forwardly.fast.cpu_epochs.rules import forward, is_shallow, rows_of, shallow_forward, update


def _entry(function):
    """Compile what Python calls; other threads go on meanwhile."""
    return compile_cached(njit, function, fastmath=REORDERED, nogil=True)


@_entry
def in_blocks(samples, batch):
    """A copy in whose memory the samples of each block of a batch lie together; see ``_block``."""
    blocks = Samples(np.empty_like(samples.x), np.empty_like(samples.target))
    as_they_come = np.arange(samples.x.shape[1])
    _gather(blocks.x, samples.x, as_they_come, batch)
    _gather(blocks.target, samples.target, as_they_come, batch)
    return blocks


@_entry
def epochs(network, settings, samples, blocks, order, schedule, room):
    """Whole epochs, in place.

    The samples are in ``blocks`` already, or are put there in each epoch's order, (epochs, n), if
    there is one: without, it is (0, n).

    Returns Σ over each epoch's outputs of |output − target|, as they were before the updates,
    (epochs,), and the first epoch (from 1) after which a weight was not finite, or 0; there it
    stops.
    """
    n, batch, W, b = samples.x.shape[1], schedule.batch, network.weights, network.biases
    absolute = np.zeros(schedule.epochs)
    for epoch in range(schedule.epochs):
        if len(order):
            _gather(blocks.x, samples.x, order[epoch], batch)
            _gather(blocks.target, samples.target, order[epoch], batch)
        for start in range(0, n, batch):
            end = min(start + batch, n)
            rate = samples.x.dtype.type(schedule.rate / (end - start))
            at_once = end - start <= BLOCK  # else summed until the last block is through
            updated = network if at_once else room.updates
            for first in range(start, end, BLOCK):
                block = _block(blocks, first, min(first + BLOCK, end))
                absolute[epoch] += update(network, settings, block, updated, rate, room)
            if not at_once:
                W += room.updates.weights
                b += room.updates.biases
                room.updates.weights[:] = 0
                room.updates.biases[:] = 0
        if not (_all_finite(W) and _all_finite(b)):
            return absolute, epoch + 1
    return absolute, 0


@_entry
def total_absolute_error(network, blocks, A):
    """Σ |output − target| of samples ``in_blocks`` of one batch; A is room for activities."""
    samples, layers, summed = blocks.x.shape[1], network.layers, 0.0
    for start in range(0, samples, BLOCK):
        x, target = _block(blocks, start, min(start + BLOCK, samples))
        if is_shallow(network):
            shallow_forward(network, A, x)
        else:
            forward(network, A, x, 0, len(layers))
        summed += absolute_error(rows_of(A, layers[-1], x.shape[1]), target)
    return summed


@compile_inner  # without leave to reorder, under which even inf − inf may become 0
def _all_finite(a):
    finite = True
    for i in range(len(a)):
        finite &= np.isfinite(a[i])
    return finite


@compiled
def _gather(blocks, A, which, batch):
    """Put the samples ``which`` of A (rows, n) in blocks."""
    rows, n = A.shape
    for start in range(0, n, batch):
        end = min(start + batch, n)
        for first in range(start, end, BLOCK):
            block = _rows(blocks, first, min(first + BLOCK, end))
            for i in range(rows):
                for s in range(block.shape[1]):
                    block[i, s] = A[i, which[first + s]]


@compiled
def _block(blocks, first, end):
    """The samples from ``first`` to ``end``, which are a block."""
    return Samples(_rows(blocks.x, first, end), _rows(blocks.target, first, end))


@compiled
def _rows(blocks, first, end):
    rows = len(blocks)
    return blocks.reshape(blocks.size)[rows * first : rows * end].reshape(rows, end - first)
