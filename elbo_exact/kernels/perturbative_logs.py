"""The perturbative bound state by state, in logarithms: for any odd order, ratios of any size, and q below every double.

T_k is the Taylor polynomial of exp of degree k, R_k = exp - T_k. Up to |u| = k + 2 the remainder is a power and a factor,

    R_k(u) = u**(k+1)/(k+1)! M_k(u)        M_k = 1F1(1; k+2; u),  M_{k-1} = 1 + u M_k/(k+1)

whose series has positive terms for u > 0, and whose recurrence shrinks its errors downward for u = -x < 0, from where M is 1 to
rounding; there exp(-1) <= M <= 1 (Jensen, as M_k(-x) is the mean of exp(-x t), t with a Beta(1, k+1) law). Beyond, T_k is a power and
the sum of 1, k/u, k (k-1)/u**2 ..., which fall. Either way about 9 sqrt(k) terms are enough at |u| = k, a few far from it, and what
cancels is left to sums of positive terms: exp(u) - R_k, exp(u) - T_k only where the difference is a good part of exp(u).

A rounding of u by d moves log T_k by at most d (1 + h), h = |u|**k/k! / T_k, since |T_{k-1}| <= T_k + |u|**k/k!; by d k/(|u| - k) where
|u| > k + 2, as the leading term bounds an alternating sum; and log R_k by d (k+1)/|u|, and d more for u > 0, since M_{k-1} <= M_k below
zero. Nothing of this holds near u = 0, where a state counts with the largest value it can have.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.points import ABSENT, DELTA, OFF
from elbo_exact.kernels.reduce import WEIGHT_ERROR, sum_error
from elbo_exact.kernels.scalar import FACTORIAL, exp, log, log1p, two_sum
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = ["POLYNOMIAL", "REMAINDER", "gap_in_logs", "log_value"]

REMAINDER, POLYNOMIAL = 0, 1
LOG_TWO_PI = 1.8378770664093453
EXACT_FACTORIALS = 22
LAST_TERM = 2.0**-60
FIRST_ORDER = 0.01  # relative changes up to which 1.01 of the derivative bounds them
TURNS = 1200  # of a bisection: a bracket as long as all doubles halves to the last bit of most


@kernel
def log_power(x, k):
    """(log(x**k/k!), bound) for x > 0; from k = 23 by Stirling's series, whose error is below its first dropped term, 691/(360360 k**11)."""
    if k <= EXACT_FACTORIALS:
        power, factorial = k * log(x), log(FACTORIAL[int(k)])
        return power - factorial, 4.0 * U * (abs(power) + factorial)
    ratio = log(x / k)
    s = 1.0 / (k * k)
    series = (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s * (1.0 / 1680.0 - s * (1.0 / 1188.0))))) / k
    front = 0.5 * (LOG_TWO_PI + log(k))
    value = (k * (1.0 + ratio) - front) - series
    return value, U * (k * (1.0 + 1.5 * abs(ratio) + 2.0 * abs(1.0 + ratio)) + 6.0 * front + 2.0 * abs(value))


@kernel
def factor(k, u):
    """(M_k(u), bound relative to it) for |u| <= k + 2."""
    last, term = k + 2.0, 1.0
    if u >= 0.0:
        total, moved = 1.0, 0.0
        while term > LAST_TERM * total:
            term *= u / last
            total += term
            moved += (3.0 * (last - k) + 1.0) * term
            last += 1.0
        return total, (moved * U + term * (last / (last - u))) / total + U
    while term > LAST_TERM:
        term *= -u / last
        last += 1.0
    value, error = 1.0, term
    while last > k:
        ratio = -u / (last + 1.0)
        value, error = 1.0 - ratio * value, ratio * (error + 2.0 * U) + U
        last -= 1.0
    return value, 1.01 * error / value


@kernel
def falling_sum(k, u):
    """(sum of k (k-1) ... (k-j+1)/u**j, bound relative to it) for |u| > k + 2; for u < 0 it alternates, and is at least 1 - k/|u|."""
    total, low, size, term, j = 1.0, 0.0, 0.0, 1.0, 0.0
    while j < k and abs(term) > LAST_TERM:
        term *= (k - j) / u
        j += 1.0
        size += (3.0 * j + 1.0) * abs(term)
        total, error = two_sum(total, term)
        low += error
    total += low
    rest = abs(term) * (abs(u) / (abs(u) - k) if j < k else 0.0)
    return total, (size * U + rest) / total + 2.0 * U


