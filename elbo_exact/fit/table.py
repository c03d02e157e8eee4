"""The E-step of any model by way of a posterior table."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._engine import evidence_results
from elbo_exact._validate import FloatArray
from elbo_exact.evidence import posterior
from elbo_exact.models._expected import Expected, Posterior

__all__ = ["SMALL", "expected_by_table", "posterior_and_error"]

U = 2.0**-53
POSTERIOR = 8.0 * U  # relative error of `posterior`, given its table
NEGLIGIBLE = 800.0  # exp(-800) is below the smallest double
SMALL = 1e-3  # first-order error terms are trusted below this; the factor 1.01 covers their squares


def expected_by_table(model: Any, x: Any, counts: FloatArray, executor: Any = None) -> Expected:
    """The E-step of any model with ``log_joint_and_error`` and ``statistics``; O(N S)."""
    p = posterior_and_error(model, x, executor)
    statistics = model.statistics(x, counts[:, None] * p.table)
    return Expected(p.log_evidence, p.error, statistics, float(np.max(p.table_error)) + (len(x) + 2) * U, p)


def posterior_and_error(model: Any, x: Any, executor: Any = None) -> Posterior:
    """Log evidence and posterior of every row with bounds on the rounding of both, that of the log table included."""
    table, table_error = model.log_joint_and_error(x)
    results, _ = evidence_results(table, "raise", executor)
    p = posterior(table, impossible="nan", executor=executor)
    p[results[:, 0] == -np.inf] = 0.0  # only a wrong M-step gets here; its objective -inf ends the fit
    # a state that is below exp(-NEGLIGIBLE) of the evidence, error included, has weight 0 whatever its error
    table_error = np.where(table + table_error < results[:, :1] - NEGLIGIBLE, 0.0, table_error)
    # log sum exp moves by at most log sum p e^t <= 1.01 sum p t when the table moves by t <= SMALL
    mean_error = 1.02 * (p * table_error).sum(axis=1)
    p_error = 1.01 * (table_error + mean_error[:, None]) + POSTERIOR
    row_error = np.where(table_error.max(axis=1) < SMALL, 1.01 * (results[:, 1] + mean_error), np.inf)
    return Posterior(results[:, 0].copy(), row_error, p, p_error)
