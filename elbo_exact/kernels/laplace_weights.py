"""What the K-sample integrals need of a row: for every state its q and its log ratio e = log(p/q), with their errors.

p is the posterior on the support of q. A state that p forbids has e = -inf, a state that q forbids has q = 0. The mass of p on the
latter is taken out of p, and its share of the gap, -log(1 - missed) = log1p(missed mass / common mass), is returned.

**Beyond exp(+-600)** ratios would leave the doubles. Above, K samples meet the state with probability K p exp(-600), which is nothing,
and only E_p log m_K feels e itself, linearly: ``excess`` = sum p (e - 600) is added there and p = q exp(e) is kept.

Below, what counts is the highest group of states that a sample holds: where two neighbors (the mean 1 being one of them) are
more than WINDOW apart, everything below is raised by the rest, ``shift``. Samples that lie below altogether lose it again: it is
a stretch of the integration variable on which phi is the mass below, nearly constant. What was neglected is K exp(DEAD - WINDOW), below 2**-76
relative; a state's share of a sum of weights is raised to at most exp(-WINDOW). ``laplace`` moves its r along with s, so that nothing
ends at exp(-600); the law and the gradients see all that is below as if it were there. That, and what is left below DEEPEST nats or after
MAX_BREAKS stretches, is cut off: where K samples lie at most WINDOW above, with probability q_low**K, the depth is an error.

All integrals depend on the pairs (q, e) alone, so states of one e are merged, in ascending order: a 4x4 Ising table has 15.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import OUT2, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_pivot, scratch_of, state_ratio, table_row
from elbo_exact.kernels.reduce import (
    BAD_Q,
    BAD_TARGET,
    NO_SUPPORT,
    OK,
    WEIGHT_ERROR,
    ZERO_EVIDENCE,
    log_evidence_of,
    merge_log_sums,
    row_log_sums,
)
from elbo_exact.kernels.scalar import exp, log1p, two_sum
from elbo_exact.kernels.terms import guarded_weight, scaled_product
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = [
    "BREAKS",
    "BROKEN",
    "CHARGED",
    "DEAD",
    "DELTA",
    "EVIDENCE",
    "EXCESS",
    "LOST",
    "LOST_SQUARE",
    "LOW",
    "LOW_DEPTH",
    "MISSED",
    "MISSED_BOUND",
    "MISSING",
    "NORMALIZER",
    "NO_MASS",
    "N_BREAKS",
    "N_FACTS",
    "REACH",
    "STATUS",
    "WINDOW",
    "ascending",
    "cut_at",
    "uncut",
    "weight_rows",
]

# Facts of a row: error of e beyond u |e|; the gap's share of missed mass and its bound; what is beyond the range, see above, and the
# shares that underflow takes from q e and q e**2; whether q charges an impossible state or misses a possible one, a difference of logarithms overflowed, p and q share nothing; log evidence and its bound; log normalizer
# of q; status; the number of stretches, and for each the e above it (0 at most) and its length.
DELTA, MISSED, MISSED_BOUND, EXCESS, LOW, LOW_DEPTH, LOST, LOST_SQUARE, CHARGED, MISSING, BROKEN, NO_MASS = range(12)
EVIDENCE, EVIDENCE_BOUND, NORMALIZER, STATUS, N_BREAKS, BREAKS = range(12, 18)
MAX_BREAKS = 24
N_FACTS = BREAKS + 2 * MAX_BREAKS
REACH, WINDOW, DEEPEST = 600.0, 100.0, 2.0**15
SMALLEST = -680.0  # below, exp has few bits or none
UNSURE = 1e-290  # smaller q are bounds, not numbers
DEAD = 10.0  # exp(-exp(10)) is nothing
TARGET, APPROXIMATION, COMMON, ABSENT = range(4)  # the four log sums of a row


@kernel
def part_of(part, a, b, out):
    """The entries of one of the four log sums: the target, q, the target where q has mass, the target where it has none."""
    for z in range(a.size):
        kept = part == TARGET or (b[z] == -INF) == (part == ABSENT)
        out[z] = b[z] if part == APPROXIMATION else (a[z] if kept else -INF)


@kernel
def row_sums(a, b, scratch, weights, partials, sums):
    """(top, R, number of bad entries) of each log sum; True if q misses a possible state. The heavy part is compiled once."""
    missing = False
    for z in range(a.size):
        missing = missing or (b[z] == -INF and a[z] > -INF)
    for part in range(4 if missing else 2):
        part_of(part, a, b, scratch)
        row_log_sums(scratch, 0, partials.shape[0], True, weights, partials)
        sums[part, 0], sums[part, 1], sums[part, 2] = merge_log_sums(partials)
    if not missing:
        sums[COMMON, 0], sums[COMMON, 1] = sums[TARGET, 0], sums[TARGET, 1]
    return missing


@kernel
def fill_evidence(sums, n, facts):
    """Log evidence, log normalizer and status, with the bits of the gap engine."""
    top, rest = sums[TARGET, 0], sums[TARGET, 1]
    facts[EVIDENCE], facts[EVIDENCE_BOUND] = log_evidence_of(top, rest, log1p(max(rest, 0.0)), n)
    facts[STATUS] = OK if rest >= 0.0 else ZERO_EVIDENCE
    rest = sums[APPROXIMATION, 1]
    facts[NORMALIZER], _ = log_evidence_of(sums[APPROXIMATION, 0], rest, log1p(max(rest, 0.0)), n)
    if sums[TARGET, 2] > 0.0:
        facts[STATUS] = BAD_TARGET
    elif rest < 0.0:
        facts[STATUS] = BAD_Q if sums[APPROXIMATION, 2] > 0.0 else NO_SUPPORT


@kernel
def fill_missed(sums, n, facts):
    """log1p(exp(d)), where d = log(missed/common) has an error of a few u of its parts, and moves it by at most 1 or by itself."""
    high, low = two_sum(sums[ABSENT, 0], -sums[COMMON, 0])
    logs = log1p(sums[ABSENT, 1]) - log1p(sums[COMMON, 1])
    d = high + (low + logs) if abs(high) < INF else high
    value = max(d, 0.0) + log1p(exp(-abs(d)))
    error = 1.01 * (U * (4.0 * abs(d) + 8.0 * abs(logs)) + 2.0 * (WEIGHT_ERROR + 8.0 * U + chain_error(n)))
    facts[MISSED], facts[MISSED_BOUND] = value, error * min(1.0, 1.5 * value) + 4.0 * U * value


@kernel
def row_weights(a, b, scratch, lows, weights, partials, sums, q, e, facts):
    """Fill q[z], e[z] and the facts of a row."""
    facts[:] = 0.0
    missing = row_sums(a, b, scratch, weights, partials, sums)
    fill_evidence(sums, a.size, facts)
    if facts[STATUS] != OK:
        return
    if sums[COMMON, 1] < 0.0:
        facts[NO_MASS] = 1.0
        return
    if missing:
        facts[MISSING] = 1.0
        fill_missed(sums, a.size, facts)
    part_of(COMMON, a, b, scratch)
    top_a, rest_a, top_b, rest_b = sums[COMMON, 0], sums[COMMON, 1], sums[APPROXIMATION, 0], sums[APPROXIMATION, 1]
    r, t, off = row_pivot(scratch, b, top_a, rest_a, top_b, rest_b)
    lowest = 0.0
    for z in range(a.size):
        state_weight(z, scratch, b, top_a, rest_a, top_b, rest_b, r, t, q, e, lows, facts)
        lowest = min(lowest, e[z]) if e[z] > -INF and q[z] > 0.0 else lowest
    facts[DELTA] += off
    if lowest < -REACH:
        raise_low(q, e, lows, facts)


@kernel
def state_weight(z, a, b, top_a, rest_a, top_b, rest_b, r, t, q, e, lows, facts):
    """q and e of one state, and its share of the facts."""
    q[z], e[z], lows[z] = 0.0, -INF, 0.0
    if b[z] == -INF:
        return
    mantissa, exponent, w = guarded_weight(b[z], top_b)
    q[z] = w / (1.0 + rest_b)
    if a[z] == -INF:
        facts[CHARGED] = 1.0
        return
    ratio, lows[z], delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
    if a[z] - top_a == -INF or not abs(ratio) < INF:  # the difference leaves the range
        facts[BROKEN] = 1.0 if q[z] > 0.0 or a[z] - top_a > SMALLEST else facts[BROKEN]
        return
    facts[DELTA] = max(facts[DELTA], delta)
    if w < UNSURE:
        lost = 1.01 * scaled_product(mantissa, exponent, w, abs(ratio)) + ETA
        facts[LOST] += lost
        facts[LOST_SQUARE] += lost * abs(ratio)
    reach = max(0.0, min(REACH, (a[z] - top_a) - SMALLEST)) if b[z] - top_b < SMALLEST else REACH
    if ratio > reach:
        mantissa, exponent, w = guarded_weight(a[z], top_a)
        facts[EXCESS] += scaled_product(mantissa, exponent, w, ratio - reach) / (1.0 + rest_a)
        facts[LOST] += ETA * ratio
        q[z], ratio = w / (1.0 + rest_a) * exp(-reach), reach
    e[z] = ratio


@kernel
def comes_after(y, z, e, ties):
    """Whether state y comes after state z in ascending order."""
    if e[y] != e[z]:
        return e[y] > e[z]
    return ties[y] > ties[z] if ties[y] != ties[z] else y > z


@kernel
def ascending(e, ties, order):
    """The order of e, equal ones by a second key and their index (Shell 1959; numpy's sort would add a second to a cold start)."""
    for z in range(e.size):
        order[z] = z
    gap = 1
    while 9 * gap < 4 * e.size:
        gap = (9 * gap) // 4 + 1
    while gap > 0:
        for k in range(gap, e.size):
            z, j = order[k], k
            while j >= gap and comes_after(order[j - gap], z, e, ties):
                order[j] = order[j - gap]
                j -= gap
            order[j] = z
        gap = (4 * gap) // 9


@kernel
def raise_low(q, e, lows, facts):
    """Shorten the distances below the mean that are longer than WINDOW."""
    order = np.empty(e.size, np.int64)
    ascending(e, lows, order)
    above, base, origin, origin_low, count, floor = 0.0, 0.0, 0.0, 0.0, 0, -DEEPEST
    deepest = 0.0
    for k in range(order.size - 1, -1, -1):
        z = order[k]
        if not q[z] > 0.0 or e[z] == -INF:
            continue
        here = base + ((e[z] - origin) + (lows[z] - origin_low)) if count > 0 else e[z]
        if above - here > WINDOW and above - WINDOW > floor:
            if count < MAX_BREAKS:
                facts[BREAKS + 2 * count], facts[BREAKS + 2 * count + 1] = above, (above - here) - WINDOW
                here, origin, origin_low, count = above - WINDOW, e[z], lows[z], count + 1
                base = here
            else:
                floor = above - WINDOW
        deepest = min(deepest, here)
        e[z], above = max(here, floor), min(max(here, floor), 0.0)
    facts[N_BREAKS] = count
    if deepest < floor:
        cut_at(floor, deepest, q, e, facts)


@kernel
def cut_at(floor, deepest, q, e, facts):
    """Note what a cut may have moved: samples that lie near the floor altogether."""
    low = 0.0
    for z in range(q.size):
        low += q[z] if q[z] > 0.0 and floor + WINDOW >= e[z] > -INF else 0.0
    facts[LOW], facts[LOW_DEPTH] = low, WINDOW + (floor - deepest)


@kernel
def uncut(e, facts):
    """The log ratio of a state as it was before `raise_low`."""
    value = e
    for i in range(int(facts[N_BREAKS])):
        value -= facts[BREAKS + 2 * i + 1] if e <= facts[BREAKS + 2 * i] - WINDOW else 0.0
    return value


@kernel(void(TABLE, TABLE, OUT2, OUT2, OUT2))
def weight_rows(log_joint, log_q, q, e, facts):
    """q, e and facts of every row."""
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    scratch, lows, sums = np.empty(n), np.empty(n), np.empty((4, 3))
    for i in range(q.shape[0]):
        a, b = table_row(log_joint, i), table_row(log_q, i)
        row_weights(a, b, scratch, lows, weights, partials, sums, q[i], e[i], facts[i])
