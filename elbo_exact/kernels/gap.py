"""The gap engine: KL(q || posterior) and its relatives as sums of non-negative terms around a pivot.

With a = log_joint, b = log_q, a' = a - max a, b' = b - max b, v = exp(a'), w = exp(b'), A = sum v, W = sum w and **any** real
pivot r, let e = (a' - b') - r, phi(e) = expm1(e) - e, psi(t) = t - log1p(t). Then

    M(r) = sum w expm1(e) / W                                 = A exp(-r) / W - 1
    G(r) = sum w phi(e) / W  + sum_{b = -inf} v exp(-r) / W   >= 0, term by term
    gap  = G(r) - psi(M(r)) = min over r of G(r),  at r* = log A - log W,  G(r* + x) - gap = x**2/2 + O(x**3)

*Proof.* Multiply out: G(r) = sum q log(q/p) + (A exp(-r)/W - 1) - (log A - log W - r) = gap + psi(M(r)). So an error of the
pivot enters squared, offsets of a and b cancel exactly in a' and b', and nothing is subtracted that could cancel. The forward
divergence KL(posterior || q) is the same sum with a and b exchanged and the pivot -r (its e is -e), so one pass yields both,
and one M measures the pivot error of both.

The pass runs first at the double r0 = log A - log W. It is repeated at r0 + log1p(M) only where the squared pivot error
could be felt (``is_felt``): for nearly equal distributions.

A chunk of at most CHUNK states is a complete problem of its own, and what is found of it is its **record**. The weights are
computed once, by the log sums, and kept for the passes while they are in cache. ``rows`` merges the records of longer rows.
"""

from __future__ import annotations

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.direct import direct_bound, direct_mean, direct_term, last_at, reference
from elbo_exact.kernels.plain import (
    MASS_ERROR,
    is_fine,
    log_ratio_error,
    one_sided,
    plain_bound,
    plain_divergence,
    plain_mass,
    plain_offset,
    plain_state,
)
from elbo_exact.kernels.reduce import (
    BAD,
    REST,
    REST_LOW,
    TIES,
    TOP,
    WEIGHT_ERROR,
    chunk_extremes,
    chunk_rest,
    chunk_weights,
    log_sum_error,
    sum_error,
)
from elbo_exact.kernels.scalar import exp, log1p, phi_parts
from elbo_exact.kernels.terms import (
    ORDINARY,
    divergence_term,
    guarded_direct,
    guarded_terms,
    is_extreme,
    mass_term,
    ordinary_log_ratio,
)
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add, clear, fold, fold_once, halve, halve_both, halve_once, kappa

__all__ = ["N_RECORD", "N_SUMS", "chunk_record"]

# Columns of the sums (and their lanes): a compensated sum, its rounding errors, its bound.
GAP, GAP_LOW, GAP_BOUND, MASS, MASS_LOW, MASS_BOUND, LOWER, LOWER_LOW, LOWER_BOUND = range(9)
FORWARD, FORWARD_LOW, FORWARD_BOUND, UPPER, UPPER_LOW, UPPER_BOUND = range(9, 15)
ENTROPY, ENTROPY_LOW, CHARGED, MISSED, ENTROPY_BOUND, N_SUMS = range(15, 21)
N_LANES = CHARGED  # the counts and the bound of the entropy are kept outside the lanes
LOG_RATIO, LOG_RATIO_LOW, DELTA = range(3)  # tiles that carry a block from loop to loop

# Columns of a record: the partial log sums of both tables (five columns each), both log sums, the pivot, the results.
PARTIAL_A, PARTIAL_B = 0, 5
REST_A, LOG_A, REST_B, LOG_B, PIVOT, SHIFT, SHIFT_BOUND = range(10, 17)
R_GAP, R_GAP_BOUND, R_FORWARD, R_FORWARD_BOUND, R_ENTROPY, R_ENTROPY_BOUND, R_CHARGED, R_MISSED = range(17, 25)
R_LOWER, R_LOWER_BOUND, R_UPPER, R_UPPER_BOUND, BASE_A, N_RECORD = range(25, 31)  # see ``direct``; BASE_A: a where q is largest


@kernel
def collect_divergences(lanes, j, gap, gap_bound, forward, forward_bound, both_ways):
    """Add a state's divergence terms to lane j of their sums."""
    add(lanes, GAP, j, gap)
    lanes[GAP_BOUND, j] += gap_bound
    if both_ways:
        add(lanes, FORWARD, j, forward)
        lanes[FORWARD_BOUND, j] += forward_bound


