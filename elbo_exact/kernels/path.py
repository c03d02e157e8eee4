"""Steps of the geometric path pi_b prop. to q**(1-b) p**b of any size: KL from every point to the next, with e = log(p/q).

This is the careful form, for rows that ``points`` leaves undecided: some |d (e - m)| is beyond 1, and the gap is small.

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
    D      3.1 u E phi h + D (u E h + 34u + 2.1 s_error) + 2.5 d (u |m| + delta) E |y| + ...

because exp(y) phi'(y) <= 2.8 phi(y) where phi comes from the series or from below, v s <= 2.1 w phi(y) where it comes from the
weights of the next point, and |expm1(y)| <= 2.5 |y| on the series. Where exp(y) nears the range, log E exp(y) is the difference of two
log sums. Every h beyond the few units of a common table is in these averages, so a far state without weight spoils nothing.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, scratch_of, state_ratio, table_row
from elbo_exact.kernels.plain import plain_divergence
from elbo_exact.kernels.scalar import exp, log, log1p, phi_parts, weight
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add, add_weight, chain_error, clear, fold, halve

__all__ = ["path_rows"]

# Sums of a pass: compensated ones first, then plain ones. NEXT_* belong to the weights of the next point.
NEXT, NEXT_E, PHI = 0, 2, 4
ABS_T, H, PHI_H, ABS_T_H, N_PASS = range(6, 11)
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
def block_pass(lanes, carried, e, y0, w, m, step, size, beta, top, s, after):
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
        ahead = y0[j] + after * x
        lanes[N_PASS, j] = ahead if ahead > lanes[N_PASS, j] else lanes[N_PASS, j]
        w[j] = then


@kernel
def path_pass(e, y0, w, m, step, size, beta, top, s, after, sums):
    """All sums of one pass over the states; w holds the weights of the point and receives those of the next."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, N_PASS)
    for j in range(LANES):
        lanes[N_PASS, j] = -INF
    for start in range(0, e.size, LANES):
        part = slice(start, start + LANES)
        block_pass(lanes, carried, e[part], y0[part], w[part], m, step, size, beta, top, s, after)
    for column in (NEXT, NEXT_E, PHI):
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
    """The divergence of a point from the next with its bound, from the pass that went over it; NaN where it is unknown."""
    tiny = 8.0 * n * ETA * (1.0 + size)
    mean_h, abs_t, shift = U * sums[H] / total, sums[ABS_T] / total, size * delta
    own_error = (abs_t + abs(m)) * (4.0 * U + 2.0 * chain_error(n) + n * ETA) + 4.0 * n * ETA  # E |e| <= E |t| + |m|
    error = 1.01 * (U * sums[ABS_T_H] / total + 2.0 * shift * abs_t + U * (abs_t + abs(m)) + delta + own_error)
    sum_errors = mean_h + 3.0 * shift + 8.0 * U + 2.0 * chain_error(n)
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
        known = bound + mu < 0.25 + 0.25 * d
        bound = (bound + mu * (d + mu)) / (1.0 + d - bound - mu) + 2.0 * U * value if known else INF
    known = abs(value) < INF and bound < 0.5 + 0.5 * value and U * largest_h < 1e-3
    out[0], out[1] = (max(0.0, value), 1.01 * bound + 4.0 * ETA) if known else (np.nan, INF)


@kernel
def largest_sizes(e, y0):
    """(max |e|, max |y0|)."""
    size_e, size_y = 0.0, 0.0
    for j in range(e.size):
        size_e, size_y = max(size_e, abs(e[j])), max(size_y, abs(y0[j]))
    return size_e, size_y


@kernel
def walk(e, y0, w, betas, delta, sums, out):
    """The divergence of every point of a path from the next one, in its order."""
    n, points = e.size, betas.size
    w[:] = 0.0
    size_e, size_y = largest_sizes(e, y0)
    top = first_top(e, y0, betas[0])
    ahead = path_pass(e, y0, w, 0.0, 0.0, 0.0, betas[0], top, 1.0, betas[1], sums)
    for k in range(points - 1):
        total = sums[NEXT]
        m = sums[NEXT_E] / total
        following = betas[k + 1]
        step, beta_size = following - betas[k], max(abs(betas[k]), abs(following))
        log_s = (ahead - top) - step * m
        far = log_s > FAR
        s = 1.0 if far else exp(log_s)
        s_error = 2.0 * U + 2.0 * U * (abs(ahead) + abs(top) + abs(step * m))
        top = ahead
        after = betas[min(k + 2, points - 1)]
        ahead = path_pass(e, y0, w, m, step, 3.0 * beta_size, following, top, s, after, sums)
        largest_h = 3.1 + 2.0 * size_y + 3.0 * beta_size * size_e
        finish_point(sums, total, m, delta, beta_size, step, log_s, s_error, far, largest_h, n, out[k])


@kernel(void(TABLE, TABLE, ROW, OUT2))
def path_rows(log_joint, log_q, betas, out):
    """``walk`` over the common support of every row: (KL, bound) of point k of row i in out[i * steps + k]; NaN where it is empty."""
    n, steps = log_joint.shape[1], betas.size - 1
    weights, partials = scratch_of(n)
    e, y0, w, sums = np.empty(n), np.empty(n), np.empty(n), np.empty(N_PASS)
    for i in range(out.shape[0] // steps):
        a, b, rows = table_row(log_joint, i), table_row(log_q, i), out[i * steps : (i + 1) * steps]
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        rows[:, 0], rows[:, 1] = np.nan, INF
        if rest_a < 0.0 or rest_b < 0.0:
            continue
        count, delta = shared_states(a, b, top_a, top_b, log1p(rest_a) - log1p(rest_b), e, y0)
        if count > 0 and delta < INF:
            walk(e[:count], y0[:count], w[:count], betas, delta, sums, rows)
