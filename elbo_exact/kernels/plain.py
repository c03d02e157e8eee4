"""The fast form of the gap engine's terms, for tables whose weights are ordinary doubles or zero: no branch, no bound per state.

With c = top_a - top_b + r in two doubles, a state's log ratio to the pivot is e = (a - b) - c. Both differences keep their
rounding errors, whose own rounding is neglected: with D >= |a| + |b|,

    |e - e*| <= u |e| + delta,    delta = 16 u**2 (D + |r|)

(two errors of at most u D and u (2D + |r|), the two of c likewise, and three plain additions of them). That is nothing beside the
rounding of e unless p and q are nearly equal. Everything else of a divergence's bound is relative to its terms, which are
non-negative: per term, in units of u, with 3.1 for a weight, 1 for a product, 2 for s = exp(-r), and the conditioning of e,

    w phi(e)         -1 <= e <= 1.6    3.1 + 6 + 2.8 + 1 = 12.9
    v s - w (1 + e)  e < -1            at most 9.9 (at -1: (6.1 exp(-1) + 1)/exp(-1) + 1)
                     e > 1.6           at most 20.2 (at 1.6: (6.1 exp(e) + 5.1 (1 + e) + e)/phi(e) + 1)

so 20.2u serves every term. The terms of the mass, w expm1(e) for |e| < 1 and v s - w elsewhere, are good to 14.1u of their sizes
in the same way (at e = 1: (6.1 e + 3.1)/(e - 1) + 1 from outside, 3.1 + 8 + 2.7 from inside). The error of the pivot enters squared.
Where it or delta could be felt, ``is_fine`` says no, and the row goes through the careful terms of ``terms``.
"""

from __future__ import annotations

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.reduce import log_sum_error
from elbo_exact.kernels.scalar import two_sum
from elbo_exact.kernels.terms import SERIES
from elbo_exact.kernels.tree import ETA, INF, U

__all__ = [
    "is_fine",
    "log_ratio_error",
    "one_sided",
    "pivot_off",
    "plain_bound",
    "plain_divergence",
    "plain_offset",
    "plain_state",
]

TERM_ERROR, MASS_ERROR = 20.2 * U, 14.1 * U


@kernel
def plain_offset(top_a, top_b, r):
    """(c, c_low) = top_a - top_b + r."""
    c, c1 = two_sum(top_a, -top_b)
    c, c2 = two_sum(c, r)
    return c, c1 + c2


@kernel
def plain_state(a, b, top_a, top_b, c, c_low):
    """(e, top_b - b, 0) of a state; an impossible one (v = 0) has e = -2, a missed one (w = 0) e = 2, and 1."""
    possible, charged = a > -INF, b > -INF
    both = possible and charged
    x, y = (a if possible else top_a), (b if charged else top_b)
    d, d_low = two_sum(x, -y)
    s, s_low = two_sum(d, -c)
    e = s + ((d_low + s_low) - c_low)
    return (e if both else (2.0 if possible else -2.0)), top_b - y, (0 if both else 1)


@kernel
def one_sided(a, b):
    """(charged, missed): states that only q, or only the target, can be in."""
    charged, missed = 0, 0
    for j in range(a.size):
        charged += 1 if (a[j] == -INF and b[j] > -INF) else 0
        missed += 1 if (b[j] == -INF and a[j] > -INF) else 0
    return charged, missed


@kernel
def plain_divergence(even, odd, e, w, v, s):
    """w phi(e): by its series, or as v s - w (1 + e) where v s = w exp(e)."""
    far = v * s - w * (1.0 + e)
    return (even + odd) * w if -1.0 <= e <= SERIES else far


@kernel
def plain_mass(even, odd, e, w, v, s):
    """w expm1(e), its sign kept."""
    return w * (e + (even + odd)) if abs(e) < 1.0 else v * s - w


@kernel
def log_ratio_error(top_a, bottom_a, top_b, bottom_b, r):
    """delta of every state of a row."""
    return 16.0 * U * U * (max(abs(top_a), abs(bottom_a)) + max(abs(top_b), abs(bottom_b)) + abs(r))


@kernel
def pivot_off(rest_a, log_a, rest_b, log_b, r, n):
    """Bound on the error of the pivot r = log A - log W."""
    return 1.01 * (log_sum_error(rest_a, log_a, n) + log_sum_error(rest_b, log_b, n) + U * abs(r))


@kernel
def is_fine(gap_sum, weight_sum, off, delta):
    """Whether neither the pivot's error nor that of the log ratios can be felt, in the gap or in the forward divergence F.

    Term by term w phi(e) <= 1400 v phi(-e) for |e| <= 1400, and F >= -log(1 - q0) >= q0, the mass of q on impossible states, so
    F >= gap_sum/1400 up to a factor that 8192 has to spare: 0.51 off**2 stays below u F/11, and 1.3 delta below u F/4.
    """
    limit = U * gap_sum
    return off * off * weight_sum * 8192.0 <= limit and delta * weight_sum * 8192.0 <= limit


@kernel
def plain_bound(total, weight_sum, delta, n):
    """Bound on the error of a sum of non-negative divergence terms.

    delta moves it by at most 2.5 delta E|e| + delta**2, and E|e| <= G + sqrt(2 G) <= 2 G + 1/2 (Jensen on
    e**2/(2 + |e|) <= phi(e)); no root, because roots and divisions are half of the time of a row of four states.
    """
    return total * (TERM_ERROR + 5.0 * delta) + weight_sum * 1.3 * delta + 3.0 * n * ETA