@kernel
def collect_mass(lanes, j, mass, mass_bound):
    """Add a state's share of the pivot error to lane j."""
    add(lanes, MASS, j, mass)
    lanes[MASS_BOUND, j] += mass_bound


@kernel
def collect_direct(lanes, column, j, term, size):
    """Add a state's textbook term to lane j of its sum."""
    add(lanes, column, j, term)
    lanes[column + 2, j] += size


@kernel
def guarded_block(lanes, a, b, top_a, top_b, base_a, base_b, r, t, s, inverse, s_error, weight_error, both_ways):
    """The terms of a block of states, one of which has a weight that nears the subnormals."""
    for j in range(a.size):
        gap, gap_bound, forward, forward_bound, mass, mass_bound, entropy = guarded_terms(
            a[j], b[j], top_a, top_b, r, t, s, inverse, s_error, weight_error
        )
        collect_divergences(lanes, j, gap, gap_bound, forward, forward_bound, both_ways)
        collect_mass(lanes, j, mass, mass_bound)
        term, size = guarded_direct(a[j], b[j], base_a, top_b)
        collect_direct(lanes, LOWER, j, term, size)
        if both_ways:
            term, size = guarded_direct(b[j], a[j], base_b, top_a)
            collect_direct(lanes, UPPER, j, -term, size)
            add(lanes, ENTROPY, j, entropy)


