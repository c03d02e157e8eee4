"""The law of resampling one of K weighted samples, which is also the expected self-normalized weight of each state.

With what_k = w_k / sum w, y_i = s r_i and the notation of ``laplace``,

    SIR_K(i) = E sum_k what_k 1[z_k = i] = q_i int K y_i exp(-y_i) phi**(K-1) dx.

Every state has its own integral of a positive integrand, summed with compensation; the nodes end where nothing is left for any of
them: psi alone is no sign of that, since SIR_K(i) can be large where p_i is tiny.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.laplace import NEGLIGIBLE, RAISED
from elbo_exact.kernels.laplace_nodes import exponential, log_phi
from elbo_exact.kernels.laplace_states import BOTTOM, ETA_E, N_ROW, OTHERS, Q0, SPREAD, TOP, all_low, all_zero, gather_row
from elbo_exact.kernels.laplace_walk import MARGIN, QUADRATURE
from elbo_exact.kernels.laplace_weights import BREAKS, BROKEN, EXCESS, N_BREAKS, NO_MASS, STATUS, WINDOW
from elbo_exact.kernels.reduce import OK
from elbo_exact.kernels.scalar import exp, log, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, clear, fold

__all__ = ["law_rows"]

RAISED_SHARE = 4e-44  # above exp(-WINDOW)
F, PHI, PSI = range(3)  # sums of a node: E[expm1(-y)], E_+[exp(-y)], E[y exp(-y)]


@kernel
def law_block(y_scale, factor, relative, eta, r, law, low, bound):
    """Add one node to the integrals of 64 states."""
    for j in range(LANES):
        y = min(y_scale * r[j], 700.0)
        e, _ = exponential(y)
        x = factor * (y * e)
        law[j], error = two_sum(law[j], x)
        low[j] += error
        bound[j] += x * (relative + (1.0 + y) * eta)


@kernel
def log_phi_at(s, q, r, row):
    """(log phi, bound, phi_+) at a node."""
    lanes = tiles()
    f, phi, psi, f_low, phi_low = 0.0, 0.0, 0.0, 0.0, 0.0
    for begin in range(0, q.size, CHUNK):
        clear(lanes, 0, 3)
        for start in range(begin, min(begin + CHUNK, q.size), LANES):
            for j in range(LANES):
                y = min(s * r[start + j], 700.0)
                e, m = exponential(y)
                lanes[F, j] += q[start + j] * m
                lanes[PHI, j] += q[start + j] * e if r[start + j] > 0.0 else 0.0
                lanes[PSI, j] += q[start + j] * (y * e)
        f, error = two_sum(f, fold(lanes, F))
        f_low += error
        phi, error = two_sum(phi, fold(lanes, PHI))
        phi_low += error
        psi += fold(lanes, PSI)
    value, bound = log_phi(f + f_low, (phi + phi_low) + row[Q0], psi, row[SPREAD], row[ETA_E])
    return value, bound


@kernel
def law_integrals(k, step, q, r, row, law, low, bound):
    """int K y exp(-y) phi**(K-1) dx of every state."""
    law[: q.size], low[: q.size], bound[: q.size] = 0.0, 0.0, 0.0
    j, last = np.floor((-row[TOP] - log(k) - MARGIN) / step), np.ceil((row[BOTTOM] + 2.0) / step)
    while j <= last:
        s = exp(j * step)
        lphi, lphi_error = log_phi_at(s, q, r, row)
        rest = (k - 1.0) * lphi if k > 1.0 else 0.0
        factor = step * k * exp(rest)
        if not factor > 0.0:
            break
        relative = row[SPREAD] + (10.0 - 2.0 * rest) * U + ((k - 1.0) * lphi_error if k > 1.0 else 0.0) + QUADRATURE
        for start in range(0, q.size, LANES):
            stop = start + LANES
            law_block(
                s, factor, relative, row[ETA_E] + 2.0 * U, r[start:stop], law[start:stop], low[start:stop], bound[start:stop]
            )
        if rest < -40.0 and is_settled(factor * (max(row[BOTTOM] - j * step, 0.0) + 1.0) / step, r, q, law):
            break
        j += 1.0


@kernel
def is_settled(rest, r, q, law):
    """Whether what is to come is negligible for every state."""
    for z in range(q.size):
        if r[z] > 0.0 and q[z] > 0.0 and not rest <= NEGLIGIBLE * law[z]:
            return False
    return True


@kernel(void(TABLE, TABLE, OUT2, FLOAT, FLOAT, OUT2, OUT2, OUT2))
def law_rows(all_q, all_e, all_facts, k, step, out, bounds, zeros):
    """The law of resampling from K samples of every row, its bounds, and (q0**K, bound), for weights of ``weight_rows``."""
    n = all_q.shape[1]
    padded_q, r, rm1 = np.empty(n + LANES), np.empty(n + LANES), np.empty(n + LANES)
    law, low, bound = np.empty(n + LANES), np.empty(n + LANES), np.empty(n + LANES)
    row = np.empty(N_ROW)
    for i in range(out.shape[0]):
        q, e, facts = all_q[i], all_e[i], all_facts[i]
        out[i, :], bounds[i, :], zeros[i, 0], zeros[i, 1] = 0.0, 0.0, 1.0, 0.0
        if facts[STATUS] != OK or facts[NO_MASS] > 0.0:
            continue
        size = gather_row(q, e, padded_q, r, rm1, facts, row)
        law_integrals(k, step, padded_q[:size], r[:size], row, law, low, bound)
        lost = INF if facts[BROKEN] > 0.0 else all_low(k, facts) + (RAISED * k if facts[EXCESS] > 0.0 else 0.0)
        for z in range(n):
            out[i, z] = q[z] * (law[z] + low[z])
            bounds[i, z] = 1.01 * (q[z] * bound[z] + 4.0 * U * out[i, z]) + lost
            if facts[N_BREAKS] > 0.0 and e[z] <= facts[BREAKS] - WINDOW:  # raised: its share of the weights too
                bounds[i, z] += min(1.0, k * q[z]) * RAISED_SHARE
        zeros[i, 0] = all_zero(row[Q0], row[OTHERS], k)[0]
        if row[Q0] > 0.0:  # log q0 is off by spread, of the others if they are few
            moved = k * min(row[OTHERS] / row[Q0], 1.0) * (row[SPREAD] + 4.0 * U) + 4.0 * U * (
                1.0 - log(max(zeros[i, 0], 5e-324))
            )
            zeros[i, 1] = zeros[i, 0] * min(1.0, 1.01 * moved)
