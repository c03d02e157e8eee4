"""Uphill in one flat vector: L-BFGS-B on all rows, or a first-order optimizer on mini-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from elbo_exact._validate import FloatArray
from elbo_exact.fit.optimizers import Optimizer, OptimizerState, clip

__all__ = ["Plan", "Slope", "by_batches", "by_lbfgs"]

# parameters and rows (None: all) to the mean of what is maximized and its gradient
Slope = Callable[[FloatArray, Any], tuple[float, FloatArray]]


def by_lbfgs(slope: Slope, params: FloatArray, max_iter: int) -> FloatArray:
    """At most so many iterations of L-BFGS-B (Byrd, Lu, Nocedal & Zhu 1995, SIAM J. Sci. Comput. 16:1190); -inf stays."""
    moving, place = params > -np.inf, params.copy()

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        place[moving] = values
        value, gradient = slope(place, None)
        return -value, -gradient[moving].astype(np.float64)

    # the tolerances are 0: the fit itself decides what a gain is worth
    settings = {"maxiter": max_iter, "maxfun": 2 * max_iter + 20, "ftol": 0.0, "gtol": 1e-12, "maxcor": 20}
    found = minimize(loss, params[moving].astype(np.float64), jac=True, method="L-BFGS-B", options=settings)
    end = params.copy()
    end[moving] = found.x
    return end


@dataclass(frozen=True)
class Plan:
    """How a flat vector is moved: an optimizer, or L-BFGS-B if there is none; over which batches, and how often."""

    optimizer: Optimizer | None
    batch_size: int | None
    passes: int
    clip_norm: float | None
    rng: Any


def by_batches(slope: Slope, params: FloatArray, plan: Plan, state: OptimizerState, n_rows: int) -> FloatArray:
    """So many passes over the rows, shuffled anew each time; ``state`` is changed. NaN or infinities end it early."""
    place, size = params.copy(), plan.batch_size
    assert plan.optimizer is not None
    for _ in range(plan.passes):
        batches: list[Any] = [None]
        if size is not None and size < n_rows:
            order = plan.rng.permutation(n_rows)
            batches = [order[first : first + size] for first in range(0, n_rows, size)]
        for batch in batches:
            value, gradient = slope(place, batch)
            # one product sees NaN and infinities sooner than a test of every entry; it may overflow
            if not math.isfinite(value) or not (math.isfinite(gradient @ gradient) or np.isfinite(gradient).all()):
                return np.full_like(params, np.nan)
            if plan.clip_norm is not None:
                clip(gradient, plan.clip_norm)
            plan.optimizer.update(place, np.negative(gradient, out=gradient), state)
    return place
