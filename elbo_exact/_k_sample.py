"""Bounds of K samples, and their jackknife combinations, as results like those of ``_bound_results``."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._bound_results import BoundResults, Options, from_gap
from elbo_exact._engine import evidence_results
from elbo_exact._validate import FloatArray

__all__ = ["jackknife_results", "k_sample_results"]

U = 2.0**-53


def _gaps(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, counts: list[int], side: str, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """(gaps, bounds) of shape (rows, counts), the evidence with its bound, and the batch."""
    curve: Any = import_module("elbo_exact.importance").curve(
        log_joint,
        log_q,
        counts,
        unnormalized=options.unnormalized,
        nan_policy=options.nan_policy,
        executor=options.executor,
    )
    name = f"{side}_gap"
    gaps, bounds = np.asarray(getattr(curve, name)), np.asarray(getattr(curve.error, name))
    batch = gaps.shape[:-1]
    evidence, own = evidence_results(log_joint, options.nan_policy, options.executor)
    wide = np.broadcast_to(evidence.reshape(*own, 3), (*batch, 3)).reshape(-1, 3)
    return gaps.reshape(-1, len(counts)), bounds.reshape(-1, len(counts)), wide, batch


def k_sample_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, count: int, side: str, options: Options) -> BoundResults:
    """L_K or U_K."""
    gaps, bounds, evidence, batch = _gaps(log_joint, log_q, [count], side, options)
    return from_gap(side, gaps[:, 0], bounds[:, 0], evidence[:, 0], evidence[:, 1], batch)


def jackknife_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, count: int, order: int, options: Options) -> BoundResults:
    """The combination of order m; its gap may have either sign."""
    if order >= count:
        raise ValueError(f"order must be below num_samples {count}; got {order}.")
    gaps, bounds, evidence, batch = _gaps(log_joint, log_q, [count - j for j in range(order + 1)], "lower", options)
    factors = [(-1) ** j * (count - j) ** order / (math.factorial(order - j) * math.factorial(j)) for j in range(order + 1)]
    with np.errstate(all="ignore"):
        gap = np.where((gaps == np.inf).any(axis=1), np.inf, gaps @ np.array(factors))
        error = bounds @ np.abs(factors) + (order + 3) * U * (np.abs(gaps) @ np.abs(factors))
    exact = ((gaps == np.inf) & (bounds == 0.0)).any(axis=1)
    return from_gap("lower", gap, np.where(exact, 0.0, 1.01 * error), evidence[:, 0], evidence[:, 1], batch)._replace(
        side="estimate"
    )
