"""Elementary functions of one number, as device functions that compiled loops inline and vectorise.

Only + - * /, comparisons and integer arithmetic on the bits: no libm, no table that is rounded by a library, so that the
same operations in the same order give the same bits on every IEEE-754 platform, compiled or interpreted. The relative
errors that the bounds of this package rest on (u = 2**-53) are

    exp, log, log1p <= 2u      phi <= 6u      psi <= 6u      expm1 on [-1, 1] <= 4.5u

and are checked against ball arithmetic in the tests. Tables and coefficients are computed at import by the decimal module
(software, hence platform independent) to 60 digits.

References: Cody & Waite (1980), Software Manual for the Elementary Functions (two-part reduction); Tang (1990), ACM Trans. Math.
Softw. 16:378 (table-driven log); Knuth (1969), The Art of Computer Programming 2, section 4.2.2 (two-sum); Dekker (1971),
Numer. Math. 18:224 (its short form).
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal, localcontext

import numpy as np

from elbo_exact.kernels._jit import kernel

__all__ = [
    "exp",
    "exp_fraction",
    "exp_parts",
    "exp_rest",
    "expm1",
    "log",
    "log1p",
    "log_of_sum",
    "phi",
    "phi_parts",
    "psi",
    "raised",
    "reduced",
    "reduced_difference",
    "reduced_sum",
    "scale",
    "two_sum",
    "weight",
    "whole_power",
]


def _truncate(value: Decimal, step: Decimal) -> float:
    """The largest multiple of ``step`` that is not above ``value``."""
    return float((value / step).to_integral_value(ROUND_FLOOR) * step)


def _exp_coefficients(degree: int) -> tuple[float, ...]:
    """Coefficients of a polynomial for (exp(r) - 1 - r) / r**2, interpolated at the Chebyshev nodes of |r| <= 0.3466.

    At degree 10 the polynomial is off by 0.0015u in exp(r), the Taylor polynomial by 1.5u. The nodes are cut to six digits, so
    that the last digit of a cosine cannot matter.
    """
    n, half_width = degree + 1, Decimal("0.3466")
    nodes = [half_width * Decimal(f"{math.cos(math.pi * (2 * i + 1) / (2 * n)):.6f}") for i in range(n)]
    differences = [Decimal(0)] * n
    for k in reversed(range(40)):
        differences = [1 / Decimal(math.factorial(k + 2)) + x * y for x, y in zip(nodes, differences, strict=True)]
    for order in range(1, n):
        for i in range(n - 1, order - 1, -1):
            differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order])
    power = [Decimal(0)] * n
    for node, difference in zip(
        reversed(nodes), reversed(differences), strict=True
    ):  # Newton's form, expanded by Horner's rule
        power = [below - node * own for below, own in zip([Decimal(0), *power[:-1]], power, strict=True)]
        power[0] += difference
    return tuple(float(coefficient) for coefficient in power)


def _tables() -> tuple[dict[str, float], dict[str, np.ndarray], tuple[float, ...]]:
    """Constants and tables of exp and log, from 60-digit arithmetic."""
    with localcontext() as context:
        context.prec = 60
        two, ln2 = Decimal(2), Decimal(2).ln()
        constants = {"INVERSE_LN2": float(1 / ln2), "LN2_HIGH": _truncate(ln2, two**-41)}
        constants["LN2_LOW"] = float(ln2 - Decimal(constants["LN2_HIGH"]))
        inverses, logs = [], []
        for cell in range(128):
            # The 128 cells of [0.6875, 1.375): 80 of width 1/256 below one, 48 of width 1/128 above.
            centre = (176 + cell + Decimal("0.5")) / 256 if cell < 80 else 1 + (cell - 80 + Decimal("0.5")) / 128
            inverse = Decimal(1) if cell in (79, 80) else (512 / centre).to_integral_value() / 512
            log = -inverse.ln()
            high = _truncate(log, two**-41)
            inverses.append(float(inverse))
            logs.append((high, float(log - Decimal(high))))
        coefficients = _exp_coefficients(10)
    tables = {
        "CELL_INVERSE": np.array(inverses),
        "CELL_LOG_HIGH": np.array([high for high, _ in logs]),
        "CELL_LOG_LOW": np.array([low for _, low in logs]),
    }
    return constants, tables, coefficients


_CONSTANTS, _TABLES, C = _tables()
INVERSE_LN2, LN2_HIGH, LN2_LOW = (_CONSTANTS[name] for name in ("INVERSE_LN2", "LN2_HIGH", "LN2_LOW"))
CELL_INVERSE, CELL_LOG_HIGH, CELL_LOG_LOW = (_TABLES[n] for n in ("CELL_INVERSE", "CELL_LOG_HIGH", "CELL_LOG_LOW"))

ROUND = 1.5 * 2.0**52  # adding and subtracting it rounds to an integer, half to even
UNDERFLOW = -746.0  # exp is below half the smallest subnormal
NO_WEIGHT = -1500.0  # below this a weight is zero also in mantissa/exponent form
INF = np.inf
LOG_OFFSET = int(np.float64(0.6875).view(np.int64))
LOW_BITS = -(1 << 27)
FACTORIAL = tuple(float(math.factorial(n)) for n in range(23))


@kernel
def two_sum(a, b):
    """(s, e) with s = fl(a + b) and s + e = a + b exactly (Knuth 1969); e is NaN where s overflows."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@kernel
