"""One block's update, compiled: a function a rule, of the same parameters.

    network       from which the passes are computed
    settings      the rule's
    block         x (d, n) and target (k, n)
    updated       what the update is subtracted from: the network itself, or sums to be added later
    rate          η over the number of the batch's samples
    room          memory to work in

Each returns Σ |output − target| as it was before the update. See ``layout`` for the tuples, and
``compiled`` for the letters.
"""

# pyright: basic

import numpy as np

from forwardly.fast.cpu_epochs.layout import BACKPROP, READOUT_ONLY, RELU
from forwardly.fast.cpu_epochs.products import (
    FEW,
    absolute_error,
    activate,
    add_feedback,
    compiled,
    compiled_into_its_caller,
    copy,
    correlate,
    dot,
    error,
    learn,
    times_derivative,
    total,
    weigh,
    weigh_few,
)


@compiled
def weight_of(network, layer):
    """W (units, inputs)."""
    first, count = layer.first_weight, layer.units * layer.inputs
    return network.weights[first : first + count].reshape(layer.units, layer.inputs)


@compiled
def bias_of(network, layer):
    """b (units,); (0,) if the layer has none."""
    count = layer.units if layer.has_bias else 0
    return network.biases[layer.first_unit : layer.first_unit + count]


@compiled
def rows_of(A, layer, n):
    """A layer's rows of A, (units, n)."""
    first, end = layer.first_unit, layer.first_unit + layer.units
    return A[first * n : end * n].reshape(layer.units, n)


@compiled
def _inputs_of(network, l, A, x):
    """What layer l is given: x, or the activities of the layer below, in A."""
    return x if l == 0 else rows_of(A, network.layers[l - 1], x.shape[1])


@compiled
def forward(network, A, x, first, end):
    """Activities of layers ``first`` to ``end``, the end not included, in A."""
    for l in range(first, end):
        layer = network.layers[l]
        h = rows_of(A, layer, x.shape[1])
        pre = _inputs_of(network, l, A, x)
        weigh(h, weight_of(network, layer), bias_of(network, layer), pre)
        activate(h, layer.activation)


@compiled
def is_shallow(network):
    """Whether it has one hidden layer, of ReLU, and so few outputs that BLAS is not for them."""
    layers = network.layers
    return len(layers) == 2 and layers[0].activation == RELU and layers[1].units < FEW


@compiled
def shallow_forward(network, A, x):
    """z₁ and the output of a network that ``is_shallow``, in A."""
    hidden, readout = network.layers[0], network.layers[1]
    z_1, output = rows_of(A, hidden, x.shape[1]), rows_of(A, readout, x.shape[1])
    weigh(z_1, weight_of(network, hidden), bias_of(network, hidden), x)
    weigh_few(output, weight_of(network, readout), bias_of(network, readout), z_1, x.dtype.type(0))
    activate(output, readout.activation)


@compiled_into_its_caller
def update(network, settings, block, updated, rate, room):
    """The update by the rule that the settings name."""
    if settings.rule == BACKPROP:
        return _backprop(network, settings, block, updated, rate, room)
    if settings.rule == READOUT_ONLY:
        return _readout_only(network, settings, block, updated, rate, room)
    ranks = len(block.target) < block.x.shape[1] and (settings.clean or _in_parts(network, block))
    if ranks and not settings.second and is_shallow(network):
        return _shallow_pepita(network, settings, block, updated, rate, room)
    return _pepita(network, settings, block, updated, rate, room)


@compiled
def _clean_pass(network, settings, block, room):
    """Activities in A, and the output's error in D."""
    layers, n = network.layers, block.x.shape[1]
    forward(network, room.A, block.x, 0, len(layers))
    output, e = rows_of(room.A, layers[-1], n), rows_of(room.D, layers[-1], n)
    error(e, output, block.target, settings.loss)
    return absolute_error(output, block.target)


@compiled
def _learn(updated, l, pre, rate, room, n):
    """A layer's step, from δ in D."""
    layer = updated.layers[l]
    W, b, delta = weight_of(updated, layer), bias_of(updated, layer), rows_of(room.D, layer, n)
    learn(W, b, delta, pre, rate, room.product)


@compiled_into_its_caller
def _backprop(network, settings, block, updated, rate, room):
    """δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ σ′(z_l),  δ_L = e ⊙ σ′(z_L)."""
    absolute, n = _clean_pass(network, settings, block, room), block.x.shape[1]
    for l in range(len(network.layers) - 1, -1, -1):
        layer = network.layers[l]
        delta = rows_of(room.D, layer, n)
        times_derivative(delta, rows_of(room.A, layer, n), layer.activation)
        if l > 0:
            below = rows_of(room.D, network.layers[l - 1], n)
            np.dot(weight_of(network, layer).T, delta, below)
        _learn(updated, l, _inputs_of(network, l, room.A, block.x), rate, room, n)
    return absolute


