"""log n! with a proven error, and log multinomial coefficients from it.

Up to 170!, the last below the largest double, the factorial is an integer that Python rounds once: its logarithm is off by u from
that rounding and by LIBM relative. Above, Stirling's series (DLMF 5.11.1) with two terms: it alternates and its error is below the
first omitted term, 1/(1260 n^5) < 6e-15 at 171, which is 0.1 u of log 171! = 711.7 and less later.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LIBM, U

__all__ = ["log_factorial"]

TABLE = np.array([math.log(math.factorial(n)) for n in range(171)])
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def log_factorial(n: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log n! of whole numbers n >= 0, and a bound on its error.

    Stirling: (n + 1/2) log n - n + log(2 pi)/2 + 1/(12 n) - 1/(360 n^3). The largest term T = (n + 1/2) log n has three roundings
    beside LIBM; the other terms and the four additions stay below T in size, each rounding by at most u T.
    """
    small = n <= 170.0
    stored = TABLE[np.where(small, n, 0.0).astype(np.int64)]
    m = np.where(small, 171.0, n)
    largest = (m + 0.5) * np.log(m)
    series = largest - m + HALF_LOG_2PI + 1.0 / (12.0 * m) - 1.0 / (360.0 * m**3)
    value = np.where(small, stored, series)
    error = np.where(small, np.where(n > 1.0, U + LIBM * stored, 0.0), (LIBM + 12.0 * U) * largest)
    return value, 1.01 * error