def power_of_two(exponent):
    """2**exponent for -1022 <= exponent <= 1023, by its bits."""
    return np.int64((exponent + np.int64(1023)) << np.int64(52)).view(np.float64)


@kernel
def whole_power(k, more):
    """2**(k + more) for whole doubles with a sum from -1022 to 1023.

    The addition puts k + more + 1023 into the last bits, where a shift makes it the exponent: AVX2 has no conversion to 64-bit integers.
    """
    return np.int64(np.float64(k + (ROUND + (1023.0 + more))).view(np.int64) << np.int64(52)).view(np.float64)


@kernel
def scale(x, exponent):
    """x * 2**exponent for any exponent, in two exact-power steps, so that gradual underflow rounds once."""
    exponent = min(max(exponent, np.int64(-2044)), np.int64(2044))
    half = exponent >> np.int64(1)
    return (x * power_of_two(half)) * power_of_two(exponent - half)


@kernel
def reduced_sum(x, low):
    """(k, r, r_low) with x + low = k ln2 + r + r_low, k whole, |r| <= 0.3466 and |r_low| <= u |r|, for |x| <= 1500, |low| <= u |x|.

    LN2_HIGH has 41 fractional bits and |k| < 2**12, so k * LN2_HIGH and its difference to x are exact; k * LN2_LOW - low is below
    2**-30, and its roundings below 2**-82.
    """
    k = (x * INVERSE_LN2 + ROUND) - ROUND
    r_high = x - k * LN2_HIGH
    r_low = k * LN2_LOW - low
    r = r_high - r_low
    return k, r, (r_high - r) - r_low


@kernel
def reduced(x):
    """``reduced_sum`` of x alone."""
    return reduced_sum(x, 0.0)


@kernel
def exp_rest(r, r_low):
    """exp(r + r_low) - 1 of reduced arguments: p = r + (r**2 polynomial + r_low), |p| < 1/2, by Estrin's order.

    p rounds by u/4, the rest (at most 0.075) by 0.32u, the polynomial is off by 0.0015u; relative to p that is at most 2u.
    """
    r2 = r * r
    r4 = r2 * r2
    low = (C[0] + r * C[1]) + r2 * (C[2] + r * C[3])
    high = ((C[4] + r * C[5]) + r2 * (C[6] + r * C[7])) + r4 * ((C[8] + r * C[9]) + r2 * C[10])
    return r + (r2 * (low + r4 * high) + r_low)


@kernel
def exp_fraction(r, r_low):
    """exp(r + r_low) in [0.707, 1.415], relative error 1.6u: 1 + ``exp_rest``, whose last addition rounds by u (u/2 below 1).

    Estrin's order keeps the pipelines busy. A table of 64 powers of two would round to 0.51 ulp instead of 0.84, but its two
    gathers are the slowest part of log-sum-exp: 2.31 against 1.80 ns per state (AVX-512, 2026).
    """
    return 1.0 + exp_rest(r, r_low)


@kernel
def exp_parts(x):
    """(mantissa, exponent) with exp(x) = mantissa * 2**exponent and mantissa in [0.707, 1.415], for |x| <= 1500."""
    k, r, r_low = reduced(x)
    return exp_fraction(r, r_low), np.int64(k)


@kernel
def exp(x):
    """exp(x); NaN gives NaN, exp(-inf) = 0, subnormals rounded once, inf above 709.78."""
    if x != x:
        return x
    mantissa, exponent = exp_parts(min(max(x, UNDERFLOW), 710.0))
    return scale(mantissa, exponent)


@kernel
def reduced_difference(x, top):
    """``reduced_sum`` of x - top in full, for x <= top; all below ``UNDERFLOW``, -inf too, as ``UNDERFLOW``.

    The operand of the larger size goes first, so that three additions give the rounding error (Dekker 1971).
    """
    large, small = (x, -top) if x < -top else (-top, x)
    t = large + small
    low = small - (t - large)
    alive = t > UNDERFLOW
    return reduced_sum(t if alive else UNDERFLOW, low if alive else 0.0)


@kernel
def raised(mantissa, k):
    """mantissa * 2**k for -1078 < k <= 0; the exponent is raised by 100, so that only the last product can round, a subnormal."""
    return (mantissa * whole_power(k, 100.0)) * 2.0**-100


