"""The geometric path pi_b prop. to q**(1-b) p**b: at each point the mean of e = log(p/q), its variance, and KL to the next point.

Let y = d (e - m) with d the step to the next point and m = E e at this one. Then log Z of the next point relative to this one is
log E exp(e d), and

    KL(pi_b || pi_{b+d}) = log E exp(y) - E y = log1p(D + mu) - mu        D = E phi(y) >= 0, term by term      mu = E y

where mu is the rounding error of m alone. It moves the result by at most |mu| (D + |mu|) / (1 + D - |mu|): the divergence
of two points of the path keeps its relative precision however near they are. The gaps of the thermodynamic bounds are sums of these
divergences, walking up the path for the lower bound and down for the upper. A constant in e cancels, so no pivot need be exact.

**One pass per point.** The pass that adds up the terms of point k computes the weights of point k+1 as well. They serve as
exp(y) times those of point k beyond the series of phi (``plain_divergence``), so nothing overflows, and become the weights of the
next pass. Its maximum, log weights y0 + b e with y0 = log q - max log q, is taken one pass ahead.

**Errors.** With h = 3.1 + 2 |y0| + 3 max(|b|, |b + d|) |e|, a weight is good to u h + max(|b|, |b + d|) delta (y0, e, b e and the
sum round once each, exp 3.1u), where delta is what the log ratio is off beyond u |e|. So, E being the average over the weights,

    m      u E |t| h + 2 delta E |t| + u E |e| + delta + sums                     t = e - m
    var    u E t**2 h + var (u E h + 8u) + 2 (u |m| + delta) E |t| + (error of m)**2
    D      3.1 u E phi h + D (u E h + 34u + 2.1 s_error) + 2.5 d (u |m| + delta) E |y| + ...

because exp(y) phi'(y) <= 2.8 phi(y) where phi comes from the series or from below, v s <= 2.1 w phi(y) where it comes from the
weights of the next point, and |expm1(y)| <= 2.5 |y| on the series. Where exp(y) nears the range, log E exp(y) is the difference of two
log sums. Every h beyond the few units of a common table is in these averages, so a far state without weight spoils nothing.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import BOOL, FLOAT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, scratch_of, state_ratio, table_row
from elbo_exact.kernels.plain import plain_divergence
from elbo_exact.kernels.reduce import log_evidence_of
from elbo_exact.kernels.scalar import exp, log, log1p, phi_parts, weight
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add, add_weight, clear, fold, halve, kappa, raise_once

__all__ = ["N_POINT", "POINT_GAP", "POINT_MEAN", "POINT_VARIANCE", "mixed_log_sum_rows", "path_rows"]

POINT_MEAN, POINT_VARIANCE, POINT_GAP, N_POINT = 0, 2, 4, 6  # a value, then its bound
# Sums of a pass: compensated ones first, then plain ones. NEXT_* belong to the weights of the next point.
NEXT, NEXT_E, PHI, SQUARE = 0, 2, 4, 6
ABS_T, H, PHI_H, ABS_T_H, SQUARE_H, N_PASS = range(8, 14)
WEIGHT, EVEN, ODD, CENTERED = range(4)  # tiles that carry a block
FAR = 600.0


@kernel
def shared_states(a, b, top_a, top_b, r, e, y0):
    """Log ratios and log weights of the states that both allow: (how many, delta); delta is NaN where a difference overflows."""
    count, largest = 0, 0.0
    for z in range(a.size):
        if a[z] > -INF and b[z] > -INF:
            e[count], _, delta = state_ratio(a[z], b[z], top_a, top_b, r, 0.0)
            y0[count] = b[z] - top_b
            largest = delta if not delta <= largest else largest
            if not abs(e[count]) < 1e300 or not y0[count] > -1e300:
                return count, np.nan
            count += 1
    return count, largest


@kernel
def first_top(e, y0, beta):
    """Largest log weight at a point."""
    top = -INF
    for j in range(e.size):
        x = y0[j] + beta * e[j]
        top = x if x > top else top
    return top


@kernel
def block_pass(lanes, carried, e, y0, w, m, step, size, beta, top, s, after, moments):
    """The terms of one block at a point, the weights of the next point, and the largest log weight after that."""
    for j in range(e.size):
        carried[WEIGHT, j] = weight(y0[j] + beta * e[j], top)
        carried[CENTERED, j] = e[j] - m
    for j in range(e.size):
        carried[EVEN, j], carried[ODD, j] = phi_parts(step * carried[CENTERED, j])
    for j in range(e.size):
        x, t, now, then = e[j], carried[CENTERED, j], w[j], carried[WEIGHT, j]
        h = 3.1 + 2.0 * abs(y0[j]) + size * abs(x)
        term = plain_divergence(carried[EVEN, j], carried[ODD, j], step * t, now, then, s)
        add_weight(lanes, NEXT, j, then)
        add(lanes, NEXT_E, j, then * x)
        add_weight(lanes, PHI, j, term if term > 0.0 else 0.0)
        lanes[ABS_T, j] += now * abs(t)
        lanes[H, j] += now * h
        lanes[PHI_H, j] += term * h
        lanes[ABS_T_H, j] += now * abs(t) * h
        if moments:
            square = now * (t * t)
            add_weight(lanes, SQUARE, j, square)
            lanes[SQUARE_H, j] += square * h
        ahead = y0[j] + after * x
        lanes[N_PASS, j] = ahead if ahead > lanes[N_PASS, j] else lanes[N_PASS, j]
        w[j] = then


@kernel
def path_pass(e, y0, w, m, step, size, beta, top, s, after, moments, sums):
    """All sums of one pass over the states; w holds the weights of the point and receives those of the next."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, N_PASS)
    for j in range(LANES):
        lanes[N_PASS, j] = -INF
    for start in range(0, e.size, LANES):
        part = slice(start, start + LANES)
        block_pass(lanes, carried, e[part], y0[part], w[part], m, step, size, beta, top, s, after, moments)
    for column in (NEXT, NEXT_E, PHI, SQUARE):
        high, low = halve(lanes, column)
        sums[column] = high + low
    for column in range(ABS_T, N_PASS):
        sums[column] = fold(lanes, column)
    ahead = -INF
    for j in range(LANES):
        ahead = lanes[N_PASS, j] if lanes[N_PASS, j] > ahead else ahead
    return ahead


