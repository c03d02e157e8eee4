"""What the K-sample integrals take of a row's weights: its states merged, without those of no weight, or padded to whole blocks."""

from __future__ import annotations

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.laplace_nodes import R_BOTTOM, R_MAX_E, R_Q0, R_RHO, R_TOP
from elbo_exact.kernels.laplace_weights import DELTA, LOW, LOW_DEPTH, REACH, ascending, cut_at
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import exp, expm1, log, log1p, two_sum
from elbo_exact.kernels.tree import CHUNK, INF, LANES, U, chain_error

__all__ = [
    "BOTTOM",
    "CENTRE",
    "ELL",
    "ETA_E",
    "H2",
    "LARGEST",
    "N_ROW",
    "OFF_CENTRE",
    "OTHERS",
    "Q0",
    "SPREAD",
    "TOP",
    "all_low",
    "all_zero",
    "compacted",
    "gather_row",
    "merged",
    "move_ratios",
    "padded_row",
]

# Scalars of a row.
SPREAD, ETA_E, Q0, OTHERS, TOP, BOTTOM, CENTRE, H2, LARGEST, OFF_CENTRE, ELL, N_ROW = range(12)

SMALL_ENOUGH = 690.0  # of a logarithm: its exponential is far from the ends of the doubles


@kernel
def merged(q, e, order, out_q, out_e):
    """How many different e states with q > 0 have; their sums of q and their e into the outputs.

    The sums are taken with compensation in a stable order of e, so that a permutation of the states changes at most roundings.
    """
    ascending(e, e, order)
    count, total, low = 0, 0.0, 0.0
    for k in range(order.size):
        z = order[k]
        if not q[z] > 0.0:
            continue
        if count == 0 or e[z] != out_e[count - 1]:
            total, low, out_e[count] = q[z], 0.0, e[z]
            count += 1
        else:
            total, error = two_sum(total, q[z])
            low += error
        out_q[count - 1] = total + low
    return count


@kernel
def compacted(q, e, out_q, out_e):
    """The states with q > 0 in their order, where sorting costs more than it saves; how many they are."""
    count = 0
    for z in range(q.size):
        if q[z] > 0.0:
            out_q[count], out_e[count] = q[z], e[z]
            count += 1
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
    """Padded length of the states of a row, cut off at exp(-600), and the scalars of e and q; states without q keep their place with r = 0."""
    n = q.size
    size = (n + LANES - 1) // LANES * LANES
    padded_q[n:size], r[n:size], rm1[n:size] = 0.0, 0.0, 0.0
    top, bottom, deepest, q0, low, others, others_low, lowest = 0.0, INF, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(n):
        here = max(e[z], -REACH) if e[z] > -INF else e[z]
        padded_q[z], r[z], rm1[z] = q[z], exp(here), expm1(here)
        if e[z] > -INF and q[z] > 0.0:
            top, bottom, deepest, lowest = max(top, here), min(bottom, here), max(deepest, abs(here)), min(lowest, e[z])
            others, error = two_sum(others, q[z])
            others_low += error
        else:
            q0, error = two_sum(q0, q[z])
            low += error
    row[Q0], row[OTHERS], row[TOP], row[BOTTOM] = q0 + low, others + others_low, top, 4.0 - bottom
    adds = float(min(n, CHUNK) // LANES + 8)
    row[SPREAD] = WEIGHT_ERROR + chain_error(n) + (24.0 + adds) * U
    row[ETA_E] = facts[DELTA] + U * deepest
    if lowest < -REACH:
        cut_at(-REACH, lowest - facts[LOW_DEPTH], q, e, facts)
    return size


@kernel
def all_low(k, facts):
    """Probability that all samples lie where the depth was cut off."""
    return min(1.0, exp(k * log(facts[LOW]))) if facts[LOW] > 0.0 else 0.0


@kernel
def padded_row(q, e, count, arrays, row):
    """Fill q, r and r - 1 of the states, padded with nothing to whole blocks, and the extremes of the row."""
    size = (count + LANES - 1) // LANES * LANES
    arrays[:, count:size] = 0.0
    top, bottom, least, zero, low = -INF, INF, INF, 0.0, 0.0
    for z in range(count):
        arrays[0, z], arrays[2, z] = q[z], expm1(e[z])
        arrays[1, z] = exp(max(e[z], -SMALL_ENOUGH)) if e[z] > -INF else 0.0  # what has a weight is not 0
        top, least = max(top, e[z]), min(least, e[z])
        if e[z] > -INF:
            bottom = min(bottom, e[z])
        else:
            zero, error = two_sum(zero, q[z])
            low += error
    row[R_TOP], row[R_Q0], row[R_BOTTOM], row[R_MAX_E] = (
        max(top, 0.0),
        zero + low,
        4.0 - min(bottom, 0.0),
        max(abs(top), abs(bottom)),
    )
    row[R_RHO] = max(expm1(top), -expm1(least))
    return size, top == least


@kernel
def move_ratios(e, base, r):
    """r times exp(base) of every state that has a weight; what is far from 1 stays so in the range of doubles."""
    for z in range(e.size):
        if e[z] > -INF:
            r[z] = exp(max(min(e[z] + base, SMALL_ENOUGH), -SMALL_ENOUGH))