@kernel
def log_part(k, u):
    """(log |R_k(u)|, bound) up to |u| = k + 2, beyond (log |T_k(u)|, bound), for u != 0."""
    is_near = abs(u) <= k + 2.0
    power, power_error = log_power(abs(u), k + 1.0 if is_near else k)
    x, error = factor(k, u) if is_near else falling_sum(k, u)
    log_x = log(x)
    value = power + log_x
    return value, power_error + 1.01 * error + U * (abs(value) + 2.0 * abs(log_x))


@kernel
def log_less(u, part, error):
    """(log(exp(u) - exp(part)), bound) where that is at least a fifth or so of exp(u)."""
    share = exp(part - u)
    value = u + log1p(-share)
    return value, 1.02 * share * (error + U * (abs(part) + abs(u) + 4.0)) / (1.0 - share) + U * (2.0 * abs(value) + 2.0)


@kernel
def log_more(u, part, error):
    """(log(exp(u) + exp(part)), bound)."""
    top, other = max(u, part), min(u, part)
    value = top + log1p(exp(other - top))
    return value, 1.02 * exp(part - value) * error + U * (2.0 * abs(value) + 4.0)


@kernel
def log_value(kind, k, u):
    """(log R_k(u), bound) for an odd k, (log T_k(u), bound) for an even one, which are positive."""
    if u == 0.0:
        return (-INF if kind == REMAINDER else 0.0), 0.0
    part, error = log_part(k, u)
    if (abs(u) <= k + 2.0) == (kind == REMAINDER):
        return part, error
    return log_less(u, part, error) if u > 0.0 else log_more(u, part, error)


@kernel
def slope_of(kind, k, u, value):
    """A bound on the derivative of ``log_value``."""
    size = abs(u)
    if kind == REMAINDER:
        return (k + 1.0) / size + (1.0 if u > 0.0 else 0.0) if size > 0.0 else INF
    if size > k + 2.0:
        return min(k / (size - k), 2.0 + k)
    return 1.0 + (exp(min(log_power(size, k)[0] - value, 700.0)) if u < 0.0 else 0.0)


@kernel
def close_sum(logs, errors, mosts):
    """(log sum exp(logs), bound); a state of unknown error may be anything up to its most."""
    top = -INF
    for j in range(logs.size):
        top = max(top, logs[j])
    if top == -INF:
        return -INF, 0.0
    total, low, bound = 0.0, 0.0, 0.0
    for j in range(logs.size):
        term = exp(logs[j] - top)
        total, error = two_sum(total, term)
        low += error
        if errors[j] <= 2.0 * FIRST_ORDER:
            bound += term * (1.02 * errors[j] + (3.0 + abs(logs[j] - top)) * U)
        else:
            bound += term + exp(min(mosts[j] - top, 700.0))
    total += low
    relative = 1.01 * bound / total + 4.0 * U + logs.size * ETA
    return top + log(total), relative / (1.0 - relative) + U * (2.0 * abs(top) + 4.0) if relative < 0.5 else INF


@kernel
def log_mean(kind, e, y0, scratch, c, k, delta):
    """(log sum exp(y0) X(e + c), bound), X = R_k or T_k."""
    logs, errors, mosts = scratch[0], scratch[1], scratch[2]
    for j in range(e.size):
        u, y = e[j] + c, y0[j]
        shift, logs[j], errors[j], mosts[j] = U * (abs(e[j]) + abs(u)) + delta, -INF, 0.0, -INF
        for turn in range(2 if y > ABSENT else 0):
            value, error = log_value(kind, k, u)
            mosts[j] = y + value + error + FIRST_ORDER if kind == REMAINDER else INF
            if turn == 0:
                logs[j], moved = y + value, 1.01 * slope_of(kind, k, u, value) * shift
                errors[j] = error + moved + U * (2.0 * abs(y) + abs(value))
                if moved <= FIRST_ORDER:
                    break
            u += shift if u >= 0.0 else -shift
    return close_sum(logs, errors, mosts)