@kernel
def finish_point(sums, total, m, delta, size, step, log_s, s_error, far, largest_h, n, out):
    """Mean, variance and divergence of a point, each with its bound, from the pass that went over it."""
    tiny = 8.0 * n * ETA * (1.0 + size)
    mean_h, abs_t, shift = U * sums[H] / total, sums[ABS_T] / total, size * delta
    out[POINT_MEAN], mean_size = m, abs_t + abs(m)  # E |e| <= E |t| + |m|
    own_error = mean_size * (4.0 * U + 2.0 * kappa(n) + n * ETA) + 4.0 * n * ETA
    error = 1.01 * (U * sums[ABS_T_H] / total + 2.0 * shift * abs_t + U * mean_size + delta + own_error)
    out[POINT_MEAN + 1] = error
    sum_errors = mean_h + 3.0 * shift + 8.0 * U + 2.0 * kappa(n)
    variance = sums[SQUARE] / total
    out[POINT_VARIANCE] = variance
    out[POINT_VARIANCE + 1] = 1.01 * (
        U * sums[SQUARE_H] / total
        + variance * (sum_errors + 2.0 * U)
        + 2.0 * (U * abs(m) + delta) * abs_t
        + error * error
        + delta * delta
        + tiny
    )
    offset, mu = abs(step) * (U * abs(m) + delta), abs(step) * error
    if far:
        value = (log_s + log(sums[NEXT])) - log(total)
        bound = U * largest_h + sum_errors + 2.0 * shift + mu + s_error + 8.0 * U
        bound += 4.0 * U * (abs(log(sums[NEXT])) + abs(log(total)) + abs(value))
    else:
        d = sums[PHI] / total
        bound = 3.1 * U * sums[PHI_H] / total + d * (sum_errors + 4.2 * shift + 26.0 * U + 2.1 * s_error)
        bound += 2.5 * offset * (abs(step) * abs_t + offset) + tiny * (1.0 + abs(step))
        value = log1p(d)
        bound = (bound + mu * (d + mu)) / max(1.0 + d - bound - mu, 0.5 + 0.5 * d) + 2.0 * U * value
    out[POINT_GAP], out[POINT_GAP + 1] = max(0.0, value), 1.01 * bound + 4.0 * ETA


@kernel
def is_unknown(sums, out):
    """Whether a value of a point left the range of doubles."""
    return not (abs(out[0]) + out[1] + out[2] + out[3] + out[4] + out[5] < INF and out[5] < 0.5 + 0.5 * out[4])


@kernel
def largest_sizes(e, y0):
    """(max |e|, max |y0|)."""
    size_e, size_y = 0.0, 0.0
    for j in range(e.size):
        size_e, size_y = max(size_e, abs(e[j])), max(size_y, abs(y0[j]))
    return size_e, size_y


