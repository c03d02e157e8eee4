"""Points of the geometric path pi_b prop. to q**(1-b) p**b, one pass each: the mean and variance of e = log(p/q), and tight steps.

With y0 = log q - max log q and any constant R, the weights of a point are exp((y0 - R) + b e). R = b max(y0 + e) keeps them below 1,
because y0 + b e is a mean of y0 <= 0 and y0 + e; where their sum nears the end of the range, R becomes their own maximum.

**Errors.** e is good to u |e| + delta (``plain``), y0 to u |y0|, exp to 2u, and an exponent rounds three times, so that a weight is
good to u h + b delta with

    h = 2.1 + 2 |R| + 3 |y0| + 3 b |e|

Every h is averaged over the weights, so a far state without weight spoils nothing. With E that average,

    m = E e        u (E |e| h + |m| E h) + (2 b delta + 6u) E |t| + delta + sums          t = e - m, E |t| <= E |e| h/2.1 + |m|
    E t**2         u E t**2 h + E t**2 (u E h + 8u) + 2 (u |m| + delta) E |t| + (error of m)**2
    E phi(d t)     u E phi h + E phi (u E h + 20u) + 1.72 d (u |m| + delta) (d E |t| + ...)            for |d t| <= 1

as phi is good to 6u there, y = d t to 3u |y| + d (u |m| + delta), |y expm1(y)| <= 2.4 phi(y) and |expm1(y)| <= 1.72 |y|. A state
whose h is so large that its weight could be anything makes the point unknown.

**Steps.** KL(pi_b || pi_{b+d}) = log E exp(y) - E y = log1p(D + mu) - mu, D = E phi(y) >= 0 term by term, mu = E y the error of m
times d. It moves the result by at most |mu| (D + |mu|) / (1 + D - |mu|): the divergence keeps its relative precision however near
the points are.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import BOOL, FLOAT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, scratch_of, table_row
from elbo_exact.kernels.plain import pivot_off, plain_offset, plain_state
from elbo_exact.kernels.reduce import log_evidence_of
from elbo_exact.kernels.scalar import UNDERFLOW, exp_fraction, log1p, phi_parts, raised, reduced
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add, add_weight, chain_error, clear, fold_once, halve_once

__all__ = [
    "N_STATES",
    "POINT_EVIDENCE",
    "POINT_MEAN",
    "POINT_NORMALIZER",
    "POINT_VARIANCE",
    "fill_states",
    "open_states",
    "point_rows",
    "tight_rows",
]

POINT_MEAN, POINT_VARIANCE, POINT_EVIDENCE, POINT_NORMALIZER, N_POINT = 0, 2, 4, 6, 7  # a value, then its bound
SIZE_E, SIZE_Y, LARGEST, TOP, DELTA, OFF, SHARED, SINGLE = range(8)  # what is known of a row's states
EVIDENCE, NORMALIZER, N_STATES = 8, 10, 11  # log evidence and its bound, log sum q
WEIGHT, RATIO, H, RATIO_H, N_SUMS = 0, 2, 4, 5, 6  # sums of a point; of its second pass:
TERM, TERM_H, ABS_T, N_TERMS = 0, 2, 3, 4
POWER, REDUCED, REDUCED_LOW = range(3)  # tiles that carry a block from loop to loop
ABSENT = -1e300  # log weight of a state that p and q do not share
SMALL_SUM = 2.0**-500


@kernel
def block_states(lanes, carried, a, b, top_a, top_b, c, c_low, count):
    """Log ratios and log weights of a block into ``carried``, extremes into lanes; (shared, in one table only, too large)."""
    shared, single, wild = 0, 0, 0
    for j in range(count):
        e, depth, zero = plain_state(a[j], b[j], top_a, top_b, c, c_low)
        single += 1 if (a[j] > -INF) != (b[j] > -INF) else 0
        shared += 0 if zero > 0 else 1
        e, y = (0.0 if zero > 0 else e), (ABSENT if zero > 0 else -depth)
        size, depth = abs(e), (0.0 if zero > 0 else depth)
        reach = 0.0 if zero > 0 else abs(a[j]) + abs(b[j])
        wild += 0 if (size < 1e299 and depth < 1e299) else 1
        carried[0, j], carried[1, j] = e, y
        lanes[SIZE_E, j] = size if size > lanes[SIZE_E, j] else lanes[SIZE_E, j]
        lanes[SIZE_Y, j] = depth if depth > lanes[SIZE_Y, j] else lanes[SIZE_Y, j]
        lanes[LARGEST, j] = reach if reach > lanes[LARGEST, j] else lanes[LARGEST, j]
        lanes[TOP, j] = y + e if y + e > lanes[TOP, j] else lanes[TOP, j]
    return shared, single, wild


@kernel
def fill_states(a, b, top_a, top_b, c, c_low, e, y0, known):
    """Log ratios and log weights of a row, and their extremes; False where a difference leaves the range."""
    lanes, carried = tiles(), tiles()
    clear(lanes, SIZE_E, TOP)
    for j in range(LANES):
        lanes[TOP, j] = -INF
    shared, single, wild = 0, 0, 0
    for start in range(0, a.size, LANES):
        x, y = a[start : start + LANES], b[start : start + LANES]
        whole = x.size == LANES
        if whole:
            more = block_states(lanes, carried, x, y, top_a, top_b, c, c_low, LANES)
        else:
            more = block_states(lanes, carried, x, y, top_a, top_b, c, c_low, x.size)
        shared, single, wild = shared + more[0], single + more[1], wild + more[2]
        for j in range(x.size):
            e[start + j] = carried[0, j]
        for j in range(x.size):
            y0[start + j] = carried[1, j]
    for column in (SIZE_E, SIZE_Y, LARGEST, TOP):
        largest = lanes[column, 0]
        for j in range(1, LANES):
            largest = lanes[column, j] if lanes[column, j] > largest else largest
        known[column] = largest
    known[SHARED], known[SINGLE] = shared, single
    return shared > 0 and wild == 0


@kernel
def open_states(a, b, weights, partials, e, y0, known):
    """Log ratios around the pivot log A - log W and log weights of a row, with what is known of them; False if there are none."""
    top_a, rest_a = row_log_sum(a, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0 or rest_b < 0.0:
        return False
    log_a, log_b = log1p(rest_a), log1p(rest_b)
    r = log_a - log_b
    known[EVIDENCE], known[EVIDENCE + 1] = log_evidence_of(top_a, rest_a, log_a, a.size)
    known[NORMALIZER] = top_b + log_b
    c, c_low = plain_offset(top_a, top_b, r)
    if not fill_states(a, b, top_a, top_b, c, c_low, e, y0, known):
        return False
    known[DELTA] = 16.0 * U * U * (known[LARGEST] + abs(top_a) + abs(top_b) + abs(r))
    known[OFF] = pivot_off(rest_a, log_a, rest_b, log_b, r, a.size)
    return True


@kernel
def halve_point(lanes, width):
    """One level of the tree for the sums of a point, so that their latencies overlap."""
    halve_once(lanes, WEIGHT, width)
    halve_once(lanes, RATIO, width)
    fold_once(lanes, H, width)
    fold_once(lanes, RATIO_H, width)


@kernel
def point_block(lanes, carried, e, y0, kept, beta, reference, base, keep, count):
    """The weights of a block at a point, and their sums."""
    for j in range(count):
        x = (y0[j] - reference) + beta * e[j]
        x = x if x > UNDERFLOW else UNDERFLOW
        carried[POWER, j], carried[REDUCED, j], carried[REDUCED_LOW, j] = reduced(x if x < 600.0 else 600.0)
    for j in range(count):
        carried[REDUCED, j] = exp_fraction(carried[REDUCED, j], carried[REDUCED_LOW, j])
    size = 3.0 * beta
    for j in range(count):
        w, ratio = raised(carried[REDUCED, j], carried[POWER, j]), e[j]
        add_weight(lanes, WEIGHT, j, w)
        add(lanes, RATIO, j, w * ratio)
        w_h = w * (base + 3.0 * abs(y0[j]) + size * abs(ratio))
        lanes[H, j] += w_h
        lanes[RATIO_H, j] += w_h * abs(ratio)
        carried[POWER, j] = w
    if keep:
        for j in range(count):
            kept[j] = carried[POWER, j]


@kernel
def point_pass(e, y0, kept, beta, reference, keep, sums):
    """The sums of one point; ``keep`` is a constant in each caller."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, N_SUMS)
    base = 2.1 + 2.0 * abs(reference)
    for start in range(0, e.size, LANES):
        x, y, w = e[start : start + LANES], y0[start : start + LANES], kept[start : start + LANES]
        if x.size == LANES:
            point_block(lanes, carried, x, y, w, beta, reference, base, keep, LANES)
        else:
            point_block(lanes, carried, x, y, w, beta, reference, base, keep, x.size)
    halve_point(lanes, 32)
    halve_point(lanes, 16)
    halve_point(lanes, 8)
    halve_point(lanes, 4)
    halve_point(lanes, 2)
    halve_point(lanes, 1)
    sums[WEIGHT], sums[RATIO] = lanes[WEIGHT, 0] + lanes[WEIGHT + 1, 0], lanes[RATIO, 0] + lanes[RATIO + 1, 0]
    sums[H], sums[RATIO_H] = lanes[H, 0], lanes[RATIO_H, 0]


