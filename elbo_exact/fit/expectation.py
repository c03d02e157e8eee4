"""A point of EM: a model, its E-step and its objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, real_array, unmasked
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.fit.table import expected_by_table, posterior_and_error
from elbo_exact.kernels.mixture import weighted_total
from elbo_exact.models._expected import Expected, Posterior

__all__ = ["Expectation", "Observations", "checked_counts", "expectation", "observations", "weighted_sum"]

U, ETA = 2.0**-53, 2.0**-1074


@dataclass(frozen=True, eq=False)
class Observations:
    """Data with positive counts, and what else the objective needs."""

    x: Any  # what the model's methods take: an array of N rows, or a list of N sequences
    counts: FloatArray
    prior: Any
    executor: Any
    shared: dict[str, Any] = field(default_factory=dict)  # arguments of every pass of the model over these rows


@dataclass(frozen=True, eq=False)
class Expectation:
    """The E-step at one model."""

    model: Any
    expected: Expected
    objective: float
    objective_error: float

    @property
    def log_evidence(self) -> FloatArray:
        """Log evidence of every observation, (N,)."""
        return self.expected.log_evidence

    @property
    def error(self) -> FloatArray:
        """Bound on its rounding error, (N,)."""
        return self.expected.error

    def posterior(self, data: Observations) -> Posterior:
        """The posterior table, made now if the E-step did without one."""
        made = self.expected.posterior
        return posterior_and_error(self.model, data.x, data.executor) if made is None else made


def expectation(model: Any, data: Observations) -> Expectation:
    """The E-step: the model's own ``expectation(x, counts, executor)`` if it has one, else by a posterior table."""
    own = getattr(model, "expectation", None)
    expected = None if own is None else own(data.x, data.counts, data.executor, **data.shared)
    if expected is None:
        expected = expected_by_table(model, data.x, data.counts, data.executor)
    objective, error = weighted_sum(data.counts, expected.log_evidence, expected.error)
    if data.prior is not None:
        log_prior, prior_error = model.log_prior(data.prior)
        objective += log_prior
        error += prior_error + U * abs(objective)
    return Expectation(model, expected, objective, error)


def weighted_sum(counts: FloatArray, values: FloatArray, errors: FloatArray) -> tuple[float, float]:
    """Sum of count * value: one rounding per product, one of the sum, and (n u)^2 of its size; -inf is exact."""
    out = np.empty(3)
    with np.errstate(all="ignore"):
        weighted_total(np.ascontiguousarray(counts), np.ascontiguousarray(values), out)
    total, size = float(out[0] + out[1]), float(out[2])
    if not math.isfinite(total):
        total = math.fsum((counts * values).tolist())
        return total, 0.0 if total == -math.inf else math.inf
    n_rows = len(counts)
    spread = float(counts @ errors) + (U + (n_rows * U) ** 2) * size
    return total, 1.01 * (spread + U * abs(total) + n_rows * ETA)


def observations(model: Any, x: npt.ArrayLike, weights: npt.ArrayLike | None, prior: Any, executor: Any) -> Observations:
    """Data and counts, checked once; rows without weight are left out.

    A model whose x is no array of rows says by ``observations(x)`` what its N observations are: an array, or a list.
    """
    own = getattr(model, "observations", None)
    rows = unmasked(x, "x") if own is None else own(x)
    possible = None if own is not None else (model.log_joint(x) > -np.inf).any(axis=1)
    n_rows = len(rows)
    if n_rows == 0:
        raise LogTableError("x must hold at least one observation; got 0.", "x", getattr(rows, "shape", (0,)))
    counts = checked_counts(weights, n_rows)
    used = counts > 0.0
    if not used.any():
        raise LogTableError("weights must hold at least one positive count; got only zeros.", "weights")
    kept = rows[used] if isinstance(rows, np.ndarray) else [row for row, keep in zip(rows, used, strict=True) if keep]
    shared = {"coded": model.coded(kept)} if hasattr(model, "coded") else {}
    data = Observations(kept, counts[used], prior, executor, shared)
    if possible is None:
        possible = np.ones(n_rows, dtype=bool)
        possible[used] = expectation(model, data).log_evidence > -np.inf
    if (used & ~possible).any():
        row = int((used & ~possible).argmax())
        raise ZeroEvidence(f"x is impossible under the model at row {row}: p(x) = 0; drop the row or give it weight 0.", (row,))
    return data


def checked_counts(weights: npt.ArrayLike | None, n_rows: int) -> FloatArray:
    """How often each observation was seen, (N,); once where nothing is said."""
    counts = real_array(weights, "weights") if weights is not None else np.ones(n_rows)
    if counts.shape != (n_rows,):
        raise LogTableError(f"weights must have shape {(n_rows,)}, one per observation; got {counts.shape}.", "weights")
    bad = ~(np.isfinite(counts) & (counts >= 0.0))
    if bad.any():
        raise LogTableError(
            f"weights must be finite and >= 0; got {counts[bad.argmax()]:g} at index {int(bad.argmax())}.", "weights"
        )
    return counts
