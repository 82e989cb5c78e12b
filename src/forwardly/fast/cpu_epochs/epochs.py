"""Whole epochs, and the errors after them, compiled. See ``layout`` for the tuples."""

# pyright: basic

import numpy as np
from numba import njit

from forwardly.fast.compiling import compile_cached, compile_inner
from forwardly.fast.cpu_epochs.layout import BLOCK, Network, Room, Samples
from forwardly.fast.cpu_epochs.products import (
    REORDERED,
    absolute_error,
    compiled,
    compiled_into_its_caller,
)
from forwardly.fast.cpu_epochs.rules import forward, is_shallow, rows_of, shallow_forward, update


def _entry(function):
    """Compile what Python calls; other threads go on meanwhile."""
    return compile_cached(njit, function, fastmath=REORDERED, nogil=True)


@_entry
def train(network, settings, samples, validation, order, schedule):
    """Epochs in place, and after each ``schedule.epochs`` of them the errors, if they are measured.

    Each epoch's order of the samples is that of ``order`` (epochs, n), or as they come if that is
    (0, n). Errors are measured where all samples are one batch, as they come.

    Returns the mean absolute errors of samples and validation samples, (measured,) each, and the
    first epoch (from 1) after which a weight was not finite, or 0; there it stops.
    """
    count, n = schedule.measured, samples.x.shape[1]
    others = validation.x.shape[1] if count > 0 else 0
    errors, validation_errors = np.full(count, np.nan), np.full(count, np.nan)
    blocks = _in_blocks(samples, schedule.batch)
    room = _room(network, min(max(min(schedule.batch, n), others), BLOCK))
    other_blocks = _in_blocks(validation, others) if count > 0 else blocks
    for i in range(max(count, 1)):
        absolute, broken = _epochs(network, settings, samples, blocks, order, schedule, room)
        if i > 0:  # what the epoch's clean pass began with is where the one before had ended
            errors[i - 1] = absolute / samples.target.size
        if broken > 0:
            return errors, validation_errors, i * schedule.epochs + broken
        if count > 0:
            validation_errors[i] = _error_of_blocks(network, other_blocks, room.A)
    if count > 0:
        errors[count - 1] = _error_of_blocks(network, blocks, room.A)
    return errors, validation_errors, 0


@_entry
def mean_absolute_error(network, samples):
    """Of the network's outputs."""
    n = samples.x.shape[1]
    A = np.empty(len(network.biases) * min(n, BLOCK), samples.x.dtype)
    return _error_of_blocks(network, _in_blocks(samples, n), A)


@compiled
def _error_of_blocks(network, blocks, A):
    """The same, of all samples in one batch ``_in_blocks``; A is room for activities."""
    samples, layers, summed = blocks.x.shape[1], network.layers, 0.0
    for start in range(0, samples, BLOCK):
        x, target = _block(blocks, start, min(start + BLOCK, samples))
        if is_shallow(network):
            shallow_forward(network, A, x)
        else:
            forward(network, A, x, 0, len(layers))
        output = rows_of(A, layers[-1], x.shape[1])
        summed += absolute_error(output, target)
    return summed / blocks.target.size


@compiled_into_its_caller
def _epochs(network, settings, samples, blocks, order, schedule, room):
    """Epochs of samples that lie ``_in_blocks``, or are put there where there is an order.

    Returns Σ over the first epoch's outputs of |output − target|, as they were before the updates,
    and the first epoch after which a weight was not finite, or 0.
    """
    n, batch, W, b = samples.x.shape[1], schedule.batch, network.weights, network.biases
    first_absolute = 0.0
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
                absolute = update(network, settings, block, updated, rate, room)
                if epoch == 0:
                    first_absolute += absolute
            if not at_once:
                W += room.updates.weights
                b += room.updates.biases
                room.updates.weights[:] = 0
                room.updates.biases[:] = 0
        if not (_all_finite(W) and _all_finite(b)):
            return first_absolute, epoch + 1
    return first_absolute, 0


@compile_inner  # without leave to reorder, under which even inf − inf may become 0
def _all_finite(a):
    finite = True
    for i in range(len(a)):
        finite &= np.isfinite(a[i])
    return finite


@compiled
def _in_blocks(samples, batch):
    """A copy in whose memory the samples of each block of a batch lie together; see ``_block``."""
    blocks = Samples(np.empty_like(samples.x), np.empty_like(samples.target))
    as_they_come = np.arange(samples.x.shape[1])
    _gather(blocks.x, samples.x, as_they_come, batch)
    _gather(blocks.target, samples.target, as_they_come, batch)
    return blocks


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


@compiled
def _room(network, block):
    """For blocks of so many samples."""
    W, b = network.weights, network.biases
    units, d = len(b), network.layers[0].inputs
    return Room(
        updates=Network(np.zeros_like(W), np.zeros_like(b), network.layers),
        product=np.empty_like(W),
        A=np.empty(units * block, W.dtype),
        M=np.empty(units * block, W.dtype),
        D=np.empty(units * block, W.dtype),
        x_err=np.empty(d * block, W.dtype),
    )