@kernel
def largest_exponent(e, y0, beta):
    """The largest log weight at a point."""
    top = -INF
    for j in range(e.size):
        x = y0[j] + beta * e[j]
        top = x if x > top else top
    return top


@kernel
def is_doubtful(e, y0, beta, reference, known):
    """Whether the weight of some state could be anything: its exponent is off by 1e-3 or more, and it may count."""
    base = 2.1 + 2.0 * abs(reference)
    if U * (base + 3.0 * known[SIZE_Y] + 3.0 * beta * known[SIZE_E]) < 1e-3:
        return False
    for j in range(e.size):
        off = U * (base + 3.0 * abs(y0[j]) + 3.0 * beta * abs(e[j])) if y0[j] > ABSENT else 0.0
        if off >= 1e-3 and (y0[j] - reference) + beta * e[j] + off > UNDERFLOW:
            return True
    return False


@kernel
def point_mean(e, y0, kept, beta, known, keep, sums):
    """(m, bound, R) of a point; NaN where it is unknown."""
    reference = beta * known[TOP]
    for attempt in range(2):
        point_pass(e, y0, kept, beta, reference, keep, sums)
        if sums[WEIGHT] > SMALL_SUM or attempt > 0:
            break
        reference = largest_exponent(e, y0, beta)
    total, n, delta = sums[WEIGHT], e.size, known[DELTA]
    if not total > SMALL_SUM or is_doubtful(e, y0, beta, reference, known):
        return np.nan, INF, reference
    m, ratio_h = sums[RATIO] / total, sums[RATIO_H] / total
    spread = ratio_h / 2.1 + abs(m)
    bound = U * (ratio_h + abs(m) * sums[H] / total) + delta
    bound += spread * (2.0 * beta * delta + 6.0 * U + 2.0 * chain_error(n)) + 4.0 * n * ETA * (1.0 + known[SIZE_E] / total)
    return m, (1.01 * bound if bound < INF else INF), reference


