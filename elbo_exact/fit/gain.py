"""What a step gained: by the difference of two objectives where that is certain, by parameter differences where it is not."""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.fit.expectation import ETA, Expectation, Observations, U, weighted_sum
from elbo_exact.fit.table import SMALL

__all__ = ["gain"]

LIBM = 8.0 * U  # assumed of NumPy's expm1 and log1p: 4 ulp, the largest error NumPy accepts in its own tests
CERTAIN = 2.0**10  # a difference this many times its bound needs no closer look


def gain(old: Expectation, new: Expectation, data: Observations) -> tuple[float, float]:
    """What the step added to the objective, and a bound on the rounding of that number.

    Parameter differences cost further passes over the data, so they are only taken where two objectives hardly differ, and only if
    the model has ``log_joint_change_and_error``.
    """
    plain = new.objective - old.objective
    plain_error = 1.01 * (old.objective_error + new.objective_error + U * abs(plain)) if np.isfinite(plain) else 0.0
    if plain > CERTAIN * plain_error or not hasattr(old.model, "log_joint_change_and_error"):
        return plain, plain_error
    return _precise_gain(old, new, data)


def _precise_gain(old: Expectation, new: Expectation, data: Observations) -> tuple[float, float]:
    precise, precise_error = _row_gains(old, new, data)
    with np.errstate(invalid="ignore"):
        plain = new.log_evidence - old.log_evidence
        plain_error = 1.01 * (old.error + new.error + U * np.where(np.isfinite(plain), np.abs(plain), 0.0))
    closer = precise_error <= plain_error  # differences win at large changes, where expm1 overflows
    total, error = weighted_sum(data.counts, np.where(closer, precise, plain), np.where(closer, precise_error, plain_error))
    if data.prior is not None:
        prior_gain, prior_error = old.model.log_prior_change(new.model, data.prior)
        total += prior_gain
        error += prior_error + U * abs(total)
    return total, error


def _row_gains(old: Expectation, new: Expectation, data: Observations) -> tuple[FloatArray, FloatArray]:
    """log1p(M), M = sum p expm1(change), of every row, with a bound B.

    With f = expm1(d), relative errors rho of p and LIBM of f, and absolute error e of d (which moves f by 1.01 e (1 + |f|)):
    B_M = sum p (|f| (rho + LIBM + (S + 2) u) + 1.01 (1 + |f|) e) + 4 S eta max(1 + |f|), the last for p below the smallest double,
    and B = B_M / (1 + M - B_M) + LIBM |log1p(M)|. Not trusted, that is infinite, where a first-order term exceeds SMALL.
    """
    change, change_error = old.model.log_joint_change_and_error(new.model, data.x)
    at_old = old.posterior(data)
    p, rho, n_states = at_old.table, at_old.table_error, change.shape[1]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        f = np.expm1(change)
        possible = p > 0.0
        terms = np.where(possible, p * f, 0.0)
        spread = p * (1.0 + np.abs(f)) * 1.01 * change_error
        spread = np.where(possible, spread + np.abs(terms) * (rho + LIBM + (n_states + 2) * U), 0.0)
        moved = terms.sum(axis=1)
        moved_error = 1.01 * spread.sum(axis=1) + 4.0 * n_states * ETA * (1.0 + np.abs(f).max(axis=1))
        gains = np.log1p(moved)
        error = 1.01 * (moved_error / (1.0 + moved - moved_error) + LIBM * np.abs(gains))
    first_order = np.where(possible, np.maximum(rho, change_error), SMALL * change_error)  # where p = 0, exp(error) < e will do
    trusted = (first_order.max(axis=1) < SMALL) & (moved_error < 0.5 * (1.0 + moved)) & np.isfinite(error)
    return np.where(trusted, gains, 0.0), np.where(trusted, error, np.inf)
