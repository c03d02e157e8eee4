"""The records of a row's chunks merged into one.

The merge is the chain rule, with the chunks as states of their own. With Q_c, P_c the masses of chunk c under q and p,

    KL(q||p) = sum_c Q_c KL(q_c||p_c) + KL(Q||P)          H(q) = sum_c Q_c H(q_c) + H(Q)
    LOWER = sum_c Q_c (a_c - a_f + LOWER_c - (max b_c - max b)), where a_c is the reference of chunk c; UPPER likewise

Every term of a divergence is non-negative again, KL(Q||P) goes through the same guarded terms, and chunk c's log ratio to the row,
log P_c/Q_c, is known as accurately as its pivot. A row needs one pass over memory, threads share a row by ranges of chunks,
and the merge runs in chunk order, so the bits do not depend on who computed which record.
"""

from __future__ import annotations

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.direct import direct_mean
from elbo_exact.kernels.gap import (
    BASE_A,
    CHARGED,
    ENTROPY,
    ENTROPY_BOUND,
    FORWARD,
    FORWARD_BOUND,
    GAP,
    GAP_BOUND,
    LOG_A,
    LOG_B,
    LOWER,
    LOWER_BOUND,
    MASS,
    MASS_BOUND,
    MISSED,
    PARTIAL_A,
    PARTIAL_B,
    PIVOT,
    R_CHARGED,
    R_ENTROPY,
    R_ENTROPY_BOUND,
    R_FORWARD,
    R_FORWARD_BOUND,
    R_GAP,
    R_GAP_BOUND,
    R_LOWER,
    R_LOWER_BOUND,
    R_MISSED,
    R_UPPER,
    R_UPPER_BOUND,
    REST_A,
    REST_B,
    SHIFT,
    SHIFT_BOUND,
    UPPER,
    UPPER_BOUND,
    fill_entropy,
    fill_record,
    is_felt,
    pivot_error,
)
from elbo_exact.kernels.reduce import (
    BAD,
    TOP,
    log_sum_error,
    merge_log_sums,
    sum_error,
)
from elbo_exact.kernels.scalar import NO_WEIGHT, exp, log1p, scale, two_sum
from elbo_exact.kernels.terms import (
    guarded_divergence,
    guarded_mass,
    guarded_weight,
    log_ratio,
    scaled_product,
)
from elbo_exact.kernels.tree import CHUNK, ETA, INF, U, kappa

__all__ = ["merge_records"]

CHUNK_WEIGHT_ERROR = 9.5 * U  # of weight(top) (1 + R): 3.1u, R 3.1u + u + kappa, the sum u, the product u


@kernel
def chunk_weight(top, row_top, rest):
    """Weight of a whole chunk relative to the row's maximum, as (mantissa, exponent, value)."""
    mantissa, exponent, _ = guarded_weight(top, row_top)
    mantissa = mantissa * (1.0 + rest)
    return mantissa, exponent, scale(mantissa, exponent)


@kernel
def accumulate(sums, column, x):
    """TwoSum of x into a sum and its rounding errors."""
    sums[column], e = two_sum(sums[column], x)
    sums[column + 1] += e


@kernel
def add_inner(sums, column, mantissa, exponent, value, x, bound):
    """Chunk weight times a result of the chunk, and its bound."""
    x = scaled_product(mantissa, exponent, value, x)
    accumulate(sums, column, x)
    bound_column = column + 2 if column != ENTROPY else ENTROPY_BOUND
    sums[bound_column] += abs(x) * (CHUNK_WEIGHT_ERROR + 3.0 * U) + value * bound + 3.0 * ETA


@kernel
def add_direct(record, top_a, top_b, base_a, both_ways, sums):
    """The textbook terms of one chunk that both distributions can be in, taken as a state."""
    depth = record[PARTIAL_B + TOP] - top_b
    if depth >= NO_WEIGHT:
        off, mean = record[BASE_A] - base_a, record[R_LOWER]
        mantissa, exponent, value = chunk_weight(record[PARTIAL_B + TOP], top_b, record[REST_B])
        rounding = 3.0 * U * abs(off) + 3.0 * U * abs(mean) + 3.0 * U * abs(depth)
        add_inner(sums, LOWER, mantissa, exponent, value, (off + mean) - depth, record[R_LOWER_BOUND] + rounding)
    off, mean = record[PARTIAL_A + TOP] - top_a, record[R_UPPER]
    if both_ways and off >= NO_WEIGHT:
        mantissa, exponent, value = chunk_weight(record[PARTIAL_A + TOP], top_a, record[REST_A])
        rounding = 3.0 * U * abs(off) + 3.0 * U * abs(mean) + 3.0 * U * abs(depth)
        add_inner(sums, UPPER, mantissa, exponent, value, (off + mean) - depth, record[R_UPPER_BOUND] + rounding)


