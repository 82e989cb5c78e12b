"""The compiled loops of ``compiled``; arrays only, in the letters of its docstring.

A network lies in flat arrays: W and b hold the layers' weights and biases one behind the other,
``sizes`` (L + 1,) their widths with the input's, ``activations`` and ``has_bias`` (L,) the rest.
Activities lie unit by unit, one layer under the other, with the samples of a block side by side,
so that inner loops run over contiguous samples. Large products are BLAS's, by ``np.dot``; those
with few rows are loops over samples, which are quicker.

Functions have no annotations: numba finds the types.
"""

# pyright: basic

import numpy as np
from numba import njit

from forwardly.fast.compiling import kept
from forwardly.fast.cpu_epochs.codes import (
    BACKPROP,
    BLOCK,
    PEPITA,
    READOUT_ONLY,
    RELU,
    SIGMOID,
    SQUARED,
    TANH,
)

FEW = 4  # rows, below which loops over samples beat BLAS


_REORDERED = {"reassoc", "contract", "nsz"}  # sums may be; NaN and infinity stay what they are


def _compiled(function, fastmath=_REORDERED):
    """Compile, once a machine."""
    return kept(njit, function, fastmath=fastmath, nogil=True)


def _compiled_to_the_letter(function):
    """Compile without leave to reorder, under which even inf − inf may become 0."""
    return _compiled(function, fastmath=False)


@_compiled_to_the_letter
def _all_finite(a):
    finite = True
    for i in range(len(a)):
        finite &= np.isfinite(a[i])
    return finite


@_compiled
def _rows(A, first, count, n):
    """Rows ``first`` to ``first + count`` of the (rows, n) that lie in the flat A."""
    return A[first * n : (first + count) * n].reshape(count, n)


@_compiled
def _matrix(W, at, units, inputs):
    """The layer's weight (units, inputs) that begins at ``at``."""
    return W[at : at + units * inputs].reshape(units, inputs)


@_compiled
def _copy(to, source):
    """As ``to[:] = source``, which looks for overlaps first, and takes seconds more to compile."""
    for o in range(len(to)):
        row, one = to[o], source[o]
        for s in range(len(row)):
            row[s] = one[s]


@_compiled
def _weigh(z, W, a, b, has_bias):
    """Z = W a + b: z (units, n), W (units, inputs), a (inputs, n)."""
    units, inputs = W.shape
    n = a.shape[1]
    if n == 1:
        np.dot(W, a.reshape(inputs), z.reshape(units))
    elif units >= FEW:
        np.dot(W, a, z)
    else:
        for o in range(units):
            to, row = z[o], W[o]
            to[:] = 0
            whole = inputs - inputs % 4
            for i in range(0, whole, 4):
                w0, w1, w2, w3 = row[i], row[i + 1], row[i + 2], row[i + 3]
                a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
                for s in range(n):
                    to[s] += w0 * a0[s] + w1 * a1[s] + w2 * a2[s] + w3 * a3[s]
            for i in range(whole, inputs):
                w0, a0 = row[i], a[i]
                for s in range(n):
                    to[s] += w0 * a0[s]
    if has_bias:
        for o in range(units):
            to, bias = z[o], b[o]
            for s in range(n):
                to[s] += bias


@_compiled
def _weigh_rectified(z, W, a, b, has_bias):
    """Z = W max(a, 0) + b of few units, without a pass over a for the rectification alone."""
    units, inputs = W.shape
    zero = W.dtype.type(0)
    for o in range(units):
        to, row = z[o], W[o]
        first = b[o] if has_bias else zero
        for s in range(len(to)):
            to[s] = first
        whole = inputs - inputs % 4
        for i in range(0, whole, 4):
            w0, w1, w2, w3 = row[i], row[i + 1], row[i + 2], row[i + 3]
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            for s in range(len(to)):
                h0 = zero if a0[s] < zero else a0[s]
                h1 = zero if a1[s] < zero else a1[s]
                h2 = zero if a2[s] < zero else a2[s]
                h3 = zero if a3[s] < zero else a3[s]
                to[s] += w0 * h0 + w1 * h1 + w2 * h2 + w3 * h3
        for i in range(whole, inputs):
            w0, a0 = row[i], a[i]
            for s in range(len(to)):
                to[s] += w0 * (zero if a0[s] < zero else a0[s])


