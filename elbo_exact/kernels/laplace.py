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
phi_+**min(K) times the distance to log(50/min r) is below 2**-62 of every integral: all integrands are below phi_+ phi**(K-1) there.

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
    R_MAX_E,
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
from elbo_exact.kernels.laplace_weights import DELTA, EXCESS, LOW, LOW_DEPTH, MISSED, N_FACTS, NO_MASS, merged, row_weights
from elbo_exact.kernels.pivoted import scratch_of, table_row
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import exp, expm1, log, two_sum
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, chain_error

__all__ = ["N_VALUES", "STEP", "importance_rows"]

STEP = 0.2
QUADRATURE = 2.0**-56
NEGLIGIBLE = 2.0**-62
FLOOR = 1e-295  # exponentials end at exp(-700): smaller gaps have no digits
GAMMA = 0.5772156649015329
MARGIN = 42.0  # exp(-42) = 2**-60.6

# Integrals of one K, each with its rounding error of summation beside it, and their error bounds.
GAP, GAP_L, UPPER, UPPER_L, LOGS, LOGS_L, ESS, ESS_L, GAP_B, UPPER_B, LOGS_B, ESS_B, N_INTEGRALS = range(13)
# Columns of the result for one K: value and bound of gap, upper gap, variance, mean inverse ESS; then all_zero, chi-square.
N_VALUES = 8


@kernel
def add_to(integral, column, value):
    """Compensated addition to one integral."""
    integral[column], error = two_sum(integral[column], value)
    integral[column + 1] += error


@kernel
def add_node(k, log_k, x, s, node, integral):
    """The integrands of one K at one node."""
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
    decay = exp(rest)
    ess = k * node[SQUARE] * decay
    add_to(integral, GAP, gap)
    add_to(integral, UPPER, upper)
    add_to(integral, LOGS, v * gap)
    add_to(integral, ESS, ess)
    integral[GAP_B] += gap_bound
    integral[UPPER_B] += upper_bound
    integral[LOGS_B] += abs(v) * gap_bound + 4.0 * U * (abs(x) + log_k) * gap
    if decay > 0.0:
        integral[ESS_B] += k * node[SQUARE_E] * decay + ess * ((k - 1.0) * node[LPHI_E] + (6.0 - 2.0 * rest) * U)


@kernel
def is_over(x, k_min, node, row, integrals, q0):
    """Whether all that lies right of a node is negligible for every integral."""
    length = max(row[R_BOTTOM] - x, 0.0) + 1.0
    below = exp((k_min - 1.0) * node[LPHI]) if k_min > 1.0 and node[LPHI] > -INF else 1.0
    rest = k_min * max(node[ALIVE], node[SQUARE]) * below * length * length
    for i in range(integrals.shape[0]):
        gap, upper, ess = integrals[i, GAP], integrals[i, UPPER], integrals[i, ESS]
        smallest = min(abs(upper), ess) if q0 > 0.0 else min(abs(upper), min(gap, ess))
        if not rest <= NEGLIGIBLE * smallest:
            return False
    return True


@kernel
def padded_row(q, e, count, arrays):
    """(q, r, r - 1) of the merged states, padded with nothing to whole blocks."""
    size = (count + LANES - 1) // LANES * LANES
    arrays[:, count:size] = 0.0
    for z in range(count):
        arrays[0, z], arrays[1, z], arrays[2, z] = q[z], exp(e[z]), expm1(e[z])
    return arrays[0][:size], arrays[1][:size], arrays[2][:size]


