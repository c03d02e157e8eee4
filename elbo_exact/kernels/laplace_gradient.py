"""Mean and variance of K-sample gradient estimators: integrals that need every state at every node.

With what_k = w_k / sum w, y = s r and E over q (``laplace`` has the rest of the notation),

    X = sum_k what_k g_k       E X    = int K T phi**(K-1) dx,    T = E[y exp(-y) g]
                               E X**2 = int K E[y**2 exp(-y) g**2] phi**(K-1) + K (K-1) T**2 phi**(K-2) dx
    X = sum_k what_k**2 g_k    the same with y**2 for y, and E X**2 divided by 6

The first estimator takes g - c with c = E_p g, so that T = E[y expm1(-y) (g - c)] while every y is small keeps its digits, and the variance is no
difference of large numbers. For the score estimator G = log(mean w) sum h_k - sum what_k h_k with E h = 0, H = E h**2, ell = log E w,

    E G    = -int K E[h c(y)] phi**(K-1) dx,    c(y) = expm1(-y) + y exp(-y)
    E G**2 = ell**2 K H + int 2 (v - gamma + ell) (X - Q) + K E[y**2 exp(-y) h**2] phi**(K-1) + K (K-1) T**2 phi**(K-2) dx
         B = E[h expm1(-y)],    Q = K E[y exp(-y) h**2] phi**(K-1) + K (K-1) T B phi**(K-2)
         X = -K (H (phi**(K-1) - exp(-K s)) + E[h**2 expm1(-y)] phi**(K-1)) - K (K-1) B**2 phi**(K-2)
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, INT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.laplace import NEGLIGIBLE
from elbo_exact.kernels.laplace_nodes import exponential, log_phi
from elbo_exact.kernels.laplace_states import (
    BOTTOM,
    CENTRE,
    ELL,
    ETA_E,
    H2,
    LARGEST,
    N_ROW,
    OFF_CENTRE,
    OTHERS,
    Q0,
    SPREAD,
    TOP,
    all_low,
    all_zero,
    gather_row,
)
from elbo_exact.kernels.laplace_walk import GAMMA, QUADRATURE, first_and_last, next_break, node_at, shift_ahead
from elbo_exact.kernels.laplace_weights import (
    BROKEN,
    CHARGED,
    EVIDENCE,
    LOW_DEPTH,
    MISSED,
    NO_MASS,
    STATUS,
)
from elbo_exact.kernels.pivoted import table_row
from elbo_exact.kernels.reduce import OK
from elbo_exact.kernels.scalar import exp, expm1, log, phi_parts, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, clear, fold

__all__ = ["DOUBLY", "SCORE", "SELF_NORMALIZED", "gradient_moment_rows"]

SELF_NORMALIZED, DOUBLY, SCORE = range(3)
# Sums over the states: E[expm1(-y)], E_+[exp(-y)], E[y exp(-y)], T and its absolute sum, the term of squares; for the score B and its
# absolute sum, E[h**2 expm1(-y)], E[y exp(-y) h**2], the term of the mean and its absolute sum.
F, PHI, PSI, FIRST, FIRST_A, SQUARES, B, B_A, C, M, MEAN, MEAN_A, N_SUMS = range(13)
# Integrals of one K: each, its rounding errors of summation, its bound.
MEAN_I, MEAN_L, MEAN_B, SECOND_I, SECOND_L, SECOND_B, N_INTEGRALS = range(7)


@kernel
def weighted_block(lanes, s, q, r, g, doubly, small):
    """The sums of 64 states for sum what g (g centred, exp(-y) - 1 for exp(-y) while every y is small) or sum what**2 g."""
    for j in range(LANES):
        y = min(s * r[j], 700.0)
        e, m = exponential(y)
        base = q[j] * y
        lanes[F, j] += q[j] * m
        lanes[PHI, j] += q[j] * e if r[j] > 0.0 else 0.0
        lanes[PSI, j] += base * e
        factor = (base * y) * e if doubly else base * (m if small else e)
        lanes[FIRST, j] += factor * g[j]
        lanes[FIRST_A, j] += abs(factor * g[j])
        scaled = (y * y if doubly else y) * g[j]
        lanes[SQUARES, j] += (q[j] * e) * (scaled * scaled)


@kernel
def score_block(lanes, s, q, r, rm1, h):
    """The sums of 64 states for the score estimator.

    With c(y) = expm1(-y) + y exp(-y) and d = y - s, E[h c(y)] = E[h (c(y) - c(s))], and c(y) - c(s) = exp(-s) (phi(-d) + y expm1(-d)).
    """
    decay = exp(-s)
    middle = (1.0 + s) * decay - 1.0  # c(s)
    for j in range(LANES):
        y = min(s * r[j], 700.0)
        e, m = exponential(y)
        d = s * rm1[j]
        near = abs(d) <= 1.0
        even, odd = phi_parts(-d if near else 0.0)
        curved = decay * ((even + odd) * (1.0 + y) - y * d) if near else (m + y * e) - middle
        weighted, x = q[j] * h[j], q[j] * (y * e)
        lanes[F, j] += q[j] * m
        lanes[PHI, j] += q[j] * e if r[j] > 0.0 else 0.0
        lanes[PSI, j] += x
        lanes[FIRST, j] += x * h[j]
        lanes[FIRST_A, j] += abs(x * h[j])
        lanes[SQUARES, j] += (x * y) * (h[j] * h[j])
        lanes[B, j] += weighted * m
        lanes[B_A, j] += abs(weighted * m)
        lanes[C, j] += (weighted * h[j]) * m
        lanes[M, j] += x * (h[j] * h[j])
        lanes[MEAN, j] += weighted * curved
        lanes[MEAN_A, j] += abs(weighted * curved)


@kernel
def gradient_sums(s, q, r, rm1, g, kind, top, sums):
    """All sums of a node; plain lanes inside a chunk, compensated from chunk to chunk."""
    lanes = tiles()
    small = s * exp(top) <= 0.5
    sums[:, :] = 0.0
    for begin in range(0, q.size, CHUNK):
        clear(lanes, 0, N_SUMS)
        for start in range(begin, min(begin + CHUNK, q.size), LANES):
            stop = start + LANES
            if kind == SCORE:
                score_block(lanes, s, q[start:stop], r[start:stop], rm1[start:stop], g[start:stop])
            else:
                weighted_block(lanes, s, q[start:stop], r[start:stop], g[start:stop], kind == DOUBLY, small)
        for k in range(N_SUMS):
            sums[k, 0], error = two_sum(sums[k, 0], fold(lanes, k))
            sums[k, 1] += error
    for k in range(N_SUMS):
        sums[k, 0] += sums[k, 1]


@kernel
def add_to(integral, column, value, bound):
    """Compensated addition to one integral."""
    integral[column], error = two_sum(integral[column], value)
    integral[column + 1] += error
    integral[column + 2] += bound


@kernel
def add_node(k, log_k, x, s, width, slack, kind, lphi, lphi_error, sums, row, integral):
    """The integrands of the mean and of the second moment of one K at one node, times a width known to a relative slack."""
    rest = (k - 1.0) * lphi if k > 1.0 else 0.0
    alone = k * exp(rest)
    pair = k * (k - 1.0) * exp((k - 2.0) * lphi if k > 2.0 else 0.0) if k > 1.0 else 0.0
    relative = slack + row[SPREAD] + 6.0 * row[ETA_E] + (8.0 - 2.0 * rest) * U + ((k - 1.0) * lphi_error if k > 1.0 else 0.0)
    flat = 0.0 if slack > 0.0 else 1.0  # on a stretch y exp(-y) is nothing
    first, first_size, squares, m = flat * sums[FIRST, 0], flat * sums[FIRST_A, 0], flat * sums[SQUARES, 0], flat * sums[M, 0]
    square = alone * squares + pair * (first * first)
    square_bound = (alone * squares + 2.0 * pair * (abs(first) * first_size)) * relative
    if not square_bound < INF:
        square_bound = 0.0  # exp(-inf) * inf at the right end
    if kind != SCORE:
        mean_bound = width * (alone * first_size * relative) if alone > 0.0 else 0.0
        add_to(integral, MEAN_I, width * (alone * first), mean_bound)
        add_to(integral, SECOND_I, width * square, width * square_bound)
        return
    ks = k * s
    difference = expm1(rest) - expm1(-ks) if ks < 1.0 else exp(rest) - exp(-ks)  # phi**(K-1) - exp(-K s)
    b, c = sums[B, 0], sums[C, 0]
    x_term = -k * (row[H2] * difference) - alone * c - pair * (b * b)
    q_term = alone * m + pair * (first * b)
    size = k * row[H2] * min(ks, exp(rest) + exp(-ks)) + alone * (m - c) + pair * sums[B_A, 0] * (sums[B_A, 0] + first_size)
    factor = 2.0 * ((-(x + log_k) - GAMMA) + row[ELL])
    mean_bound = sums[MEAN_A, 0] * relative
    second_bound = 2.0 * abs(factor) * size * relative + square_bound
    add_to(integral, MEAN_I, -width * (alone * sums[MEAN, 0]), width * (alone * mean_bound) if alone > 0.0 else 0.0)
    second = width * square + (factor * (width * (x_term - q_term)) if abs(x_term) + abs(q_term) > 0.0 else 0.0)
    add_to(integral, SECOND_I, second, width * second_bound if alone > 0.0 else 0.0)


@kernel
def gradient_integrals(counts, log_counts, step, q, r, rm1, g, kind, facts, row, sums, integrals):
    """All integrals of a row."""
    integrals[:, :] = 0.0
    k_min, k_max = counts[0], log_counts[0]
    for i in range(counts.size):
        k_min, k_max = min(k_min, counts[i]), max(k_max, log_counts[i])
    j, last = first_and_last(row[TOP], row[BOTTOM], k_max, step)
    n_breaks, moved = 0, 0.0
    edge, shift = next_break(0, facts, step)
    while j <= last:
        x, width, slack, to_middle = node_at(j, edge, shift, facts, step)
        s = exp(x)
        gradient_sums(s, q, r, rm1, g, kind, row[TOP], sums)
        lphi, lphi_error = log_phi(sums[F, 0], sums[PHI, 0] + row[Q0], sums[PSI, 0], row[SPREAD], row[ETA_E])
        for i in range(counts.size):
            add_node(
                counts[i],
                log_counts[i],
                x + moved + to_middle,
                s,
                width,
                slack,
                kind,
                lphi,
                lphi_error,
                sums,
                row,
                integrals[i],
            )
        if slack > 0.0:
            moved, n_breaks = moved + shift, n_breaks + 1
            edge, shift = next_break(n_breaks, facts, step)
            continue
        if k_min * s > 1.0:
            length = max(row[BOTTOM] - x, 0.0) + 1.0 + shift_ahead(n_breaks, facts)
            alive = max(sums[PHI, 0] * row[LARGEST] * row[LARGEST], max(sums[SQUARES, 0], sums[FIRST_A, 0] * sums[FIRST_A, 0]))
            rest = k_min * k_min * alive * length * length * (exp((k_min - 2.0) * lphi) if k_min > 2.0 else 1.0)
            smallest = INF
            for i in range(counts.size):
                smallest = min(smallest, abs(integrals[i, SECOND_I]))
            if rest <= NEGLIGIBLE * smallest:
                break
        j += 1.0


@kernel
def finish_moments(k, step, kind, facts, row, integral, out):
    """(mean, bound, variance, bound) of one K."""
    extra = 2.0 * QUADRATURE + 8.0 * U
    mean, second = step * (integral[MEAN_I] + integral[MEAN_L]), step * (integral[SECOND_I] + integral[SECOND_L])
    mean_bound = step * integral[MEAN_B] + extra * abs(mean)
    second_bound = step * integral[SECOND_B] + extra * abs(second)
    if kind == DOUBLY:
        second, second_bound = second / 6.0, second_bound / 6.0
    if kind == SCORE:
        base = row[ELL] * row[ELL] * (k * row[H2])
        second, second_bound = second + base, second_bound + base * (row[SPREAD] + 8.0 * U)
    variance = second - mean * mean
    bound = second_bound + 2.0 * abs(mean) * mean_bound + 2.0 * U * (abs(second) + mean * mean)
    # a constant left in g joins X once, one left in h joins it 1 + K |log mean w| times, and |log mean w| <= |ell| + the largest |e|
    times = 1.0 + (k * (abs(row[ELL]) + row[TOP] + abs(row[BOTTOM])) if kind == SCORE else 0.0)
    off = row[OFF_CENTRE] * times
    mean_bound += off
    bound += 2.0 * off * (np.sqrt(abs(second)) + abs(mean)) + off * off
    if kind == SELF_NORMALIZED:
        c, (zero, some) = row[CENTRE], all_zero(row[Q0], row[OTHERS], k)
        added = c * c * some * zero + 2.0 * c * zero * mean
        variance += added
        bound += 2.0 * abs(c) * zero * mean_bound + abs(added) * (row[SPREAD] * (1.0 + k) + 8.0 * U)
        mean += c * some
        mean_bound += row[LARGEST] * (row[SPREAD] + 4.0 * row[ETA_E] + 4.0 * U)
    low = all_low(k, facts)
    if low > 0.0 or facts[BROKEN] > 0.0:  # samples below the range may have any ratio to each other
        depth = row[LARGEST] * (1.0 + (k * (facts[LOW_DEPTH] + abs(row[ELL]) + 1300.0) if kind == SCORE else 0.0))
        mean_bound, bound = mean_bound + 2.0 * low * depth, bound + 2.0 * low * depth * (depth + abs(mean))
    out[0], out[1], out[2], out[3] = mean, 1.01 * mean_bound, max(variance, 0.0), 1.01 * bound
    if facts[BROKEN] > 0.0 or not abs(variance) < INF:
        out[1], out[3] = mean_bound if facts[BROKEN] == 0.0 else INF, INF
    if kind == SCORE and facts[CHARGED] > 0.0:
        out[0], out[1], out[2], out[3] = np.nan, INF, np.nan, INF


@kernel
def average(g, q, r, kind):
    """E_p g, or E_q h for the score."""
    total, low, mass = 0.0, 0.0, 0.0
    for z in range(g.size):
        weight = q[z] * r[z] if kind == SELF_NORMALIZED else q[z]
        mass += weight
        total, error = two_sum(total, weight * g[z] if weight > 0.0 else 0.0)
        low += error
    return (total + low) / mass


@kernel
def centred(g, q, r, kind, out, row):
    """The gradient as the sums take it: minus E_p g, as it is, or minus E_q h.

    Twice, because the mean of the first differences is rounded to their size, not to that of g; what is left of it after that is a few
    units of the largest of the first differences, ``OFF_CENTRE``.
    """
    centre, again, second, largest, spread = 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(g.size):
        out[z] = g[z] if q[z] > 0.0 else 0.0
        largest = max(largest, abs(out[z]))
    if kind != DOUBLY:
        centre = average(out[: g.size], q, r, kind)
        for z in range(g.size):
            out[z] = out[z] - centre if q[z] > 0.0 else 0.0
        again = average(out[: g.size], q, r, kind)
    for z in range(g.size):
        spread = max(spread, abs(out[z]))
        out[z] = out[z] - again if q[z] > 0.0 else 0.0
        second += q[z] * (out[z] * out[z])
    row[CENTRE], row[H2], row[LARGEST] = centre + again, second, largest
    row[OFF_CENTRE] = 0.0 if kind == DOUBLY else spread * (row[SPREAD] + 4.0 * row[ETA_E] + 4.0 * U)


@kernel(void(TABLE, TABLE, OUT2, TABLE, ROW, INT, FLOAT, OUT2))
def gradient_moment_rows(all_q, all_e, all_facts, gradient, counts, kind, step, out):
    """(mean, bound, variance, bound) of row i and count k into row i * len(counts) + k, for weights of ``weight_rows``."""
    n, n_counts = all_q.shape[1], counts.size
    padded_q, r, rm1, g = np.empty(n + LANES), np.empty(n + LANES), np.empty(n + LANES), np.zeros(n + LANES)
    row, sums = np.empty(N_ROW), np.empty((N_SUMS, 2))
    integrals, log_counts = np.empty((n_counts, N_INTEGRALS)), np.empty(n_counts)
    for i in range(n_counts):
        log_counts[i] = log(counts[i])
    for i in range(out.shape[0] // n_counts):
        results = out[i * n_counts : (i + 1) * n_counts]
        q, e, facts = all_q[i], all_e[i], all_facts[i]
        if facts[STATUS] != OK or facts[NO_MASS] > 0.0:
            results[:, :] = 0.0
            if kind == SCORE or facts[STATUS] != OK:
                results[:, ::2], results[:, 1::2] = np.nan, INF
            continue
        size = gather_row(q, e, padded_q, r, rm1, facts, row)
        centred(table_row(gradient, i), q, r[:n], kind, g[:n], row)
        row[ELL] = facts[EVIDENCE] - facts[MISSED]
        gradient_integrals(
            counts, log_counts, step, padded_q[:size], r[:size], rm1[:size], g[:size], kind, facts, row, sums, integrals
        )
        for k in range(n_counts):
            finish_moments(counts[k], step, kind, facts, row, integrals[k], results[k])
