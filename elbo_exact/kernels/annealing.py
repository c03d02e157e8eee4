"""Annealed importance sampling without samples: the law of the chain is propagated, so its expectations are finite sums.

With e* = log(p/q) (see ``pivoted``), pi_b proportional to q**(1-b) p**b and kernels T_t that leave pi_{b_t} invariant,

    log p(x) - lower = -sum_t (b_t - b_{t-1}) mu_{t-1} . e*       mu_0 = q,  mu_t = mu_{t-1} T_t
    upper - log p(x) =  sum_t (b_t - b_{t-1}) nu_t . e*           nu_T = p,  nu_t = nu_{t+1} T~_t

so offsets of the tables cancel before anything is multiplied. Where the variance of the log-weight S = sum_t c_t is wanted,
c_t = (b_t - b_{t-1}) (e* - m_t) with m_t the mean just computed: E S is then nothing but rounding, and with the masses
M0, M1, M2 of 1, S, S**2 the variance is sum M2 - (sum M1)**2 without cancellation.

**Error.** Every mass x carries a bound e of its absolute error (running error analysis; Higham 2002, section 3.3). A kernel
maps e as it maps x, plus its own rounding:

    log pi_b(z) = (1-b)(log q - max) + b (log p - max)     both parts <= 0, so it is known to 4.1u of itself
    v = exp(log pi_b - max)                                 relative 3.2u + 4.1u |log pi_b|  =: h(z)
    heat bath x' = v sum x / sum v over a group of m        sum e v / sum v + |x'| (h(z) + mean h under v + (2m + 6)u)
    dense     x' = x K, n states                            e K + |x| K (n + 3)u
    reversed  K~[i, j] = K[j, i] pi_b(j)/pi_b(i)            likewise, with h(i) + h(j) + 8u more

A group of states whose weights all near underflow is weighed again relative to its own maximum.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import BOOL, INT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, row_pivot, scratch_of, state_ratio, table_row
from elbo_exact.kernels.scalar import exp_parts, scale, two_sum, weight
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = ["N_ANNEALED", "annealing_rows"]

GAP, GAP_BOUND, VARIANCE, VARIANCE_BOUND, N_ANNEALED = range(5)
SMALL = 1e-200  # a group above it loses less than 1e-120 of its mass to subnormal weights
LOST = 1e-120
START_ERROR = 8.0 * U  # of q and of the posterior, as in ``posterior``


@kernel
def own_error(x):
    """h: relative error of a weight whose logarithm is x."""
    return 3.2 * U + 4.1 * U * abs(x)


@kernel
def tempered(a, b, top_a, top_b, beta, log_pi, weights, weight_errors):
    """log pi_b up to a constant, its weights relative to its maximum, and their absolute errors."""
    top = -INF
    for z in range(a.size):
        log_pi[z] = -INF
        if a[z] > -INF and b[z] > -INF:
            log_pi[z] = (1.0 - beta) * (b[z] - top_b) + beta * (a[z] - top_a)
        top = max(top, log_pi[z])
    for z in range(a.size):
        weights[z] = weight(log_pi[z], top)
        weight_errors[z] = weights[z] * own_error(log_pi[z]) if weights[z] > 0.0 else 0.0


@kernel
def heat_bath(masses, errors, log_pi, weights, base, stride, size):
    """Redistribute the mass of a group of states (one variable, the others fixed) by its conditional law."""
    total, top = 0.0, -INF
    for z in range(base, base + size * stride, stride):
        total += weights[z]
        top = max(top, log_pi[z])
    again = total < SMALL
    total, mean_error = 0.0, 0.0
    for z in range(base, base + size * stride, stride):
        w = weight(log_pi[z], top) if again else weights[z]
        if w > 0.0:
            total += w
            mean_error += w * own_error(log_pi[z])
    for k in range(masses.shape[0]):
        mass, span, error = 0.0, 0.0, 0.0
        for z in range(base, base + size * stride, stride):
            mass += masses[k, z]
            span += abs(masses[k, z])
            error += errors[k, z]
        if span == 0.0 and error == 0.0:
            continue
        factor, error_factor, common = 0.0, 0.0, 0.0
        if total > 0.0:
            factor, error_factor = mass / total, (error + span * (size * U)) / total
            common = mean_error / total + (size + 6.0) * U
        for z in range(base, base + size * stride, stride):
            w = weight(log_pi[z], top) if again else weights[z]
            masses[k, z], errors[k, z] = 0.0, LOST * span
            if w > 0.0:
                masses[k, z] = factor * w
                errors[k, z] += (1.0 + 1e-6) * (error_factor * w + abs(masses[k, z]) * (common + own_error(log_pi[z]))) + ETA


@kernel
def lightest_pair(v0, v1):
    """Smallest sum of two weights."""
    least = INF
    for j in range(v0.size):
        total = v0[j] + v1[j]
        least = total if total < least else least
    return least


@kernel
def heat_bath_pairs(x0, x1, e0, e1, v0, v1, h0, h1):
    """``heat_bath`` of a variable with two values, for a run of neighboring groups whose weights are ordinary numbers."""
    for j in range(x0.size):
        w0, w1 = v0[j], v1[j]
        span = abs(x0[j]) + abs(x1[j])
        inverse = 1.0 / (w0 + w1)
        factor = (x0[j] + x1[j]) * inverse
        error = (e0[j] + e1[j] + span * (2.0 * U)) * inverse
        error += abs(factor) * ((h0[j] + h1[j]) * inverse + 8.0 * U)
        floor = LOST * span + ETA
        x0[j], x1[j] = factor * w0, factor * w1
        e0[j] = (1.0 + 1e-6) * (error * w0 + abs(factor) * h0[j]) + floor
        e1[j] = (1.0 + 1e-6) * (error * w1 + abs(factor) * h1[j]) + floor


@kernel
def redraw_bit(masses, errors, log_pi, weights, weight_errors, base, stride):
    """A variable with two values, for ``stride`` groups."""
    middle, last = base + stride, base + 2 * stride
    v0, v1 = weights[base:middle], weights[middle:last]
    if lightest_pair(v0, v1) < SMALL:
        for z in range(base, middle):
            heat_bath(masses, errors, log_pi, weights, z, stride, 2)
        return
    h0, h1 = weight_errors[base:middle], weight_errors[middle:last]
    for k in range(masses.shape[0]):
        x, e = masses[k], errors[k]
        heat_bath_pairs(x[base:middle], x[middle:last], e[base:middle], e[middle:last], v0, v1, h0, h1)


@kernel
def sweep(masses, errors, log_pi, weights, weight_errors, layout, upper):
    """One systematic scan over the variables (rows of size and stride), or the reversed scan."""
    n = layout.shape[0]
    for j in range(n):
        variable = n - 1 - j if upper else j
        size, stride = np.int64(layout[variable, 0]), np.int64(layout[variable, 1])
        if size == 1:
            continue
        for outer in range(0, masses.shape[1], size * stride):
            if size == 2:
                redraw_bit(masses, errors, log_pi, weights, weight_errors, outer, stride)
                continue
            for inner in range(outer, outer + stride):
                heat_bath(masses, errors, log_pi, weights, inner, stride, size)


@kernel
def reversed_entry(entry, log_from, log_to):
    """(K[j, i] pi(j)/pi(i), its relative error): the entry i -> j of the time reversal."""
    if entry == 0.0 or log_from == -INF or log_to == -INF:
        return 0.0, 0.0
    x = log_to - log_from
    if not x > -1500.0:
        return 0.0, 0.0
    mantissa, exponent = exp_parts(min(x, 1500.0))
    return scale(entry * mantissa, exponent), 8.0 * U + 4.1 * U * (abs(log_from) + abs(log_to)) + U * abs(x)


@kernel
def dense_step(masses, errors, matrix, log_pi, upper, moved, moved_errors):
    """masses @ matrix, or masses @ its time reversal."""
    n = masses.shape[1]
    for k in range(masses.shape[0]):
        for j in range(n):
            moved[k, j], moved_errors[k, j] = 0.0, ETA * n
        for i in range(n):
            x, error = masses[k, i], errors[k, i]
            for j in range(n):
                entry, relative = matrix[i, j], 0.0
                if upper:
                    entry, relative = reversed_entry(matrix[j, i], log_pi[i], log_pi[j])
                moved[k, j] += x * entry
                moved_errors[k, j] += 1.01 * entry * (error + abs(x) * ((n + 3.0) * U + relative))
    for k in range(masses.shape[0]):
        for j in range(n):
            masses[k, j], errors[k, j] = moved[k, j], moved_errors[k, j]


@kernel
def mean_ratio(masses, errors, ratios, ratio_errors):
    """(sum x e, its bound)."""
    total, low, bound, size = 0.0, 0.0, 0.0, 0.0
    for z in range(ratios.size):
        term = masses[0, z] * ratios[z]
        total, error = two_sum(total, term)
        low += error
        size += abs(term)
        bound += errors[0, z] * (abs(ratios[z]) + ratio_errors[z]) + masses[0, z] * ratio_errors[z]
    return total + low, 1.01 * bound + size * (3.0 * U + chain_error(ratios.size)) + ratios.size * ETA


@kernel
def add_step(masses, errors, step, mean, ratios, ratio_errors):
    """M2 += 2 c M1 + c**2 M0 and M1 += c M0 with c = step (e - mean), and what rounding does to them."""
    for z in range(ratios.size):
        c = step * (ratios[z] - mean)
        off = 1.01 * (step * ratio_errors[z] + 3.0 * U * abs(c)) + ETA
        m0, m1, m2 = masses[0, z], masses[1, z], masses[2, z]
        first, second = c * m0, 2.0 * c * m1 + c * c * m0
        errors[2, z] += 1.01 * (2.0 * abs(c) * errors[1, z] + c * c * errors[0, z]) + ETA
        errors[2, z] += 1.01 * off * (2.0 * abs(m1) + 2.0 * errors[1, z] + (2.0 * abs(c) + off) * (m0 + errors[0, z]))
        errors[2, z] += 6.0 * U * (abs(m2) + 2.0 * abs(c * m1) + c * c * m0)
        errors[1, z] += 1.01 * (abs(c) * errors[0, z] + off * (m0 + errors[0, z])) + 3.0 * U * (abs(m1) + abs(first)) + ETA
        masses[1, z], masses[2, z] = m1 + first, m2 + second


@kernel
def central_variance(masses, errors):
    """sum M2 - (sum M1)**2 and its bound."""
    n = masses.shape[1]
    first, second, first_error, second_error, size = 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(n):
        first += masses[1, z]
        second += masses[2, z]
        first_error += errors[1, z]
        second_error += errors[2, z]
        size += abs(masses[2, z])
        first_error += n * U * abs(masses[1, z])
    bound = second_error + n * U * size + (2.0 * abs(first) + first_error) * first_error + 2.0 * U * first * first
    return max(0.0, second - first * first), 1.01 * (bound + 2.0 * U * abs(second))


@kernel
def log_ratios(a, b, top_a, rest_a, top_b, rest_b, ratios, ratio_errors):
    """e and its error of every state that both allow, 0 elsewhere; whether all of them are finite."""
    r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
    finite = True
    for z in range(a.size):
        ratios[z], ratio_errors[z] = 0.0, 0.0
        if a[z] > -INF and b[z] > -INF:
            e, e_low, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            ratios[z], ratio_errors[z] = e, abs(e_low) + U * abs(e) + delta + off
            finite = finite and abs(e) < INF
    return finite


@kernel
def row_annealing(a, b, betas, layout, matrices, sweeps, upper, masses, errors, scratch, moved, moved_errors, out):
    """Gap and variance, with bounds, of one row whose expectation is finite."""
    sums, partials = scratch_of(a.size)
    top_a, rest_a = row_log_sum(a, sums, partials)
    top_b, rest_b = row_log_sum(b, sums, partials)
    ratios, ratio_errors, log_pi, weights, weight_errors = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    if not log_ratios(a, b, top_a, rest_a, top_b, rest_b, ratios, ratio_errors):
        out[GAP], out[GAP_BOUND], out[VARIANCE], out[VARIANCE_BOUND] = INF, INF, np.nan, INF
        return
    for z in range(a.size):
        start = weight(a[z], top_a) / (1.0 + rest_a) if upper else weight(b[z], top_b) / (1.0 + rest_b)
        masses[0, z], errors[0, z] = start, START_ERROR * start + ETA
    for k in range(1, masses.shape[0]):
        masses[k, :], errors[k, :] = 0.0, 0.0
    n_steps, total, low, bound = betas.size - 1, 0.0, 0.0, 0.0
    for i in range(n_steps):
        t = n_steps - 1 - i if upper else i
        step = betas[t + 1] - betas[t]
        mean, mean_bound = mean_ratio(masses, errors, ratios, ratio_errors)
        total, error = two_sum(total, step * mean)
        low += error
        bound += step * (1.01 * mean_bound + 3.0 * U * abs(mean))
        if masses.shape[0] > 1:
            add_step(masses, errors, step, mean, ratios, ratio_errors)
        if i == n_steps - 1:
            break
        tempered(a, b, top_a, top_b, betas[t if upper else t + 1], log_pi, weights, weight_errors)
        if matrices.shape[0] > 0:
            first = ((t if upper else t + 1) - 1) * a.size
            matrix = matrices[first : first + a.size]
            dense_step(masses, errors, matrix, log_pi, upper, moved, moved_errors)
        for _ in range(sweeps):
            sweep(masses, errors, log_pi, weights, weight_errors, layout, upper)
    value = (total + low) if upper else -(total + low)
    out[GAP], out[GAP_BOUND] = value + 0.0, 1.01 * (bound + 3.0 * U * abs(value) + chain_error(n_steps) * bound)
    if masses.shape[0] > 1:
        out[VARIANCE], out[VARIANCE_BOUND] = central_variance(masses, errors)


@kernel(void(TABLE, TABLE, ROW, TABLE, TABLE, INT, BOOL, BOOL, OUT2))
def annealing_rows(log_joint, log_q, betas, layout, matrices, sweeps, upper, moments, out):
    """The distance to log p(x) and the variance of the log-weight, with bounds; infinite ones as the corner table says."""
    n = log_joint.shape[1]
    n_masses = 3 if moments else 1
    masses, errors, scratch = np.empty((n_masses, n)), np.empty((n_masses, n)), np.empty((5, n))
    dense, height = (n if matrices.shape[0] > 0 else 0), (betas.size - 2) * n  # a row's matrices stand below each other
    moved, moved_errors = np.empty((n_masses, dense)), np.empty((n_masses, dense))
    for i in range(out.shape[0]):
        a, b = table_row(log_joint, i), table_row(log_q, i)
        out[i, GAP], out[i, GAP_BOUND], out[i, VARIANCE], out[i, VARIANCE_BOUND] = INF, 0.0, np.nan, INF
        infinite, possible = False, False
        for z in range(n):
            possible = possible or a[z] > -INF
            infinite = infinite or ((a[z] > -INF and b[z] == -INF) if upper else (b[z] > -INF and a[z] == -INF))
        if not possible:
            out[i, GAP], out[i, GAP_BOUND] = np.nan, INF
        elif not infinite:
            own = matrices[i * height : (i + 1) * height] if matrices.shape[0] > height else matrices
            row_annealing(a, b, betas, layout, own, sweeps, upper, masses, errors, scratch, moved, moved_errors, out[i])