@kernel
def walk(e, y0, w, betas, delta, moments, sums, out):
    """Every point of a path in its order: mean, variance, and divergence from the next point.

    ``moments`` is a constant in each caller; without them the last point, which has no next one, costs no pass.
    """
    n, points = e.size, betas.size
    w[:] = 0.0
    size_e, size_y = largest_sizes(e, y0)
    top = first_top(e, y0, betas[0])
    ahead = path_pass(e, y0, w, 0.0, 0.0, 0.0, betas[0], top, 1.0, betas[min(1, points - 1)], moments, sums)
    for k in range(points if moments else points - 1):
        total = sums[NEXT]
        m = sums[NEXT_E] / total
        following = betas[min(k + 1, points - 1)]
        step, beta_size = following - betas[k], max(abs(betas[k]), abs(following))
        log_s = (ahead - top) - step * m
        far = log_s > FAR
        s = 1.0 if far else exp(log_s)
        s_error = 2.0 * U + 2.0 * U * (abs(ahead) + abs(top) + abs(step * m))
        top = ahead
        after = betas[min(k + 2, points - 1)]
        ahead = path_pass(e, y0, w, m, step, 3.0 * beta_size, following, top, s, after, moments, sums)
        largest_h = 3.1 + 2.0 * size_y + 3.0 * beta_size * size_e
        finish_point(sums, total, m, delta, beta_size, step, log_s, s_error, far, largest_h, n, out[k])
        if is_unknown(sums, out[k]):
            out[k, 0::2] = np.nan
            out[k, 1::2] = INF


@kernel(void(TABLE, TABLE, ROW, BOOL, OUT2))
def path_rows(log_joint, log_q, betas, moments, out):
    """``walk`` over the common support of every row; results of row i and point k in out[i * betas.size + k].

    The mean is of log(p/q), both normalized on their own support; NaN where they share no state.
    """
    n, points = log_joint.shape[1], betas.size
    weights, partials = scratch_of(n)
    e, y0, w, sums = np.empty(n), np.empty(n), np.empty(n), np.empty(N_PASS)
    for i in range(out.shape[0] // points):
        a, b, rows = table_row(log_joint, i), table_row(log_q, i), out[i * points : (i + 1) * points]
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        rows[:, 0::2], rows[:, 1::2] = np.nan, INF
        if rest_a < 0.0 or rest_b < 0.0:
            continue
        log_a, log_b = log1p(rest_a), log1p(rest_b)
        count, delta = shared_states(a, b, top_a, top_b, log_a - log_b, e, y0)
        if count == 0 or not delta < INF:
            continue
        if moments:
            walk(e[:count], y0[:count], w[:count], betas, delta, True, sums, rows)
        else:
            walk(e[:count], y0[:count], w[:count], betas, delta, False, sums, rows)
        # the pivot log A - log W is off by the errors of the two log sums
        off = log_evidence_of(0.0, rest_a, log_a, n)[1] + log_evidence_of(0.0, rest_b, log_b, n)[1]
        for k in range(points):
            rows[k, POINT_MEAN + 1] += 1.01 * (off + U * abs(log_a - log_b))


@kernel
def mix_block(lanes, a, b, alpha, rest_weight, mixed, count):
    """One block of ``mix``; how many entries are not below +inf."""
    unknown = 0
    for j in range(count):
        x, y = alpha * b[j], rest_weight * a[j]
        z = x + y
        own = 2.0 * abs(x) + 3.0 * abs(y)
        mixed[j] = z
        lanes[0, j] = own if (own > lanes[0, j] and own < INF) else lanes[0, j]
        unknown += 0 if z < INF else 1
    return unknown


@kernel
def mix(a, b, alpha, rest_weight, mixed):
    """The mixed log weights of a row: (largest finite 2 |alpha b| + 3 |(1 - alpha) a|, how many are not below +inf)."""
    lanes = tiles()
    clear(lanes, 0, 1)
    unknown = 0
    for start in range(0, a.size, LANES):
        x, y, z = a[start : start + LANES], b[start : start + LANES], mixed[start : start + LANES]
        unknown += mix_block(lanes, x, y, alpha, rest_weight, z, LANES if x.size == LANES else x.size)
    raise_once(lanes, 32)
    raise_once(lanes, 16)
    raise_once(lanes, 8)
    raise_once(lanes, 4)
    raise_once(lanes, 2)
    raise_once(lanes, 1)
    return lanes[0, 0], unknown


@kernel(void(TABLE, TABLE, FLOAT, OUT2))
def mixed_log_sum_rows(log_joint, log_q, alpha, out):
    """(log sum exp(alpha log_q + (1 - alpha) log_joint), bound) of every row; NaN where an infinity has no sign.

    A log weight is off by at most 2u |alpha b| + 3u |(1 - alpha) a|, and the log sum by no more than the largest of them.
    """
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    mixed, rest_weight = np.empty(n), 1.0 - alpha
    for i in range(out.shape[0]):
        a, b = table_row(log_joint, i), table_row(log_q, i)
        size, unknown = mix(a, b, alpha, rest_weight, mixed)
        if unknown > 0:
            out[i, 0], out[i, 1] = np.nan, INF
            continue
        top, rest = row_log_sum(mixed, weights, partials)
        out[i, 0], out[i, 1] = log_evidence_of(top, rest, log1p(rest), n)
        out[i, 1] += 1.01 * U * size
