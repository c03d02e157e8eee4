"""Every bound beside its formula in `bound_rivals`, with the tables on which both are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bound_rivals as rivals
import importance_rivals
import numpy as np
from cases import tables

import elbo_exact as ee
from elbo_exact import bounds, importance

__all__ = [
    "ACCURACIES",
    "BOUNDS",
    "COUNTS",
    "KINDS",
    "POINTS",
    "SHAPES",
    "bound_calls",
    "curve_calls",
    "kind_calls",
    "monte_carlo_row",
    "path_calls",
]

COUNTS = (1, 10, 100, 1000, 10**6, 10**9)  # the six K of one curve
POINTS = 100  # of a long thermodynamic sum
ACCURACIES = (1e-3, 1e-4)  # of the gap, at which a Monte Carlo run would stop
# (shape of the many rows, states of the curve, states of the long thermodynamic sum, drawn entries of a Monte Carlo run)
SHAPES = {True: ((200, 256), 4096, 10**5, 10**5), False: ((10**4, 256), 65536, 10**6, 2 * 10**7)}

# name: (ours, the formula beside it)
BOUNDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "elbo": (bounds.elbo, rivals.elbo),
    "eubo": (bounds.eubo, rivals.eubo),
    "renyi(0.5)": (partial(bounds.renyi, alpha=0.5), partial(rivals.renyi, alpha=0.5)),
    "renyi(-0.5)": (partial(bounds.renyi, alpha=-0.5), partial(rivals.renyi, alpha=-0.5)),
    "cubo(2)": (partial(bounds.cubo, n=2.0), partial(rivals.cubo, n=2.0)),
    "perturbative(3)": (partial(bounds.perturbative, order=3), rivals.perturbative),
    "tvo(10, lower)": (partial(bounds.tvo, betas=10, side="lower"), partial(rivals.tvo, steps=10, side="lower")),
    "tvo(10, upper)": (partial(bounds.tvo, betas=10, side="upper"), partial(rivals.tvo, steps=10, side="upper")),
    "iwae(10)": (partial(bounds.iwae, num_samples=10), partial(rivals.iwae, count=10)),
}


# name: logits of (p, q) from two independent normal tables
KINDS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "p and q unrelated, 30 nats": lambda x, y: (30.0 * x, 30.0 * y),
    "unrelated, 300 nats": lambda x, y: (300.0 * x, 300.0 * y),
    "p of 5 nats, q = p^0.9": lambda x, y: (5.0 * x, 4.5 * x),
    "30 nats, q = p^0.9": lambda x, y: (30.0 * x, 27.0 * x),
    "300 nats, q = p^0.9": lambda x, y: (300.0 * x, 270.0 * x),
    "q 0.1 nats off p": lambda x, y: (5.0 * x, 5.0 * x + 0.1 * y),
    "q 0.001 off": lambda x, y: (5.0 * x, 5.0 * x + 1e-3 * y),
    "q off by few large ratios": lambda x, y: (5.0 * x, 5.0 * x + 0.01 * np.sinh(2.0 * y)),
    "q uniform, p 300 nats": lambda x, y: (300.0 * x, 0.0 * y),
    "q = p": lambda x, y: (5.0 * x, 5.0 * x),
}


def kind_calls(name: str, kind: str, quick: bool) -> dict[str, Callable[[], Any]]:
    """One bound on many short rows of one kind, ours and NumPy's."""
    rng = np.random.default_rng(20240301)
    a, b = KINDS[kind](rng.normal(size=SHAPES[quick][0]), rng.normal(size=SHAPES[quick][0]))
    b = b - ee.log_evidence(b)[..., None]
    ours, theirs = BOUNDS[name]
    return {"elbo_exact": lambda: ours(a, b), "numpy": lambda: theirs(a, b)}


def bound_calls(name: str, quick: bool) -> dict[str, Callable[[], Any]]:
    """One bound on many short rows, ours and NumPy's."""
    a, b = tables(SHAPES[quick][0])
    ours, theirs = BOUNDS[name]
    return {"elbo_exact": lambda: ours(a, b), "numpy": lambda: theirs(a, b)}


def path_calls(quick: bool) -> dict[str, Callable[[], Any]]:
    """A long thermodynamic sum on one row of many states; a fifth of its points, to see what a point costs."""
    a, b = tables((1, SHAPES[quick][2]))
    return {
        "elbo_exact": lambda: bounds.tvo(a, b, POINTS),
        "a fifth": lambda: bounds.tvo(a, b, POINTS // 5),
        "numpy": lambda: rivals.tvo(a, b, POINTS, "lower"),
    }


def curve_calls(quick: bool) -> dict[str, Callable[[], Any]]:
    """Six K on one row: ours, the integral as one matrix, and node by node."""
    a, b = importance_rivals.table(SHAPES[quick][1])
    return {
        "elbo_exact": lambda: importance.curve(a, b, COUNTS),
        "matrix": lambda: importance_rivals.numpy_matrix(a, b, COUNTS),
        "nodes": lambda: importance_rivals.numpy_nodes(a, b, COUNTS),
    }


def estimates_for(count: int, n_states: int, drawn: int) -> int:
    """How many estimates a Monte Carlo run of about ``drawn`` drawn numbers gives, at least eight."""
    return max(8, drawn // min(count, 20 * n_states))  # a multinomial count of a state takes some twenty times a draw


def monte_carlo_row(count: int, quick: bool, clock: Callable[[], float]) -> dict[str, float]:
    """One K: a timed Monte Carlo run, the exact gap and variance, and what standard errors of `ACCURACIES` times the gap would take.

    Measured: seconds of the run and the standard error of its mean. Exact: gap and variance. Scaled: estimates = variance / (accuracy * gap)**2,
    times the measured seconds per estimate.
    """
    _, n_states, _, drawn = SHAPES[quick]
    a, b = importance_rivals.table(n_states)
    exact, estimates = importance.curve(a, b, count), estimates_for(count, n_states, drawn)
    start = clock()
    values = rivals.monte_carlo(a, b, count, estimates, np.random.default_rng(0))
    seconds = clock() - start
    needed = {accuracy: float(exact.variance / (accuracy * exact.lower_gap) ** 2) for accuracy in ACCURACIES}
    return {
        "count": count,
        "gap": float(exact.lower_gap),
        "relative error": float(exact.error.lower_gap / exact.lower_gap),
        "deviation": float(np.sqrt(exact.variance)),
        "estimates": estimates,
        "seconds": seconds,
        "standard error": float(values.std(ddof=1) / np.sqrt(estimates)),
        "miss": float(values.mean() - (ee.log_evidence(a) - exact.lower_gap)),
        **{f"needed {accuracy:g}": n for accuracy, n in needed.items()},
        **{f"seconds {accuracy:g}": n * seconds / estimates for accuracy, n in needed.items()},
    }
