"""What the K-sample integrals need of a row: for every state its q and its log ratio e = log(p/q), with their errors.

p is the posterior on the support of q. A state that p forbids has e = -inf, a state that q forbids has q = 0. The mass of p on the
latter is taken out of p, and its share of the gap, -log(1 - missed), is returned: ``log1p`` of missed to common mass.

Ratios beyond exp(+-600) would leave the doubles. Above, K samples meet the state with probability K p exp(-600), which is nothing,
and only E_p log m_K feels e itself, linearly: ``excess`` = sum p (e - 600) is added there and p = q exp(e) is kept. Below, only
samples that are *all* down there feel it: q_low**K times their depth is an error, for K > 1.

All integrals depend on the pairs (q, e) alone, so states of one e are merged, in ascending order: a 4x4 Ising table has 15.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.pivoted import row_log_sum, row_pivot, state_ratio
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import exp, expm1, log, log1p, two_sum
from elbo_exact.kernels.terms import guarded_weight
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, chain_error

__all__ = [
    "BOTTOM",
    "CENTRE",
    "DELTA",
    "ELL",
    "ETA_E",
    "EXCESS",
    "H2",
    "LARGEST",
    "LOW",
    "LOW_DEPTH",
    "MISSED",
    "NO_MASS",
    "N_FACTS",
    "N_ROW",
    "OTHERS",
    "Q0",
    "SPREAD",
    "TOP",
    "all_zero",
    "gather_row",
    "merged",
    "row_weights",
]

# Facts of a row: error of e beyond u |e|; the gap's share of missed mass; what is beyond the range, see above.
DELTA, MISSED, EXCESS, LOW, LOW_DEPTH, NO_MASS, N_FACTS = range(7)
# Scalars of a row.
SPREAD, ETA_E, Q0, OTHERS, TOP, BOTTOM, CENTRE, H2, LARGEST, ELL, N_ROW = range(11)
REACH = 600.0


@kernel
def row_weights(a, b, common, weights, partials, q, e, facts):
    """Fill q[z], e[z] and the facts of a row; ``common`` receives the target without the states that q forbids."""
    facts[:] = 0.0
    missed_top = -INF
    for z in range(a.size):
        common[z] = a[z] if b[z] > -INF else -INF
        missed_top = max(missed_top, a[z]) if b[z] == -INF else missed_top
    top_a, rest_a = row_log_sum(common, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0 or rest_b < 0.0:
        facts[NO_MASS] = 1.0
        return
    missed, low = 0.0, 0.0
    if missed_top > -INF:
        for z in range(a.size):
            if b[z] == -INF and a[z] > -INF:
                x, x_low = two_sum(a[z], -top_a)
                missed, error = two_sum(missed, exp(x) * (1.0 + x_low) if abs(x) < 700.0 else exp(x))
                low += error
    facts[MISSED] = log1p((missed + low) / (1.0 + rest_a))
    r, t, off = row_pivot(common, b, top_a, rest_a, top_b, rest_b)
    for z in range(a.size):
        state_weight(z, common, b, top_a, top_b, rest_b, r, t, q, e, facts)
    facts[DELTA] += off


@kernel
def state_weight(z, a, b, top_a, top_b, rest_b, r, t, q, e, facts):
    """q and e of one state, and its share of the facts."""
    q[z], e[z] = 0.0, -INF
    if b[z] == -INF:
        return
    q[z] = guarded_weight(b[z], top_b)[2] / (1.0 + rest_b)
    if a[z] == -INF or a[z] - top_a == -INF:
        return
    ratio, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
    if not ratio < INF:
        ratio = INF  # b - max b leaves the range
    else:
        facts[DELTA] = max(facts[DELTA], delta)
    if ratio > REACH:
        p = guarded_weight(a[z], top_a)[2] * exp(-(r + t)) / (1.0 + rest_b)
        facts[EXCESS] += p * (ratio - REACH) if p > 0.0 else 0.0
        q[z], ratio = p * exp(-REACH), REACH
    if ratio < -REACH:
        facts[LOW] += q[z]
        facts[LOW_DEPTH] = max(facts[LOW_DEPTH], -REACH - ratio)
        ratio = -REACH
    e[z] = ratio


@kernel
def merged(q, e, place, out_q, out_e):
    """How many different e states with q > 0 have; their sums of q and their e into the outputs, and where each state went.

    The sums are taken with compensation in a stable order of e, so that a permutation of the states changes at most roundings.
    """
    order = np.argsort(e, kind="mergesort")
    count, total, low = 0, 0.0, 0.0
    for k in range(order.size):
        z = order[k]
        place[z] = -1
        if not q[z] > 0.0:
            continue
        if count == 0 or e[z] != out_e[count - 1]:
            total, low, out_e[count] = q[z], 0.0, e[z]
            count += 1
        else:
            total, error = two_sum(total, q[z])
            low += error
        out_q[count - 1] = total + low
        place[z] = count - 1
    return count


@kernel
def all_zero(q0, others, k):
    """(q0**k, 1 - q0**k): no sample, and some sample, has a weight; ``others`` is 1 - q0."""
    if not q0 > 0.0:
        return 0.0, 1.0
    power = k * (log1p(-others) if others < 0.5 else log(q0))
    return exp(power), -expm1(power)


@kernel
def gather_row(q, e, padded_q, r, rm1, facts, row):
    """Padded length of the states of a row, and the scalars of e and q; states without q keep their place with r = 0."""
    n = q.size
    size = (n + LANES - 1) // LANES * LANES
    padded_q[n:size], r[n:size], rm1[n:size] = 0.0, 0.0, 0.0
    top, bottom, deepest, q0, low, others, others_low = 0.0, INF, 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(n):
        padded_q[z], r[z], rm1[z] = q[z], exp(e[z]), expm1(e[z])
        if e[z] > -INF and q[z] > 0.0:
            top, bottom, deepest = max(top, e[z]), min(bottom, e[z]), max(deepest, abs(e[z]))
            others, error = two_sum(others, q[z])
            others_low += error
        else:
            q0, error = two_sum(q0, q[z])
            low += error
    row[Q0], row[OTHERS], row[TOP], row[BOTTOM] = q0 + low, others + others_low, top, 4.0 - bottom
    adds = float(min(n, CHUNK) // LANES + 8)
    row[SPREAD] = WEIGHT_ERROR + chain_error(n) + (24.0 + adds) * U
    row[ETA_E] = facts[DELTA] + U * deepest
    return size
