"""The log density of a normal-inverse-Wishart prior, written as weighted rows that a Gaussian might have observed.

With scale = R R^T, tr(scale inv C) is the sum of the squared z of the columns of R about 0, and the prior mean is one row of weight
mean_weight. Their densities hold log determinants; ``rest`` is how many more the prior has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families import _diagonal, _triangular
from elbo_exact.families._gaussian_statistics import NormalInverseWishart
from elbo_exact.families._simplex import LIBM, U

__all__ = ["PriorTerm", "log_prior", "log_prior_change", "mean_weight", "prior_terms"]


class PriorTerm(NamedTuple):
    """Rows of one weight under one mean and scale, and further log determinants."""

    mean: FloatArray
    scale: FloatArray
    rows: FloatArray
    weight: float
    rest: float


def mean_weight(prior: NormalInverseWishart, covariance: str, n_states: int) -> float:
    """What the prior's means weigh in one covariance."""
    return prior.mean_weight * (n_states if covariance == "tied" else 1)


def prior_terms(states: list[tuple[FloatArray, FloatArray]], covariance: str, prior: NormalInverseWishart) -> list[PriorTerm]:
    """All terms of the log prior of these (mean, scale) of the states."""
    factored = covariance in ("tied", "full")
    columns = prior.factor.T if factored else np.sqrt(np.diagonal(prior.scale))[None, :]
    count = prior.log_determinant_weight(covariance, len(states))
    rest = count - len(columns) - mean_weight(prior, covariance, len(states))
    origin, shared = np.zeros(prior.mean.size), states[:1] if covariance == "tied" else states
    terms = [PriorTerm(origin, scale, columns, 1.0, rest) for _, scale in shared]
    if prior.mean_weight > 0.0:
        terms += [PriorTerm(mean, scale, prior.mean[None, :], prior.mean_weight, 0.0) for mean, scale in states]
    return terms


def log_prior(terms: list[PriorTerm], factored: bool) -> tuple[float, float]:
    """Sum of -weight ||z||^2 / 2 and of all log determinants, and its error bound.

    The bound of a row's density covers half its ||z||^2; the product with the weight and one halving round it once more.
    """
    values, bounds = [0.0], [0.0]
    module = _triangular if factored else _diagonal
    for mean, scale, rows, weight, rest in terms:
        logs = np.log(np.diagonal(scale) if factored else scale)
        squares = 0.5 * weight * (module.standardized(rows, mean, scale) ** 2).ravel()
        count = weight * len(rows) + rest
        values += (-squares).tolist() + (-count * logs).tolist()
        bounds += (weight * module.density(rows, mean, scale)[1] + U * squares.sum()).tolist()
        bounds += (abs(count) * (LIBM + 3.0 * U) * np.abs(logs)).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))


def log_prior_change(terms: list[PriorTerm], others: list[PriorTerm], factored: bool) -> tuple[float, float]:
    """The log prior of ``others`` minus that of ``terms``, from parameter differences, and its error bound."""
    values, bounds = [0.0], [0.0]
    module = _triangular if factored else _diagonal
    for (mean, scale, rows, weight, rest), other in zip(terms, others, strict=True):
        change, error = module.density_change(rows, (mean, scale), (other.mean, other.scale))
        old, new = (np.diagonal(part) if factored else part for part in (scale, other.scale))
        logs, log_error = _diagonal.log_ratios(new - old, old)
        values += (weight * change).tolist() + (-rest * logs).tolist()
        bounds += (weight * (error + U * np.abs(change))).tolist()
        bounds += (abs(rest) * (log_error + 2.0 * U * np.abs(logs))).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))