@kernel
def chunk_sums(a, b, v, w, top_a, top_b, base_a, base_b, r, t, s, inverse, s_error, plain, both_ways, sums):
    """All sums of one chunk at one pivot; ``both_ways`` is a constant in each caller, so unused sums cost nothing."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, N_LANES)
    weight_error = WEIGHT_ERROR + kappa(a.size)
    charged, missed = 0, 0
    for start in range(0, a.size, LANES):
        a_block, b_block = a[start : start + LANES], b[start : start + LANES]
        v_block, w_block = v[start : start + LANES], w[start : start + LANES]
        extreme = 0
        if not plain:
            for j in range(a_block.size):
                x, y = a_block[j], b_block[j]
                extreme += is_extreme(x, top_a) + is_extreme(y, top_b)
                charged += 1 if (x == -INF and y > -INF) else 0
                missed += 1 if (y == -INF and x > -INF) else 0
        if extreme > 0:
            guarded_block(
                lanes, a_block, b_block, top_a, top_b, base_a, base_b, r, t, s, inverse, s_error, weight_error, both_ways
            )
            continue
        for j in range(a_block.size):
            carried[LOG_RATIO, j], carried[LOG_RATIO_LOW, j], carried[DELTA, j] = ordinary_log_ratio(
                a_block[j], b_block[j], top_a, top_b, r, t
            )
        for j in range(a_block.size):
            e, e_low, delta, x, y = carried[LOG_RATIO, j], carried[LOG_RATIO_LOW, j], carried[DELTA, j], v_block[j], w_block[j]
            even, odd = phi_parts(e)
            gap, gap_bound = divergence_term(even, odd, e, y, x, s, delta, s_error)
            forward, forward_bound = divergence_term(even, -odd, -e, x, y, inverse, delta, s_error)
            mass, mass_bound = mass_term(even, odd, e, e_low, y, x, s, delta, s_error, weight_error)
            collect_divergences(lanes, j, gap, gap_bound, forward, forward_bound, both_ways)
            collect_mass(lanes, j, mass, mass_bound)
        direct_block(lanes, a_block, b_block, v_block, w_block, top_a, top_b, base_a, base_b, both_ways)
    for column in (GAP, MASS, LOWER, FORWARD, UPPER, ENTROPY):
        high, low = halve(lanes, column)
        sums[column] = high + low
    for column in (GAP_BOUND, MASS_BOUND, LOWER_BOUND, FORWARD_BOUND, UPPER_BOUND):
        sums[column] = fold(lanes, column)
    sums[CHARGED], sums[MISSED] = charged, missed
    sums[ENTROPY_BOUND] = sums[ENTROPY] * (weight_error + 5.0 * U)


@kernel
def direct_block(lanes, a, b, v, w, top_a, top_b, base_a, base_b, both_ways):
    """The textbook terms of a block of states whose weights are ordinary or zero."""
    for j in range(a.size):
        term, size = direct_term(w[j], a[j], b[j], base_a, top_b)
        collect_direct(lanes, LOWER, j, term, size)
    if both_ways:
        for j in range(a.size):
            term, size = direct_term(v[j], b[j], a[j], base_b, top_a)
            collect_direct(lanes, UPPER, j, -term, size)
        for j in range(a.size):
            add(lanes, ENTROPY, j, w[j] * (top_b - b[j] if b[j] > -INF else 0.0))


@kernel
def pivot_error(sums, weight_sum, weight_sum_error, tiny):
    """(log1p(M), error bound of it): the pivot is off by at most the sum of their absolute values.

    M is the rounding of two log sums, so two terms of the series do: the third, M**3/3, is in the bound.
    """
    mass = sums[MASS] / weight_sum
    size = abs(mass)
    bound = sums[MASS_BOUND] / weight_sum + size * (weight_sum_error + 3.0 * U + size * size) + tiny
    if not (size < 1e-3 and bound < 1e-3):
        return 0.0, INF
    return mass - 0.5 * mass * mass, 1.01 * bound + 2.0 * U * size


@kernel
def is_felt(shift, error, sums, weight_sum):
    """Whether the squared pivot error could exceed the rounding of the smaller divergence, and can be removed.

    Both divergences are at least X**2/2 with X = sum |q - p| (Pinsker), and the bound of the mass sum is between 11u X and
    24u X, so X**2/16 is a cautious stand-in for the smaller of them.
    """
    off = abs(shift) + error
    distance = sums[MASS_BOUND] / weight_sum / (WEIGHT_ERROR + 8.0 * U)
    return off * off > U * distance * distance / 16.0 and error < INF and shift != 0.0


@kernel
def divergence_of(total, bound, weight_sum, weight_sum_error, off, tiny):
    """(value, bound) of a divergence from its sums; +inf with bound +inf where it overflows."""
    value = total / weight_sum
    if not value < INF:
        return INF, INF
    value = max(0.0, value)
    error = (bound + tiny) / weight_sum + value * (weight_sum_error + 3.0 * U) + 0.51 * off * off + 4.0 * ETA
    return value, (1.01 * error if error >= 0.0 else INF)


@kernel
def fill_record(sums, r, t, s, inverse, shift, error, weight_sum_error, n, both_ways, record):
    """A record's results from the sums at pivot r + t, whose own error was measured as ``shift`` up to ``error``."""
    sum_a, sum_b, off = 1.0 + record[REST_A], 1.0 + record[REST_B], abs(shift) + error
    record[PIVOT], record[SHIFT], record[SHIFT_BOUND] = r, t + shift, error + U * abs(t + shift)
    tiny = 3.0 * n * ETA
    record[R_GAP], record[R_GAP_BOUND] = divergence_of(
        sums[GAP], sums[GAP_BOUND], sum_b, weight_sum_error, off, tiny * (1.0 + s)
    )
    if both_ways:
        record[R_FORWARD], record[R_FORWARD_BOUND] = divergence_of(
            sums[FORWARD], sums[FORWARD_BOUND], sum_a, weight_sum_error, off, tiny * (1.0 + inverse)
        )
    fill_entropy(sums, weight_sum_error, n, record)
    record[R_CHARGED], record[R_MISSED] = sums[CHARGED], sums[MISSED]


@kernel
def fill_entropy(sums, weight_sum_error, n, record):
    """(H(q), bound) as log W' + sum q (-b'), which does not need the target."""
    sum_b = 1.0 + record[REST_B]
    spread = sums[ENTROPY] / sum_b
    value = record[LOG_B] + spread
    record[R_ENTROPY] = value
    record[R_ENTROPY_BOUND] = 1.01 * (
        log_sum_error(record[REST_B], record[LOG_B], n)
        + (sums[ENTROPY_BOUND] + 3.0 * n * ETA) / sum_b
        + abs(spread) * (weight_sum_error + U)
        + U * abs(value)
        + 4.0 * ETA
    )