@compiled_into_its_caller
def _readout_only(network, settings, block, updated, rate, room):
    """δ_L = e, and the other layers stay as they are."""
    absolute, last = _clean_pass(network, settings, block, room), len(network.layers) - 1
    _learn(updated, last, _inputs_of(network, last, room.A, block.x), rate, room, block.x.shape[1])
    return absolute


@compiled
def _in_parts(network, block):
    """Whether δ₁xᵀ and (δ₁eᵀ) Fᵀ are less work than to form x ± F e and take one product."""
    (d, n), h_1 = block.x.shape, network.layers[0].units
    return h_1 * (d + n) < d * n


@compiled_into_its_caller
def _pepita(network, settings, block, updated, rate, room):
    """δ_l = h_l − h_lᵉʳʳ and δ_L = e, with the modulated a_{l−1}, or the clean."""
    x, target = block
    (d, n), k, F, sign = x.shape, len(target), settings.F, settings.sign
    count, first, last = len(network.layers), network.layers[0], network.layers[-1]
    W_1, b_1 = weight_of(network, first), bias_of(network, first)
    h, h_err = rows_of(room.A, first, n), rows_of(room.M, first, n)
    x_err = room.x_err[: d * n].reshape(d, n)
    weigh(h_err, W_1, b_1, x)
    copy(h, h_err)
    activate(h, first.activation)
    forward(network, room.A, x, 1, count)
    e = rows_of(room.A, last, n)
    absolute = absolute_error(e, target)
    error(e, e, target, settings.loss)

    in_parts = not settings.clean and _in_parts(network, block)
    if n <= k or not (settings.clean or in_parts):
        copy(x_err, x)
        add_feedback(x_err, F.T, e, sign)
    through = count if settings.second else count - 1
    if through > 0:
        if n > k:  # W₁F is less work than W₁(x ± F e)
            add_feedback(h_err, np.dot(W_1, F.T), e, sign)
        else:
            weigh(h_err, W_1, b_1, x_err)
        activate(h_err, first.activation)
        forward(network, room.M, x, 1, through)

    for i in range(last.first_unit * n):
        room.D[i] = room.A[i] - room.M[i]
    delta = rows_of(room.D, last, n)
    if settings.second:
        error(delta, rows_of(room.M, last, n), target, settings.loss)
    else:
        copy(delta, e)
    presynaptic = room.A if settings.clean else room.M
    for l in range(count):
        pre = _inputs_of(network, l, presynaptic, x if settings.clean or in_parts else x_err)
        _learn(updated, l, pre, rate, room, n)
    if in_parts:
        delta, weight = rows_of(room.D, first, n), weight_of(updated, first)
        from_error = np.empty((first.units, k), x.dtype)
        correlate(from_error, delta, e)
        add_feedback(weight, from_error, F, -sign * rate)
    return absolute


@compiled_into_its_caller
def _shallow_pepita(network, settings, block, updated, rate, room):
    """``_pepita`` where ``is_shallow``, in fewer passes.

    What follows the first product is two passes over z₁: one for the output, and one that goes unit
    by unit through the modulated pass, the difference of activities and what is summed of them.
    """
    x, target = block
    n, k, F, sign = x.shape[1], len(target), settings.F, settings.sign
    hidden, readout = network.layers[0], network.layers[1]
    W_2, zero = weight_of(updated, readout), x.dtype.type(0)
    z_1, e = rows_of(room.A, hidden, n), rows_of(room.A, readout, n)
    delta, h_err = rows_of(room.D, hidden, n), room.M[:n]  # of one unit
    shallow_forward(network, room.A, x)
    absolute = absolute_error(e, target)
    error(e, e, target, settings.loss)
    responses = np.dot(weight_of(network, hidden), F.T)
    from_error = np.empty((hidden.units, k), x.dtype)  # δ eᵀ
    for o in range(hidden.units):
        z, to = z_1[o], delta[o]
        if k == 1:
            with_h_err, from_error[o, 0] = _modulate_and_sum(to, z, e[0], sign * responses[o, 0])
            if settings.clean:  # e hᵀ is e h_errᵀ + e δᵀ
                with_h_err += from_error[o, 0]
            W_2[0, o] -= rate * with_h_err
            continue
        for s in range(n):
            h_err[s] = z[s]
        add_feedback(h_err.reshape(1, n), responses[o : o + 1], e, sign)
        for s in range(n):
            h_err[s] = zero if h_err[s] < zero else h_err[s]
            to[s] = (zero if z[s] < zero else z[s]) - h_err[s]
        for c in range(k):
            from_error[o, c] = dot(e[c], to)
            W_2[c, o] -= rate * (dot(e[c], h_err) + (from_error[o, c] if settings.clean else zero))
    b_2 = bias_of(updated, readout)
    for c in range(len(b_2)):
        b_2[c] -= rate * total(e[c])
    _learn(updated, 0, x, rate, room, n)
    if not settings.clean:
        weight = weight_of(updated, hidden)
        add_feedback(weight, from_error, F, -sign * rate)
    return absolute


@compiled
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
