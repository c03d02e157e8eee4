"""What an E-step leaves: log evidence of every observation and expected sufficient statistics."""

from __future__ import annotations

from typing import Any, NamedTuple

from elbo_exact._validate import FloatArray

__all__ = ["Expected", "Posterior"]


class Posterior(NamedTuple):
    """Posteriors of N observations over S states."""

    log_evidence: FloatArray  # (N,)
    error: FloatArray  # (N,), bound on its rounding, that of the log table included
    table: FloatArray  # (N, S)
    table_error: FloatArray  # (N, S), relative


class Expected(NamedTuple):
    """What ``model.expectation(x, counts, executor)`` returns (``coded`` too if the model has it), or None for an E-step by table."""

    log_evidence: FloatArray  # (N,), of one observation each: counts do not enter
    error: FloatArray  # (N,), bound on its rounding
    statistics: Any  # what `maximize` takes: expected under the posteriors, weighted with the counts
    statistics_error: float  # largest relative error of a posterior in them, and of their summation; inf if there is no bound
    posterior: Posterior | None = None  # where a table was made on the way
