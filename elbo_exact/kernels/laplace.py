"""Expectations over K samples as one-dimensional integrals: one grid of nodes serves every K (``docs/importance.md`` derives them).

With r = p/q, s = exp(x), phi(s) = E_q exp(-s r), psi(s) = E_p exp(-s r), m the mean of K ratios,

    gap_K  = int phi**K - exp(-K s) dx                       = -E_q log m
    ugap_K = int exp(-K s) - psi phi**(K-1) dx               =  E_{p, q} log m
    Var    = -2 int v (phi**K - exp(-K s)) dx + 2 gamma gap_K - gap_K**2,     v = -(x + log K)
    E sum what**2 = int K s**2 E_q[r**2 exp(-s r)] phi**(K-1) dx

``laplace_nodes`` says how phi and psi keep the digits of small gaps, and at what cost.

**Step.** The integrands are analytic for |Im x| < pi/2, where |phi(exp(x + iy))| <= phi(exp(x) cos y) makes them at most 1/cos(y)**2 times
larger. The trapezoid rule is therefore off by at most 2 e**2 (pi/h)**2 exp(-pi**2/h) relative, 2.4e-18 at h = 1/5 (Trefethen & Weideman 2014,
SIAM Rev. 56:385, theorem 5.1); ``QUADRATURE`` leaves a factor of six. That is an estimate for integrands that change sign, and is tested by halving h.

**Range.** Left of -log max(r, 1) - log K - 42 the integrands are below s K relative. To the right the nodes end where
phi_+ phi**(K-1) and exp(-K s), times the distance to log(50/min r), are below 2**-62 of every integral.

**Rounding.** The errors of a node's logarithms pass through K times the integrand's own size, and are added up beside it.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.laplace_nodes import (
    ALIVE,
    CENTRAL,
    LAM,
    LAM_E,
    LAMP,
    LAMP_E,
    LPHI,
    LPHI_E,
    LPSI,
    LPSI_E,
    N_MOMENTS,
    N_NODE,
    N_ROW,
    N_SUMS,
    R_BOTTOM,
    R_CHI2,
    R_ETA,
    R_Q0,
    R_RHO,
    R_SPREAD,
    R_TOP,
    SERIES_LIMIT,
    SQUARE,
    SQUARE_E,
    series_node,
    walked_node,
)
from elbo_exact.kernels.laplace_states import all_low, compacted, merged, move_ratios, padded_row
from elbo_exact.kernels.laplace_variance import sharpen
from elbo_exact.kernels.laplace_walk import GAMMA, QUADRATURE, first_and_last, next_break, node_at, shift_ahead
from elbo_exact.kernels.laplace_weights import (
    BROKEN,
    CHARGED,
    DELTA,
    EXCESS,
    LOST,
    LOST_SQUARE,
    LOW_DEPTH,
    MISSED,
    MISSED_BOUND,
    MISSING,
    NO_MASS,
    REACH,
    STATUS,
)
from elbo_exact.kernels.reduce import OK, WEIGHT_ERROR
from elbo_exact.kernels.scalar import exp, expm1, log, two_sum
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, chain_error

__all__ = ["N_HEAD", "N_VALUES", "importance_rows"]

NEGLIGIBLE = 2.0**-62
FLOOR = 1e-295  # exponentials end at exp(-700): smaller gaps have no digits
EXCESS_ERROR = 60.0 * U
RAISED = 1e-257  # K samples meet a state whose q was raised to exp(-600) p, and its logarithm counts at most that much
MERGED = 256  # rows up to here are not sorted: that costs as much as five nodes

# Integrals of one K, each with its rounding error of summation beside it, and their error bounds.
GAP, GAP_L, UPPER, UPPER_L, LOGS, LOGS_L, ESS, ESS_L, GAP_B, UPPER_B, LOGS_B, ESS_B, N_INTEGRALS = range(13)
# Columns of the result for one K: value and bound of gap, upper gap, variance, mean inverse ESS.
N_VALUES = 8
SHARE, SHARE_BOUND, N_HEAD = range(3)  # results of a row: 1/(1 + chi-square)


@kernel
def add_to(integral, column, value):
    """Compensated addition to one integral."""
    integral[column], error = two_sum(integral[column], value)
    integral[column + 1] += error


@kernel
def add_node(k, log_k, x, s, width, slack, node, integral):
    """The integrands of one K at one node, times a width. With slack, its error, it is a stretch, where psi and the ESS are nothing."""
    ks = k * s
    lam, lphi, power = node[LAM], node[LPHI], k * node[LPHI] if node[LPHI] > -INF else -INF
    base, full = exp(-ks), exp(power)
    if node[CENTRAL] > 0.0 and k * lam < 1.0:
        gap = base * expm1(k * lam)
        gap_bound = base * exp(k * lam) * (k * node[LAM_E]) + gap * (10.0 + ks) * U
    else:
        gap = full - base
        gap_bound = (full * (k * node[LPHI_E] + (3.0 - power) * U) if full > 0.0 else 0.0) + base * (3.0 + ks) * U
    rest = (k - 1.0) * lphi if k > 1.0 else 0.0
    b = (k - 1.0) * lam + node[LAMP]
    if node[CENTRAL] > 0.0 and abs(b) < 1.0:
        upper = -base * expm1(b)
        upper_bound = base * exp(b) * ((k - 1.0) * node[LAM_E] + node[LAMP_E] + ((k - 1.0) * lam + abs(b)) * U)
        upper_bound += abs(upper) * (10.0 + ks) * U
    else:
        tail = exp(rest + node[LPSI])
        upper = base - tail
        upper_bound = base * (3.0 + ks) * U
        if tail > 0.0:
            upper_bound += tail * ((k - 1.0) * node[LPHI_E] + node[LPSI_E] + (4.0 - 2.0 * rest + abs(node[LPSI])) * U)
    v = -(x + log_k)
    gap_bound += slack * gap
    weighted = width * gap if gap > 0.0 else 0.0
    add_to(integral, GAP, weighted)
    add_to(integral, LOGS, v * weighted if weighted > 0.0 else 0.0)
    integral[GAP_B] += width * gap_bound
    integral[LOGS_B] += abs(v) * (width * gap_bound) + (4.0 * U + slack) * (abs(x) + log_k) * weighted
    if slack > 0.0:
        return
    decay = exp(rest)
    ess = k * node[SQUARE] * decay
    add_to(integral, UPPER, upper)
    add_to(integral, ESS, ess)
    integral[UPPER_B] += upper_bound
    if decay > 0.0:
        integral[ESS_B] += k * node[SQUARE_E] * decay + ess * ((k - 1.0) * node[LPHI_E] + (6.0 - 2.0 * rest) * U)


@kernel
def is_over(x, ahead, k_min, node, row, integrals, q0):
    """Whether all that lies right of a node is negligible for every integral."""
    length = (max(row[R_BOTTOM] - x, 0.0) + 1.0) + ahead
    below = exp((k_min - 1.0) * node[LPHI]) if k_min > 1.0 and node[LPHI] > -INF else 1.0
    rest = k_min * max(max(node[ALIVE], node[SQUARE]) * below, exp(-k_min * exp(x))) * length * length
    for i in range(integrals.shape[0]):
        gap, upper, ess = integrals[i, GAP], integrals[i, UPPER], integrals[i, ESS]
        smallest = min(abs(upper), ess) if q0 > 0.0 else min(abs(upper), min(gap, ess))
        if not rest <= NEGLIGIBLE * smallest:
            return False
    return True


@kernel
def row_facts(q, rm1, count, facts, row, moments):
    """Scalars of a row, and the moments of (r - 1)/max|r - 1| under q."""
    adds = float(min(count, CHUNK) // LANES + 8)
    row[R_SPREAD] = WEIGHT_ERROR + chain_error(count) + (24.0 + adds) * U
    row[R_ETA] = facts[DELTA]
    moments[:, :] = 0.0
    for begin in range(0, count, CHUNK):
        for k in range(2, N_MOMENTS):
            moments[k, 1] = 0.0
        for z in range(begin, min(begin + CHUNK, count)):
            t = rm1[z] / row[R_RHO]
            power = q[z] * t
            for k in range(2, N_MOMENTS):
                power *= t
                moments[k, 1] += power
        for k in range(2, N_MOMENTS):
            moments[k, 0] += moments[k, 1]
    row[R_CHI2] = moments[2, 0] * row[R_RHO] * row[R_RHO]


@kernel
def integrate(counts, log_counts, step, q, e, r, rm1, facts, row, moments, sums, node, integrals):
    """All integrals of a row.

    Beyond exp(600) what multiplies r is s exp(-base), and r = exp(e + base).
    """
    integrals[:, :] = 0.0
    k_min, k_max = counts[0], log_counts[0]
    for i in range(counts.size):
        k_min, k_max = min(k_min, counts[i]), max(k_max, log_counts[i])
    j, last = first_and_last(row[R_TOP], row[R_BOTTOM], k_max, step)
    n_breaks, moved, base = 0, 0.0, 0.0
    edge, shift = next_break(0, facts, step)
    while j <= last:
        x, width, slack, to_middle = node_at(j, edge, shift, facts, step)
        if x - base > REACH:
            base = x
            move_ratios(e, base, r)
        s = exp(min(x, REACH))
        if s * row[R_RHO] <= SERIES_LIMIT:
            series_node(s, moments[:, 0], row, node)
        else:
            walked_node(s, exp(x - base), x, q, r, rm1, row, sums, node)
        for i in range(counts.size):
            add_node(counts[i], log_counts[i], x + moved + to_middle, s, width, slack, node, integrals[i])
        if slack > 0.0:
            moved, n_breaks = moved + shift, n_breaks + 1
            edge, shift = next_break(n_breaks, facts, step)
        elif k_min * s > 1.0 and is_over(x, shift_ahead(n_breaks, facts), k_min, node, row, integrals, row[R_Q0]):
            break
        else:
            j += 1.0


@kernel
def finish(k, step, row, facts, integral, out):
    """Values and bounds of one K from its integrals."""
    extra = QUADRATURE + 8.0 * U
    gap, upper = step * (integral[GAP] + integral[GAP_L]), step * (integral[UPPER] + integral[UPPER_L])
    logs, ess = step * (integral[LOGS] + integral[LOGS_L]), step * (integral[ESS] + integral[ESS_L])
    gap_bound = 1.01 * (step * integral[GAP_B] + extra * gap)
    variance = (-2.0 * logs + 2.0 * GAMMA * gap) - gap * gap
    size = 2.0 * abs(logs) + 2.0 * GAMMA * gap + gap * gap
    variance_bound = 1.01 * (2.0 * step * integral[LOGS_B] + 2.0 * (GAMMA + gap) * gap_bound + extra * (size + gap))
    low = all_low(k, facts)
    floor = FLOOR + (RAISED * k if facts[EXCESS] > 0.0 else 0.0) + facts[LOST]
    depth = low * facts[LOW_DEPTH] if low > 0.0 else 0.0
    out[0], out[1] = max(gap, 0.0) + facts[MISSED], gap_bound + facts[MISSED_BOUND] + floor + depth
    out[2], out[3] = max(upper, 0.0) + facts[EXCESS], 1.01 * (step * integral[UPPER_B] + extra * abs(upper)) + floor
    out[3] += (EXCESS_ERROR + row[R_SPREAD] + facts[DELTA] / REACH) * facts[EXCESS]
    out[4], out[5] = (
        max(variance, 0.0),
        variance_bound + floor * (1.0 + gap) + facts[LOST_SQUARE] + depth * (facts[LOW_DEPTH] + 2.0 * gap + 1200.0),
    )
    out[6], out[7] = ess, 1.01 * (step * integral[ESS_B] + extra * ess) + floor + low
    if not size < INF:
        out[4] = INF


@kernel
def close_row(row, facts, results, head):
    """1/(1 + chi-square), and the infinities of a row, which hold for every K.

    (r - 1)**2 changes by 2 r |r - 1| delta + (r delta)**2 at most, and E r |r - 1| <= sqrt(chi2 (1 + chi2)).
    """
    chi2 = row[R_CHI2]
    moved = 2.02 * facts[DELTA] * np.sqrt(chi2) * np.sqrt(1.0 + chi2) + 1.02 * facts[DELTA] * facts[DELTA] * (1.0 + chi2)
    head[SHARE] = 1.0 / (1.0 + chi2)
    error = head[SHARE] * (chi2 * (row[R_SPREAD] + (24.0 + 2.0 * row[R_TOP]) * U) + moved) * head[SHARE] + 3.0 * U * head[SHARE]
    head[SHARE_BOUND] = 1.01 * error + FLOOR if chi2 < INF and facts[EXCESS] == 0.0 else head[SHARE] + RAISED
    for i in range(results.shape[0]):
        out = results[i]
        for column in range(0, N_VALUES, 2):
            if not abs(out[column]) < INF or not out[column + 1] >= 0.0:  # out of the range of doubles
                out[column], out[column + 1] = INF, INF
        if facts[BROKEN] > 0.0:
            out[1], out[3], out[5], out[7] = INF, INF, INF, INF
        if facts[BROKEN] > 0.0 and row[R_Q0] > 0.0:
            out[0], out[4] = INF, INF
        if facts[CHARGED] > 0.0:
            out[0], out[1], out[4], out[5] = INF, 0.0, np.nan, INF
        if facts[MISSING] > 0.0:
            out[2], out[3] = INF, 0.0
    if facts[MISSING] > 0.0:
        head[SHARE], head[SHARE_BOUND] = 0.0, 0.0


@kernel
def equal_weights(k, facts, out):
    """All weights are equal: the gap is the missed mass alone."""
    out[:] = 0.0
    floor = FLOOR + facts[LOST] if facts[LOST] > 0.0 else 0.0
    out[0], out[1], out[5] = facts[MISSED], facts[MISSED_BOUND] + floor, floor + facts[LOST_SQUARE]
    out[2], out[3] = facts[EXCESS], floor + EXCESS_ERROR * facts[EXCESS]
    out[6], out[7] = 1.0 / k, U / k + floor


@kernel
def no_row(facts, results, head):
    """Results of a row without a common state, or without a posterior."""
    results[:, ::2], results[:, 1::2] = np.nan, INF
    head[SHARE], head[SHARE_BOUND] = np.nan, INF
    if facts[STATUS] == OK:
        head[SHARE], head[SHARE_BOUND] = 0.0, 0.0
        for k in range(results.shape[0]):
            out = results[k]
            out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = INF, 0.0, INF, 0.0, np.nan, INF, 0.0, 0.0


@kernel(void(TABLE, TABLE, TABLE, ROW, FLOAT, OUT2, OUT2))
def importance_rows(all_q, all_e, all_facts, counts, step, out, heads):
    """The values of every row and K into row i * len(counts) + k of ``out``, for weights of ``weight_rows``; the K are floats."""
    n, n_counts = all_q.shape[1], counts.size
    kept_q, kept_e, order, arrays = np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty((3, n + LANES))
    row, moments = np.empty(N_ROW), np.empty((N_MOMENTS, 2))
    sums, node, integrals = np.empty((N_SUMS, 2)), np.empty(N_NODE), np.empty((n_counts, N_INTEGRALS))
    log_counts = np.empty(n_counts)
    for i in range(n_counts):
        log_counts[i] = log(counts[i])
    for i in range(all_q.shape[0]):
        q, e, facts, results = all_q[i], all_e[i], all_facts[i], out[i * n_counts : (i + 1) * n_counts]
        if facts[STATUS] != OK or facts[NO_MASS] > 0.0:
            no_row(facts, results, heads[i])
            continue
        count = merged(q, e, order, kept_q, kept_e) if n > MERGED else compacted(q, e, kept_q, kept_e)
        size, equal = padded_row(kept_q, kept_e, count, arrays, row)
        row[R_CHI2], row[R_SPREAD] = 0.0, 0.0
        if equal:
            for k in range(n_counts):
                equal_weights(counts[k], facts, results[k])
        else:
            row_facts(kept_q, arrays[2], count, facts, row, moments)
            states, r, rm1 = arrays[0][:size], arrays[1][:size], arrays[2][:size]
            integrate(counts, log_counts, step, states, kept_e[:count], r, rm1, facts, row, moments, sums, node, integrals)
            for k in range(n_counts):
                finish(counts[k], step, row, facts, integrals[k], results[k])
                if facts[LOW_DEPTH] == 0.0 and facts[EXCESS] == 0.0:
                    sharpen(counts[k], step, kept_q[:count], kept_e[:count], FLOOR, facts, row, results[k])
        close_row(row, facts, results, heads[i])