@kernel
def fill_direct(sums, base_a, base_b, weight_error, weight_sum_error, n, both_ways, record):
    """LOWER and UPPER of a chunk; those of a row that is charged or missed may be NaN, and are not used."""
    sum_a, sum_b, record[BASE_A] = 1.0 + record[REST_A], 1.0 + record[REST_B], base_a
    bound = direct_bound(sums[LOWER_BOUND], weight_error, n)
    record[R_LOWER], record[R_LOWER_BOUND] = direct_mean(0.0, sums[LOWER], bound, sum_b, weight_sum_error)
    if both_ways:
        bound, depth = direct_bound(sums[UPPER_BOUND], weight_error, n), record[PARTIAL_B + TOP] - base_b
        record[R_UPPER], record[R_UPPER_BOUND] = direct_mean(depth, sums[UPPER], bound, sum_a, weight_sum_error)


@kernel
def chunk_log_sums(a, b, v, w, record):
    """Both log sums at once (their latencies overlap); extremes, and whether all weights are ordinary doubles or zero."""
    lanes_a, lanes_b = tiles(), tiles()
    top_a, bottom_a, record[PARTIAL_A + BAD] = chunk_extremes(a, lanes_a)
    top_b, bottom_b, record[PARTIAL_B + BAD] = chunk_extremes(b, lanes_b)
    record[PARTIAL_A + TOP], record[PARTIAL_B + TOP] = top_a, top_b
    record[PARTIAL_A + TIES] = chunk_weights(a, top_a, True, v, lanes_a)
    record[PARTIAL_B + TIES] = chunk_weights(b, top_b, True, w, lanes_b)
    halve_both(lanes_a, 0, lanes_b, 0)
    record[PARTIAL_A + REST], record[PARTIAL_A + REST_LOW] = lanes_a[0, 0], lanes_a[1, 0]
    record[PARTIAL_B + REST], record[PARTIAL_B + REST_LOW] = lanes_b[0, 0], lanes_b[1, 0]
    plain = bottom_a - top_a >= ORDINARY and bottom_b - top_b >= ORDINARY
    return top_a, bottom_a, top_b, bottom_b, plain


@kernel
def halve_plain(lanes, width, both_ways):
    """One level of the tree for all sums of ``plain_sums`` at once, so that their latencies overlap."""
    halve_once(lanes, GAP, width)
    halve_once(lanes, MASS, width)
    halve_once(lanes, LOWER, width)
    fold_once(lanes, MASS_BOUND, width)
    fold_once(lanes, LOWER_BOUND, width)
    if both_ways:
        halve_once(lanes, FORWARD, width)
        halve_once(lanes, UPPER, width)
        fold_once(lanes, UPPER_BOUND, width)
        halve_once(lanes, ENTROPY, width)


@kernel
def plain_sums(a, b, v, w, top_a, top_b, base_a, base_b, c, c_low, s, inverse, both_ways, sums):
    """The sums of one chunk of ordinary or zero weights at a pivot; bounds are left to ``close_plain``."""
    lanes, carried = tiles(), tiles()
    clear(lanes, GAP, N_LANES if both_ways else FORWARD)
    zeros = 0
    for start in range(0, a.size, LANES):
        a_block, b_block = a[start : start + LANES], b[start : start + LANES]
        v_block, w_block = v[start : start + LANES], w[start : start + LANES]
        for j in range(a_block.size):
            carried[LOG_RATIO, j], _, zero = plain_state(a_block[j], b_block[j], top_a, top_b, c, c_low)
            zeros += zero
        direct_block(lanes, a_block, b_block, v_block, w_block, top_a, top_b, base_a, base_b, both_ways)
        for j in range(a_block.size):
            e, x, y = carried[LOG_RATIO, j], v_block[j], w_block[j]
            even, odd = phi_parts(e)
            add(lanes, GAP, j, plain_divergence(even, odd, e, y, x, s))
            mass = plain_mass(even, odd, e, y, x, s)
            collect_mass(lanes, j, mass, abs(mass))
            if both_ways:
                add(lanes, FORWARD, j, plain_divergence(even, -odd, -e, x, y, inverse))
    sums[CHARGED], sums[MISSED] = one_sided(a, b) if zeros > 0 else (0, 0)
    halve_plain(lanes, 32, both_ways)
    halve_plain(lanes, 16, both_ways)
    halve_plain(lanes, 8, both_ways)
    halve_plain(lanes, 4, both_ways)
    halve_plain(lanes, 2, both_ways)
    halve_plain(lanes, 1, both_ways)
    sums[FORWARD], sums[UPPER], sums[UPPER_BOUND], sums[ENTROPY] = 0.0, 0.0, 0.0, 0.0
    for column in (GAP, MASS, LOWER):
        sums[column] = lanes[column, 0] + lanes[column + 1, 0]
    sums[MASS_BOUND], sums[LOWER_BOUND] = lanes[MASS_BOUND, 0], lanes[LOWER_BOUND, 0]
    if both_ways:
        for column in (FORWARD, UPPER, ENTROPY):
            sums[column] = lanes[column, 0] + lanes[column + 1, 0]
        sums[UPPER_BOUND] = lanes[UPPER_BOUND, 0]


