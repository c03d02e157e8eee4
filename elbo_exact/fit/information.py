"""How much the data say about the parameters, and how much of it the hidden states take away (Louis 1982, JRSS-B 44:226)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, eigh

from elbo_exact._validate import FloatArray
from elbo_exact.evidence import posterior
from elbo_exact.fit.expectation import checked_counts
from elbo_exact.models._derivatives import JointDerivatives, joint_derivatives

__all__ = ["Information", "information", "n_free_parameters"]

UNDETERMINED = 1e-7  # a direction of which all but this share of the information is missing counts as undetermined
BLOCK = 2**20  # entries of a block of scores


@dataclass(frozen=True, eq=False)
class Information:
    """Complete, missing and observed information at a model, what EM's rate is made of, and standard errors.

    Parameters
    ----------
    names : tuple of str, length Q
        Every parameter by its place in the model: probabilities, rates, means, scales.
    values : ndarray, shape (Q,)
        Their values.
    coordinates : tuple of int, length P
        The free ones among them, in whose coordinates the matrices are: probabilities as their logarithms against that of the most
        probable category, rates as logarithms, means and scales as they are. Zeros are no parameters.
    gradient : ndarray, shape (P,)
        Of the log evidence; 0 at a maximum, where the rest has its meaning.
    complete, missing : ndarray, shape (P, P)
        Information if the hidden states were seen, and the share of it that is lost.
    rates : ndarray, shape (P,)
        Eigenvalues of complete^-1 missing, falling: the factors by which EM shrinks the distance from the maximum each step.
    covariance : ndarray, shape (Q, Q)
        Of the values, by the inverse of the observed information; inf where the data do not determine a value.
    """

    names: tuple[str, ...]
    values: FloatArray
    coordinates: tuple[int, ...]
    gradient: FloatArray
    complete: FloatArray
    missing: FloatArray
    rates: FloatArray
    covariance: FloatArray

    @property
    def observed(self) -> FloatArray:
        """complete - missing: minus the second derivatives of the log evidence, (P, P)."""
        return self.complete - self.missing

    @property
    def rate(self) -> float:
        """The largest of ``rates``: the distance from the maximum shrinks by this factor each step, the missing gain by its square."""
        return float(self.rates[0]) if self.rates.size else 0.0

    @property
    def standard_errors(self) -> FloatArray:
        """Square roots of the variances of the values, (Q,)."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def n_undetermined(self) -> int:
        """Directions in which the log evidence does not fall, up to 1e-7 of the complete information: 0 at a strict maximum."""
        return int((self.rates >= 1.0 - UNDETERMINED).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; a standard error that is infinite is None."""
        errors = [error if error < np.inf else None for error in self.standard_errors.tolist()]
        arrays = ("values", "gradient", "complete", "missing", "rates")
        return {
            "names": list(self.names),
            "coordinates": list(self.coordinates),
            **{name: getattr(self, name).tolist() for name in arrays},
            "standard_errors": errors,
        }


def information(model: Any, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> Information:
    """Information about the parameters of a fitted model, by exact derivatives and exact posteriors.

    Parameters
    ----------
    model : Mixture or Monomial
        At a maximum of the log evidence: the result of a fit.
    x : array_like, N observations
    weights : array_like, shape (N,), optional
        How often each was seen.

    Returns
    -------
    Information

    Raises
    ------
    TypeError
        A model without known derivatives.
    LogTableError, ZeroEvidence
        Bad or impossible observations.
    ValueError
        A model so far from a maximum that its complete information is not positive.

    Notes
    -----
    With scores s = d log p(x, z), complete = -sum_n E[d^2 log p(x_n, z)] and missing = sum_n Cov[s] under the posterior. EM contracts
    by complete^-1 missing (Dempster, Laird & Rubin 1977; Meng & Rubin 1991, JASA 86:899). The finite sums are exact up to rounding,
    relative to ``complete``; standard errors are those of large samples. O(N (S p^2 + P^2)) for p parameters per state.

    Examples
    --------
    The linkage data: EM's rate and the standard error of the recombination parameter.

    >>> import elbo_exact as ee
    >>> linkage = ee.gallery.load("linkage")
    >>> fit = ee.fit_em(linkage.model, linkage.x, weights=linkage.counts)
    >>> found = information(fit.model, linkage.x, weights=linkage.counts)
    >>> round(found.rate, 8), float(found.standard_errors[0].round(6))
    (0.13277873, 0.051467)
    """
    rows, parts = np.asarray(x), joint_derivatives(model)
    counts = checked_counts(weights, len(rows))
    rows, counts = rows[counts > 0.0], counts[counts > 0.0]
    weighted = counts[:, None] * posterior(model.log_joint(rows))
    complete = parts.curvature(model.statistics(rows, weighted))
    gradient, missing = _missing(parts, rows, weighted, counts)
    # what no observation reaches has no information: a class of weight 0
    informed = parts.free & (np.diagonal(complete) != 0.0)
    kept = np.ix_(informed, informed)
    rates, directions = _rates(complete[kept], missing[kept])
    jacobian = parts.jacobian()
    covariance = _covariance(jacobian[:, informed] @ directions, rates)
    lost = np.abs(jacobian[:, parts.free & ~informed]).sum(axis=1) > 0.0
    covariance[lost, lost] = np.inf
    coordinates = tuple(map(int, np.flatnonzero(informed)))
    return Information(
        parts.names, parts.values, coordinates, gradient[informed], complete[kept], missing[kept], rates, covariance
    )


def n_free_parameters(model: Any) -> int:
    """Number of free parameters of a model, structural zeros left out.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> n_free_parameters(ee.models.Mixture.random(2, [2, 2, 3], rng=0))
    9
    """
    own = getattr(model, "n_parameters", None)
    return int(own) if own is not None else int(joint_derivatives(model).free.sum())


def _missing(
    parts: JointDerivatives, x: npt.NDArray[Any], weighted: FloatArray, counts: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sum of the expected scores, and sum of the posterior covariances of the scores."""
    size = parts.values.size
    gradient, missing = np.zeros(size), np.zeros((size, size))
    step = max(1, BLOCK // size)
    for first in range(0, len(x), step):
        block = slice(first, first + step)
        expected = np.zeros((len(x[block]), size))  # count times mean score
        for place, scores, weight in zip(parts.places, parts.scores(x[block]), weighted[block].T, strict=True):
            scaled = weight[:, None] * scores
            expected[:, place] += scaled
            # NumPy's own loop: the same bits whatever the threads of BLAS
            missing[np.ix_(place, place)] += np.einsum("ni,nj->ij", scaled, scores, optimize=False)
        missing -= np.einsum("ni,nj->ij", expected / counts[block, None], expected, optimize=False)
        gradient += expected.sum(axis=0)
    return gradient, missing


def _rates(complete: FloatArray, missing: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues of complete^-1 missing, falling, and directions V with V^T complete V = 1, after scaling to a diagonal of 1."""
    if not len(complete):
        return np.zeros(0), np.zeros((0, 0))
    try:
        if (np.diagonal(complete) < 0.0).any():
            raise LinAlgError
        unit = 1.0 / np.sqrt(np.diagonal(complete))
        scale = unit[:, None] * unit
        rates, directions = eigh(0.5 * (missing + missing.T) * scale, 0.5 * (complete + complete.T) * scale)
    except LinAlgError:
        raise ValueError(
            "model must be at a maximum of the log evidence; its complete information is not positive definite; fit it first."
        ) from None
    return np.clip(rates[::-1], 0.0, None), unit[:, None] * directions[:, ::-1]


def _covariance(reached: FloatArray, rates: FloatArray) -> FloatArray:
    """sum over directions of v v^T / (1 - rate); inf for values that an undetermined direction moves."""
    determined = rates < 1.0 - UNDETERMINED
    covariance = np.asarray((reached[:, determined] / (1.0 - rates[determined])) @ reached[:, determined].T)
    share, whole = (reached[:, ~determined] ** 2).sum(axis=1), (reached**2).sum(axis=1)
    free = share > 1e-12 * whole  # more than what rounding leaks into a direction
    covariance[free, free] = np.inf
    return covariance