@kernel
def weight(x, top):
    """exp(x - top) for x <= top with the rounding of the difference corrected: relative error 2u, subnormals kept.

    Branch-free: -inf and everything below ``UNDERFLOW`` gives exactly 0.
    """
    k, r, r_low = reduced_difference(x, top)
    return raised(exp_fraction(r, r_low), k)


@kernel
def log_of_sum(h, c):
    """log(h + c) for 0 < h < inf and |c| <= u h, to 0.66 ulp.

    h = 2**k z with z in [0.6875, 1.375), one of 128 cells whose inverse centre has 9 bits: z * inverse - 1 is exact in two
    pieces, and the tabulated logarithms are multiples of 2**-41 plus a remainder.
    """
    subnormal = h < 2.0**-1022
    scaled = h * 2.0**54 if subnormal else h
    bits = np.float64(scaled).view(np.int64)
    offset = bits - np.int64(LOG_OFFSET)
    cell = (offset >> np.int64(45)) & np.int64(127)
    k = offset >> np.int64(52)
    z_bits = bits - (k << np.int64(52))
    z = np.int64(z_bits).view(np.float64)
    z_high = np.int64(z_bits & np.int64(LOW_BITS)).view(np.float64)
    power = np.float64(k - np.int64(54) if subnormal else k)
    inverse = CELL_INVERSE[cell]
    r1 = z_high * inverse - 1.0
    r2 = (z - z_high) * inverse
    r = r1 + r2
    r_low = (r1 - r) + r2
    high = power * LN2_HIGH + CELL_LOG_HIGH[cell]
    s = high + r
    rest = (high - s) + r
    series = -0.5 + r * (1 / 3 + r * (-0.25 + r * (0.2 + r * (-1 / 6 + r * (1 / 7 + r * (-0.125 + r * (1 / 9)))))))
    small = ((power * LN2_LOW + CELL_LOG_LOW[cell]) + r_low) + c / h
    return s + (rest + (small + (r * r * series - r * r_low)))


@kernel
def log(x):
    """log(x); -inf at 0, NaN below 0."""
    if x == 0.0:
        return -INF
    if not x > 0.0:
        return np.nan
    if x == INF:
        return x
    return log_of_sum(x, 0.0)


@kernel
def log1p(x):
    """log(1 + x); -inf at -1, NaN below -1."""
    if x == -1.0:
        return -INF
    if not x > -1.0:
        return np.nan
    if x == INF or x == 0.0:
        return x
    h, c = two_sum(1.0, x)
    return log_of_sum(h, c)


@kernel
def phi_parts(e):
    """(cosh e - 1, sinh e - e) by their series, for |e| <= 1.6: phi(e) and phi(-e) are their sum and difference.

    The first dropped terms are e**24/24! and e**23/23!, below 2**-58 of the result.
    """
    y = e * e
    even = 1 / FACTORIAL[18] + y * (1 / FACTORIAL[20] + y * (1 / FACTORIAL[22]))
    even = 1 / FACTORIAL[10] + y * (1 / FACTORIAL[12] + y * (1 / FACTORIAL[14] + y * (1 / FACTORIAL[16] + y * even)))
    even = y * (1 / 2 + y * (1 / FACTORIAL[4] + y * (1 / FACTORIAL[6] + y * (1 / FACTORIAL[8] + y * even))))
    odd = 1 / FACTORIAL[17] + y * (1 / FACTORIAL[19] + y * (1 / FACTORIAL[21]))
    odd = 1 / FACTORIAL[9] + y * (1 / FACTORIAL[11] + y * (1 / FACTORIAL[13] + y * (1 / FACTORIAL[15] + y * odd)))
    odd = (y * e) * (1 / 6 + y * (1 / FACTORIAL[5] + y * (1 / FACTORIAL[7] + y * odd)))
    return even, odd


@kernel
def phi(e):
    """expm1(e) - e >= 0 to 3 ulp; the KL divergence is an average of phi of log ratios."""
    if e == -INF or e == INF:
        return INF
    if e < -1.0:
        return exp(e) - (1.0 + e)
    if e > 1.6:
        return (exp(e) - e) - 1.0
    even, odd = phi_parts(e)
    return even + odd


@kernel
def expm1(e):
    """exp(e) - 1, to 4.5u on [-1, 1]."""
    if -1.0 <= e <= 1.0:
        return e + phi(e)
    return exp(e) - 1.0


@kernel
def psi(t):
    """t - log1p(t) >= 0 to 3 ulp: y (t - 2 y**2 (1/3 + y**2/5 + ...)) with y = t/(2 + t) near zero."""
    if t == -1.0 or t == INF:
        return INF
    if not -0.5 <= t <= 1.0:
        return t - log1p(t)
    y = t / (2.0 + t)
    square = y * y
    series = 0.0
    for n in range(33, 1, -2):
        series = series * square + 1.0 / n
    return y * (t - 2.0 * square * series)