@kernel
def term_block(lanes, e, y0, kept, m, step, base, size, squares, count):
    """Squares of t, or phi(step t), over the weights of a block."""
    for j in range(count):
        t, w = e[j] - m, kept[j]
        if squares:
            term = w * (t * t)
        else:
            even, odd = phi_parts(step * t)
            term = w * (even + odd)
        term = term if term > 0.0 else 0.0
        add_weight(lanes, TERM, j, term)
        lanes[TERM_H, j] += term * (base + 3.0 * abs(y0[j]) + size * abs(e[j]))
        lanes[ABS_T, j] += w * abs(t)


@kernel
def halve_terms(lanes, width):
    """One level of the tree for the sums of a second pass."""
    halve_once(lanes, TERM, width)
    fold_once(lanes, TERM_H, width)
    fold_once(lanes, ABS_T, width)


@kernel
def term_pass(e, y0, kept, m, beta, step, reference, squares, sums):
    """(sum of terms, of terms h, of |t|) over the weights of a point; ``squares`` is a constant in each caller."""
    lanes = tiles()
    clear(lanes, 0, N_TERMS)
    base, size = 2.1 + 2.0 * abs(reference), 3.0 * beta
    for start in range(0, e.size, LANES):
        x, y, w = e[start : start + LANES], y0[start : start + LANES], kept[start : start + LANES]
        if x.size == LANES:
            term_block(lanes, x, y, w, m, step, base, size, squares, LANES)
        else:
            term_block(lanes, x, y, w, m, step, base, size, squares, x.size)
    halve_terms(lanes, 32)
    halve_terms(lanes, 16)
    halve_terms(lanes, 8)
    halve_terms(lanes, 4)
    halve_terms(lanes, 2)
    halve_terms(lanes, 1)
    return lanes[TERM, 0] + lanes[TERM + 1, 0], lanes[TERM_H, 0], lanes[ABS_T, 0]


@kernel
def point_variance(e, y0, kept, m, error, beta, reference, known, sums):
    """(E t**2, bound) of a point, from the kept weights of ``point_mean``."""
    total, n, delta = sums[WEIGHT], e.size, known[DELTA]
    square, square_h, abs_t = term_pass(e, y0, kept, m, beta, 0.0, reference, True, sums)
    value, offset = square / total, U * abs(m) + delta
    bound = U * square_h / total + value * (U * sums[H] / total + 2.0 * beta * delta + 10.0 * U + 2.0 * chain_error(n))
    bound += 2.0 * offset * abs_t / total + error * error + offset * offset
    largest = known[SIZE_E] + abs(m)
    bound = 1.01 * bound + 4.0 * n * ETA * (1.0 + largest * largest / total)
    return (value, bound) if bound < INF else (np.nan, INF)


