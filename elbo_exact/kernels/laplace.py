"""Expectations over K samples as one-dimensional integrals: one grid of nodes serves every K (``docs/importance.md`` derives them).

With r = p/q, s = exp(x), phi(s) = E_q exp(-s r), psi(s) = E_p exp(-s r), m the mean of K ratios,

    gap_K  = int phi**K - exp(-K s) dx                       = -E_q log m
    ugap_K = int exp(-K s) - psi phi**(K-1) dx               =  E_{p, q} log m
    Var    = -2 int v (phi**K - exp(-K s)) dx + 2 gamma gap_K - gap_K**2,     v = -(x + log K)
    E sum what**2 = int K s**2 E_q[r**2 exp(-s r)] phi**(K-1) dx

Small gaps survive because E_q (r - 1) = 0 is used and never computed: with d = s (r - 1), D = E_q phi(-d) >= 0 and
N = E_q[(r - 1) (1 - exp(-d))] >= 0 are sums of non-negative terms, and

    Lam = log1p(D) = log phi + s,    LamP = log1p(D - N) = log psi + s.

While s max|r - 1| <= 1/2 both are power series in s, whose moments E_q (r - 1)**k are taken once: those nodes (four of five) cost
nothing. At the others the states are walked, with one exponential each.

**Step.** The integrands are analytic for |Im x| < pi/2, where |phi(exp(x + iy))| <= phi(exp(x) cos y) makes them at most 1/cos(y)**2 times
larger. The trapezoid rule is therefore off by at most 2 e**2 (pi/h)**2 exp(-pi**2/h) relative, 2.4e-18 at h = 1/5 (Trefethen & Weideman 2014,
SIAM Rev. 56:385, theorem 5.1); ``QUADRATURE`` leaves a factor of six. That is an estimate for integrands that change sign, and is tested by halving h.

**Range.** Left of -log max(r, 1) - log K - 42 the integrands are below s K relative. To the right the nodes end where
phi_+**min(K) times the distance to log(50/min r) is below 2**-62 of every integral: all integrands are below phi_+ phi**(K-1) there.

**Rounding.** Per node, with ``spread`` the relative error of a sum of non-negative terms and eta the error of the e of any state; the errors of
Lam and its relatives are taken to first order (their second is below 1e-20) and pass through K times the integrand's own size.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.laplace_weights import DELTA, EXCESS, LOW, LOW_DEPTH, MISSED, N_FACTS, NO_MASS, merged, row_weights
from elbo_exact.kernels.pivoted import scratch_of, table_row
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import FACTORIAL, exp, exp_rest, expm1, log, log1p, phi_parts, power_of_two, reduced, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, chain_error, clear, fold

__all__ = ["N_VALUES", "STEP", "importance_rows"]

STEP = 0.2
QUADRATURE = 2.0**-56
NEGLIGIBLE = 2.0**-62
CENTRED = 50.0  # s up to which Lam is needed: beyond, exp(-K s) is nothing
SERIES_LIMIT, N_MOMENTS = 0.5, 19  # the first dropped term is 2**-18/17! of the first
GAMMA = 0.5772156649015329
MARGIN = 42.0  # exp(-42) = 2**-60.6

# Sums over the states at a node: D, N, E[expm1(-y)], E_+[exp(-y)], E[y exp(-y)], E[y**2 exp(-y)], with y = s r.
D, N, F, PHI, PSI, SECOND, N_SUMS = range(7)
# What the integrands need of a node, and its errors.
LAM, LAMP, LPHI, LPSI, SQUARE, LAM_E, LAMP_E, LPHI_E, LPSI_E, SQUARE_E, ALIVE, CENTRAL, N_NODE = range(13)
# Integrals of one K, each with its rounding error of summation beside it, and their error bounds.
GAP, GAP_L, UPPER, UPPER_L, LOGS, LOGS_L, ESS, ESS_L, GAP_B, UPPER_B, LOGS_B, ESS_B, N_INTEGRALS = range(13)
# Columns of the result for one K: value and bound of gap, upper gap, variance, mean inverse ESS; then all_zero, chi-square.
N_VALUES = 8
# Scalars of a row.
R_TOP, R_RHO, R_CHI2, R_SPREAD, R_ETA, R_MAX_E, R_Q0, R_BOTTOM, N_ROW = range(9)


@kernel
def exponential(y):
    """(exp(-y), expm1(-y)) for y >= 0, both to a few u; beyond 700 as at 700."""
    k, r, r_low = reduced(-min(y, 700.0))
    p, power = exp_rest(r, r_low), power_of_two(np.int64(k))
    return power * (1.0 + p), power * p + (power - 1.0)


@kernel
def central_block(lanes, s, raised, q, r, rm1):
    """The sums of 64 states where D and N are needed; ``raised`` = exp(s)."""
    for j in range(LANES):
        y, d = min(s * r[j], 700.0), s * rm1[j]
        e, m = exponential(y)
        near = abs(d) <= 1.0
        even, odd = phi_parts(-d if near else 0.0)
        outer = e * raised  # exp(-d)
        term = even + odd if near else (outer - 1.0) + d
        lanes[D, j] += q[j] * term
        lanes[N, j] += q[j] * (rm1[j] * ((d - term) if near else (1.0 - outer)))
        lanes[F, j] += q[j] * m
        lanes[PHI, j] += q[j] * e if r[j] > 0.0 else 0.0
        x = q[j] * (y * e)
        lanes[PSI, j] += x
        lanes[SECOND, j] += x * y


@kernel
def outer_block(lanes, s, q, r):
    """The sums of 64 states without D and N."""
    for j in range(LANES):
        y = min(s * r[j], 700.0)
        e, m = exponential(y)
        lanes[F, j] += q[j] * m
        lanes[PHI, j] += q[j] * e if r[j] > 0.0 else 0.0
        x = q[j] * (y * e)
        lanes[PSI, j] += x
        lanes[SECOND, j] += x * y


@kernel
def state_sums(s, q, r, rm1, sums):
    """All sums of a node; the states are padded to whole blocks. Plain lanes inside a chunk, compensated from chunk to chunk."""
    lanes = tiles()
    raised = exp(min(s, CENTRED))
    sums[:, :] = 0.0
    for begin in range(0, q.size, CHUNK):
        clear(lanes, 0, N_SUMS)
        for start in range(begin, min(begin + CHUNK, q.size), LANES):
            stop = start + LANES
            if s < CENTRED:
                central_block(lanes, s, raised, q[start:stop], r[start:stop], rm1[start:stop])
            else:
                outer_block(lanes, s, q[start:stop], r[start:stop])
        for k in range(N_SUMS):
            sums[k, 0], error = two_sum(sums[k, 0], fold(lanes, k))
            sums[k, 1] += error
    for k in range(N_SUMS):
        sums[k, 0] += sums[k, 1]


@kernel
def log_phi(f, total, psi, spread, eta):
    """(log phi, bound) from phi - 1 or from phi itself, whichever has the digits; ``psi`` = E[y exp(-y)]."""
    if f > -0.5:
        value = log1p(f)
        return value, (-f * (spread + eta)) / (1.0 + f) + 2.0 * U * abs(value)
    if not total > 0.0:
        return -INF, 0.0
    value = log(total)
    return value, spread + (eta + 2.0 * U) * (psi / total) + 2.0 * U * abs(value)


@kernel
def walked_node(s, x, q, r, rm1, row, sums, node):
    """A node by the sums over the states."""
    state_sums(s, q, r, rm1, sums)
    spread, eta = row[R_SPREAD], row[R_ETA] + U * row[R_MAX_E]
    f, psi, second = sums[F, 0], sums[PSI, 0], sums[SECOND, 0]
    node[LPHI], node[LPHI_E] = log_phi(f, sums[PHI, 0] + row[R_Q0], psi, spread, eta)
    node[LPSI] = log(psi) - x if psi > 0.0 else -INF
    node[LPSI_E] = spread + (eta + 2.0 * U) * (1.0 + (second / psi if psi > 0.0 else 0.0)) + 3.0 * U * (abs(x) + abs(node[LPSI]))
    node[SQUARE], node[ALIVE] = second, sums[PHI, 0]
    node[SQUARE_E] = second * (spread + 2.0 * eta) + 40.0 * U * second + (eta + 2.0 * U) * 5.0 * psi
    node[CENTRAL] = 1.0 if s < CENTRED else 0.0
    if s < CENTRED:
        central_node(s, sums[D, 0], sums[N, 0], row, s, node)
    else:
        node[LAM], node[LAM_E] = node[LPHI] + s, node[LPHI_E] + U * s
        node[LAMP], node[LAMP_E] = node[LPSI] + s, node[LPSI_E] + U * s


@kernel
def central_node(s, d_sum, n_sum, row, reach, node):
    """Lam and LamP from D and N; ``reach`` bounds every exponent -d that is positive.

    u |e| moves a term by a few u of itself. An error eta of e that is not relative to it moves D by s eta E[r |1 - exp(-d)|], at
    most s eta (N + D + E|d|), because |1 - exp(-d)| <= |d| + phi(-d), and E|d| <= s min(2, sqrt(chi2)); N likewise.
    """
    size = s * min(2.0, np.sqrt(row[R_CHI2]))
    relative = row[R_SPREAD] + (8.0 + 2.0 * row[R_TOP] + 2.0 * reach) * U
    moved = s * row[R_ETA] * (n_sum + d_sum + size)
    node[LAM] = log1p(d_sum)
    node[LAM_E] = (d_sum * relative + moved) / (1.0 + d_sum) + 2.0 * U * node[LAM]
    if d_sum - n_sum > -0.5:
        node[LAMP] = log1p(d_sum - n_sum)
        moved += row[R_ETA] * (2.0 * n_sum + (2.0 + reach) * (d_sum + size))
        node[LAMP_E] = ((d_sum + n_sum) * relative + moved) / (1.0 + d_sum - n_sum) + 2.0 * U * abs(node[LAMP])
    else:
        node[LAMP], node[LAMP_E] = node[LPSI] + s, node[LPSI_E] + U * s


@kernel
def series_node(s, moments, row, node):
    """A node where s max|r - 1| <= 1/2, from the moments of (r - 1)/max|r - 1|."""
    rho = row[R_RHO]
    sigma = s * rho
    d_sum, n_sum, square = 0.0, 0.0, 0.0
    for k in range(N_MOMENTS - 1, 1, -1):
        sign = 1.0 if k % 2 == 0 else -1.0
        d_sum = d_sum * sigma + sign * moments[k] / FACTORIAL[k]
        n_sum = n_sum * sigma + sign * moments[k] / FACTORIAL[k - 1]
        square = square * sigma + sign * moments[k] / FACTORIAL[k - 2]
    d_sum, n_sum, square = d_sum * sigma * sigma, n_sum * sigma * rho, square * rho * rho
    node[CENTRAL] = 1.0
    central_node(s, d_sum, n_sum, row, min(s, sigma), node)
    node[LPHI], node[LPHI_E] = node[LAM] - s, node[LAM_E] + U * abs(node[LAM] - s)
    node[LPSI], node[LPSI_E] = node[LAMP] - s, node[LAMP_E] + U * abs(node[LAMP] - s)
    decay = exp(-s)
    node[SQUARE] = s * s * ((((1.0 + d_sum) - 2.0 * n_sum) + square) * decay)
    size = s * s * ((1.0 + d_sum + 2.0 * n_sum + square) * decay)
    node[SQUARE_E] = size * (row[R_SPREAD] + (16.0 + 2.0 * row[R_TOP]) * U + 2.0 * row[R_ETA])
    node[ALIVE] = max(exp(node[LPHI]) - row[R_Q0], 0.0)


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
    out[0], out[1] = max(gap, 0.0) + facts[MISSED], gap_bound + 4.0 * U * facts[MISSED] + low * facts[LOW_DEPTH]
    out[2], out[3] = max(upper, 0.0) + facts[EXCESS], 1.01 * (step * integral[UPPER_B] + extra * abs(upper)) + 40.0 * U * facts[EXCESS]
    out[4], out[5] = max(variance, 0.0), variance_bound + low * facts[LOW_DEPTH] * (facts[LOW_DEPTH] + 2.0 * gap + 1200.0)
    out[6], out[7] = ess, 1.01 * (step * integral[ESS_B] + extra * ess)
    if row[R_Q0] > 0.0:
        out[0], out[1], out[4], out[5] = INF, 0.0, np.nan, INF
    if facts[MISSED] > 0.0:
        out[2], out[3] = INF, 0.0


@kernel
def equal_weights(k, facts, out):
    """All weights are equal: the gap is the missed mass alone."""
    out[:] = 0.0
    out[0], out[1], out[6], out[7] = facts[MISSED], 4.0 * U * facts[MISSED], 1.0 / k, U / k
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
