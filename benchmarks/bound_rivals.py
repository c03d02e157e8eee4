"""Every bound as people would write it in NumPy, for tables (N, S): natural, stable for finite tables, without checks or error bounds.

Each function takes (log_joint, log_q), and returns the value of the bound in each row and nothing else.
"""

from __future__ import annotations

import numpy as np
from importance_rivals import nodes
from rivals import numpy_log_evidence

__all__ = ["cubo", "elbo", "eubo", "iwae", "monte_carlo", "perturbative", "renyi", "tvo"]


def elbo(a, b):
    """E_q log w."""
    return (np.exp(b) * (a - b)).sum(axis=-1)


def eubo(a, b):
    """E_p log w."""
    return (np.exp(a - numpy_log_evidence(a, None)[..., None]) * (a - b)).sum(axis=-1)


def renyi(a, b, alpha):
    """log E_q w**(1 - alpha) / (1 - alpha)."""
    return numpy_log_evidence(alpha * b + (1.0 - alpha) * a, None) / (1.0 - alpha)


def cubo(a, b, n):
    """log E_q w**n / n."""
    return numpy_log_evidence(n * a + (1.0 - n) * b, None) / n


def perturbative(a, b):
    """Order 3 at its best reference, which is a root of a cubic in the first three moments of log w."""
    q, log_w = np.exp(b), a - b
    mean = (q * log_w).sum(axis=-1)
    x = log_w - mean[..., None]
    second, third = (q * x**2).sum(axis=-1), (q * x**3).sum(axis=-1)
    t = np.zeros_like(mean)  # V = t - mean; t**3 + 3 second t + third = 0 has one real root
    for _ in range(60):
        t -= (t**3 + 3.0 * second * t + third) / (3.0 * (t**2 + second))
    return mean - t + np.log(1.0 + t + (t**2 + second) / 2.0)


def tvo(a, b, steps, side):
    """Left or right Riemann sum with equal steps."""
    log_w, total = a - b, 0.0
    for k in range(steps) if side == "lower" else range(1, steps + 1):
        logits = b + (k / steps) * log_w
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        total = total + (weights * log_w).sum(axis=-1) / weights.sum(axis=-1)
    return total / steps


def iwae(a, b, count):
    """The K-sample lower bound by the trapezoid rule, node by node, every row at every node."""
    evidence = numpy_log_evidence(a, None)
    log_r, q, total = a - b - evidence[..., None], np.exp(b), 0.0
    x, step = nodes(log_r, [count])
    r = np.exp(log_r)
    for s in np.exp(x):
        total = total + step * ((q * np.exp(-s * r)).sum(axis=-1) ** count - np.exp(-count * s))
    return evidence - total


def monte_carlo(a, b, count, estimates, rng):
    """Log mean weights of ``count`` draws from q, ``estimates`` times, one row: what a K-sample bound is the mean of.

    More draws than states are drawn as multinomial counts of the states, which costs S instead of K.
    """
    log_w = a - b
    top = log_w.max()
    weights, q = np.exp(log_w - top), np.exp(b)
    if count > q.size:
        drawn = rng.multinomial(count, q / q.sum(), size=estimates)
        return top + np.log((drawn * weights).sum(axis=-1) / count)
    states = np.searchsorted(np.cumsum(q / q.sum())[:-1], rng.random((estimates, count)))
    return top + np.log(weights[states].mean(axis=-1))
