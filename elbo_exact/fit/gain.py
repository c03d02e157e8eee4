"""What a step gained: by the difference of two objectives where that is certain, by parameter differences where it is not."""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.fit.expectation import ETA, Expectation, Observations, U, weighted_sum
from elbo_exact.models._moved import evidence_change

__all__ = ["gain"]

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
    """Change of the log evidence of every row with a bound: the model's own, or from its posterior table."""
    own = getattr(old.model, "log_evidence_change_and_error", None)
    found = None if own is None else own(new.model, data.x, data.executor, **data.shared)
    if found is not None:
        return np.asarray(found[0]), np.asarray(found[1])
    change, change_error = old.model.log_joint_change_and_error(new.model, data.x)
    at_old = old.posterior(data)
    return evidence_change(at_old.table, at_old.table_error, change, change_error, 4.0 * ETA, 1)