@kernel
def close_plain(sums, r, s, inverse, shift, error, delta, weight_sum_error, n, both_ways, record):
    """A record's results from plain sums, or False where a neglected error could be felt."""
    sum_a, sum_b = 1.0 + record[REST_A], 1.0 + record[REST_B]
    if not is_fine(sums[GAP], sum_b, abs(shift) + error, delta):
        return False
    sums[GAP_BOUND] = plain_bound(sums[GAP], sum_b, delta, n)
    if both_ways:
        sums[FORWARD_BOUND] = plain_bound(sums[FORWARD], sum_a, delta, n)
    sums[ENTROPY_BOUND] = sums[ENTROPY] * (weight_sum_error + 5.0 * U)
    fill_record(sums, r, 0.0, s, inverse, shift, error, weight_sum_error, n, both_ways, record)
    return True


@kernel
def chunk_record(a, b, v, w, both_ways, sums, record):
    """One chunk as a problem of its own, into its record; v and w are scratch for its weights."""
    n = a.size
    top_a, bottom_a, top_b, bottom_b, plain = chunk_log_sums(a, b, v, w, record)
    record[REST_A], record[REST_B] = chunk_rest(record[:PARTIAL_B]), chunk_rest(record[PARTIAL_B:REST_A])
    record[LOG_A], record[LOG_B] = log1p(record[REST_A]), log1p(record[REST_B])
    record[PIVOT:] = 0.0
    if record[REST_B] < 0.0 or record[PARTIAL_A + BAD] > 0.0:
        record[R_MISSED] = 1.0 if top_a > -INF else 0.0
        return
    # A chunk without target mass has no pivot of its own; its entropy is summed against q itself.
    impossible = record[REST_A] < 0.0
    if impossible:
        top_a = top_b
    r = 0.0 if impossible else record[LOG_A] - record[LOG_B]
    t, s, inverse, s_error = 0.0, exp(-r), exp(r), 2.0 * U
    weight_error = WEIGHT_ERROR + kappa(n)
    base_a, base_b = reference(a[last_at(b, top_b)]), reference(b[last_at(a, top_a)])
    if plain:
        c, c_low = plain_offset(top_a, top_b, r)
        plain_sums(a, b, v, w, top_a, top_b, base_a, base_b, c, c_low, s, inverse, both_ways, sums)
        delta = log_ratio_error(top_a, bottom_a, top_b, bottom_b, r)
        sums[MASS_BOUND] = sums[MASS_BOUND] * (MASS_ERROR + kappa(n)) + 3.0 * delta * (1.0 + record[REST_B])
        shift, error = pivot_error(sums, 1.0 + record[REST_B], sum_error(n), n * (3.0 + s) * ETA)
        if close_plain(sums, r, s, inverse, shift, error, delta, sum_error(n), n, both_ways, record):
            fill_direct(sums, base_a, base_b, weight_error, sum_error(n), n, both_ways, record)
            return
        plain = sums[CHARGED] + sums[MISSED] == 0.0
    for _ in range(2):
        chunk_sums(a, b, v, w, top_a, top_b, base_a, base_b, r, t, s, inverse, s_error, plain, both_ways, sums)
        shift, error = pivot_error(sums, 1.0 + record[REST_B], sum_error(n), n * (3.0 + s) * ETA)
        if t != 0.0 or not is_felt(shift, error, sums, 1.0 + record[REST_B]) or impossible:
            break
        t, s, inverse, s_error = shift, s * exp(-shift), inverse * exp(shift), 6.0 * U
    if impossible:
        fill_entropy(sums, sum_error(n), n, record)
        record[R_CHARGED] = 1.0
    else:
        fill_record(sums, r, t, s, inverse, shift, error, sum_error(n), n, both_ways, record)
        fill_direct(sums, base_a, base_b, weight_error, sum_error(n), n, both_ways, record)
