"""The K-sample bounds as people would write them in NumPy: all states and nodes as one matrix, and node by node.

Both compute what ``importance.curve`` does without its error bounds (both gaps, the variance, the mean inverse ESS) from the same
integrals by the trapezoid rule, in the same stable form; neither merges states nor uses moments.
``python -m benchmarks.importance_rivals`` prints the times; set OPENBLAS_NUM_THREADS=1 and ELBO_EXACT_NUM_THREADS=1 for one thread.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.special import logsumexp

__all__ = ["nodes", "numpy_matrix", "numpy_nodes", "table"]

GAMMA = 0.5772156649015329


def nodes(log_r, counts, step=0.25):
    """Nodes of the trapezoid rule: the table's range of log ratios and of log K."""
    first = -max(log_r.max(), 0.0) - np.log(max(counts)) - 39.0
    return np.arange(np.floor(first / step), np.ceil((4.5 - min(log_r.min(), 0.0)) / step) + 1) * step, step


def _sums(s, q, r, rm1):
    """log phi, log psi, their centred forms, and s**2 E[r**2 exp(-s r)], for one node or a column of them."""
    d, y = np.minimum(s, 50.0) * rm1, s * r
    m = np.expm1(-d)
    curved, slope = ((m + d) * q).sum(-1), (-(m * rm1) * q).sum(-1)
    small, e = np.expm1(-y), np.exp(-y)
    f, psi = (small * q).sum(-1), ((q * r) * e).sum(-1)
    square = (q * (y * y * e)).sum(-1)
    return np.log1p(np.maximum(f, -1.0)), np.log(psi), np.log1p(curved), np.log1p(curved - slope), square


def _integrals(sums, x, counts, step):
    """Both gaps, the variance and the mean inverse ESS of all K."""
    log_phi, log_psi, lam, lam_p, square = sums
    k, s = np.asarray(counts, np.float64)[:, None], np.exp(x)
    base, full = np.exp(-k * s), np.exp(k * log_phi)
    b = (k - 1.0) * lam + lam_p
    gap = np.where((k * lam < 1.0) & (s < 50.0), base * np.expm1(k * lam), full - base)
    rest = np.where(k > 1.0, (k - 1.0) * log_phi, 0.0)
    upper = np.where((np.abs(b) < 1.0) & (s < 50.0), -base * np.expm1(b), base - np.exp(rest + log_psi))
    first = step * gap.sum(-1)
    variance = 2.0 * step * ((x + np.log(k)) * gap).sum(-1) + 2.0 * GAMMA * first - first**2
    return np.stack([first, step * upper.sum(-1), variance, step * (k * square * np.exp(rest)).sum(-1)])


def numpy_matrix(log_joint, log_q, counts):
    """(4, len(K)) with (nodes, S) matrices."""
    log_r, q = log_joint - log_q - logsumexp(log_joint), np.exp(log_q)
    x, step = nodes(log_r, counts)
    with np.errstate(all="ignore"):
        return _integrals(_sums(np.exp(x)[:, None], q, np.exp(log_r), np.expm1(log_r)), x, counts, step)


def numpy_nodes(log_joint, log_q, counts):
    """(4, len(K)) with one vector of S states at a time."""
    log_r, q = log_joint - log_q - logsumexp(log_joint), np.exp(log_q)
    x, step = nodes(log_r, counts)
    r, rm1 = np.exp(log_r), np.expm1(log_r)
    with np.errstate(all="ignore"):
        return _integrals(np.array([_sums(s, q, r, rm1) for s in np.exp(x)]).T, x, counts, step)


def table(n_states, seed=0):
    """A target one nat from q, on n_states states."""
    rng = np.random.default_rng(seed)
    log_q = rng.normal(size=n_states)
    log_q -= logsumexp(log_q)
    return log_q + rng.normal(size=n_states), log_q


if __name__ == "__main__":
    from elbo_exact.importance import curve

    counts = [1, 10, 100, 1000, 10**6, 10**9]
    for size in (4096, 65536):
        tables = table(size)
        for name, call in (
            ("curve", lambda *a: curve(*a, counts).lower_gap),
            ("matrix", lambda *a: numpy_matrix(*a, counts)),
            ("nodes", lambda *a: numpy_nodes(*a, counts)),
        ):
            call(*tables)
            start = time.perf_counter()
            gaps = call(*tables)
            print(f"{size:>7} {name:>7} {time.perf_counter() - start:8.4f} s  {np.ravel(gaps)[:3]}")
