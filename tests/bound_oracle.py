"""The bounds on log p(x) by their definitions in 60-digit arithmetic (mpmath): loops over states, no code of the package.

``a`` is a row of log p(x, z), ``b`` of log q, which is renormalized; everything that has a finite answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import mpmath

DIGITS = 60


def weights(a: Sequence[float], b: Sequence[float]) -> list[tuple[Any, Any]]:
    """(q, log w) of every state with q > 0; log w is -inf where p = 0."""
    norm = mpmath.fsum(mpmath.exp(mpmath.mpf(y)) for y in b if y > -math.inf)
    pairs = []
    for x, y in zip(a, b, strict=True):
        if y > -math.inf:
            q = mpmath.exp(mpmath.mpf(y)) / norm
            pairs.append((q, mpmath.mpf(x) - mpmath.mpf(y) + mpmath.log(norm) if x > -math.inf else -mpmath.inf))
    return pairs


def log_evidence(a: Sequence[float]) -> Any:
    return mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(x)) for x in a if x > -math.inf))


def renyi(a: Sequence[float], b: Sequence[float], alpha: float) -> Any:
    """log E_q w**(1 - alpha) / (1 - alpha)."""
    c = 1 - mpmath.mpf(alpha)
    return mpmath.log(mpmath.fsum(q * mpmath.exp(c * x) for q, x in weights(a, b) if x > -mpmath.inf)) / c


def cubo(a: Sequence[float], b: Sequence[float], n: float) -> Any:
    return renyi(a, b, 1 - mpmath.mpf(n))


def path_mean(a: Sequence[float], b: Sequence[float], beta: float) -> tuple[Any, Any]:
    """Mean and variance of log w under q w**beta, over the states with w > 0."""
    beta = mpmath.mpf(beta)
    pairs = [(q * mpmath.exp(beta * x), x) for q, x in weights(a, b) if x > -mpmath.inf]
    total = mpmath.fsum(w for w, _ in pairs)
    mean = mpmath.fsum(w * x for w, x in pairs) / total
    return mean, mpmath.fsum(w * (x - mean) ** 2 for w, x in pairs) / total


def tvo(a: Sequence[float], b: Sequence[float], betas: Sequence[float], side: str) -> Any:
    """Left or right Riemann sum."""
    points = [mpmath.mpf(float(x)) for x in betas]
    steps = itertools.pairwise(points)
    return mpmath.fsum((high - low) * path_mean(a, b, low if side == "lower" else high)[0] for low, high in steps)


def perturbative(a: Sequence[float], b: Sequence[float], order: int) -> Any:
    """At the root V of E_q (V + l)**K, by bisection."""
    pairs = weights(a, b)
    low, high = -max(x for _, x in pairs), -min(x for _, x in pairs)
    for _ in range(160):
        v = (low + high) / 2
        if mpmath.fsum(q * (v + x) ** order for q, x in pairs) < 0:
            low = v
        else:
            high = v
    total = mpmath.fsum(q * (v + x) ** k / mpmath.factorial(k) for q, x in pairs for k in range(order + 1))
    return -v + mpmath.log(total)
