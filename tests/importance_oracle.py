"""Expectations over K samples by enumeration, in high precision: slow, short, and independent of the package.

``a`` is a row of log p(x, z), ``b`` a row of log q; q is exp(b) renormalized. Multisets serve what is symmetric in the samples,
tuples the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mpmath as mp

DIGITS = 50
Number = mp.mpf


class Moments(NamedTuple):
    """The K-sample quantities of one row; a gap of +inf leaves no variance."""

    gap: Number
    upper_gap: Number
    variance: Number
    mean_inverse_ess: Number


def _masses(row: Sequence[float]) -> list[Number]:
    """exp of a row, normalized."""
    masses = [mp.exp(mp.mpf(float(x))) if x > -mp.inf else mp.mpf(0) for x in row]
    return [x / sum(masses) for x in masses]


def _counts(n_samples: int, n_states: int) -> Iterator[tuple[int, ...]]:
    """All ways to distribute samples over states."""
    if n_states == 1:
        yield (n_samples,)
        return
    for first in range(n_samples + 1):
        for rest in _counts(n_samples - first, n_states - 1):
            yield (first, *rest)


def multisets(a: Sequence[float], b: Sequence[float], n_samples: int) -> Moments:
    """Sums over the counts c of every state, each with its multinomial probability."""
    with mp.workdps(DIGITS):
        p, q = _masses(a), _masses(b)
        states = [z for z in range(len(q)) if q[z] > 0]
        ratio = {z: p[z] / q[z] for z in states}
        gap = upper = square = ess = mp.mpf(0)
        for counts in _counts(n_samples, len(states)):
            pairs = list(zip(counts, states, strict=True))
            probability = mp.factorial(n_samples)
            for c, z in pairs:
                probability *= q[z] ** c / mp.factorial(c)
            total = sum(c * ratio[z] for c, z in pairs)
            if total == 0:
                gap = mp.inf
                continue
            log_mean = mp.log(total / n_samples)
            gap -= probability * log_mean
            upper += probability * (total / n_samples) * log_mean
            square += probability * log_mean**2
            ess += probability * sum(c * ratio[z] ** 2 for c, z in pairs) / total**2
        missed = any(q[z] == 0 and p[z] > 0 for z in range(len(q)))
        return Moments(gap, mp.inf if missed else upper, mp.nan if gap == mp.inf else square - gap**2, ess)


def deep_multisets(a: Sequence[float], b: Sequence[float], n_samples: int) -> Moments:
    """``multisets`` in the log domain, for entries of any size: 700 digits keep 1 beside the square of 1e300."""
    with mp.workdps(700):
        rows = [[mp.mpf(float(x)) for x in row] for row in (a, b)]
        log_sums = [max(row) + mp.log(sum(_exp(x - max(row)) for x in row)) for row in rows]
        states = [z for z in range(len(b)) if b[z] > -mp.inf]
        log_q = {z: rows[1][z] - log_sums[1] for z in states}
        log_r = {z: rows[0][z] - log_sums[0] - log_q[z] for z in states}
        gap = upper = ess = mp.mpf(0)
        outcomes = []
        for counts in _counts(n_samples, len(states)):
            pairs = [(c, z) for c, z in zip(counts, states, strict=True) if c > 0]
            log_probability = mp.log(mp.factorial(n_samples)) + sum(c * log_q[z] - mp.log(mp.factorial(c)) for c, z in pairs)
            top = max(log_r[z] for _, z in pairs)
            if top == -mp.inf:
                gap = mp.inf
                continue
            total = sum(c * _exp(log_r[z] - top) for c, z in pairs)
            log_mean, probability = top + mp.log(total / n_samples), _exp(log_probability)
            outcomes.append((probability, log_mean))
            gap -= probability * log_mean
            upper += _exp(log_probability + log_mean) * log_mean
            ess += probability * sum(c * _exp(2 * (log_r[z] - top)) for c, z in pairs) / total**2
        if gap == mp.inf:
            variance = mp.nan
        else:
            variance = sum(p * (log_mean + gap) ** 2 for p, log_mean in outcomes)
        missed = any(b[z] == -mp.inf < a[z] for z in range(len(b)))
        return Moments(gap, mp.inf if missed else upper, variance, ess)


def _exp(x: Number) -> Number:
    """exp, and 0 where no double could tell."""
    return mp.exp(x) if x > -(10**4) else mp.mpf(0)


class Estimates(NamedTuple):
    """Mean and variance of three estimators, the resampling law, and the probability that all weights are zero."""

    self_normalized: tuple[Number, Number]
    doubly_reparameterized: tuple[Number, Number]
    score: tuple[Number, Number]
    law: list[Number]
    all_zero: Number


def tuples(a: Sequence[float], b: Sequence[float], g: Sequence[float], n_samples: int) -> Estimates:
    """Sums over all ordered samples."""
    with mp.workdps(DIGITS):
        joint = [mp.exp(mp.mpf(float(x))) if x > -mp.inf else mp.mpf(0) for x in a]
        q, gradient = _masses(b), [mp.mpf(float(x)) for x in g]
        mean = sum(mass * x for mass, x in zip(q, gradient, strict=True))
        score = [x - mean for x in gradient]
        states = [z for z in range(len(q)) if q[z] > 0]
        weight = {z: joint[z] / q[z] for z in states}
        sums = [[mp.mpf(0), mp.mpf(0)] for _ in range(3)]
        law, all_zero = [mp.mpf(0)] * len(q), mp.mpf(0)
        for sample in itertools.product(states, repeat=n_samples):
            probability, total = mp.fprod(q[z] for z in sample), sum(weight[z] for z in sample)
            if total == 0:
                all_zero += probability
                continue
            shares = [weight[z] / total for z in sample]
            values = [
                sum(share * gradient[z] for share, z in zip(shares, sample, strict=True)),
                sum(share**2 * gradient[z] for share, z in zip(shares, sample, strict=True)),
                mp.log(total / n_samples) * sum(score[z] for z in sample)
                - sum(share * score[z] for share, z in zip(shares, sample, strict=True)),
            ]
            for i, value in enumerate(values):
                sums[i][0] += probability * value
                sums[i][1] += probability * value**2
            for share, z in zip(shares, sample, strict=True):
                law[z] += probability * share
        first, second, third = ((m, square - m**2) for m, square in sums)
        return Estimates(first, second, third, law, all_zero)
