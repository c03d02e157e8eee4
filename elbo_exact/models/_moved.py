"""What a parameter change adds to the log evidence of every row, from changes of its log joints."""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LIBM, U

__all__ = ["SMALL", "evidence_change"]

SMALL = 1e-3  # first-order error terms are trusted below this; the factor 1.01 covers their squares


def evidence_change(
    p: FloatArray, rho: FloatArray, change: FloatArray, change_error: FloatArray, dropped: float, axis: int
) -> tuple[FloatArray, FloatArray]:
    """log1p(M), M = sum p expm1(change) over the states on ``axis``, with a bound B.

    With f = expm1(d), relative errors rho of p and LIBM of f, and absolute error e of d (which moves f by 1.01 e (1 + |f|)):
    B_M = sum p (|f| (rho + LIBM + (S + 2) u) + 1.01 (1 + |f|) e) + S dropped max(1 + |f|), the last for posteriors below ``dropped``,
    of which nothing is known, and B = B_M / (1 + M - B_M) + LIBM |log1p(M)|. Not trusted, that is infinite, where a first-order
    term exceeds SMALL.
    """
    n_states = change.shape[axis]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        f = np.expm1(change)
        possible = p > 0.0
        terms = np.where(possible, p * f, 0.0)
        size = 1.0 + np.abs(f)
        spread = p * size * (1.01 * change_error)
        spread = np.where(possible, spread + np.abs(terms) * (rho + LIBM + (n_states + 2) * U), 0.0)
        moved = terms.sum(axis=axis)
        moved_error = 1.01 * spread.sum(axis=axis) + n_states * dropped * size.max(axis=axis)
        gains = np.log1p(moved)
        error = 1.01 * (moved_error / (1.0 + moved - moved_error) + LIBM * np.abs(gains))
    first_order = np.where(possible, np.maximum(rho, change_error), SMALL * change_error)  # where p = 0, exp(error) < e will do
    trusted = (first_order.max(axis=axis) < SMALL) & (moved_error < 0.5 * (1.0 + moved)) & np.isfinite(error)
    return np.where(trusted, gains, 0.0), np.where(trusted, error, np.inf)
