"""What the K-sample integrals need at one node s: phi(s) = E_q exp(-s r), psi(s) = E_p exp(-s r) and their relatives, with errors.

Small gaps survive because E_q (r - 1) = 0 is used and never computed: with d = s (r - 1), D = E_q phi(-d) >= 0 and
N = E_q[(r - 1) (1 - exp(-d))] >= 0 are sums of non-negative terms, and

    Lam = log1p(D) = log phi + s,    LamP = log1p(D - N) = log psi + s.

While s max|r - 1| <= 1/2 both are power series in s, whose moments E_q (r - 1)**k are taken once: those nodes (four of five) cost
nothing. At the others the states are walked, with one exponential each.

**Rounding.** ``spread`` is the relative error of a sum of non-negative terms, eta the error of the e of any state; the errors of Lam
and its relatives are taken to first order (their second is below 1e-20).
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.scalar import FACTORIAL, exp, exp_rest, log, log1p, phi_parts, reduced, two_sum, whole_power
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, clear, fold

__all__ = [
    "ALIVE",
    "CENTRAL",
    "LAM",
    "LAMP",
    "LAMP_E",
    "LAM_E",
    "LPHI",
    "LPHI_E",
    "LPSI",
    "LPSI_E",
    "N_MOMENTS",
    "N_NODE",
    "N_ROW",
    "N_SUMS",
    "R_BOTTOM",
    "R_CHI2",
    "R_ETA",
    "R_MAX_E",
    "R_Q0",
    "R_RHO",
    "R_SPREAD",
    "R_TOP",
    "SERIES_LIMIT",
    "SQUARE",
    "SQUARE_E",
    "exponential",
    "log_phi",
    "series_node",
    "walked_node",
]

CENTRED = 50.0  # s up to which Lam is needed: beyond, exp(-K s) is nothing
SERIES_LIMIT, N_MOMENTS = 0.5, 19  # the first dropped term is 2**-18/17! of the first

# Sums over the states at a node: D, N, E[expm1(-y)], E_+[exp(-y)], E[y exp(-y)], E[y**2 exp(-y)], with y = s r.
D, N, F, PHI, PSI, SECOND, N_SUMS = range(7)
# What the integrands need of a node, and its errors.
LAM, LAMP, LPHI, LPSI, SQUARE, LAM_E, LAMP_E, LPHI_E, LPSI_E, SQUARE_E, ALIVE, CENTRAL, N_NODE = range(13)
# Scalars of a row.
R_TOP, R_RHO, R_CHI2, R_SPREAD, R_ETA, R_MAX_E, R_Q0, R_BOTTOM, N_ROW = range(9)


@kernel
def exponential(y):
    """(exp(-y), expm1(-y)) for y >= 0, both to a few u; beyond 700 as at 700."""
    k, r, r_low = reduced(-min(y, 700.0))
    p, power = exp_rest(r, r_low), whole_power(k, 0.0)
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
def state_sums(s, scaled, q, r, rm1, sums):
    """All sums of a node; the states are padded to whole blocks. Plain lanes inside a chunk, compensated from chunk to chunk.

    ``scaled`` times r is s times the true r: far to the right both are moved into the range of doubles.
    """
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
                outer_block(lanes, scaled, q[start:stop], r[start:stop])
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
def walked_node(s, scaled, x, q, r, rm1, row, sums, node):
    """A node by the sums over the states."""
    state_sums(s, scaled, q, r, rm1, sums)
    spread, eta = row[R_SPREAD], row[R_ETA] + U * row[R_MAX_E]
    f, psi, second = sums[F, 0], sums[PSI, 0], sums[SECOND, 0]
    node[LPHI], node[LPHI_E] = log_phi(f, sums[PHI, 0] + row[R_Q0], psi, spread, eta)
    node[LPSI] = log(psi) - x if psi > 0.0 else -INF
    node[LPSI_E] = (
        spread + (eta + 2.0 * U) * (1.0 + (second / psi if psi > 0.0 else 0.0)) + 3.0 * U * (abs(x) + abs(node[LPSI]))
    )
    node[SQUARE], node[ALIVE] = second, sums[PHI, 0]
    node[SQUARE_E] = second * (spread + 2.0 * eta) + 40.0 * U * second + (eta + 2.0 * U) * 5.0 * psi
    node[CENTRAL] = 1.0 if s < CENTRED else 0.0
    if s < CENTRED:
        central_node(s, sums[D, 0], sums[N, 0], row, s, node[LPSI], node[LPSI_E], node)
    else:
        node[LAM], node[LAM_E] = node[LPHI] + s, node[LPHI_E] + U * s
        node[LAMP], node[LAMP_E] = node[LPSI] + s, node[LPSI_E] + U * s


@kernel
def central_node(s, d_sum, n_sum, row, reach, lpsi, lpsi_error, node):
    """Lam and LamP from D and N, LamP from log psi if that has more digits; ``reach`` bounds every exponent -d that is positive.

    u |e| moves a term by a few u of itself. An error eta of e that is not relative to it moves D by s eta E[r |1 - exp(-d)|], at
    most s eta (N + D + E|d|), because |1 - exp(-d)| <= |d| + phi(-d), and E|d| <= s min(2, sqrt(chi2)); N likewise.
    """
    size = s * min(2.0, np.sqrt(row[R_CHI2]))
    relative = row[R_SPREAD] + (8.0 + 2.0 * row[R_TOP] + 2.0 * reach) * U
    moved = s * row[R_ETA] * (n_sum + d_sum + size)
    node[LAM] = log1p(d_sum)
    node[LAM_E] = (d_sum * relative + moved) / (1.0 + d_sum) + 2.0 * U * node[LAM]
    node[LAMP], node[LAMP_E] = lpsi + s, lpsi_error + U * s
    if d_sum - n_sum > -0.5:
        moved += row[R_ETA] * (2.0 * n_sum + (2.0 + reach) * (d_sum + size))
        value, error = log1p(d_sum - n_sum), ((d_sum + n_sum) * relative + moved) / (1.0 + (d_sum - n_sum))
        if error < node[LAMP_E]:
            node[LAMP], node[LAMP_E] = value, error + 2.0 * U * abs(value)


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
    central_node(s, d_sum, n_sum, row, min(s, sigma), -INF, INF, node)
    node[LPHI], node[LPHI_E] = node[LAM] - s, node[LAM_E] + U * abs(node[LAM] - s)
    node[LPSI], node[LPSI_E] = node[LAMP] - s, node[LAMP_E] + U * abs(node[LAMP] - s)
    decay = exp(-s)
    node[SQUARE] = s * s * ((((1.0 + d_sum) - 2.0 * n_sum) + square) * decay)
    size = s * s * ((1.0 + d_sum + 2.0 * n_sum + square) * decay)
    node[SQUARE_E] = size * (row[R_SPREAD] + (16.0 + 2.0 * row[R_TOP]) * U + 2.0 * row[R_ETA])
    node[ALIVE] = max(exp(node[LPHI]) - row[R_Q0], 0.0)