@kernel
def row_facts(q, e, count, rm1, facts, row, moments):
    """Scalars of a row, and the moments of (r - 1)/max|r - 1| under q."""
    adds = float(min(count, CHUNK) // LANES + 8)
    row[R_TOP] = max(e[count - 1], 0.0)
    row[R_RHO] = max(abs(rm1[0]), abs(rm1[count - 1]))
    row[R_Q0] = q[0] if e[0] == -INF else 0.0
    first = 1 if e[0] == -INF and count > 1 else 0
    row[R_BOTTOM] = 4.0 - e[first]
    row[R_MAX_E] = max(abs(e[first]), abs(e[count - 1]))
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
def integrate(counts, log_counts, step, q, r, rm1, row, moments, sums, node, integrals):
    """All integrals of a row; the nodes are multiples of the step, so that half the step keeps them."""
    integrals[:, :] = 0.0
    k_min, k_max = counts[0], log_counts[0]
    for i in range(counts.size):
        k_min, k_max = min(k_min, counts[i]), max(k_max, log_counts[i])
    j = np.floor((-row[R_TOP] - k_max - MARGIN) / step)
    last = np.ceil((row[R_BOTTOM] + 8.0) / step)
    while j <= last:
        x = j * step
        s = exp(x)
        if s * row[R_RHO] <= SERIES_LIMIT:
            series_node(s, moments[:, 0], row, node)
        else:
            walked_node(s, x, q, r, rm1, row, sums, node)
        for i in range(counts.size):
            add_node(counts[i], log_counts[i], x, s, node, integrals[i])
        if k_min * s > 1.0 and is_over(x, k_min, node, row, integrals, row[R_Q0]):
            break
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
    low = exp(k * log(facts[LOW])) if facts[LOW] > 0.0 else 0.0
    floor = FLOOR + (
        1e-257 * k if facts[EXCESS] > 0.0 else 0.0
    )  # q was raised to exp(-600) p: K of them, times their logarithm
    out[0], out[1] = max(gap, 0.0) + facts[MISSED], gap_bound + 16.0 * U * facts[MISSED] + floor + low * facts[LOW_DEPTH]
    out[2], out[3] = (
        max(upper, 0.0) + facts[EXCESS],
        1.01 * (step * integral[UPPER_B] + extra * abs(upper)) + 40.0 * U * facts[EXCESS] + floor,
    )
    out[4], out[5] = (
        max(variance, 0.0),
        variance_bound + floor + low * facts[LOW_DEPTH] * (facts[LOW_DEPTH] + 2.0 * gap + 1200.0),
    )
    out[6], out[7] = ess, 1.01 * (step * integral[ESS_B] + extra * ess) + floor
    if row[R_Q0] > 0.0:
        out[0], out[1], out[4], out[5] = INF, 0.0, np.nan, INF
    if facts[MISSED] > 0.0:
        out[2], out[3] = INF, 0.0


@kernel
def equal_weights(k, facts, out):
    """All weights are equal: the gap is the missed mass alone."""
    out[:] = 0.0
    out[0], out[1], out[6], out[7] = facts[MISSED], 16.0 * U * facts[MISSED], 1.0 / k, U / k
    if facts[MISSED] > 0.0:
        out[2] = INF


@kernel
def no_weights(out):
    """No state has mass under both: every weight is zero."""
    out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = INF, 0.0, INF, 0.0, np.nan, INF, 0.0, 0.0


@kernel(void(TABLE, TABLE, ROW, FLOAT, OUT2))
def importance_rows(log_joint, log_q, counts, step, out):
    """The values of every row and K into row i * len(counts) + k of ``out``; ``counts`` are the K as floats."""
    n, n_counts = log_joint.shape[1], counts.size
    weights, partials = scratch_of(n)
    common, q, e, merged_q, merged_e = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    place, arrays = np.empty(n, np.int64), np.empty((3, n + LANES))
    facts, row, moments = np.empty(N_FACTS), np.empty(N_ROW), np.empty((N_MOMENTS, 2))
    sums, node, integrals = np.empty((N_SUMS, 2)), np.empty(N_NODE), np.empty((n_counts, N_INTEGRALS))
    log_counts = np.empty(n_counts)
    for i in range(n_counts):
        log_counts[i] = log(counts[i])
    for i in range(out.shape[0] // n_counts):
        results = out[i * n_counts : (i + 1) * n_counts]
        row_weights(table_row(log_joint, i), table_row(log_q, i), common, weights, partials, q, e, facts)
        if facts[NO_MASS] > 0.0:
            for k in range(n_counts):
                no_weights(results[k])
            continue
        count = merged(q, e, place, merged_q, merged_e)
        padded_q, r, rm1 = padded_row(merged_q, merged_e, count, arrays)
        if count < 2:
            for k in range(n_counts):
                equal_weights(counts[k], facts, results[k])
            continue
        row_facts(merged_q, merged_e, count, rm1, facts, row, moments)
        integrate(counts, log_counts, step, padded_q, r, rm1, row, moments, sums, node, integrals)
        for k in range(n_counts):
            finish(counts[k], step, row, facts, integrals[k], results[k])
