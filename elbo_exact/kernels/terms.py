"""The terms of one state in the divergences between two weighted tables, each with its error bound.

With v = exp(a - max a), w = exp(b - max b), a pivot r + t and e = (a - max a) - (b - max b) - r - t, a state contributes

    gap       w phi(e)                 (KL of q from the posterior)          phi(e) = expm1(e) - e >= 0
    forward   v phi(-e)                (KL of the posterior from q)
    mass      w expm1(e) = v s - w     (measures the pivot's own error)      s = exp(-(r + t))
    entropy   w (max b - b)

The ordinary functions are branch-free, so that lanes of states vectorise; they serve weights that are normal doubles or zero.
``guarded_terms`` serves a block with a weight below exp(-700): mantissa and exponent stay apart, so that a tiny weight times a
huge log ratio survives, and every overflow of a difference is met. Chunks of a long row, taken as states, use the guarded
functions too, with their own ``weight_error``.

The constants of the bounds: 3.1u for the weight of a state, 6u for phi, and the conditioning of phi, e expm1(e)/phi(e) <= 2.4
for e <= 1 and <= 2.8 for e <= 1.6, the product u; ``delta`` is the error of e beyond relative u.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.direct import SHARE
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import NO_WEIGHT, exp_fraction, phi, phi_parts, reduced_sum, scale, two_sum
from elbo_exact.kernels.tree import ETA, INF, U

ORDINARY = -700.0  # below, a weight nears the subnormals and its block takes the guarded form
SERIES = 1.6  # |e| up to which phi(e) comes from its series


@kernel
def log_ratio(x, x_low, y, y_low, r, t):
    """(x + x_low) - (y + y_low) - r - t as (e, delta): the rounded value and its error beyond relative u."""
    d, d1 = two_sum(x, -y)
    s, s1 = two_sum(d, -r)
    p, p1 = two_sum(d1, s1)
    z, z1 = two_sum(x_low, -y_low)
    p, p2 = two_sum(p, z)
    p, p3 = two_sum(p, -t)
    h, low = two_sum(s, p)
    e, e_low = two_sum(h, low + (p1 + (p2 + (p3 + z1))))
    return e, e_low, 4.0 * U * (abs(p1) + abs(p2) + abs(p3) + abs(z1)) + 2.0 * U * abs(e_low)


@kernel
def divergence_term(even, odd, e, w, v, s, delta, s_error):
    """w phi(e) >= 0 and its bound; beyond the series v s - w (1 + e), where v s = w exp(e): all >= 0 again for e < -1."""
    series = (even + odd) * w
    outer = v * s
    far = outer - w * (1.0 + e)
    far = far if far > 0.0 else 0.0
    near = -1.0 <= e <= SERIES
    near_bound = series * (WEIGHT_ERROR + 10.0 * U) + w * delta * (2.0 * abs(e) + delta)
    far_bound = (
        outer * (WEIGHT_ERROR + s_error + 2.0 * U)
        + w * (abs(1.0 + e) * (WEIGHT_ERROR + 2.0 * U) + 2.0 * U * abs(e))
        + w * delta
    )
    return (series if near else far), (near_bound if near else far_bound)


@kernel
def mass_term(even, odd, e, e_low, w, v, s, delta, s_error, weight_error):
    """w expm1(e), its sign kept, and its bound; beyond |e| = 1 as v s - w."""
    f = e + (even + odd)
    f = f + e_low * (1.0 + f)
    near = w * f
    far = v * s - w
    near_bound = abs(near) * (weight_error + 8.0 * U) + 3.0 * w * delta
    far_bound = v * s * (weight_error + s_error + 2.0 * U) + w * weight_error + abs(far) * U
    inner = abs(e) < 1.0
    return (near if inner else far), (near_bound if inner else far_bound)


@kernel
def guarded_weight(x, top):
    """exp(x - top) as (mantissa, exponent, value); zero below -1500, where the rounding error of x - top may be NaN."""
    t, low = two_sum(x, -top)
    if not t >= NO_WEIGHT:
        return 0.0, np.int64(0), 0.0
    k, r, r_low = reduced_sum(t, low)
    mantissa, exponent = exp_fraction(r, r_low), np.int64(k)
    return mantissa, exponent, scale(mantissa, exponent)


@kernel
def scaled_product(mantissa, exponent, w, f):
    """w f where w may have underflowed but w f need not have: half of the exponent goes to f before the mantissa does."""
    if exponent >= -960:
        return w * f
    if exponent < -2100:
        return 0.0
    half = exponent >> np.int64(1)
    return scale(scale(f, half) * mantissa, exponent - half)


@kernel
def guarded_divergence(a, top_a, b, top_b, mantissa, exponent, w, v, s, e, delta, s_error, weight_error):
    """w phi(e) and its bound for any finite or -inf entries; a = -inf is counted by the caller."""
    if a == -INF:
        return 0.0, 0.0
    outer = v * s
    if not b - top_b >= NO_WEIGHT:
        return outer, outer * (weight_error + s_error + 2.0 * U) + ETA * (2.0 + s)
    if a - top_a == -INF:
        x = 2.0 * scaled_product(mantissa, exponent, w, (b - top_b) / 2.0 - (a / 2.0 - top_a / 2.0))
        return x, x * (weight_error + 10.0 * U) + 3.0 * ETA
    if e <= SERIES:
        x = scaled_product(mantissa, exponent, w, phi(e))
        near = w * delta * (2.0 * abs(e) + delta) if abs(e) < 2.0 else 0.0
        return x, x * (weight_error + 10.0 * U) + near + 3.0 * ETA
    x = max(0.0, outer - w * (1.0 + e))
    return x, (
        outer * (weight_error + s_error + 2.0 * U) + w * (1.0 + e) * (weight_error + 4.0 * U) + w * delta + ETA * (3.0 + s + e)
    )


@kernel
def guarded_mass(a, b, e, e_low, w, v, s, delta, s_error, weight_error):
    """w expm1(e) and its bound for any entries; a NaN log ratio (overflow) is a difference of weights."""
    if a == -INF and b == -INF:
        return 0.0, 0.0
    if a > -INF and b > -INF and abs(e) < 1.0:
        even, odd = phi_parts(e)
        return mass_term(even, odd, e, e_low, w, v, s, delta, s_error, weight_error)
    x = v * s - w
    return x, v * s * (weight_error + s_error + 2.0 * U) + w * weight_error + abs(x) * U


@kernel
def guarded_terms(a, b, top_a, top_b, r, t, s, inverse, s_error, weight_error):
    """The four terms of a state and their bounds, with every underflow and overflow met."""
    mantissa_v, exponent_v, v = guarded_weight(a, top_a)
    mantissa_w, exponent_w, w = guarded_weight(b, top_b)
    x, x_low = two_sum(a, -top_a)
    y, y_low = two_sum(b, -top_b)
    e, e_low, delta = log_ratio(x, x_low, y, y_low, r, t)
    gap, gap_bound = guarded_divergence(a, top_a, b, top_b, mantissa_w, exponent_w, w, v, s, e, delta, s_error, WEIGHT_ERROR)
    forward, forward_bound = guarded_divergence(
        b, top_b, a, top_a, mantissa_v, exponent_v, v, w, inverse, -e, delta, s_error, WEIGHT_ERROR
    )
    mass, mass_bound = guarded_mass(a, b, e, e_low, w, v, s, delta, s_error, weight_error)
    entropy = scaled_product(mantissa_w, exponent_w, w, -y) if y >= NO_WEIGHT else 0.0
    return gap, gap_bound, forward, forward_bound, mass, mass_bound, entropy


@kernel
def guarded_direct(x, y, base, top):
    """``direct_term`` with a weight of any size."""
    mantissa, exponent, weight = guarded_weight(y, top)
    depth = y - top
    if not depth >= NO_WEIGHT:
        return 0.0, 0.0
    term = scaled_product(mantissa, exponent, weight, (x - base) - depth)
    return term, abs(term) + SHARE * scaled_product(mantissa, exponent, weight, abs(depth))


@kernel
def is_extreme(x, top):
    """A possible state whose weight is not an ordinary double."""
    return 1 if (x > -INF and x - top < ORDINARY) else 0


@kernel
def ordinary_log_ratio(a, b, top_a, top_b, r, t):
    """(e, e_low, delta) without a branch: an impossible state (v = 0) gets e = -2, a missed one (w = 0) e = 2."""
    possible, charged = a > -INF, b > -INF
    both = possible and charged
    x, x_low = two_sum(a if possible else top_a, -top_a)
    y, y_low = two_sum(b if charged else top_b, -top_b)
    e, e_low, delta = log_ratio(x, x_low, y, y_low, r, t)
    return (e if both else (2.0 if possible else -2.0)), (e_low if both else 0.0), (delta if both else 0.0)
