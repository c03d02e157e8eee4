"""Training steps on short rows: log softmax, the ELBO with its slopes, also of a network's last layer, and tanh, in one pass each.

Tiles of ROWS rows are turned, so that every loop runs over rows side by side. No error bounds here: an optimizer needs none.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import exp_rest, log_of_sum, reduced, weight, whole_power
from elbo_exact.kernels.tiles import ROWS, returned, row_tiles, state_tiles, turned
from elbo_exact.kernels.tree import INF

__all__ = ["elbo_layer", "elbo_slopes", "log_softmax_pullback", "log_softmax_rows", "tanh", "tanh_pullback", "tanh_values"]

LOWEST = -1e8  # below every log q that has weight
ONE = -40.0  # from |x| = 20 on tanh is 1


@kernel(void(TABLE, OUT2))
def log_softmax_rows(logits, out):
    """out = logits - log sum exp(logits) of every row; NaN throughout a row with NaN or +inf, or of nothing but -inf."""
    n_rows, n_states = logits.shape
    lanes, known = state_tiles(), row_tiles()
    top, total = known[0], known[1]
    for first in range(0, n_rows, ROWS):
        turned(logits, first, lanes)
        for i in range(ROWS):
            top[i], total[i] = -INF, 0.0
        for k in range(n_states):
            for i in range(ROWS):
                top[i] = lanes[k, i] if lanes[k, i] > top[i] else top[i]
        for k in range(n_states):
            for i in range(ROWS):
                x = lanes[k, i]
                total[i] += weight(x, top[i]) if x == x else np.nan  # which ``weight`` takes for nothing
        for i in range(ROWS):
            total[i] = log_of_sum(total[i], 0.0) if total[i] > 0.0 else np.nan
        for k in range(n_states):
            for i in range(ROWS):
                lanes[k, i] = (lanes[k, i] - top[i]) - total[i]
        returned(lanes, first, out)


@kernel(void(TABLE, TABLE, OUT2))
def log_softmax_pullback(value, cotangent, out):
    """out = cotangent - exp(value) * sum of the row's cotangents."""
    n_rows, n_states = value.shape
    lanes, slopes, known = state_tiles(), state_tiles(), row_tiles()
    total = known[0]
    for first in range(0, n_rows, ROWS):
        turned(value, first, lanes)
        turned(cotangent, first, slopes)
        for i in range(ROWS):
            total[i] = 0.0
        for k in range(n_states):
            for i in range(ROWS):
                total[i] += slopes[k, i]
        for k in range(n_states):
            for i in range(ROWS):
                slopes[k, i] -= weight(lanes[k, i], 0.0) * total[i]
        returned(slopes, first, out)


@kernel
def elbo_tile(joint, weights, known, n_states):
    """In place: q of the logits, sum q (log p - log q) in known[2], and q (log p - log q - sum), the derivative in the logits, of log p."""
    top, total, mean = known[0], known[1], known[2]
    for i in range(ROWS):
        top[i], total[i], mean[i] = -INF, 0.0, 0.0
    for k in range(n_states):
        for i in range(ROWS):
            top[i] = weights[k, i] if weights[k, i] > top[i] else top[i]
    for k in range(n_states):
        for i in range(ROWS):
            x = weights[k, i]
            w = weight(x, top[i]) if x == x else np.nan  # a diverged q must be seen
            below = x - top[i]
            joint[k, i] -= below if below > LOWEST else LOWEST
            weights[k, i] = w
            total[i] += w
    for i in range(ROWS):
        top[i] = log_of_sum(total[i], 0.0) if total[i] > 0.0 else np.nan
        total[i] = 1.0 / total[i]
    for k in range(n_states):
        for i in range(ROWS):
            w = weights[k, i] * total[i]
            term = w * (joint[k, i] + top[i])
            term = term if w != 0.0 else 0.0
            weights[k, i], joint[k, i] = w, term
            mean[i] += term
    for k in range(n_states):
        for i in range(ROWS):
            joint[k, i] -= weights[k, i] * mean[i]


@kernel(void(TABLE, TABLE, OUT, OUT2, OUT2))
def elbo_slopes(log_joint, log_q, value, q, slope):
    """value = sum q (log p - log q), q = exp(log q), slope = q (log p - log q - value): the derivative in the logits of q.

    NaN throughout a row with NaN or +inf in log q.
    """
    n_rows, n_states = log_q.shape
    joint, weights, known = state_tiles(), state_tiles(), row_tiles()
    for first in range(0, n_rows, ROWS):
        turned(log_joint, first, joint)
        turned(log_q, first, weights)
        elbo_tile(joint, weights, known, n_states)
        returned(weights, first, q)
        returned(joint, first, slope)
        for i in range(min(ROWS, n_rows - first)):
            value[first + i] = known[2, i]