@kernel
def signed_power(e, y0, logs, c, k, largest, delta):
    """(sum exp(y0) (e + c)**k, bound, log of what both are to be multiplied by)."""
    top = -INF
    for j in range(e.size):
        u = abs(e[j] + c)
        logs[j] = y0[j] + k * log(u / largest) if u > 0.0 and y0[j] > ABSENT else -INF
        top = max(top, logs[j])
    if top == -INF:
        return 0.0, 0.0, -INF
    total, low, bound = 0.0, 0.0, 0.0
    for j in range(e.size):
        if not y0[j] > ABSENT:
            continue
        u = e[j] + c
        shift, size, term = U * (abs(e[j]) + abs(u)) + delta, abs(u), exp(logs[j] - top)
        total, error = two_sum(total, term if u > 0.0 else -term)
        low += error
        if k * shift <= FIRST_ORDER * size:
            own = U * (k * (2.0 + 2.5 * abs(log(size / largest))) + 2.0 * abs(y0[j]) + 2.0 * abs(logs[j] - top) + 4.0)
            bound += term * (own + 1.01 * k * (shift / size))
        else:
            bound += term + 1.01 * exp(min(y0[j] + k * log((size + shift) / largest) - top, 700.0))
    return total + low, 1.01 * bound + 2.0 * U * abs(total) + e.size * ETA, top + k * log(largest)


@kernel
def bisected(e, y0, logs, k, low, high, delta):
    """A c near the root, by the signs that can be told."""
    c = 0.5 * low + 0.5 * high
    for _ in range(TURNS):
        value, error, _log = signed_power(e, y0, logs, c, k, max(abs(c - low), abs(c - high)), delta)
        if abs(value) <= error or high - low <= 2.0 * U * max(abs(low), abs(high)):
            break
        low, high = (c, high) if value < 0.0 else (low, c)
        c = 0.5 * low + 0.5 * high
    return c


@kernel
def around(e, y0, logs, c, k, low, high, delta):
    """(bound on |c - root|, log of a bound on |sum exp(y0) (e + c)**k| between c and the root): signs beside c, ever further away."""
    largest = max(abs(c - low), abs(c - high))
    left, right, step = low, high, 2.0 * U * largest
    found_left, found_right, most = False, False, -INF
    while not (found_left and found_right) and step < high - low:
        for side in range(2):
            place = c - step if side == 0 else c + step
            if (side == 0 and (found_left or place <= low)) or (side == 1 and (found_right or place >= high)):
                continue
            value, error, log_size = signed_power(e, y0, logs, place, k, largest, delta)
            if (value if side == 1 else -value) > error:
                most = max(most, log_size + log(abs(value) + error))
                if side == 0:
                    left, found_left = place, True
                else:
                    right, found_right = place, True
        step *= 2.0
    if not (found_left and found_right):
        most = INF
    return 1.01 * max(c - left, right - c), most


@kernel
def moved_by(log_slope, distance):
    """What a slope, at most exp(log_slope), makes of a distance; INF unless both are small."""
    slope = exp(min(log_slope, 0.0))
    return 1.2 * slope * distance if slope < 0.05 and distance < 1.1 else (0.0 if distance == 0.0 else INF)


@kernel
def gap_in_logs(e, y0, known, total_w, c, is_near, low, high, k):
    """(gap, bound) of a row; ``is_near`` says that c is nearly the best reference already."""
    delta, scratch, log_total = known[DELTA], np.empty((3, e.size)), log(total_w)
    if not is_near:
        c = bisected(e, y0, scratch[0], k, low, high, delta)
    distance, most = around(e, y0, scratch[0], c, k, low, high, delta)
    shared = WEIGHT_ERROR + sum_error(e.size) + chain_error(e.size) + 8.0 * U + known[OFF]
    # the gap G moves by at most f/k! / E T_k with c, E T_k = exp(c - G), f the mean power at its largest between c and the root
    log_slope = (most - log_total) + log_power(1.0, k)[0] - c
    best, best_bound = np.nan, INF
    for kind in range(2):
        mean, error = log_mean(kind, e, y0, scratch, c, k if kind == REMAINDER else k - 1.0, delta)
        mean -= log_total
        value, bound = c - mean, error + shared + 2.0 * U * (abs(c) + abs(mean) + abs(c - mean))
        if kind == REMAINDER:
            if not (value > 0.7 and bound < 0.1) and mean > -INF:
                continue
            rho = exp(-value)
            value, bound = -log1p(-rho), 2.5 * rho * (bound if rho > 0.0 else 0.0) + 2.0 * U * rho + ETA
            bound += moved_by(log_slope + 0.7, distance)
        else:
            bound += min(moved_by(log_slope + max(value, 0.0) + 0.1, 1.0 + distance), k * distance)
        if bound < best_bound:
            best, best_bound = value, 1.01 * bound
    return best, best_bound
