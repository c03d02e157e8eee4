"""Naive definitions, one row at a time: Python loops and ``math.fsum``. Slow, short, and independent of the package.

``a`` is a row of log p(x, z), ``b`` a row of log q, both with entries in [-inf, inf); q is exp(b) renormalized. Every function
also takes complex rows (shift by the largest real part; no abs, max or clip of complex numbers), so a complex step of size
1e-200 differentiates it without cancellation (Squire & Trapp 1998, SIAM Review 40:110).

Examples
--------
>>> from math import log
>>> elbo([log(0.3), log(0.1)], [log(0.5), log(0.5)])
-1.0601317681000455
>>> reverse_kl([log(0.3), log(0.1)], [log(0.5), log(0.5)])
0.14384103622589034
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

__all__ = [
    "chi2_divergence",
    "cross_entropy",
    "derivative",
    "elbo",
    "entropy",
    "eubo",
    "forward_kl",
    "hellinger",
    "jensen_shannon",
    "log_evidence",
    "posterior",
    "proportional",
    "renyi_divergence",
    "reverse_kl",
    "total",
    "total_variation",
]

Number = Any  # float or complex
STEP = 1e-200


def total(values: Iterable[Number]) -> Number:
    """Sum with one rounding for each of the real and the imaginary part."""
    numbers = list(values)
    if any(isinstance(x, complex) for x in numbers):
        return complex(math.fsum(complex(x).real for x in numbers), math.fsum(complex(x).imag for x in numbers))
    return math.fsum(numbers)


def _exp(x: Number) -> Number:
    return cmath.exp(x) if isinstance(x, complex) else math.exp(x)


def _log(x: Number) -> Number:
    return cmath.log(x) if isinstance(x, complex) else (math.log(x) if x > 0.0 else -math.inf)


def _real(x: Number) -> float:
    return x.real if isinstance(x, complex) else x


def _possible(x: Number) -> bool:
    return _real(x) > -math.inf


def log_evidence(a: Sequence[Number]) -> Number:
    """log sum exp(a)."""
    top = max(map(_real, a))
    return -math.inf if top == -math.inf else top + _log(total(_exp(x - top) for x in a if _possible(x)))


def posterior(a: Sequence[Number]) -> list[Number]:
    """exp(a) / sum exp(a)."""
    top = max(map(_real, a))
    weights = [_exp(x - top) if _possible(x) else 0.0 for x in a]
    norm = total(weights)
    return [w / norm for w in weights]


def _mean(weights: Sequence[Number], log_ratio: Callable[[int], Number]) -> Number:
    """Sum of weight * log ratio over the states that have weight; 0 times anything is 0."""
    return total(w * log_ratio(z) for z, w in enumerate(weights) if w != 0.0)


def reverse_kl(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """KL(q || p) = sum q log(q/p)."""
    constant = log_evidence(a) - log_evidence(b)
    return _mean(posterior(b), lambda z: (b[z] - a[z] + constant) if _possible(a[z]) else math.inf)


def forward_kl(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """KL(p || q) = sum p log(p/q)."""
    return reverse_kl(b, a)


def elbo(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """sum q (a - b) + log W."""
    return _mean(posterior(b), lambda z: a[z] - b[z] if _possible(a[z]) else -math.inf) + log_evidence(b)


def eubo(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """sum p (a - b) + log W."""
    return _mean(posterior(a), lambda z: a[z] - b[z] if _possible(b[z]) else math.inf) + log_evidence(b)


def entropy(b: Sequence[Number]) -> Number:
    """-sum q log q."""
    return log_evidence(b) - _mean(posterior(b), lambda z: b[z])


def cross_entropy(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """-sum q a, the table a as it stands."""
    return -_mean(posterior(b), lambda z: a[z])


def chi2_divergence(a: Sequence[float], b: Sequence[float]) -> float:
    """sum (p - q)**2 / q."""
    pairs = zip(posterior(a), posterior(b), strict=True)
    return math.fsum((math.inf if q == 0.0 else (p - q) ** 2 / q) for p, q in pairs if p != q)


def total_variation(a: Sequence[float], b: Sequence[float]) -> float:
    """sum |p - q| / 2."""
    return math.fsum(abs(p - q) for p, q in zip(posterior(a), posterior(b), strict=True)) / 2


def hellinger(a: Sequence[float], b: Sequence[float]) -> float:
    """sqrt(1 - sum sqrt(p q)) = sqrt(sum (sqrt p - sqrt q)**2 / 2)."""
    pairs = zip(posterior(a), posterior(b), strict=True)
    return math.sqrt(math.fsum((math.sqrt(p) - math.sqrt(q)) ** 2 for p, q in pairs) / 2)


def jensen_shannon(a: Sequence[float], b: Sequence[float]) -> float:
    """Mean KL of p and q from (p + q)/2."""
    terms = []
    for p, q in zip(posterior(a), posterior(b), strict=True):
        terms += [x * math.log(2 * x / (p + q)) / 2 for x in (p, q) if x > 0.0]
    return math.fsum(terms)


def renyi_divergence(a: Sequence[float], b: Sequence[float], alpha: float) -> float:
    """log(sum q**alpha p**(1 - alpha)) / (alpha - 1), alpha not 1."""
    pairs = zip(posterior(a), posterior(b), strict=True)
    return math.log(math.fsum(q**alpha * p ** (1 - alpha) for p, q in pairs if p and q)) / (alpha - 1)


def proportional(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether p = q exactly: one support, and a - b one rational number on it."""
    if [_possible(x) for x in a] != [_possible(y) for y in b]:
        return False
    return len({Fraction(x) - Fraction(y) for x, y in zip(a, b, strict=True) if _possible(x)}) == 1


def derivative(function: Callable[[list[Number]], Number], point: Sequence[float], z: int) -> float:
    """Partial derivative by a complex step."""
    moved: list[Number] = [complex(x) for x in point]
    moved[z] += 1j * STEP
    return float(function(moved).imag / STEP)