@kernel
def layer_outputs(units, layer, out):
    """out[k] = bias[k] + sum over h of layer[h, k] units[h], lane by lane; the bias is the last row of ``layer``."""
    width = layer.shape[0] - 1
    for k in range(layer.shape[1]):
        for i in range(ROWS):
            out[k, i] = layer[width, k]
    for h in range(width):
        for k in range(layer.shape[1]):
            entry = layer[h, k]
            for i in range(ROWS):
                out[k, i] += entry * units[h, i]


@kernel
def layer_inputs(slopes, layer, units):
    """units[h] = sum over k of layer[h, k] slopes[k], lane by lane."""
    for h in range(layer.shape[0] - 1):
        for i in range(ROWS):
            units[h, i] = 0.0
        for k in range(layer.shape[1]):
            entry = layer[h, k]
            for i in range(ROWS):
                units[h, i] += entry * slopes[k, i]


@kernel
def weighted_tile(counts, first, tile, own):
    """Lanes of a tile times the counts of its rows, 0 where that is 0 or the row does not exist; ``own`` is a row of scratch."""
    for i in range(ROWS):
        own[i] = counts[min(first + i, counts.size - 1)] if first + i < counts.size else 0.0
    for k in range(tile.shape[0]):
        for i in range(ROWS):
            tile[k, i] = tile[k, i] * own[i] if own[i] > 0.0 else 0.0


@kernel(void(TABLE, TABLE, TABLE, ROW, OUT2, OUT2, OUT2, OUT2, OUT))
def elbo_layer(log_joint, hidden, layer, counts, scratch, q, d_hidden, d_layer, out):
    """The last layer of a network, softmax and ELBO, forth and back in one pass: out[0] = sum over rows of count * ELBO.

    q times counts, (n, K); the derivatives of the sum in ``hidden``, (n, H), and in ``layer``, (H + 1, K), biases last; scratch is
    (K, H), in which the last of these is summed, turned. Rows that count 0 add nothing, not even an infinity.
    """
    (n_rows, n_states), width = log_joint.shape, hidden.shape[1]
    all_units, all_joint, all_weights, known = state_tiles(), state_tiles(), state_tiles(), row_tiles()
    units, joint, weights, mean = all_units[:width], all_joint[:n_states], all_weights[:n_states], known[2:3]
    out[0] = 0.0
    for k in range(n_states):
        d_layer[width, k] = 0.0
        for h in range(width):
            scratch[k, h] = 0.0
    for first in range(0, n_rows, ROWS):
        turned(hidden, first, units)
        turned(log_joint, first, joint)
        layer_outputs(units, layer, weights)
        elbo_tile(joint, weights, known, n_states)
        for tile in (joint, weights, mean):
            weighted_tile(counts, first, tile, known[3])
        layer_inputs(joint, layer, units)
        returned(units, first, d_hidden)
        returned(weights, first, q)
        for i in range(min(ROWS, n_rows - first)):
            own = hidden[first + i]
            out[0] += mean[0, i]
            for k in range(n_states):
                slope, sums = joint[k, i], scratch[k]
                d_layer[width, k] += slope
                for h in range(width):
                    sums[h] += slope * own[h]
    for h in range(width):
        for k in range(n_states):
            d_layer[h, k] = scratch[k, h]


@kernel
def tanh(x):
    """tanh(x), relative error below 6u; NaN gives NaN.

    With t = exp(-2|x|) - 1 it is -t / (2 + t). 2**k p + (2**k - 1) loses at most one bit, because |p| <= 0.42 and the two agree in sign for
    k < 0: t rounds by 4u, quotient and denominator by u each.
    """
    y = -2.0 * abs(x)
    k, r, r_low = reduced(y if y > ONE else ONE)
    power = whole_power(k, 0.0)
    t = power * exp_rest(r, r_low) + (power - 1.0)
    return x if x != x else math.copysign(-t / (2.0 + t), x)


@kernel(void(OUT))
def tanh_values(x):
    """tanh of every entry, in place."""
    for i in range(x.size):
        x[i] = tanh(x[i])


@kernel(void(ROW, ROW, OUT))
def tanh_pullback(value, cotangent, out):
    """cotangent (1 - value^2)."""
    for i in range(value.size):
        out[i] = cotangent[i] * (1.0 - value[i] * value[i])