@kernel
def point_step(e, y0, kept, m, error, beta, step, reference, known, sums):
    """(KL to the next point, bound) for steps of |step t| <= 1; NaN for others."""
    total, n, delta = sums[WEIGHT], e.size, known[DELTA]
    if not abs(step) * (known[SIZE_E] + abs(m)) <= 1.0:
        return np.nan, INF
    term, term_h, abs_t = term_pass(e, y0, kept, m, beta, step, reference, False, sums)
    d, abs_t = term / total, abs_t / total
    offset, mu = abs(step) * (U * abs(m) + delta), abs(step) * error
    bound = U * term_h / total + d * (U * sums[H] / total + 2.0 * beta * delta + 20.0 * U + 2.0 * chain_error(n))
    bound = 1.01 * (bound + 1.72 * offset * (abs(step) * abs_t + offset)) + 4.0 * n * ETA * (1.0 + 1.0 / total)
    if not bound + mu < 0.25:
        return np.nan, INF
    value = log1p(d)
    return value, 1.01 * ((bound + mu * (d + mu)) / (1.0 + d - bound - mu) + 2.0 * U * value) + ETA


@kernel
def points_of(e, y0, kept, betas, known, moments, good, sums, rows):
    """Mean and variance at every point of a row; ``moments`` is a constant in each caller.

    Without moments, the others are left out where the first mean is not known to ``good`` of itself.
    """
    for k in range(betas.size):
        m, bound, reference = point_mean(e, y0, kept, betas[k], known, moments, sums)
        rows[k, POINT_MEAN], rows[k, POINT_MEAN + 1] = m, bound + 1.01 * known[OFF]  # the pivot shifts every e
        if moments and bound < INF:
            rows[k, POINT_VARIANCE], rows[k, POINT_VARIANCE + 1] = point_variance(
                e, y0, kept, m, bound, betas[k], reference, known, sums
            )
        if k == 0 and not moments and not rows[k, POINT_MEAN + 1] <= good * abs(m):
            break


@kernel(void(TABLE, TABLE, ROW, BOOL, FLOAT, OUT2))
def point_rows(log_joint, log_q, betas, moments, good, out):
    """(mean, bound, variance, bound, facts) of log(p/q) at point k of row i into out[i * betas.size + k].

    p and q are normalized on their own support, the points live on what both allow; NaN where that is nothing. Without moments, so are
    rows where only one of p and q allows a state, and, but for their first point, those of ``points_of``. The facts are the row's (log
    evidence, bound, log sum q); NaN where only one of p and q allows a state.
    """
    n, points = log_joint.shape[1], betas.size
    weights, partials = scratch_of(n)
    e, y0, kept = np.empty(n), np.empty(n), np.empty(n if moments else 0)
    known, sums = np.empty(N_STATES), np.empty(N_SUMS)
    for i in range(out.shape[0] // points):
        rows = out[i * points : (i + 1) * points]
        rows[:, 0::2], rows[:, 1::2] = np.nan, INF
        if open_states(table_row(log_joint, i), table_row(log_q, i), weights, partials, e, y0, known):
            if known[SINGLE] == 0.0:
                rows[:, POINT_EVIDENCE], rows[:, POINT_EVIDENCE + 1] = known[EVIDENCE], known[EVIDENCE + 1]
                rows[:, POINT_NORMALIZER] = known[NORMALIZER]
            if moments:
                points_of(e, y0, kept, betas, known, True, good, sums, rows)
            elif known[SINGLE] == 0.0:
                points_of(e, y0, kept, betas, known, False, good, sums, rows)


@kernel(void(TABLE, TABLE, ROW, OUT2))
def tight_rows(log_joint, log_q, betas, out):
    """(KL to the next point, bound) of point k of row i into out[i * steps + k]; NaN where a step is not tight."""
    n, steps = log_joint.shape[1], betas.size - 1
    weights, partials = scratch_of(n)
    e, y0, kept = np.empty(n), np.empty(n), np.empty(n)
    known, sums = np.empty(N_STATES), np.empty(N_SUMS)
    for i in range(out.shape[0] // steps):
        rows = out[i * steps : (i + 1) * steps]
        rows[:, 0], rows[:, 1] = np.nan, INF
        if not open_states(table_row(log_joint, i), table_row(log_q, i), weights, partials, e, y0, known):
            continue
        for k in range(steps):
            step = betas[k + 1] - betas[k]
            if not abs(step) * known[SIZE_E] <= 1.0:
                break
            m, bound, reference = point_mean(e, y0, kept, betas[k], known, True, sums)
            if bound < INF:
                rows[k, 0], rows[k, 1] = point_step(e, y0, kept, m, bound, betas[k], step, reference, known, sums)
