"""Distributions of log tables in multiple precision, entry by entry: the naive side of the tests of anatomy and projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mpmath

mpf = mpmath.mpf
DIGITS = 60


def distribution(logs: Sequence[float]) -> list[Any]:
    """exp(logs), normalized."""
    top = mpf(max(map(float, logs)))
    weights = [mpf(0) if x == -math.inf else mpmath.exp(mpf(float(x)) - top) for x in logs]
    return [w / mpmath.fsum(weights) for w in weights]


def kl(q: Sequence[Any], p: Sequence[Any]) -> Any:
    """sum q log(q/p)."""
    if any(x > 0 and y == 0 for x, y in zip(q, p, strict=True)):
        return mpmath.inf
    return mpmath.fsum(x * mpmath.log(x / y) for x, y in zip(q, p, strict=True) if x > 0)


def marginals(p: Sequence[Any], states: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[list[Any]]:
    """Marginal law of every variable."""
    return [
        [mpmath.fsum(x for x, state in zip(p, states, strict=True) if state[k] == value) for value in range(size)]
        for k, size in enumerate(sizes)
    ]


def product(factors: Sequence[Sequence[Any]], states: Sequence[Sequence[int]]) -> list[Any]:
    """Product of factors over the states."""
    return [mpmath.fprod(factor[value] for factor, value in zip(factors, state, strict=True)) for state in states]