@kernel
def add_chunk(record, top_a, top_b, base_a, r, t, s, inverse, s_error, both_ways, sums):
    """The terms of one chunk, taken as a state, in the sums of its row."""
    a, b = record[PARTIAL_A + TOP], record[PARTIAL_B + TOP]
    sums[CHARGED] += record[R_CHARGED]
    sums[MISSED] += record[R_MISSED]
    if a == -INF and b == -INF:
        return
    mantissa_v, exponent_v, v = chunk_weight(a, top_a, record[REST_A])
    mantissa_w, exponent_w, w = chunk_weight(b, top_b, record[REST_B])
    x, x_low = two_sum(a, -top_a)
    y, y_low = two_sum(b, -top_b)
    high, low = two_sum(r, -record[PIVOT])
    rest = (t - record[SHIFT]) + low
    e, e_low, delta = log_ratio(x, x_low, y, y_low, high, rest)
    delta += record[SHIFT_BOUND] + 3.0 * U * (abs(t) + abs(record[SHIFT]) + abs(low))
    mass, mass_bound = guarded_mass(a, b, e, e_low, w, v, s, delta, s_error, CHUNK_WEIGHT_ERROR)
    accumulate(sums, MASS, mass)
    sums[MASS_BOUND] += mass_bound
    gap, gap_bound = guarded_divergence(
        a, top_a, b, top_b, mantissa_w, exponent_w, w, v, s, e, delta, s_error, CHUNK_WEIGHT_ERROR
    )
    accumulate(sums, GAP, gap)
    sums[GAP_BOUND] += gap_bound
    if b > -INF:
        own = y + (y_low if y > -INF else 0.0) + record[LOG_B]
        own_bound = log_sum_error(record[REST_B], record[LOG_B], CHUNK) + 3.0 * U * (abs(y) + record[LOG_B])
        add_inner(sums, ENTROPY, mantissa_w, exponent_w, w, record[R_ENTROPY] - own, record[R_ENTROPY_BOUND] + own_bound)
        if a > -INF:
            add_inner(sums, GAP, mantissa_w, exponent_w, w, record[R_GAP], record[R_GAP_BOUND])
            add_direct(record, top_a, top_b, base_a, both_ways, sums)
    if both_ways:
        forward, forward_bound = guarded_divergence(
            b, top_b, a, top_a, mantissa_v, exponent_v, v, w, inverse, -e, delta, s_error, CHUNK_WEIGHT_ERROR
        )
        accumulate(sums, FORWARD, forward)
        sums[FORWARD_BOUND] += forward_bound
        if a > -INF and b > -INF:
            add_inner(sums, FORWARD, mantissa_v, exponent_v, v, record[R_FORWARD], record[R_FORWARD_BOUND])


@kernel
def close_sums(sums):
    """Fold the rounding errors in."""
    for column in (GAP, MASS, LOWER, FORWARD, UPPER, ENTROPY):
        sums[column] += sums[column + 1]


@kernel
def merge_records(records, n, both_ways, sums, record):
    """The record of a row of n states from the records of its chunks."""
    top_a, record[REST_A], bad_a = merge_log_sums(records[:, :PARTIAL_B])
    top_b, record[REST_B], bad_b = merge_log_sums(records[:, PARTIAL_B:REST_A])
    record[PARTIAL_A + TOP], record[PARTIAL_B + TOP] = top_a, top_b
    record[PARTIAL_A + BAD], record[PARTIAL_B + BAD] = bad_a, bad_b
    record[LOG_A], record[LOG_B] = log1p(record[REST_A]), log1p(record[REST_B])
    record[PIVOT:] = 0.0
    if record[REST_B] < 0.0 or bad_a > 0.0:
        return
    impossible = record[REST_A] < 0.0
    r = 0.0 if impossible else record[LOG_A] - record[LOG_B]
    base_a = 0.0
    for chunk in range(records.shape[0]):
        base_a = records[chunk, BASE_A] if records[chunk, PARTIAL_B + TOP] == top_b else base_a
    relative = sum_error(n) + kappa(CHUNK * records.shape[0])
    t, s, inverse, s_error = 0.0, exp(-r), exp(r), 2.0 * U
    for _ in range(2):
        sums[:] = 0.0
        for chunk in range(records.shape[0]):
            add_chunk(records[chunk], top_a, top_b, base_a, r, t, s, inverse, s_error, both_ways, sums)
        close_sums(sums)
        shift, error = pivot_error(sums, 1.0 + record[REST_B], relative, n * (3.0 + s) * ETA)
        if impossible or t != 0.0 or not is_felt(shift, error, sums, 1.0 + record[REST_B]):
            break
        t, s, inverse, s_error = shift, s * exp(-shift), inverse * exp(shift), 6.0 * U
    if impossible:
        fill_entropy(sums, relative, n, record)
    else:
        fill_record(sums, r, t, s, inverse, shift, error, relative, n, both_ways, record)
        sum_a, sum_b, record[BASE_A] = 1.0 + record[REST_A], 1.0 + record[REST_B], base_a
        record[R_LOWER], record[R_LOWER_BOUND] = direct_mean(0.0, sums[LOWER], sums[LOWER_BOUND], sum_b, relative)
        record[R_UPPER], record[R_UPPER_BOUND] = direct_mean(0.0, sums[UPPER], sums[UPPER_BOUND], sum_a, relative)