@_compiled
def _dot(one, other):
    """Σ of products."""
    total = one.dtype.type(0)
    for s in range(len(one)):
        total += one[s] * other[s]
    return total


@_compiled
def _sum(one):
    total = one.dtype.type(0)
    for s in range(len(one)):
        total += one[s]
    return total


@_compiled
def _correlate(product, delta, pre):
    """Σ over samples of δ ⊗ pre: product (units, inputs), delta (units, n), pre (inputs, n)."""
    units, inputs = product.shape
    n = delta.shape[1]
    if units >= FEW and inputs >= FEW:
        np.dot(delta, pre.T, product)
        return
    zero = product.dtype.type(0)
    for o in range(units):
        one = delta[o]
        whole = inputs - inputs % 4
        for i in range(0, whole, 4):
            a0, a1, a2, a3 = pre[i], pre[i + 1], pre[i + 2], pre[i + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for s in range(n):
                s0 += one[s] * a0[s]
                s1 += one[s] * a1[s]
                s2 += one[s] * a2[s]
                s3 += one[s] * a3[s]
            product[o, i], product[o, i + 1], product[o, i + 2], product[o, i + 3] = s0, s1, s2, s3
        for i in range(whole, inputs):
            a0, s0 = pre[i], zero
            for s in range(n):
                s0 += one[s] * a0[s]
            product[o, i] = s0


@_compiled
def _activate(h, activation):
    """H = σ(h), in place."""
    units, n = h.shape
    for o in range(units):
        row = h[o]
        if activation == RELU:
            for s in range(n):
                row[s] = 0 if row[s] < 0 else row[s]
        elif activation == TANH:
            for s in range(n):
                row[s] = np.tanh(row[s])
        elif activation == SIGMOID:
            for s in range(n):
                row[s] = 1 / (1 + np.exp(-row[s]))


@_compiled
def _times_slope(delta, h, activation):
    """δ ⊙ σ′, which these activations' own values h give, in place."""
    units, n = h.shape
    for o in range(units):
        row, to = h[o], delta[o]
        if activation == RELU:
            for s in range(n):
                to[s] = 0 if row[s] <= 0 else to[s]
        elif activation == TANH:
            for s in range(n):
                to[s] *= 1 - row[s] * row[s]
        elif activation == SIGMOID:
            for s in range(n):
                to[s] *= row[s] * (1 - row[s])


@_compiled
def _error(e, output, target, loss):
    """E = output − target, or softmax(output) − target; (k, n) each."""
    k, n = output.shape
    if loss == SQUARED:
        for c in range(k):
            to, one, other = e[c], output[c], target[c]
            for s in range(n):
                to[s] = one[s] - other[s]
        return
    for s in range(n):
        largest = output[0, s]
        for c in range(1, k):
            largest = max(largest, output[c, s])
        total = e.dtype.type(0)
        for c in range(k):
            e[c, s] = np.exp(output[c, s] - largest)
            total += e[c, s]
        for c in range(k):
            e[c, s] = e[c, s] / total - target[c, s]


@_compiled
def _add_ranks(to, z, R, e, sign):
    """Z ± R e: to and z (units, n), R (units, k), e (k, n)."""
    units, k = R.shape
    for o in range(units):
        row, one, f, e0 = to[o], z[o], sign * R[o, 0], e[0]
        for s in range(len(row)):
            row[s] = one[s] + f * e0[s]
        for c in range(1, k):
            f, e0 = sign * R[o, c], e[c]
            for s in range(len(row)):
                row[s] += f * e0[s]


@_compiled
def _subtract(to, one, other):
    """One − other, as much as ``to`` takes."""
    for i in range(len(to)):
        to[i] = one[i] - other[i]


@_compiled
def _above(A, n, W, b, has_bias, sizes, activations, layers):
    """Activities of the second layer and those above it, up to ``layers``, in A."""
    row, at, unit = 0, sizes[0] * sizes[1], sizes[1]
    for l in range(1, layers):
        inputs, units = sizes[l], sizes[l + 1]
        h = _rows(A, row + inputs, units, n)
        weight = _matrix(W, at, units, inputs)
        _weigh(h, weight, _rows(A, row, inputs, n), b[unit : unit + units], has_bias[l])
        _activate(h, activations[l])
        row, at, unit = row + inputs, at + units * inputs, unit + units


@_compiled
def _send_back(D, A, n, W, sizes, activations):
    """Backprop: every layer's δ in D, from the output's error, which stands there already."""
    row, at = sizes[1:].sum() - sizes[-1], len(W)
    for l in range(len(activations) - 1, -1, -1):
        inputs, units = sizes[l], sizes[l + 1]
        delta = _rows(D, row, units, n)
        _times_slope(delta, _rows(A, row, units, n), activations[l])
        at -= inputs * units
        if l > 0:
            np.dot(_matrix(W, at, units, inputs).T, delta, _rows(D, row - inputs, inputs, n))
            row -= inputs


@_compiled
def _learn(W, b, has_bias, delta, pre, rate, product):
    """W ← W − rate · Σ over samples of δ ⊗ pre, and b likewise; ``product`` is for the sum."""
    units, inputs = W.shape
    if pre.shape[1] == 1:
        column = pre.reshape(inputs)
        for o in range(units):
            row, step = W[o], rate * delta[o, 0]
            if step != 0:  # often: most differences of rectified activities are none
                for i in range(inputs):
                    row[i] -= step * column[i]
    else:
        _correlate(product, delta, pre)
        for o in range(units):
            row, one = W[o], product[o]
            for i in range(inputs):
                row[i] -= rate * one[i]
    if has_bias:
        for o in range(units):
            one, total = delta[o], W.dtype.type(0)
            for s in range(len(one)):
                total += one[s]
            b[o] -= rate * total


@_compiled
def _learn_from_error(W, delta, e, F, factor):
    """W₁ ← W₁ − factor · (δ eᵀ) Fᵀ, what F e adds to the input's part of the first update."""
    units, k = len(W), len(e)
    product = np.empty((units, k), W.dtype)
    _correlate(product, delta, e)
    for o in range(units):
        row = W[o]
        for c in range(k):
            step, one = factor * product[o, c], F[c]
            for i in range(len(row)):
                row[i] -= step * one[i]


@_compiled
def _update(W, b, has_bias, sizes, D, A, x, n, rate, first, products):
    """Every layer's step, from layer ``first`` on; W and b may be sums to be added later.

    D holds δ and A the presynaptic activities of all layers but the first, whose is x.
    """
    row = at = unit = 0
    for l in range(len(has_bias)):
        inputs, units = sizes[l], sizes[l + 1]
        if l >= first:
            delta = _rows(D, row, units, n)
            product = _matrix(products, at, units, inputs)
            weight, bias = _matrix(W, at, units, inputs), b[unit : unit + units]
            pre = x if l == 0 else _rows(A, row - inputs, inputs, n)
            _learn(weight, bias, has_bias[l], delta, pre, rate, product)
        row, at, unit = row + units, at + units * inputs, unit + units


@_compiled
def _absolute(one, other):
    """Σ |one − other|."""
    total = 0.0
    for c in range(len(one)):
        left, right, row = one[c], other[c], one.dtype.type(0)
        for s in range(len(left)):
            row += abs(left[s] - right[s])
        total += row
    return total


@_compiled
def _modulate_and_sum(to, z, e, f):
    """A hidden unit's δ = max(z, 0) − max(z + f e, 0); Σ e max(z + f e, 0) and Σ e δ."""
    zero = z.dtype.type(0)
    with_h_err = with_delta = zero
    for s in range(len(z)):
        z_err = z[s] + f * e[s]
        h_err = zero if z_err < zero else z_err
        to[s] = (zero if z[s] < zero else z[s]) - h_err
        with_h_err += e[s] * h_err
        with_delta += e[s] * to[s]
    return with_h_err, with_delta


@_compiled
def _modulate(to, h_err, z, e, response, sign):
    """A hidden unit's h_err = max(z ± Σ of response e, 0) and δ = max(z, 0) − h_err."""
    zero, f, e_0 = z.dtype.type(0), sign * response[0], e[0]
    for s in range(len(z)):
        h_err[s] = z[s] + f * e_0[s]
    for c in range(1, len(e)):
        f, e_c = sign * response[c], e[c]
        for s in range(len(z)):
            h_err[s] += f * e_c[s]
    for s in range(len(z)):
        h_err[s] = zero if h_err[s] < zero else h_err[s]
        to[s] = (zero if z[s] < zero else z[s]) - h_err[s]


@_compiled
def _shallow_block(
    W, b, has_bias, sizes, activations, loss, F, sign, clean,
    x, t, to_W, to_b, rate, response, D, z_1, h_err, e, products,
):  # fmt: skip
    """PEPITA's ``_train_block`` for one rectified hidden layer and few outputs, in fewer passes.

    z_1 is given, and F e is added to x by its ranks and in parts. What follows the first product is
    two passes over z₁: one for the output, and one that goes unit by unit through the modulated
    pass, the difference of activities and what is summed of them. h_err is room for one unit.
    """
    d, h_1, k = sizes[0], sizes[1], sizes[2]
    W_2, to_W_2 = _matrix(W, d * h_1, k, h_1), _matrix(to_W, d * h_1, k, h_1)
    to_W_1, product = _matrix(to_W, 0, h_1, d), _matrix(products, 0, h_1, d)
    delta, zero = _rows(D, 0, h_1, x.shape[1]), W.dtype.type(0)
    from_error = np.empty((h_1, k), W.dtype)  # δ eᵀ; and e hᵀ is e h_errᵀ + e δᵀ
    _weigh_rectified(e, W_2, z_1, b[h_1:], has_bias[1])
    _activate(e, activations[1])
    absolute = _absolute(e, t)
    _error(e, e, t, loss)
    for o in range(h_1):
        z, to = z_1[o], delta[o]
        if k == 1:
            with_h_err, with_delta = _modulate_and_sum(to, z, e[0], sign * response[o, 0])
            from_error[o, 0] = with_delta
            to_W_2[0, o] -= rate * (with_h_err + (with_delta if clean else zero))
        else:
            _modulate(to, h_err, z, e, response[o], sign)
            for c in range(k):
                from_error[o, c] = with_delta = _dot(e[c], to)
                to_W_2[c, o] -= rate * (_dot(e[c], h_err) + (with_delta if clean else zero))
        if has_bias[0]:
            to_b[o] -= rate * _sum(to)
    if has_bias[1]:
        for c in range(k):
            to_b[h_1 + c] -= rate * _sum(e[c])
    _correlate(product, delta, x)
    for o in range(h_1):
        row, one = to_W_1[o], product[o]
        for c in range(0 if clean else k):  # what F e adds to the input's part
            f, column = sign * from_error[o, c], F[c]
            for i in range(d):
                one[i] += f * column[i]
        for i in range(d):
            row[i] -= rate * one[i]
    return absolute


@_compiled
def _train_block(
    W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
    x, t, to_W, to_b, rate, response, A, M, D, z_1, x_err, e, products,
):  # fmt: skip
    """One block's update, added to to_W and to_b; returns Σ |output − target| before it.

    x (d, n) and t (k, n); response is W₁F, the rest is room to work in.
    """
    layers, n, units = len(activations), x.shape[1], sizes[1:].sum()
    d, h_1, k = sizes[0], sizes[1], sizes[-1]
    z_1 = _rows(z_1, 0, h_1, n)
    ranks = n > k  # then W₁F is less work than W₁(x + F e)
    # Likewise, the update of (x + F e) is less work in two parts where the input is large.
    parts = not clean and h_1 * (d + n) < d * n
    _weigh(z_1, _matrix(W, 0, h_1, d), x, b[:h_1], has_bias[0])
    shallow = layers == 2 and k < FEW and activations[0] == RELU
    if shallow and rule == PEPITA and not second and ranks and (clean or parts):
        return _shallow_block(
            W, b, has_bias, sizes, activations, loss, F, sign, clean,
            x, t, to_W, to_b, rate, response, D, z_1, M[:n], _rows(e, 0, k, n), products,
        )  # fmt: skip
    h = _rows(A, 0, h_1, n)
    _copy(h, z_1)
    _activate(h, activations[0])
    _above(A, n, W, b, has_bias, sizes, activations, layers)
    output, delta = _rows(A, units - k, k, n), _rows(D, units - k, k, n)
    absolute = _absolute(output, t)
    _error(delta, output, t, loss)
    if rule == BACKPROP:
        _send_back(D, A, n, W, sizes, activations)
    first = layers - 1 if rule == READOUT_ONLY else 0
    if rule != PEPITA:
        _update(to_W, to_b, has_bias, sizes, D, A, x, n, rate, first, products)
        return absolute

    e = _rows(e, 0, k, n)
    _copy(e, delta)
    through = layers if second else layers - 1
    x_err = _rows(x_err, 0, d, n)
    if not ranks or not (clean or parts):
        _add_ranks(x_err, x, F.T, e, sign)
    if through > 0:
        h_err = _rows(M, 0, h_1, n)
        if ranks:
            _add_ranks(h_err, z_1, response, e, sign)
        else:
            _weigh(h_err, _matrix(W, 0, h_1, d), x_err, b[:h_1], has_bias[0])
        _activate(h_err, activations[0])
        _above(M, n, W, b, has_bias, sizes, activations, through)
    _subtract(D[: (units - k) * n], A, M)
    if second:
        _error(delta, _rows(M, units - k, k, n), t, loss)
    pre = x if clean or parts else x_err
    _update(to_W, to_b, has_bias, sizes, D, A if clean else M, pre, n, rate, first, products)
    if parts:
        _learn_from_error(_matrix(to_W, 0, h_1, d), _rows(D, 0, h_1, n), e, F, sign * rate)
    return absolute


@_compiled
def blocked(X, batch):
    """X (rows, n) with the samples of each block of a batch together, (rows, of a block), flat."""
    rows, samples = X.shape
    flat = np.empty(rows * samples, X.dtype)
    for start in range(0, samples, batch):
        end = min(start + batch, samples)
        for at in range(start, end, BLOCK):
            to = min(at + BLOCK, end)
            _copy(flat[rows * at : rows * to].reshape(rows, to - at), X[:, at:to])
    return flat


@_compiled
def _gather(flat, X, which, batch):
    """``blocked`` of the samples ``which``, into ``flat``."""
    rows, samples = X.shape
    for start in range(0, samples, batch):
        end = min(start + batch, samples)
        for at in range(start, end, BLOCK):
            to = min(at + BLOCK, end)
            block = flat[rows * at : rows * to].reshape(rows, to - at)
            for s in range(to - at):
                for i in range(rows):
                    block[i, s] = X[i, which[at + s]]


@_compiled
def mean_absolute_error(W, b, has_bias, sizes, activations, X, T, samples, A):
    """Of X (d, samples) and T (k, samples), ``blocked`` in whole; A is room for activities."""
    d, h_1, k, units = sizes[0], sizes[1], sizes[-1], sizes[1:].sum()
    summed = 0.0
    for at in range(0, samples, BLOCK):
        n = min(BLOCK, samples - at)
        x = X[d * at : d * (at + n)].reshape(d, n)
        h = _rows(A, 0, h_1, n)
        _weigh(h, _matrix(W, 0, h_1, d), x, b[:h_1], has_bias[0])
        output = _rows(A, units - k, k, n)
        if len(activations) == 2 and k < FEW and activations[0] == RELU:
            _weigh_rectified(output, _matrix(W, d * h_1, k, h_1), h, b[h_1:], has_bias[1])
            _activate(output, activations[1])
        else:
            _activate(h, activations[0])
            _above(A, n, W, b, has_bias, sizes, activations, len(activations))
        summed += _absolute(output, T[k * at : k * (at + n)].reshape(k, n))
    return summed / (k * samples)


@_compiled
def _room(W, b, sizes, F, block):
    """Where ``_epochs`` works: sums and products of updates, W₁F, activities of a block."""
    d, h_1, k, units = sizes[0], sizes[1], sizes[-1], sizes[1:].sum()
    return (
        np.zeros_like(W),
        np.zeros_like(b),
        np.empty_like(W),
        np.zeros((h_1, len(F)), W.dtype),
        np.empty(units * block, W.dtype),
        np.empty(units * block, W.dtype),
        np.empty(units * block, W.dtype),
        np.empty(h_1 * block, W.dtype),
        np.empty(d * block, W.dtype),
        np.empty(k * block, W.dtype),
    )


@_compiled
def _epochs(
    W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
    X, T, flat_X, flat_T, order, samples, batch, count, rate, room,
):  # fmt: skip
    """``epochs`` of what is ``blocked``; gathered from X and T, where there is an order."""
    d, h_1, k = sizes[0], sizes[1], sizes[-1]
    block = min(batch, samples, BLOCK)
    W_sum, b_sum, products, response, A, M, D, z_1, x_err, e = room
    absolute = np.zeros(count)
    for epoch in range(count):
        if len(order):
            _gather(flat_X, X, order[epoch], batch)
            _gather(flat_T, T, order[epoch], batch)
        for start in range(0, samples, batch):
            end = min(start + batch, samples)
            step = W.dtype.type(rate / (end - start))
            if rule == PEPITA and min(end - start, block) > k:
                np.dot(_matrix(W, 0, h_1, d), F.T, response)  # W₁F
            at_once = end - start <= block  # else summed until the last block is through
            to_W, to_b = (W, b) if at_once else (W_sum, b_sum)
            for at in range(start, end, block):
                n = min(block, end - at)
                absolute[epoch] += _train_block(
                    W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
                    flat_X[d * at : d * (at + n)].reshape(d, n),
                    flat_T[k * at : k * (at + n)].reshape(k, n),
                    to_W, to_b, step, response, A, M, D, z_1, x_err, e, products,
                )  # fmt: skip
            if not at_once:
                W += W_sum
                b += b_sum
                W_sum[:] = 0
                b_sum[:] = 0
        if not (_all_finite(W) and _all_finite(b)):
            return absolute, epoch + 1
    return absolute, 0


@_compiled
def epochs(
    W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
    X, T, order, batch, count, rate,
):  # fmt: skip
    """Whole epochs, in place.

    X (d, n) and T (k, n); order (count, n), or none (0, n): as they come. F (k, d) is the
    transpose. Returns Σ over each epoch's outputs of |output − target|, as they were before the
    updates, (count,), and the first epoch (from 1) after which a weight was not finite, or 0;
    there it stops.
    """
    return _epochs(
        W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
        X, T, blocked(X, batch), blocked(T, batch), order, X.shape[1], batch, count, rate,
        _room(W, b, sizes, F, min(batch, X.shape[1], BLOCK)),
    )  # fmt: skip


@_compiled
def full_batch(
    W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
    X, T, X_val, T_val, count, every, rate,
):  # fmt: skip
    """``count`` times ``every`` full-batch epochs, each followed by the errors of both sets.

    Returns the mean absolute errors of training and validation set, (count,) each, and the first
    epoch after which a weight was not finite, or 0.
    """
    train, validation = np.full(count, np.nan), np.full(count, np.nan)
    samples, others, order = X.shape[1], X_val.shape[1], np.zeros((0, 0), np.int64)
    flat_X, flat_T = blocked(X, samples), blocked(T, samples)
    flat_X_val, flat_T_val = blocked(X_val, others), blocked(T_val, others)
    room = _room(W, b, sizes, F, min(samples, BLOCK))
    A = np.empty(sizes[1:].sum() * min(max(samples, others), BLOCK), W.dtype)
    for i in range(count):
        absolute, broken = _epochs(
            W, b, has_bias, sizes, activations, rule, loss, F, sign, second, clean,
            X, T, flat_X, flat_T, order, samples, samples, every, rate, room,
        )  # fmt: skip
        if i > 0:  # what the epoch's clean pass began with is where the one before had ended
            train[i - 1] = absolute[0] / T.size
        if broken > 0:
            return train, validation, i * every + broken
        validation[i] = mean_absolute_error(
            W, b, has_bias, sizes, activations, flat_X_val, flat_T_val, others, A
        )
    train[count - 1] = mean_absolute_error(
        W, b, has_bias, sizes, activations, flat_X, flat_T, samples, A
    )
    return train, validation, 0
