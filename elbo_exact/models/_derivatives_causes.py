"""Derivatives of layers of binary causes, whose states are enumerated row by row.

The score of a link, from cause j or the leak to finding d, is r_d(z) f_dj [cause j present], where f depends on the link alone and r
on the finding and all of its causes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import simplex_coordinates, simplex_curvature
from elbo_exact.models._causes import cause_bits, cause_counts, distinct_findings, layer_posterior
from elbo_exact.models._information import InformationSums, JointDerivatives, Posteriors, block_diagonal, outer_sum
from elbo_exact.models.noisy_or import NoisyOr, total_strength
from elbo_exact.models.sigmoid_belief import SigmoidBelief, log_odds

__all__ = ["belief_derivatives", "noisy_or_derivatives"]

BLOCK = 2**20  # entries of a block of scores
LARGEST = 1e300  # odds against a finding: beyond, all its links are nothing

Bits = npt.NDArray[np.bool_]


class _Links(NamedTuple):
    """Links of D findings to the leak and n causes, in coordinates of the layer's own."""

    names: list[str]
    values: FloatArray  # (D, n + 1)
    jacobian: FloatArray  # (D, n + 1), of each value in its coordinate
    free: npt.NDArray[np.bool_]  # (D, n + 1)
    factors: FloatArray  # (D, n + 1), f
    slopes: Callable[[Bits, int], FloatArray]  # causes (n, S) and a finding to r (2, S), of its absence and presence
    # slopes of a finding, leak and causes (S, n + 1), weights (2, S): complete information and what is missing though z be known
    within: Callable[[FloatArray, FloatArray, FloatArray, int], tuple[FloatArray, FloatArray]]


def noisy_or_derivatives(model: NoisyOr) -> JointDerivatives:
    """Coordinates of a link: the log odds of q, its probability to fire. Which links fired is part of what EM does not see.

    A link that is there fired or not; given z it did not if the finding is absent, else with r = F / (1 - F), F = p(x_d = 0 | z), two
    links have the covariance -(r + r^2) q q', and one has the variance (1 + r) q (1 - q) - (r + r^2) q^2.
    """
    theta = np.column_stack([model.leak, model.strengths])
    q, not_q = -np.expm1(-theta), np.exp(-theta)

    def slopes(causes: Bits, d: int) -> FloatArray:
        with np.errstate(divide="ignore", over="ignore"):
            r = 1.0 / np.expm1(total_strength(causes, model.leak[d], model.strengths[d]))
        return np.stack([-np.ones(r.size), np.minimum(r, LARGEST)])

    def within(r: FloatArray, there: FloatArray, weights: FloatArray, d: int) -> tuple[FloatArray, FloatArray]:
        unit, fires = q[d] * not_q[d], there * q[d]
        spread = np.diag(unit * ((weights[1] * (1.0 + r[1])) @ there))
        spread -= outer_sum(weights[1] * r[1], fires) + outer_sum(weights[1], r[1][:, None] * fires)
        return np.diag(unit * (weights.sum(axis=0) @ there)), spread

    free = (theta > 0.0) & (theta < np.inf)
    return _layer(model, _Links(_names("leak", "strengths", theta), theta, q, free, q, slopes, within))


def belief_derivatives(model: SigmoidBelief) -> JointDerivatives:
    """Coordinates: weights and biases as they are."""
    theta = np.column_stack([model.bias, model.weights])
    ones = np.ones(theta.shape)

    def slopes(causes: Bits, d: int) -> FloatArray:
        odds = log_odds(causes, theta[d])[0]
        return np.stack([-expit(odds), expit(-odds)])

    def within(r: FloatArray, there: FloatArray, weights: FloatArray, d: int) -> tuple[FloatArray, FloatArray]:
        complete = outer_sum(-r[0] * r[1] * weights.sum(axis=0), there)
        return complete, np.zeros(complete.shape)

    return _layer(model, _Links(_names("bias", "weights", theta), theta, ones, ones > 0.0, ones, slopes, within))


def _names(base: str, links: str, theta: FloatArray) -> list[str]:
    return [f"{links}[{d},{j - 1}]" if j else f"{base}[{d}]" for d, j in np.ndindex(theta.shape)]


def _layer(model: Any, links: _Links) -> JointDerivatives:
    p, jacobian, free = simplex_coordinates(model._causes)

    def sums(x: Any, counts: FloatArray, _: Posteriors) -> InformationSums:
        rows, which = distinct_findings(x, model.n_findings)
        return _sums(model, links, rows, np.bincount(which, weights=counts).astype(np.float64))

    return JointDerivatives(
        (*(f"causes[{j},{value}]" for j, value in np.ndindex(model.log_causes.shape)), *links.names),
        np.concatenate([p, links.values.ravel()]),
        lambda: block_diagonal([jacobian(), np.diag(links.jacobian.ravel())]),
        np.concatenate([free, links.free.ravel()]),
        sums,
    )


def _sums(model: Any, links: _Links, rows: FloatArray, counts: FloatArray) -> InformationSums:
    causes = cause_bits(model.space, 0, model.space.size)
    there = np.vstack([np.ones((1, causes.shape[1])), causes]).T  # (S, n + 1)
    slopes = np.stack([links.slopes(causes, d) for d in range(len(links.factors))])  # (D, 2, S)
    weights, seen = np.zeros((1, len(there))), np.zeros(slopes.shape)
    size = model.log_causes.size + links.factors.size
    gradient, missing = np.zeros(size), np.zeros((size, size))
    for row, count in zip(rows, counts, strict=True):
        of_row = count * layer_posterior(model, row[None]).table[0]
        known = np.flatnonzero(~np.isnan(row))
        found = row[known].astype(np.int64)
        weights += of_row
        seen[known, found] += of_row
        chosen = np.zeros((len(row), len(there)))
        chosen[known] = slopes[known, found]
        mean, second = _moments(model, links, there, chosen, of_row)
        gradient += mean
        missing += second - np.outer(mean, mean) / count
    complete = [simplex_curvature(model._causes, cause_counts(weights, causes))]
    hidden = [np.zeros((model.log_causes.size,) * 2)]
    for d, of_finding in enumerate(seen):
        whole, part = links.within(slopes[d], there, of_finding, d)
        complete.append(whole)
        hidden.append(part)
    return InformationSums(gradient, block_diagonal(complete), missing + block_diagonal(hidden))


def _moments(
    model: Any, links: _Links, there: FloatArray, slopes: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weighted sums of the scores of one row and of their products, over blocks of states."""
    p, size = np.exp(model._causes.normalized), model.log_causes.size + links.factors.size
    mean, second = np.zeros(size), np.zeros((size, size))
    step = max(1, BLOCK // size)
    for first in range(0, len(there), step):
        block = slice(first, first + step)
        present = there[block, 1:]
        own = np.stack([1.0 - present, present], axis=-1) - p
        of_links = slopes[:, block].T[:, :, None] * links.factors * there[block, None, :]
        scores = np.concatenate([own.reshape(len(present), -1), of_links.reshape(len(present), -1)], axis=1)
        mean += np.einsum("s,sp->p", weights[block], scores, optimize=False)
        second += outer_sum(weights[block], scores)
    return mean, second
